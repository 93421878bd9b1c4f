"""Indexes on payload fields of one segment: filters in, exact bitmaps of rows out.

Rows are 0..n-1. A field is indexed when a filter first names it. Rows that were appended or changed
since are *pending*: each filter is evaluated on them by its predicate, until there are more than
PENDING_ROWS_MAX; then they are indexed together, as a small run of every known field.

Thread-safety: any number of readers beside one writer. The writer first makes a row readable
through the callables, then calls `extend` or `update`; later evaluations see the row.
The callables are called with the lock of the index held, so they must not wait for its readers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from threading import RLock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from vicinal.engine.payload_bits import Mask, to_bitset
from vicinal.engine.payload_column import IdAt, PayloadAt, RawAt, read_columns
from vicinal.engine.payload_evaluate import FieldRuns, View, evaluate
from vicinal.engine.payload_run import Run, build_run, merge_runs
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.filter import (
    Filter,
    Path,
    Payload,
    PointId,
    compile_predicate,
    fields,
    leaves,
    path_text,
    split_path,
)
from vicinal.model.limits import INDEXED_FIELDS_MAX
from vicinal.telemetry.log import event, get_logger

__all__ = ["Condition", "FieldStats", "PayloadIndex", "to_bitset"]

PENDING_ROWS_MAX = 64
CACHED_RESULTS_MAX = 32
# A run is merged into the one before it unless that one is so many times as large.
_MERGE_RATIO = 4
# What indexing a field takes for each row, at most: its values while they are sorted.
_ROW_BYTES = 96
# Fields read in one pass, so that a filter of thousands of fields needs no such number of columns.
_FIELDS_PER_PASS = 16
INDEXING_SLOW_S = 0.5
"""A filter that waits longer than this for its fields to be indexed is worth a warning."""

_log = get_logger("filters")


class FieldStats(NamedTuple):
    """A field index: distinct values by kind, rows, rows by form, runs, and bytes.

    A value that stands in several runs counts in each.
    """

    distinct: dict[str, int]
    rows: int
    null_rows: int
    list_rows: int
    runs: int
    memory_bytes: int


class Condition(NamedTuple):
    """A condition of a filter: its text, how many rows pass it alone, and their share."""

    text: str
    matches: int
    selectivity: float


class PayloadIndex:
    """Field indexes over the rows of one segment.

    Parameters
    ----------
    payload_at : row -> payload as the store decodes it, None where there is none.
    id_at : row -> id of the point.
    n : rows at the start.
    raw_at : row -> payload as MessagePack, None where there is none. If given, fields are indexed
        from it, decoding only what they need.
    has_room : whether so many bytes may be held. Where not, a new field is not indexed: the filter's predicate
        looks at each payload, one at a time, and a warning says so once.
    """

    def __init__(
        self,
        payload_at: PayloadAt,
        id_at: IdAt,
        *,
        n: int = 0,
        raw_at: RawAt | None = None,
        has_room: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._has_room = has_room
        self._payload_at = payload_at
        self._raw_at = raw_at
        self._id_at = id_at
        self._lock = RLock()
        self._n = 0
        self._told_no_room = False
        self._generation = 0  # grows by one with each write
        self._fields: dict[Path, FieldRuns] = {}  # the least recently used first
        self._pending = BitMap()
        self._payloads: dict[int, tuple[int, Payload, PointId]] = {}
        self._results: dict[Filter, BitMap] = {}
        self.extend(n)

    @property
    def n(self) -> int:
        """Rows of the index."""
        return self._n

    def extend(self, upto: int) -> None:
        """Add the rows from n up to `upto`, which is excluded.

        Raises
        ------
        InvalidArgumentError : upto < n.
        """
        with self._lock:
            if upto < self._n:
                raise InvalidArgumentError(
                    f"cannot extend to {upto} rows, the index has {self._n}; rows never go away"
                )
            if upto > self._n:
                self._pending = self._pending | BitMap(range(self._n, upto))
                self._n = upto
                self._written()

    def update(self, rows: int | Iterable[int]) -> None:
        """Take the new payloads of rows into account.

        Raises
        ------
        InvalidArgumentError : a row is not below n.
        """
        changed = BitMap([rows] if isinstance(rows, int) else rows)
        with self._lock:
            if changed and changed.max() >= self._n:
                raise InvalidArgumentError(
                    f"row {changed.max()} is not in the index, which has {self._n} rows"
                )
            if not changed:
                return
            self._pending = self._pending | changed
            for row in [row for row in self._payloads if row in changed]:
                del self._payloads[row]
            self._written()

    def evaluate(self, where: Filter) -> BitMap:
        """Return the rows that pass, exactly; the bitmap is the caller's own.

        Whether a row was deleted is not the index's business: such rows may be among the result.
        New fields of the filter are indexed first, in one pass over the payloads, which other
        readers wait for. The results of the last CACHED_RESULTS_MAX filters are kept until a write.
        """
        hash(where)  # renders its text, which may be long, before the lock is taken
        with self._lock:
            known = self._results.get(where)
            if known is not None:
                return BitMap(known, optimize=False)
            missing = sum(path not in self._fields for path in fields(where))
            view = self._view(where) if self._room_for(missing) else None
            n = self._n
            told, self._told_no_room = self._told_no_room, view is None
        if view is None:
            if not told:
                event(
                    _log,
                    logging.WARNING,
                    "no room in the memory budget for an index of a filter's fields: it looks at each payload",
                    fields=", ".join(map(path_text, fields(where))),
                    rows=n,
                )
            return self._scan(where, n)
        result = evaluate(where, view)
        with self._lock:
            if view.generation == self._generation:
                self._results[where] = result
                if len(self._results) > CACHED_RESULTS_MAX:
                    del self._results[next(iter(self._results))]
                return BitMap(result, optimize=False)
        return result

    def order(
        self, path: Path | str, rows: BitMap | None = None, *, descending: bool = False
    ) -> npt.NDArray[np.int64]:
        """Return rows sorted by their value at path: all rows, or the given ones.

        Booleans come before numbers, these before strings, these before lists, objects and NaN,
        which count as equal; descending turns that round. Rows without a value come last either
        way. Equal values keep the order of rows, ascending.

        The first call after a write merges the index of the field into one run.
        """
        if isinstance(path, str):
            path = split_path(path)
        with self._lock:
            run = self._single_run(path)
            n = self._n
        if run is None:
            return np.zeros(0, np.int64)
        nulls = np.array(run.nulls.to_array(), np.int64)
        ordered = run.descending if descending else run.ascending
        result = np.concatenate([ordered.astype(np.int64), nulls])
        return result if rows is None else result[_mask(rows, n)[result]]

    def explain(self, where: Filter) -> list[Condition]:
        """Return how selective each condition of a filter is by itself, in order of appearance."""
        conditions: list[Condition] = []
        for leaf in dict.fromkeys(leaves(where)):
            matches = len(self.evaluate(leaf))
            conditions.append(Condition(leaf.text, matches, matches / max(1, self._n)))
        return conditions

    def stats(self) -> dict[str, FieldStats]:
        """Return what is indexed, by the text of the field's path."""
        with self._lock:
            indexed = dict(self._fields)
        return {path_text(path): _field_stats(runs) for path, runs in indexed.items()}

    @property
    def memory_bytes(self) -> int:
        """Bytes of all field indexes and cached results, without Python's overhead per object; quick to ask."""
        fields, results = tuple(self._fields.values()), len(self._results)
        runs = sum(run.memory_bytes + _bits(dead) for each in fields for run, dead in each)
        return runs + results * (self._n // 8)

    def shed(self) -> None:
        """Give the memory of field indexes and results back; they are made again when a filter needs them."""
        with self._lock:
            self._fields = {}
            self._results = {}

    def _room_for(self, fields_missing: int) -> bool:
        rows = self._n * fields_missing + len(self._pending) * len(self._fields)
        return rows <= PENDING_ROWS_MAX or self._has_room(rows * _ROW_BYTES)

    def _scan(self, where: Filter, n: int) -> BitMap:
        """Evaluate without an index, holding one payload at a time."""
        predicate = compile_predicate(where)
        passing: list[int] = []
        for row in range(n):
            payload = self._payload_at(row)
            if predicate({} if payload is None else payload, self._id_at(row)):
                passing.append(row)
        return BitMap(passing)

    def _written(self) -> None:
        self._generation += 1
        self._results = {}

    def _view(self, where: Filter) -> View:
        paths = fields(where)
        if len(self._pending) > PENDING_ROWS_MAX:
            self._index_pending()
        found = self._index_fields(paths)
        for row in self._pending:
            if row not in self._payloads:
                payload = self._payload_at(row)
                self._payloads[row] = (row, {} if payload is None else payload, self._id_at(row))
        return View(self._n, self._generation, found, self._pending, [*self._payloads.values()])

    def _index_fields(self, paths: tuple[Path, ...]) -> dict[Path, FieldRuns]:
        """Return the runs of the fields, made now where there are none."""
        found: dict[Path, FieldRuns] = {}
        missing: list[Path] = []
        for path in paths:
            if path in self._fields:
                found[path] = self._fields[path] = self._fields.pop(path)
            else:
                missing.append(path)
        started = time.monotonic()
        rows = _rows_of(self._pending.flip(0, self._n) if missing else BitMap())
        for first in range(0, len(missing) if len(rows) else 0, _FIELDS_PER_PASS):
            batch = missing[first : first + _FIELDS_PER_PASS]
            for path, values in self._columns(batch, rows).items():
                found[path] = self._fields[path] = ((build_run(rows, values), BitMap()),)
        took = time.monotonic() - started
        if missing and took >= INDEXING_SLOW_S:
            event(
                _log,
                logging.WARNING,
                "a filter waited while its fields were indexed for the first time",
                fields=", ".join(map(path_text, missing)),
                rows=len(rows),
                seconds=round(took, 3),
            )
        while len(self._fields) > INDEXED_FIELDS_MAX:
            del self._fields[next(iter(self._fields))]
        return found

    def _index_pending(self) -> None:
        """Move the pending rows into the index of every known field."""
        rows = _rows_of(self._pending)
        for path, values in self._columns([*self._fields], rows).items():
            runs: list[tuple[Run, BitMap]] = []
            for run, dead in self._fields[path]:
                gone = dead | (run.covers & self._pending)
                if len(gone) < len(run.covers):
                    runs.append((run, gone))
            runs.append((build_run(rows, values), BitMap()))
            self._fields[path] = _merged(runs)
        self._pending = BitMap()
        self._payloads = {}

    def _single_run(self, path: Path) -> Run | None:
        """Merge the index of one field into one run over all rows; None where there are none."""
        if self._pending:
            self._index_pending()
        if self._n == 0:
            return None
        runs = self._index_fields((path,))[path]
        (run, dead), *others = runs
        if others or dead:
            run = merge_runs(runs)
            self._fields[path] = ((run, BitMap()),)
        return run

    def _columns(self, paths: list[Path], rows: npt.NDArray[np.uint32]) -> dict[Path, list[object]]:
        return read_columns(paths, rows.tolist(), self._payload_at, self._raw_at, self._id_at)


def _merged(runs: list[tuple[Run, BitMap]]) -> FieldRuns:
    """Merge until each run has several times the live rows of the next: so runs stay few."""
    while len(runs) > 1:
        (older, older_dead), (newer, newer_dead) = runs[-2:]
        live = len(older.covers) - len(older_dead)
        if live >= _MERGE_RATIO * (len(newer.covers) - len(newer_dead)):
            break
        runs[-2:] = [(merge_runs(runs[-2:]), BitMap())]
    return tuple(runs)


def _field_stats(runs: FieldRuns) -> FieldStats:
    distinct: dict[str, int] = {}
    for run, _ in runs:
        for kind, part in run.parts.items():
            distinct[kind.value] = distinct.get(kind.value, 0) + len(part.values)
    return FieldStats(
        distinct=distinct,
        rows=sum(len(run.covers) - len(dead) for run, dead in runs),
        null_rows=sum(len(run.nulls - dead) for run, dead in runs),
        list_rows=sum(len(run.lists - dead) for run, dead in runs),
        runs=len(runs),
        memory_bytes=sum(run.memory_bytes + len(dead.serialize()) for run, dead in runs),
    )


def _bits(rows: BitMap) -> int:
    """About how many bytes a bitmap takes."""
    return min(2 * len(rows), (rows.max() if rows else 0) // 8 + 64)


def _rows_of(bitmap: BitMap) -> npt.NDArray[np.uint32]:
    return np.array(bitmap.to_array(), np.uint32)


def _mask(rows: BitMap, n: int) -> Mask:
    bits = np.unpackbits(to_bitset(rows, n).view(np.uint8), bitorder="little")
    return bits[:n].view(np.bool_)
