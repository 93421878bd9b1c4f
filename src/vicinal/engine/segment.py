"""Segments: runs of rows with their index, ids and payload. A sealed one lives in files, the tail
in memory and the log.

A row has a global number, which never changes, and a local one, which is its place in its segment. Rows are only ever
appended or marked dead; so readers take no lock. `dead` and `dirty` change under the collection's lock alone.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from vicinal.engine.memory import MemoryBudget
from vicinal.engine.payload_index import PayloadIndex, to_bitset
from vicinal.engine.planner import FLAT_MAX
from vicinal.engine.records import HEADER_BYTES
from vicinal.index import GraphIndex
from vicinal.model.filter import Filter, IsNull, Path
from vicinal.model.ids import IdColumn, PointId, decode_id
from vicinal.model.payload import Payload, decode_payload
from vicinal.storage.pieces import take_pieces
from vicinal.storage.sections import Sections
from vicinal.storage.store import Store

MATCH_CACHE_ENTRIES = 64
"""Filter results kept per segment; one holds a bitmap and n / 8 bytes."""

Rows = npt.NDArray[np.int64]


_POINTER_BYTES = 9
"""Of a list, with the room that it grows into."""

_OBJECT_BYTES = b"".__sizeof__() + 8
"""Of a `bytes` object, beside its bytes; half of what the allocator rounds up to is in it."""


def held_bytes(objects: Sequence[bytes | None]) -> int:
    """Memory of a list's `bytes` objects and of its pointers to them."""
    there = len(objects) - objects.count(None)
    return len(objects) * _POINTER_BYTES + there * _OBJECT_BYTES + _lengths(objects)


def _lengths(objects: Sequence[bytes | None]) -> int:
    return sum(map(len, filter(None, objects)))


class Match:
    """The live rows of a segment that pass a filter; immutable."""

    __slots__ = ("bitmap", "bitset", "count", "stamp")

    def __init__(self, bitmap: BitMap, n: int, stamp: int) -> None:
        self.bitmap = bitmap
        self.count = len(bitmap)
        self.bitset: npt.NDArray[np.uint64] = to_bitset(bitmap, n)
        self.stamp = stamp


