"""The memory of a database: who holds how much, and a budget that nothing passes.

Whoever is about to hold more reserves it first, and reserves no longer once it is held and therefore counted. Where the
budget has no room, what can be made again is dropped (filter results and field indexes, then RocksDB's write buffers
go to disk); where that is not enough, MemoryLimitError is raised before anything was changed.

Counted is what a database keeps: vectors and graphs that no file backs, ids and payloads of the tail, field indexes,
RocksDB's buffers and its cache. Mapped files are counted apart, since the system takes their memory back when it needs
it. Not counted is what one call holds while it runs: its arguments, its results, its sort keys.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Protocol

from vicinal.model.errors import MemoryLimitError
from vicinal.storage.rocks import StoreMemory


class Member(Protocol):
    """A collection, to the budget."""

    def memory(self) -> Mapping[str, int]:
        """Bytes that it holds now, by structure."""
        ...

    def shed_filters(self) -> None:
        """Drop what filters left behind."""
        ...

    def shed_buffers(self) -> None:
        """Write out what waits in memory for a table."""
        ...


class MemoryBudget:
    """The memory that the collections of a database hold together; any thread may call.

    Parameters
    ----------
    limit : bytes, None for no limit; then nothing is counted until somebody asks.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.stores = StoreMemory(limit)
        self._members: dict[int, Member] = {}
        self._reserved = 0
        self._lock = threading.Lock()
        self._shed_lock = threading.Lock()

    def join(self, member: Member) -> None:
        """Count a collection from now on."""
        with self._lock:
            self._members[id(member)] = member

    def leave(self, member: Member) -> None:
        """Count it no longer; it has given its memory back. Idempotent."""
        with self._lock:
            self._members.pop(id(member), None)

    @property
    def used(self) -> int:
        """Bytes that are held now, reservations included."""
        with self._lock:
            return self._held() + self._reserved

    def room(self) -> int | None:
        """Bytes that are left; None where there is no limit."""
        return None if self.limit is None else max(0, self.limit - self.used)

    @contextmanager
    def reserve(
        self, what: str, needed: Callable[[], int], spare: Callable[[], int] = lambda: 0
    ) -> Generator[None]:
        """Keep room while the block comes to hold it.

        needed : how many bytes; asked only where there is a limit. spare : bytes that must be left besides.

        Raises MemoryLimitError where there is no room even after shedding; the block is not begun.
        """
        if self.limit is None:
            yield
            return
        n, left = needed(), spare()
        if not self._take(n, left):
            self._shed(n + left)
            if not self._take(n, left):
                raise MemoryLimitError(what, n + left, self.used, self.limit)
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= n

    def fits(self, n: int) -> bool:
        """Whether there is room for so many bytes now; sheds nothing."""
        room = self.room()
        return room is None or n <= room

    def stats(self) -> dict[str, int | None]:
        """The limit, None where there is none, what is used of it, and what the stores' cache of blocks holds."""
        return {
            "limit": self.limit,
            "used": self.used,
            "reserved": self._reserved,
            "block_cache": self.stores.cache_bytes,
        }

    def _take(self, n: int, spare: int) -> bool:
        with self._lock:
            wanted = self._held() + self._reserved + n + spare
            if self.limit is not None and wanted > self.limit:
                return False
            self._reserved += n
            return True

    def _held(self) -> int:
        held = sum(sum(member.memory().values()) for member in self._members.values())
        return held + self.stores.cache_bytes

    def _shed(self, n: int) -> None:
        with self._shed_lock:
            for member in self._all():
                member.shed_filters()
            if self.fits(n):
                return
            for member in self._all():
                member.shed_buffers()

    def _all(self) -> tuple[Member, ...]:
        with self._lock:
            return tuple(self._members.values())
