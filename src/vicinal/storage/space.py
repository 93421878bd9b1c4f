"""Free space of the disk, asked before each write, and a reserve that deletes may use when there is none.

A write that might not fit is refused before anything of it is done, so that the store stays whole and
goes on by itself once there is room. What a write needs is twice its batch (the write-ahead log, then
the table), and room for the memtables that are not in tables yet: a write-ahead log without room for
its tables would stop the store for good.

The reserve is a file of preallocated bytes beside the collections. It is removed when a delete does not fit
otherwise, and made again when there is plenty.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vicinal.model.errors import StorageError
from vicinal.storage.files import REAL, FileSystem, opened, remove_quietly

RESERVE_NAME = "RESERVE"
RESERVE_BYTES = 8 * 2**20
RESERVE_BYTES_MIN = 64 * 2**10
# A reserve takes at most this share of what is free when it is made.
_RESERVE_SHARE = 8
# Room for what a write brings along: RocksDB's manifest, a table's index, directory blocks.
MARGIN_BYTES = 256 * 2**10
# With so much free nobody asks how much the memtables hold; they are bounded by less.
PLENTY_BYTES = 2**30
# With several times that the answer is believed for a moment, less what was written meanwhile.
ABUNDANCE_BYTES = 4 * PLENTY_BYTES
BELIEVED_S = 0.1

_logger = logging.getLogger(__name__)


class Space:
    """The disk under a folder; shared by the stores of a database. Any thread may call.

    Parameters
    ----------
    folder : where the reserve lies; it exists.
    reserve_bytes : 0 for none.
    """

    def __init__(
        self, folder: Path, *, reserve_bytes: int = RESERVE_BYTES, fs: FileSystem = REAL
    ) -> None:
        self._fs = fs
        self._folder = folder
        self._file = folder / RESERVE_NAME
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._reserved = fs.exists(self._file)
        self._believed_bytes = 0
        self._believed_until = 0.0
        self.refusal: str | None = None
        """Why the last write was refused; None once one fits again."""
        if reserve_bytes:
            self._make_reserve()

    def free_bytes(self) -> int:
        """Bytes of disk that are free for us."""
        return self._fs.free_bytes(self._folder)

    def admit(
        self, what: str, batch_bytes: int, backlog: Callable[[], int], *, frees: bool
    ) -> None:
        """Return where a batch fits on the disk; StorageError names the bytes that it needs.

        Parameters
        ----------
        what : the write, for the message.
        backlog : how many bytes wait in memory for room in a table; asked only where space is short.
        frees : the write deletes; it may use the reserve.
        """
        now = time.monotonic()
        if now < self._believed_until and self._believed_bytes >= ABUNDANCE_BYTES:
            self._believed_bytes -= 2 * batch_bytes
            return
        free = self.free_bytes()
        self._believed_bytes, self._believed_until = free, now + BELIEVED_S
        if free >= PLENTY_BYTES + 2 * batch_bytes:
            self.refusal = None
            if not self._reserved and self._reserve_bytes:
                self._make_reserve()
            return
        needed = 2 * batch_bytes + MARGIN_BYTES + backlog()
        if free >= needed:
            self.refusal = None
            if not self._reserved and self._reserve_bytes and free >= 2 * needed:
                self._make_reserve()
            return
        if frees:
            if self.release():
                free = self.free_bytes()
            if free >= 2 * batch_bytes:
                return
        refusal = self._refusal(what, needed, free)
        self.refusal = str(refusal)
        raise refusal

    def admit_files(self, what: str, needed: int) -> None:
        """Return where files of so many bytes leave room for writes; StorageError otherwise."""
        free = self.free_bytes()
        if free < needed + MARGIN_BYTES:
            raise self._refusal(what, needed + MARGIN_BYTES, free)

    @property
    def short(self) -> bool:
        """Whether writes are refused, or deletes live on the reserve."""
        return self.refusal is not None or (self._reserve_bytes > 0 and not self._reserved)

    def release(self) -> bool:
        """Give the reserve back to the disk; returns whether there was one."""
        with self._lock:
            if not self._reserved:
                return False
            self._reserved = not remove_quietly(self._fs, self._file)
            _logger.warning("the disk of %s is full: deletes use the reserve", self._folder)
            return not self._reserved

    def _refusal(self, what: str, needed: int, free: int) -> StorageError:
        error = StorageError(
            f"{what} needs {needed} bytes of disk, {max(0, free)} are free at {self._folder}; nothing "
            "was written. Delete points or free disk space: reading and deleting go on, and writing "
            "does by itself once there is room"
        )
        error.errno = errno.ENOSPC
        return error

    def _make_reserve(self) -> None:
        with self._lock:
            if self._reserved:
                return
            size = min(self._reserve_bytes, self.free_bytes() // _RESERVE_SHARE)
            if size < RESERVE_BYTES_MIN:
                return
            try:
                with opened(self._fs, self._fs.open_write(self._file, truncate=True)) as fd:
                    self._fs.fallocate(fd, size)
                self._reserved = True
            except OSError as error:  # then deletes on a full disk have to do without
                _logger.warning("no reserve at %s: %s", self._file, error)
                remove_quietly(self._fs, self._file)