class Segment(ABC):
    """What sealed segments and the tail share."""

    def __init__(self, index: GraphIndex, store: Store, budget: MemoryBudget) -> None:
        self.index = index
        self.dead = BitMap()
        self.hidden = BitMap()
        """Rows that have expired and are not dead yet: no reader sees them, and no file knows of them."""
        self.dirty_since: BitMap | None = None
        """While a rewrite runs: rows whose payload changed since it began."""
        self.stamp = 0
        """Grows with each change that could alter a filter's result."""
        self._gone = 0
        self._store = store
        self._matches: dict[Filter, Match] = {}
        self._payload_lock = threading.Lock()
        # Owned by the segment, it must not own it in turn: a segment that was replaced then gives
        # its memory and files back with its last reader, not whenever cycles are looked for.
        rows = cast("Segment", weakref.proxy(self))
        self.payload_index = PayloadIndex(
            lambda row: rows.payload(row),
            lambda row: rows.id_at(row),
            raw_at=lambda row: rows.raw(row),
            has_room=budget.fits,
        )

    @property
    @abstractmethod
    def n(self) -> int:
        """Rows, dead ones included."""

    def memory(self) -> dict[str, int]:
        """Bytes of memory that it holds, by structure; what files back is in `mapped`."""
        n, bitmaps = self.n, (self.dead, self.hidden)
        return {
            "index": self.index.memory_bytes - self.index.mapped_bytes,
            "rows": sum(min(2 * len(b), n // 8 + 64) for b in bitmaps),
            "payload_index": self.payload_index.memory_bytes + len(self._matches) * (n // 4),
        }

    def mapped(self) -> dict[str, int]:
        """Bytes of files that it maps, by structure."""
        return {}

    def shed(self) -> None:
        """Drop what filters left behind; it is made again when it is needed."""
        with self._payload_lock:
            self._matches = {}
            self.payload_index.shed()

    @property
    def n_live(self) -> int:
        """Rows that readers see."""
        return self.n - self._gone

    @abstractmethod
    def global_rows(self, local: Rows) -> Rows:
        """Global numbers of local rows."""

    @abstractmethod
    def local_rows(self, rows: Rows) -> Rows:
        """Local numbers of global rows, -1 where the row is not here."""

    @abstractmethod
    def keys(self, local: Iterable[int]) -> list[bytes]:
        """Id keys of local rows."""

    @abstractmethod
    def ids(self, local: Sequence[int]) -> list[PointId]:
        """Ids of local rows."""

    @abstractmethod
    def int_ids(self, local: Rows) -> Rows | None:
        """Ids of local rows as int64 in the same shape, or None where some id here is not an int."""

    @abstractmethod
    def payloads(self, local: Sequence[int]) -> list[bytes]:
        """Payload bytes of local rows."""

    def payload_lists(self, rows: Rows) -> tuple[list[list[bytes]], bool]:
        """Payload bytes of (n, k) local rows, and whether some came from the store, which may be ahead of memory by one
        batch."""
        listed = rows.tolist()
        reads_store = any(map(self.reads_store, listed))
        return [self.payloads(row) for row in listed], reads_store

    @property
    @abstractmethod
    def payload_bytes(self) -> int:
        """About how many bytes the payloads of all rows have."""

    @abstractmethod
    def reads_store(self, local: Sequence[int]) -> bool:
        """Whether `payloads` would ask the store, which may be ahead of memory by one batch."""

    @abstractmethod
    def raw(self, local: int) -> bytes | memoryview:
        """Payload bytes of one row; quicker than `payloads` for one at a time."""

    def id_at(self, local: int) -> PointId:
        """The id of one row."""
        return self.ids((local,))[0]

    def payload(self, local: int) -> Payload:
        """The payload of one row, decoded."""
        return decode_payload(self.raw(local))

    def live(self) -> BitMap:
        """All rows that readers see, as a new bitmap."""
        rows = BitMap()
        rows.add_range(0, self.n)
        return rows - self.dead - self.hidden

    def kill(self, local: Rows) -> None:
        """Mark rows dead; searches that begin later do not see them."""
        self.index.remove(local)
        self.dead.update(local.tolist())
        self.hidden -= self.dead
        self._count_gone()
        self.stamp += 1

    def hide(self, local: Rows) -> None:
        """Let no search that begins later see the rows, which stay until they are killed."""
        self.index.remove(local)
        self.hidden = (self.hidden | BitMap(local.tolist())) - self.dead
        self._count_gone()
        self.stamp += 1

    def _count_gone(self) -> None:
        """Note how many rows are dead or hidden."""
        self._gone = len(self.dead) + len(self.hidden)

    def match(self, where: Filter) -> Match:
        """The live rows that pass the filter, exactly. Cached until something here changes."""
        stamp = self.stamp
        found = self._matches.get(where)
        if found is not None and found.stamp == stamp:
            return found
        with self._payload_lock:
            stamp, n = self.stamp, self.n
            self.payload_index.extend(n)
            bitmap = self.payload_index.evaluate(where)
            bitmap -= self.dead
            bitmap -= self.hidden
            found = Match(bitmap, n, stamp)
            if len(self._matches) >= MATCH_CACHE_ENTRIES:
                self._matches.pop(next(iter(self._matches)), None)
            self._matches[where] = found
        return found

    def ordered(self, path: Path, rows: BitMap, *, descending: bool) -> Rows:
        """The given rows in the order of a payload field; see `PayloadIndex.order`."""
        with self._payload_lock:
            self.payload_index.extend(self.n)
            return self.payload_index.order(path, rows, descending=descending)

    def has_field(self, path: Path) -> bool:
        """Whether some live point here has a value at the path."""
        return self.match(IsNull(path)).count < self.n_live

    def sample_fields(self, limit: int = 20) -> set[str]:
        """Top-level fields of the first live points, to name in an error."""
        names: set[str] = set()
        for row in self.live()[:limit]:
            names.update(self.payload(row))
        return names

    def payload_changed(self, local: int) -> None:
        """Tell the payload index that a row's payload is another now."""
        with self._payload_lock:
            if local < self.payload_index.n:
                self.payload_index.update(local)
        if self.dirty_since is not None:
            self.dirty_since.add(local)
        self.stamp += 1

    def _from_store(self, local: Sequence[int]) -> list[bytes]:
        found = self._store.get_points(self.keys(local))
        return [b"\x80" if raw is None else raw[HEADER_BYTES:] for raw in found]


class TailSegment(Segment):
    """The rows that no segment file holds: a mutable index in memory; the log is their truth."""

    def __init__(self, index: GraphIndex, store: Store, base: int, budget: MemoryBudget) -> None:
        self._held_bytes = 0
        self._payload_bytes = 0
        self._keys: list[bytes] = []
        self._payloads: list[bytes | None] = []
        self._ints = np.empty(1024, np.int64)
        self._all_ints = True
        self._n = 0
        self._fill_lock = threading.Lock()
        self.base = base
        super().__init__(index, store, budget)

    @property
    def n(self) -> int:
        return self._n

    def append(
        self, keys: list[bytes], vectors: npt.NDArray[Any], payloads: Sequence[bytes | None]
    ) -> None:
        """Add rows; a payload of None is read from the store when it is wanted (after a reopen)."""
        column = IdColumn.from_keys(keys)
        first, end = len(self._keys), len(self._keys) + len(keys)
        if end > len(self._ints):
            grown = np.empty(max(end, 2 * len(self._ints)), np.int64)
            grown[:first] = self._ints[:first]
            self._ints = grown
        if column.all_ints:
            self._ints[first:end] = column.take_ints(np.arange(len(keys)))
        else:
            self._all_ints = False
        self._payloads.extend(payloads)
        self._keys.extend(keys)
        self._held_bytes += held_bytes(keys) + held_bytes(payloads)
        self._payload_bytes += _lengths(payloads)
        # Searches see the rows from here on, and their ids must be there by then; `n` counts only
        # rows whose vectors are there.
        self.index.append(vectors)
        self._n = end
        self.stamp += 1

    def memory(self) -> dict[str, int]:
        found = super().memory()
        found["rows"] += self._held_bytes + self._ints.nbytes
        return found

    def global_rows(self, local: Rows) -> Rows:
        return local + self.base

    def local_rows(self, rows: Rows) -> Rows:
        local = rows - self.base
        return np.where((local >= 0) & (local < self.n), local, -1)

    def keys(self, local: Iterable[int]) -> list[bytes]:
        keys = self._keys
        return [keys[row] for row in local]

    def ids(self, local: Sequence[int]) -> list[PointId]:
        if self._all_ints:
            ints = self._ints
            return [int(ints[row]) for row in local]
        return [decode_id(key) for key in self.keys(local)]

    def int_ids(self, local: Rows) -> Rows | None:
        return self._ints[local] if self._all_ints else None

    def payloads(self, local: Sequence[int]) -> list[bytes]:
        held = self._payloads
        found = [held[row] for row in local]
        missing = [row for row, raw in zip(local, found, strict=True) if raw is None]
        if missing:
            fresh = self._from_store(missing)
            with self._fill_lock:  # an update that came meanwhile is newer than what was read
                for row, raw in zip(missing, fresh, strict=True):
                    if held[row] is None:
                        held[row] = raw
                        self._held_bytes += held_bytes((raw,))
                        self._payload_bytes += len(raw)
            found = [held[row] for row in local]
        return [raw or b"\x80" for raw in found]

    @property
    def payload_bytes(self) -> int:
        return self._payload_bytes

    def reads_store(self, local: Sequence[int]) -> bool:
        held = self._payloads
        return any(held[row] is None for row in local)

    def raw(self, local: int) -> bytes | memoryview:
        return self._payloads[local] or self.payloads((local,))[0]

    def set_payload(self, local: int, raw: bytes) -> None:
        """Replace a row's payload."""
        with self._fill_lock:
            old = (self._payloads[local],)
            self._held_bytes += held_bytes((raw,)) - held_bytes(old)
            self._payload_bytes += len(raw) - _lengths(old)
            self._payloads[local] = raw
        self.payload_changed(local)


class SealedSegment(Segment):
    """Rows in files: vectors, graph, ids and payload are mapped, not read."""

    def __init__(
        self,
        number: int,
        index: GraphIndex,
        store: Store,
        rows: Sections,
        payload: Mapping[str, npt.NDArray[Any]] | Sections,
        rebuilt: Sequence[str] = (),
        *,
        budget: MemoryBudget,
    ) -> None:
        self._mapped = {
            "vectors": index.n * index.vectors(0).nbytes,
            "rows": sum(rows[name].nbytes for name in rows.names),
            "payload": sum(payload[name].nbytes for name in ("offsets", "blob")),
        }
        self.number = number
        self.rebuilt = list(rebuilt)
        """Derived files that were damaged when the segment was opened, and made anew."""
        self.dirty = BitMap()
        """Rows whose payload is newer in the store than in the payload file."""
        self._rows: npt.NDArray[np.uint64] = rows["rows"]
        self._column = IdColumn.from_sections({k: rows[k] for k in rows.names if k != "rows"})
        self._offsets: npt.NDArray[np.uint64] = payload["offsets"]
        self._starts = memoryview(cast("Any", self._offsets))
        self._payload_block: npt.NDArray[np.uint8] = payload["blob"]
        self._blob = memoryview(cast("Any", self._payload_block))
        self.row_min, self.row_max = int(self._rows[0]), int(self._rows[-1])
        self.int_labels = self._column.ints
        """(n,) ids of its rows where all are ints."""
        self._walks = index.n_linked > 0 and len(self._rows) > FLAT_MAX
        self.n_walked = len(self._rows) if self._walks else 0
        """Rows that readers see, where a search for fewer of them walks the graph; else 0. Nothing is linked once a
        segment is sealed."""
        self._dense = self.row_max - self.row_min + 1 == len(self._rows)
        super().__init__(index, store, budget)

    @property
    def n(self) -> int:
        return len(self._rows)

    def mapped(self) -> dict[str, int]:
        return {"graph": self.index.mapped_bytes, **self._mapped}

    def memory(self) -> dict[str, int]:
        found = super().memory()
        found["rows"] += min(2 * len(self.dirty), self.n // 8 + 64)
        return found

    def global_rows(self, local: Rows) -> Rows:
        return self._rows[local].astype(np.int64)

    def local_rows(self, rows: Rows) -> Rows:
        inside = (rows >= self.row_min) & (rows <= self.row_max)
        if self._dense:
            return np.where(inside, rows - self.row_min, -1)
        place = np.searchsorted(self._rows, rows.astype(np.uint64))
        place = np.minimum(place, len(self._rows) - 1)
        return np.where(inside & (self._rows[place] == rows.astype(np.uint64)), place, -1)

    def keys(self, local: Iterable[int]) -> list[bytes]:
        return self._column.keys(local)

    def ids(self, local: Sequence[int]) -> list[PointId]:
        return self._column.take(local)

    def int_ids(self, local: Rows) -> Rows | None:
        return self._column.take_ints(local) if self._column.all_ints else None

    def payloads(self, local: Sequence[int]) -> list[bytes]:
        place = np.asarray(local, np.int64)
        starts, ends = self._offsets[place].tolist(), self._offsets[place + 1].tolist()
        blob = self._blob
        found = [bytes(blob[a:b]) for a, b in zip(starts, ends, strict=True)]
        if self.dirty:
            stale = [i for i, row in enumerate(local) if row in self.dirty]
            if stale:
                fresh = self._from_store([local[i] for i in stale])
                for i, raw in zip(stale, fresh, strict=True):
                    found[i] = raw
        return found

    def payload_lists(self, rows: Rows) -> tuple[list[list[bytes]], bool]:
        if self.dirty:
            return super().payload_lists(rows)
        return take_pieces(self._offsets, self._payload_block, rows), False

    @property
    def payload_bytes(self) -> int:
        return len(self._blob)

    def reads_store(self, local: Sequence[int]) -> bool:
        dirty = self.dirty
        return bool(dirty) and any(row in dirty for row in local)

    def raw(self, local: int) -> bytes | memoryview:
        if local in self.dirty:
            return self._from_store((local,))[0]
        return self._blob[self._starts[local] : self._starts[local + 1]]

    def _count_gone(self) -> None:
        super()._count_gone()
        self.n_walked = self.n_live if self._walks else 0

    def mark_dirty(self, local: Rows) -> None:
        """Say that the payload of these rows is newer in the store."""
        for row in local.tolist():
            self.dirty.add(row)
            self.payload_changed(row)
