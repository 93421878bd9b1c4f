"""The operating system as storage sees it: few operations behind one class that tests can fail.

Every method raises plain `OSError`; the callers turn it into `StorageError` with what they were
doing. RocksDB does its own input and output and does not pass through here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vicinal.model.errors import StorageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What a file system that cannot reserve space answers; writing then reports a full disk by itself.
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class FileSystem:
    """The real file system. Tests derive from it and fail or record single operations."""

    def open_read(self, path: Path) -> int:
        """Open an existing file for reading and return its descriptor."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def open_write(self, path: Path, *, truncate: bool) -> int:
        """Open a file for reading and writing, created where missing, and return its descriptor."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if truncate else 0)
        return os.open(path, flags, 0o644)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        """Write at an offset; return how many bytes were taken, which may be fewer than given."""
        return os.pwrite(fd, data, offset)

    def pread_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Read at an offset into a buffer; return how many bytes came, 0 at the end of the file."""
        return os.preadv(fd, [buffer], offset)

    def size(self, fd: int) -> int:
        """Length of an open regular file in bytes; an error for anything else."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return status.st_size

    def truncate(self, fd: int, size: int) -> None:
        """Set the length of a file in bytes."""
        os.ftruncate(fd, size)

    def fallocate(self, fd: int, size: int) -> None:
        """Reserve the first `size` bytes, so that a full disk is an error now, not a fault "
        "later."""
        if size == 0:
            return
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise

    def free_bytes(self, path: Path) -> int:
        """Bytes that are free to this user on the disk of a path."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def fsync(self, fd: int) -> None:
        """Return when the file is on the disk. After an error its fate is unknown: never call "
        "again."""
        os.fsync(fd)

    def fsync_dir(self, path: Path) -> None:
        """Return when the entries of a directory are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing a target file; atomic for whoever looks."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; an error where the file system has no hard links."""
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """Create one directory; it must not exist."""
        path.mkdir()

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        path.rmdir()

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory, sorted."""
        return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths

    def exists(self, path: Path) -> bool:
        """Whether the path names anything, a dangling link included."""
        return os.path.lexists(path)

    def is_dir(self, path: Path) -> bool:
        """Whether the path is a directory itself, not a link to one."""
        try:
            return stat.S_ISDIR(path.lstat().st_mode)
        except FileNotFoundError:
            return False


REAL = FileSystem()


@contextmanager
def opened(fs: FileSystem, fd: int) -> Generator[int]:
    """Close the descriptor at the end of the block, whatever happens in it."""
    try:
        yield fd
    finally:
        fs.close(fd)


@contextmanager
def os_errors(doing: str) -> Generator[None]:
    """Turn OSError into StorageError that says what was being done."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(doing, error) from error


def storage_error(doing: str, error: OSError) -> StorageError:
    """Build the StorageError of an OSError, with its errno and a remedy where there is one."""
    reason = error.strerror or str(error)
    remedy = {
        errno.ENOSPC: "; free disk space and try again",
        errno.EDQUOT: "; raise the disk quota or free space and try again",
        errno.EFBIG: "; raise the file size limit (ulimit -f) and try again",
        errno.EACCES: "; check the permissions",
        errno.EROFS: "; the file system is mounted read-only",
        errno.EIO: "; the disk reports a fault, check it before going on",
        errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    }.get(error.errno or 0, "")
    built = StorageError(f"{doing}: {reason}{remedy}")
    built.errno = error.errno
    return built


def write_at(fs: FileSystem, fd: int, data: ReadableBuffer, offset: int) -> int:
    """Write all of data at an offset, going on after short writes; return the offset behind it."""
    view = memoryview(data).cast("B")
    while len(view):
        taken = fs.pwrite(fd, view, offset)
        if taken <= 0:
            raise OSError(errno.EIO, "the file system took no bytes")
        view = view[taken:]
        offset += taken
    return offset


def read_at(fs: FileSystem, fd: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer from an offset; return how many bytes came, fewer only at the file's end."""
    done = 0
    while done < len(buffer):
        came = fs.pread_into(fd, buffer[done:], offset + done)
        if came == 0:
            break
        done += came
    return done


def read_file(fs: FileSystem, path: Path, *, bytes_max: int) -> bytes:
    """Return the content of a small file; at most bytes_max bytes of it."""
    with opened(fs, fs.open_read(path)) as fd:
        buffer = bytearray(min(fs.size(fd), bytes_max))
        return bytes(memoryview(buffer)[: read_at(fs, fd, memoryview(buffer), 0)])


def write_file(fs: FileSystem, path: Path, data: bytes) -> None:
    """Replace a small file; after a crash it is the old or the new one, whole and on the disk."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with opened(fs, fs.open_write(temporary, truncate=True)) as fd:
            write_at(fs, fd, data, 0)
            fs.fsync(fd)
        fs.rename(temporary, path)
    except OSError:
        remove_quietly(fs, temporary)
        raise
    fs.fsync_dir(path.parent)


def make_dirs(fs: FileSystem, path: Path) -> None:
    """Create a directory and its missing parents, each entry on the disk on return."""
    if fs.is_dir(path) or path.is_dir():
        return
    make_dirs(fs, path.parent)
    try:
        fs.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    fs.fsync_dir(path.parent)


def remove_tree(fs: FileSystem, path: Path) -> None:
    """Remove a directory and everything in it; links are removed, never followed."""
    for name in fs.listdir(path):
        child = path / name
        if fs.is_dir(child):
            remove_tree(fs, child)
        else:
            fs.unlink(child)
    fs.rmdir(path)


def remove_quietly(fs: FileSystem, path: Path) -> bool:
    """Try to remove a leftover file on the way out of a failure; return whether it is gone."""
    try:
        fs.unlink(path)
    except OSError:
        return not fs.exists(path)
    return True


def tree_bytes(path: Path) -> int:
    """Bytes that the files below a directory occupy on disk; files that vanish count as 0."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118
            except FileNotFoundError:
                continue
    return total
