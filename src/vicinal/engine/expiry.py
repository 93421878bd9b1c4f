"""Points that expire: hidden from every reader at their time, deleted for good behind the writers' backs.

The store has an index of what is due: a key of expiry and row, beside the point it belongs to and
changed in the same batch. Memory holds only when the next entry is due. When that time has come,
the first reader or writer hides the rows: from then on no search, count, filter or look-up sees
them. Deleting them is a batch like any other, which the log holds as the rows that died; replay reads no clock.

Time never runs backwards here: what was hidden stays hidden while the collection is open.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import islice

from vicinal.model.clock import Clock
from vicinal.storage.store import Store

DUE_KEY = struct.Struct(">QQ")
"""Expiry in ms, row; big endian, so that keys sort by time."""

NOTHING_DUE = 2**63


def due_key(expires_ms: int, row: int) -> bytes:
    """The key of a point in the index of what is due."""
    return DUE_KEY.pack(expires_ms, row)


class Expiry:
    """When points of one collection expire, and which ones are due."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._now_ms = 0
        self.next_ms = NOTHING_DUE
        """When the next point that is not hidden yet expires."""
        self.to_purge = True
        """Whether the store may hold points that have expired."""

    def load(self) -> None:
        """Find out when the first point expires; called once the store is recovered."""
        for key, _ in islice(self._store.scan_due(), 1):
            self.next_ms = DUE_KEY.unpack(key)[0]

    def now_ms(self) -> int:
        """Milliseconds since the epoch; never less than before."""
        self._now_ms = max(self._now_ms, int(self._clock() * 1000))
        return self._now_ms

    def added(self, expires_ms: int) -> None:
        """Take note of an expiry that the store holds now."""
        self.next_ms = min(self.next_ms, expires_ms)

    def take_due(self, now_ms: int, hide: Callable[[Sequence[int]], None]) -> None:
        """Give `hide` the rows that expired by now and were not given before; called with the writers' lock held."""
        rows: list[int] = []
        following = NOTHING_DUE
        for key, _ in self._store.scan_due(due_key(self.next_ms, 0)):
            ms, row = DUE_KEY.unpack(key)
            if ms > now_ms:
                following = ms
                break
            rows.append(row)
        if rows:
            hide(rows)
            self.to_purge = True
        self.next_ms = following

    def expired(self, now_ms: int, limit: int) -> list[tuple[bytes, int, bytes]]:
        """Up to limit entries (due key, row, id key) of points that have expired and are in the store still."""
        found: list[tuple[bytes, int, bytes]] = []
        for key, id_key in islice(self._store.scan_due(), limit):
            ms, row = DUE_KEY.unpack(key)
            if ms > now_ms:
                break
            found.append((key, row, id_key))
        return found
