"""A file system that fails the n-th call, dies at it, or loses what a power cut may take.

`power_cut` applies the strictest reading of POSIX: file content since the last fsync is gone, and
so is each created, renamed or removed directory entry since the last fsync of its directory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from vicinal.storage.files import FileSystem


class Crash(BaseException):
    """The process died here; nothing that runs afterwards may touch the disk."""


class FaultyFileSystem(FileSystem):
    """Counts the calls that change the disk and fails call `fail_at` (1-based).

    Parameters
    ----------
    code : errno of the failure, or None to die instead: this call and all later ones raise Crash.
    only : names of the calls that count, all by default.
    short_writes : every write takes at most 1000 bytes.
    """

    def __init__(
        self,
        fail_at: int = 0,
        code: int | None = errno.EIO,
        *,
        only: frozenset[str] = frozenset(),
        short_writes: bool = False,
    ) -> None:
        self.calls: list[str] = []
        self.dead = False
        self._fail_at = fail_at
        self._code = code
        self._only = only
        self._short_writes = short_writes
        self._durable: dict[int, bytes] = {}
        self._dirty: set[int] = set()
        self._undo: list[tuple[Path, Callable[[], object]]] = []

    @property
    def failed(self) -> bool:
        """Whether the fault has come."""
        return 0 < self._fail_at <= len(self.calls)

    def power_cut(self, root: Path) -> None:
        """Take from the files below root all that was not synced."""
        for _, undo in reversed(self._undo):
            undo()
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                inode = path.stat().st_ino
                if inode in self._dirty:
                    path.write_bytes(self._durable.get(inode, b""))

    def _step(self, name: str) -> None:
        if self.dead:
            raise Crash(name)
        if self._only and name not in self._only:
            return
        self.calls.append(name)
        if len(self.calls) == self._fail_at:
            if self._code is None:
                self.dead = True
                raise Crash(name)
            raise OSError(self._code, os.strerror(self._code))

    def open_write(self, path: Path, *, truncate: bool) -> int:
        self._step("open_write")
        created = not path.exists()
        fd = super().open_write(path, truncate=truncate)
        if created:
            self._undo.append((path.parent, lambda: path.unlink(missing_ok=True)))
        if truncate:
            self._dirty.add(os.fstat(fd).st_ino)
        return fd

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        try:
            self._step("pwrite")
        except (OSError, Crash):
            # A failing disk has often taken a part.
            super().pwrite(fd, data[: len(data) // 2], offset)
            raise
        self._dirty.add(os.fstat(fd).st_ino)
        return super().pwrite(fd, data[:1000] if self._short_writes else data, offset)

    def fallocate(self, fd: int, size: int) -> None:
        self._step("fallocate")
        super().fallocate(fd, size)
        self._dirty.add(os.fstat(fd).st_ino)

    def truncate(self, fd: int, size: int) -> None:
        self._step("truncate")
        super().truncate(fd, size)
        self._dirty.add(os.fstat(fd).st_ino)

    def fsync(self, fd: int) -> None:
        self._step("fsync")
        super().fsync(fd)
        status = os.fstat(fd)
        self._durable[status.st_ino] = os.pread(fd, status.st_size, 0)
        self._dirty.discard(status.st_ino)

    def fsync_dir(self, path: Path) -> None:
        self._step("fsync_dir")
        super().fsync_dir(path)
        self._undo = [(folder, undo) for folder, undo in self._undo if folder != path]

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        replaced = target.read_bytes() if target.is_file() else None

        def undo() -> None:
            target.replace(source)
            if replaced is not None:
                target.write_bytes(replaced)

        super().rename(source, target)
        self._undo.append((target.parent, undo))

    def unlink(self, path: Path) -> None:
        self._step("unlink")
        content = path.read_bytes()
        super().unlink(path)
        self._undo.append((path.parent, lambda: path.write_bytes(content)))

    def mkdir(self, path: Path) -> None:
        self._step("mkdir")
        super().mkdir(path)
        self._undo.append((path.parent, path.rmdir))

    def rmdir(self, path: Path) -> None:
        self._step("rmdir")
        super().rmdir(path)
        self._undo.append((path.parent, path.mkdir))
