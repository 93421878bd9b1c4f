"""The write path: check, resolve to effects, commit one batch to the store, apply it to memory, acknowledge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from vicinal.engine.critical import uninterrupted
from vicinal.engine.records import HEADER_BYTES, POINT_HEADER, LogRecord, encode_log, pack_rows
from vicinal.engine.state import CollectionState
from vicinal.model.filter import Filter
from vicinal.model.payload import EMPTY, Payload, decode_payload, encode_payload

DELETE_CHUNK = 50_000
"""Points deleted by a filter in one batch."""


class Writer:
    """Writes of one collection. Each call is one batch: all of it is in the store and visible, or none of it."""

    def __init__(self, state: CollectionState) -> None:
        self._state = state

    def upsert(
        self,
        keys: list[bytes],
        vectors: npt.NDArray[np.generic],
        payloads: Sequence[bytes] | None,
    ) -> None:
        """Insert or replace points.

        Parameters
        ----------
        keys : id keys, each once.
        vectors : (n, columns), C order, in the collection's dtype, checked by the caller.
        payloads : their payload bytes; None is empty ones.
        """
        state = self._state
        raws = payloads if payloads is not None else [EMPTY] * len(keys)
        with state.lock:
            state.check_writable()
            first = state.next_row
            killed: list[int] = []
            points: list[tuple[bytes, bytes | None]] = []
            pack = POINT_HEADER.pack
            for i, old in enumerate(state.store.get_points(keys)):
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

    def delete(self, keys: list[bytes]) -> int:
        """Delete points; ids that are not there are skipped. Returns how many were there."""
        state = self._state
        with state.lock:
            state.check_writable()
            found = state.store.get_points(keys)
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
            keys: list[bytes] = []
            for segment in state.view.segments:
                rows = segment.live() if where is None else segment.match(where).bitmap
                keys.extend(segment.keys(rows))
            count = 0
            for start in range(0, len(keys), DELETE_CHUNK):
                count += self.delete(keys[start : start + DELETE_CHUNK])
            return count

    def update(self, keys: list[bytes], change: Payload) -> int:
        """Merge change into the payload of points: given fields are set, others stay. Returns how many there were."""
        state = self._state
        encode_payload(change)
        with state.lock:
            state.check_writable()
            points: list[tuple[bytes, bytes | None]] = []
            updates: dict[int, bytes] = {}
            for key, old in zip(keys, state.store.get_points(keys), strict=True):
                if old is None:
                    continue
                row, version, expires = POINT_HEADER.unpack_from(old)
                raw = encode_payload(decode_payload(old[HEADER_BYTES:]) | change)
                points.append((key, POINT_HEADER.pack(row, version + 1, expires) + raw))
                updates[row] = raw
            if points:
                self._commit(points, self._effects(dirty=list(updates)), (), updates)
            return len(points)

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
