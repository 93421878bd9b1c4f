"""The LOCK file: one writer of a database at a time, on this machine and inside this process.

The lock is `flock` on the open file, so the kernel lets go of it when its process dies, however it
dies: a LOCK file that lies about is no obstacle. Its JSON (pid, host, started) is for the error
message only.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from pathlib import Path

import msgspec

from vicinal.model.decoding import UNDECODABLE
from vicinal.model.errors import LockedError
from vicinal.storage.files import FileSystem, read_file, write_at

LOCK_NAME = "LOCK"
_HOLDER_BYTES_MAX = 4096

# Where flock is emulated by per-process record locks (NFS), the kernel would let the same process
# in twice; this registry does not.
_held: set[tuple[int, int]] = set()
_held_lock = threading.Lock()
_alive: weakref.WeakSet[WriterLock] = weakref.WeakSet()


class _Holder(msgspec.Struct):
    pid: int
    host: str
    started: str


class WriterLock:
    """The lock of one database directory, taken by the constructor.

    Raises LockedError at once where somebody holds it; the message names the pid and host.
    """

    def __init__(self, fs: FileSystem, folder: Path) -> None:
        self._fs = fs
        self._identity: tuple[int, int] | None = None
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        with _held_lock:
            if identity in _held:
                raise LockedError(
                    f"{folder} is already open for writing in this process (pid {os.getpid()}); "
                    "use that handle, close it, or open with read_only=True"
                )
            fd = fs.open_write(folder / LOCK_NAME, truncate=False)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fs.close(fd)
                raise LockedError(
                    f"{folder} is open for writing by {_describe(fs, folder)}; "
                    "close it there, or open with read_only=True"
                ) from None
            except BaseException:
                fs.close(fd)
                raise
            self._fd: int | None = fd
            self._identity = identity
            _held.add(identity)
            _alive.add(self)
        try:
            holder = _Holder(
                os.getpid(),
                os.uname().nodename,
                time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            )
            fs.truncate(fd, 0)
            write_at(fs, fd, msgspec.json.encode(holder), 0)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go; again does nothing. The file stays: removing it would race with others."""
        with _held_lock:
            if self._fd is not None and self._identity is not None:
                _held.discard(self._identity)
                fd, self._fd = self._fd, None
                self._fs.close(fd)

    def forget_in_child(self) -> None:
        """After a fork, in the child: close the inherited descriptor, the parent keeps the lock."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def _describe(fs: FileSystem, folder: Path) -> str:
    try:
        raw = read_file(fs, folder / LOCK_NAME, bytes_max=_HOLDER_BYTES_MAX)
        holder = msgspec.json.decode(raw, type=_Holder)
    except (OSError, *UNDECODABLE):
        return "another process that has not written its pid yet"
    return f"pid {holder.pid} on host {holder.host} since {holder.started}"


def _after_fork_in_child() -> None:
    global _held_lock
    _held_lock = threading.Lock()
    _held.clear()
    for lock in list(_alive):
        lock.forget_in_child()


# A child that outlives its parent must not keep the database locked through the shared descriptor.
os.register_at_fork(after_in_child=_after_fork_in_child)
