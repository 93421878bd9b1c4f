"""The write path: check, resolve to effects, commit one batch to the store, apply it to memory, acknowledge."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from vicinal.engine.critical import uninterrupted
from vicinal.engine.records import HEADER_BYTES, POINT_HEADER, LogRecord, encode_log, pack_rows
from vicinal.engine.state import CollectionState
from vicinal.model.change import ANY, Change, Conditions
from vicinal.model.filter import Filter
from vicinal.model.payload import EMPTY, decode_payload, encode_payload

DELETE_CHUNK = 50_000
"""Points deleted by a filter in one batch."""

UPDATE_CHUNK = 50_000
"""Points updated by a filter in one batch."""


class Writer:
    """Writes of one collection. Each call is one batch: all of it is in the store and visible, or none of it."""

    def __init__(self, state: CollectionState) -> None:
        self._state = state

    @contextmanager
    def exclusive(self, keys: list[bytes], conditions: Conditions) -> Generator[None]:
        """Keep other writers out while the block writes in several batches; check the conditions first."""
        state = self._state
        with state.lock:
            state.check_writable()
            conditions.check(keys, _versions(state.store.get_points(keys)))
            yield

    def upsert(
        self,
        keys: list[bytes],
        vectors: npt.NDArray[np.generic],
        payloads: Sequence[bytes] | None,
        conditions: Conditions = ANY,
    ) -> None:
        """Insert or replace points.

        Parameters
        ----------
        keys : id keys, each once.
        vectors : (n, columns), C order, in the collection's dtype, checked by the caller.
        payloads : their payload bytes; None is empty ones.
        conditions : what must hold; see `Conditions.check` for the errors, after which nothing is written.
        """
        state = self._state
        raws = payloads if payloads is not None else [EMPTY] * len(keys)
        with state.lock:
            state.check_writable()
            first = state.next_row
            killed: list[int] = []
            points: list[tuple[bytes, bytes | None]] = []
            pack = POINT_HEADER.pack
            olds = state.store.get_points(keys)
            if conditions.any:
                conditions.check(keys, _versions(olds))
            for i, old in enumerate(olds):
                version = 1
                if old is not None:
                    row, version, _ = POINT_HEADER.unpack_from(old)
                    version += 1
                    killed.append(row)
                points.append((keys[i], pack(first + i, version, 0) + raws[i]))
            record = LogRecord(
                time_ms=self._now_ms(),
                first_row=first,
                keys=keys,
                vectors=memoryview(cast("Any", np.ascontiguousarray(vectors))).cast("B"),
                killed=pack_rows(killed),
                dirty=b"",
            )
            self._commit(points, record, raws)

    def delete(self, keys: list[bytes], conditions: Conditions = ANY) -> int:
        """Delete points; ids that are not there are skipped. Returns how many were there."""
        state = self._state
        with state.lock:
            state.check_writable()
            found = state.store.get_points(keys)
            conditions.check(keys, _versions(found))
            gone = [(k, raw) for k, raw in zip(keys, found, strict=True) if raw is not None]
            if not gone:
                return 0
            killed = [POINT_HEADER.unpack_from(raw)[0] for _, raw in gone]
            self._commit([(key, None) for key, _ in gone], self._effects(killed=killed), ())
            return len(gone)

    def delete_where(self, where: Filter | None) -> int:
        """Delete the points that pass the filter, all where it is None. Returns how many.

        More than DELETE_CHUNK points go in several batches; the points are fixed when the call begins.
        """
        state = self._state
        with state.lock:
            state.check_writable()
            keys = self._matching(where)
            count = 0
            for start in range(0, len(keys), DELETE_CHUNK):
                count += self.delete(keys[start : start + DELETE_CHUNK])
            return count

    def update(self, keys: list[bytes], change: Change, conditions: Conditions = ANY) -> int:
        """Change the payload of points; ids that are not there are skipped. Returns how many were there."""
        state = self._state
        encode_payload(change.fields)
        with state.lock:
            state.check_writable()
            olds = state.store.get_points(keys)
            conditions.check(keys, _versions(olds))
            points: list[tuple[bytes, bytes | None]] = []
            updates: dict[int, bytes] = {}
            for key, old in zip(keys, olds, strict=True):
                if old is None:
                    continue
                row, version, expires = POINT_HEADER.unpack_from(old)
                raw = _changed(old, change)
                points.append((key, POINT_HEADER.pack(row, version + 1, expires) + raw))
                updates[row] = raw
            if points:
                self._commit(points, self._effects(dirty=list(updates)), (), updates)
            return len(points)

    def update_where(self, where: Filter | None, change: Change) -> int:
        """Change the payload of the points that pass the filter, of all where it is None. Returns how many.

        More than UPDATE_CHUNK points go in several batches; the points are fixed when the call begins.
        """
        state = self._state
        encode_payload(change.fields)
        with state.lock:
            state.check_writable()
            keys = self._matching(where)
            chunks = [keys[i : i + UPDATE_CHUNK] for i in range(0, len(keys), UPDATE_CHUNK)]
            if len(chunks) > 1:
                # A payload that grows past its limit must be found before the first batch is in.
                for chunk in chunks:
                    for old in state.store.get_points(chunk):
                        if old is not None:
                            _changed(old, change)
            return sum(self.update(chunk, change) for chunk in chunks)

    def _matching(self, where: Filter | None) -> list[bytes]:
        """Keys of the live points that pass; called with the lock held."""
        keys: list[bytes] = []
        for segment in self._state.view.segments:
            rows = segment.live() if where is None else segment.match(where).bitmap
            keys.extend(segment.keys(rows))
        return keys

    def _effects(self, *, killed: Sequence[int] = (), dirty: Sequence[int] = ()) -> LogRecord:
        return LogRecord(
            time_ms=self._now_ms(),
            first_row=0,
            keys=[],
            vectors=memoryview(b""),
            killed=pack_rows(killed),
            dirty=pack_rows(dirty),
        )

    def _commit(
        self,
        points: list[tuple[bytes, bytes | None]],
        record: LogRecord,
        payloads: Sequence[bytes],
        updates: Mapping[int, bytes] | None = None,
    ) -> None:
        """The one place where a batch becomes durable and then visible."""
        state = self._state
        with uninterrupted():
            state.commits += 1
            try:
                state.store.write(points=points, log=encode_log(record))
                state.apply(record, payloads, updates)
            finally:
                state.commits += 1
            state.last_write = state.clock()

    def _now_ms(self) -> int:
        return int(self._state.clock() * 1000)


def _versions(found: Sequence[bytes | None]) -> list[int]:
    """Versions of points' records, 0 where there is none."""
    return [0 if raw is None else POINT_HEADER.unpack_from(raw)[1] for raw in found]


def _changed(record: bytes, change: Change) -> bytes:
    """Payload bytes of a point's record after a change."""
    return encode_payload(change.apply(decode_payload(record[HEADER_BYTES:])))
