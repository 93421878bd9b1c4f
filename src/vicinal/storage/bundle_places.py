"""Where bundles lie: a folder, a tar archive, or anything that fsspec reaches; each can be read and written.

A writer leaves a whole bundle or nothing that could be taken for one. A reader follows no link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from vicinal.model.errors import CorruptionError, InvalidArgumentError, NotFoundError, StorageError
from vicinal.model.limits import BUNDLE_MANIFEST_BYTES_MAX
from vicinal.storage.archive import CHUNK_BYTES, ArchiveWriter, Budget, read_archive
from vicinal.storage.bundle import MANIFEST_NAME, BundleFile, BundleManifest, decode_bundle
from vicinal.storage.files import REAL, FileSystem, os_errors, remove_tree, write_file

ARCHIVE_SUFFIXES = (".tar", ".tar.gz")


class Reading(Protocol):
    """A bundle that is being read."""

    @property
    def manifest(self) -> BundleManifest:
        """What it holds, checked."""
        ...

    def files(self) -> Iterator[tuple[BundleFile, Iterable[bytes]]]:
        """Each file of the manifest once, in any order, with its bytes; they are not checked yet."""
        ...


class Writing(Protocol):
    """A bundle that is being written; it counts as written when its block ends without an error."""

    def put(self, file: BundleFile, chunks: Iterable[bytes]) -> None:
        """Write a file."""
        ...


def read_bundle(source: str | Path) -> AbstractContextManager[Reading]:
    """Open the bundle at a folder, an archive or an address.

    Raises NotFoundError where there is none, CorruptionError or FormatVersionError where it is none of ours.
    """
    if "://" in str(source):
        return _read_remote(str(source))
    path = Path(source)
    return _read_archive(path) if path.is_file() else _read_folder(path)


def write_bundle(target: str | Path, manifest: bytes) -> AbstractContextManager[Writing]:
    """Begin a bundle at a folder, an archive (.tar, .tar.gz) or an address; the files follow in the manifest's order.

    Raises InvalidArgumentError where something is there already.
    """
    if "://" in str(target):
        return _write_remote(str(target), manifest)
    path = Path(target)
    if path.name.endswith(ARCHIVE_SUFFIXES):
        return _write_archive(path, manifest)
    return _write_folder(path, manifest)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        raw = b"".join(_bytes_of(path / MANIFEST_NAME, BUNDLE_MANIFEST_BYTES_MAX))
        self.manifest = decode_bundle(raw, str(path))

    def files(self) -> Iterator[tuple[BundleFile, Iterable[bytes]]]:
        for file in self.manifest.files:
            yield file, _bytes_of(self._path / file.name, file.bytes)


@contextmanager
def _read_folder(path: Path) -> Generator[Reading]:
    if not (path / MANIFEST_NAME).exists():
        raise NotFoundError(f"there is no snapshot or backup at {path}: no {MANIFEST_NAME}")
    yield _Folder(path)


def _bytes_of(path: Path, bytes_max: int) -> Iterator[bytes]:
    """The bytes of a plain file, one more than allowed at most."""
    with os_errors(f"reading {path}"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if path.is_symlink():
                raise CorruptionError(
                    f"{path} is a link; a backup holds plain files only"
                ) from error
            raise
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CorruptionError(f"{path} is no plain file; a backup holds nothing else")
            left = bytes_max + 1
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk


class _FolderWriter:
    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path = path
        self._fs = fs

    def put(self, file: BundleFile, chunks: Iterable[bytes]) -> None:
        write_chunks(self._fs, self._path / file.name, chunks)


@contextmanager
def _write_folder(path: Path, manifest: bytes, fs: FileSystem = REAL) -> Generator[Writing]:
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if fs.exists(temporary):
            remove_tree(fs, temporary)
        fs.mkdir(temporary)
    try:
        yield _FolderWriter(temporary, fs)
        with os_errors(f"writing {path}"):
            write_file(fs, temporary / MANIFEST_NAME, manifest)
            if path.is_dir():
                fs.rmdir(path)
            fs.rename(temporary, path)
            fs.fsync_dir(path.parent)
    except BaseException:
        remove_tree(fs, temporary)
        raise


class _Archive:
    def __init__(self, path: Path, file: Any) -> None:
        self._where = str(path)
        budget = Budget()
        self._members = read_archive(file, self._where, budget)
        first = next(self._members, None)
        if first is None or first[0] != MANIFEST_NAME or first[1] > BUNDLE_MANIFEST_BYTES_MAX:
            raise CorruptionError(f"{path} is no backup: it does not begin with {MANIFEST_NAME}")
        self.manifest = decode_bundle(b"".join(first[2]), self._where)
        budget.allow(first[1] + self.manifest.bytes, len(self.manifest.files))

    def files(self) -> Iterator[tuple[BundleFile, Iterable[bytes]]]:
        wanted = {file.name: file for file in self.manifest.files}
        for name, size, chunks in self._members:
            file = wanted.pop(name, None)
            if file is None or size != file.bytes:
                raise CorruptionError(
                    f"{self._where}: {name!r} of {size} bytes is not what the manifest names"
                )
            yield file, chunks
        if wanted:
            raise CorruptionError(
                f"{self._where}: {min(wanted)!r} and {len(wanted) - 1} more files are missing"
            )


@contextmanager
def _read_archive(path: Path) -> Generator[Reading]:
    with os_errors(f"reading {path}"), path.open("rb") as file:
        yield _Archive(path, file)


class _ArchiveFile:
    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer

    def put(self, file: BundleFile, chunks: Iterable[bytes]) -> None:
        self._writer.begin(file.name, file.bytes)
        for chunk in chunks:
            self._writer.write(chunk)
        self._writer.end(file.bytes)


@contextmanager
def _write_archive(path: Path, manifest: bytes) -> Generator[Writing]:
    refuse_existing(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ArchiveWriter(temporary)
    try:
        with os_errors(f"writing {path}"):
            # First, so that a reader knows what to expect before it writes anything.
            writer.begin(MANIFEST_NAME, len(manifest))
            writer.write(manifest)
            writer.end(len(manifest))
            yield _ArchiveFile(writer)
            with writer.close() as file:
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            REAL.fsync_dir(path.parent)
    except BaseException:
        writer.abandon()
        temporary.unlink(missing_ok=True)
        raise


class _Remote:
    def __init__(self, url: str) -> None:
        self._url = url
        self._fs, self._root = _filesystem(url)
        name = f"{self._root}/{MANIFEST_NAME}"
        if not self._fs.exists(name):
            raise NotFoundError(f"there is no backup at {url}: no {MANIFEST_NAME}")
        raw = b"".join(self._bytes_of(name, BUNDLE_MANIFEST_BYTES_MAX))
        self.manifest = decode_bundle(raw, url)

    def files(self) -> Iterator[tuple[BundleFile, Iterable[bytes]]]:
        for file in self.manifest.files:
            yield file, self._bytes_of(f"{self._root}/{file.name}", file.bytes)

    def _bytes_of(self, name: str, bytes_max: int) -> Iterator[bytes]:
        with os_errors(f"reading {name}"), self._fs.open(name, "rb") as file:
            left = bytes_max + 1
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk


@contextmanager
def _read_remote(url: str) -> Generator[Reading]:
    yield _Remote(url)


class _RemoteWriter:
    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._root = root

    def put(self, file: BundleFile, chunks: Iterable[bytes]) -> None:
        with self._fs.open(f"{self._root}/{file.name}", "wb") as out:
            for chunk in chunks:
                out.write(chunk)


@contextmanager
def _write_remote(url: str, manifest: bytes) -> Generator[Writing]:
    fs, root = _filesystem(url)
    if fs.exists(root) and fs.ls(root):
        raise InvalidArgumentError(f"there is something at {url} already; choose another place")
    with os_errors(f"writing {url}"):
        try:
            fs.makedirs(root, exist_ok=True)
            yield _RemoteWriter(fs, root)
            # Last: without it, what is there is no backup.
            with fs.open(f"{root}/{MANIFEST_NAME}", "wb") as out:
                out.write(manifest)
        except BaseException:
            fs.rm(root, recursive=True)
            raise


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        import fsspec  # here, since only addresses need it
    except ImportError as error:
        raise InvalidArgumentError(
            f"{url!r} is an address, which needs fsspec: pip install 'vicinal[backup]'"
        ) from error
    try:
        found = cast("Any", fsspec).core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InvalidArgumentError(f"{url!r} cannot be reached: {error}") from error
    return found[0], str(found[1]).rstrip("/")


def refuse_existing(path: Path) -> None:
    """Raise InvalidArgumentError where something is at path; an empty folder is nothing."""
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    raise InvalidArgumentError(f"there is something at {path} already; choose another place")


def write_chunks(fs: FileSystem, path: Path, chunks: Iterable[bytes]) -> None:
    """Write a new file, durably; StorageError where the operating system refuses."""
    with os_errors(f"writing {path}"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o644)
        with os.fdopen(fd, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            fs.fsync(file.fileno())


def check_room(fs: FileSystem, folder: Path, needed: int) -> None:
    """Raise StorageError where the disk of a folder has no room for so many bytes."""
    free = fs.free_bytes(folder)
    if free < needed:
        raise StorageError(
            f"{needed} bytes are needed at {folder}, {free} are free; nothing was written"
        )
