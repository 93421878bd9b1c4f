"""The write path: check, resolve to effects, commit one batch to the store, apply it to memory, acknowledge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from vicinal.engine.combining import Combiner, Request
from vicinal.engine.expiry import NOTHING_DUE, due_key
from vicinal.engine.records import HEADER_BYTES, POINT_HEADER, LogRecord, pack_rows
from vicinal.engine.state import CollectionState
from vicinal.model.change import ANY, Change, Conditions
from vicinal.model.clock import NEVER_MS
from vicinal.model.filter import Filter
from vicinal.model.payload import EMPTY, decode_payload, encode_payload

DELETE_CHUNK = 50_000
"""Points deleted by a filter in one batch."""

UPDATE_CHUNK = 50_000
"""Points updated by a filter in one batch."""

PURGE_CHUNK = 10_000
"""Expired points deleted in one batch."""

T = TypeVar("T")

_Due = list[tuple[bytes, bytes | None]]


class Writer:
    """Writes of one collection. Each call is one batch: all of it is in the store and visible, or none of it."""

    def __init__(self, state: CollectionState) -> None:
        self._state = state
        self._combiner = Combiner(self._carry_out)
        self._alone: int | None = None
        """The thread that keeps the others out."""

    @contextmanager
    def exclusive(self, keys: list[bytes], conditions: Conditions) -> Generator[None]:
        """Keep other writers out while the block writes in several batches; check the conditions first."""
        state = self._state
        with self._others_out():
            now_ms = state.begin_write()
            conditions.check(keys, _versions(state.store.get_points(keys), now_ms))
            yield

    def upsert(
        self,
        keys: list[bytes],
        vectors: npt.NDArray[np.generic],
        payloads: Sequence[bytes] | None,
        conditions: Conditions = ANY,
        expiries_ms: Sequence[int] | None = None,
    ) -> None:
        """Insert or replace points.

        Parameters
        ----------
        keys : id keys, each once.
        vectors : (n, columns), C order, in the collection's dtype, checked by the caller.
        payloads : their payload bytes; None is empty ones.
        conditions : what must hold; see `Conditions.check` for the errors, after which nothing is written.
        expiries_ms : when each expires, NEVER_MS for never; None is never for all.
        """
        raws = payloads if payloads is not None else [EMPTY] * len(keys)
        self._combined(partial(self._upsert, keys, vectors, raws, conditions, expiries_ms))

    def _upsert(
        self,
        keys: list[bytes],
        vectors: npt.NDArray[np.generic],
        raws: Sequence[bytes],
        conditions: Conditions,
        expiries_ms: Sequence[int] | None,
    ) -> None:
        state = self._state
        expiries = expiries_ms if expiries_ms is not None else [NEVER_MS] * len(keys)
        with state.lock:
            now_ms = state.begin_write()
            first = state.next_row
            killed: list[int] = []
            points: list[tuple[bytes, bytes | None]] = []
            due: _Due = []
            pack = POINT_HEADER.pack
            olds = state.store.get_points(keys)
            if conditions.any:
                conditions.check(keys, _versions(olds, now_ms))
            for i, old in enumerate(olds):
                version = 1
                if old is not None:
                    row, held, expires_ms = POINT_HEADER.unpack_from(old)
                    killed.append(row)
                    if expires_ms:
                        due.append((due_key(expires_ms, row), None))
                    if not 0 < expires_ms <= now_ms:  # an expired point is no predecessor
                        version = held + 1
                expires_ms = expiries[i]
                if expires_ms:
                    due.append((due_key(expires_ms, first + i), keys[i]))
                points.append((keys[i], pack(first + i, version, expires_ms) + raws[i]))
            record = LogRecord(
                time_ms=now_ms,
                first_row=first,
                keys=keys,
                vectors=memoryview(cast("Any", np.ascontiguousarray(vectors))).cast("B"),
                killed=pack_rows(killed),
                dirty=b"",
            )
            state.commit(points, record, raws, due=due, olds=olds)
            if expiries_ms is not None:
                state.expiry.added(min((ms for ms in expiries if ms), default=NOTHING_DUE))

    def delete(self, keys: list[bytes], conditions: Conditions = ANY) -> int:
        """Delete points; ids that are not there are skipped. Returns how many were there."""
        return self._combined(partial(self._delete, keys, conditions))

    def _delete(self, keys: list[bytes], conditions: Conditions) -> int:
        state = self._state
        with state.lock:
            now_ms = state.begin_write()
            found = state.store.get_points(keys)
            conditions.check(keys, _versions(found, now_ms))
            points: list[tuple[bytes, bytes | None]] = []
            olds: list[bytes | None] = []
            killed: list[int] = []
            due: _Due = []
            for key, raw in zip(keys, found, strict=True):
                if raw is None:
                    continue
                row, _, expires_ms = POINT_HEADER.unpack_from(raw)
                if expires_ms:
                    if expires_ms <= now_ms:
                        continue
                    due.append((due_key(expires_ms, row), None))
                killed.append(row)
                points.append((key, None))
                olds.append(raw)
            if points:
                effects = self._effects(now_ms, killed=killed)
                state.commit(points, effects, (), due=due, olds=olds)
            return len(points)

    def delete_where(self, where: Filter | None) -> int:
        """Delete the points that pass the filter, all where it is None. Returns how many.

        More than DELETE_CHUNK points go in several batches; the points are fixed when the call begins.
        """
        state = self._state
        with self._others_out():
            state.begin_write()
            keys = self._matching(where)
            count = 0
            for start in range(0, len(keys), DELETE_CHUNK):
                count += self.delete(keys[start : start + DELETE_CHUNK])
            return count

    def update(self, keys: list[bytes], change: Change, conditions: Conditions = ANY) -> int:
        """Change the payload of points; ids that are not there are skipped. Returns how many were there."""
        encode_payload(change.fields)
        return self._combined(partial(self._update, keys, change, conditions))

    def _update(self, keys: list[bytes], change: Change, conditions: Conditions) -> int:
        state = self._state
        with state.lock:
            now_ms = state.begin_write()
            olds = state.store.get_points(keys)
            conditions.check(keys, _versions(olds, now_ms))
            points: list[tuple[bytes, bytes | None]] = []
            kept: list[bytes | None] = []
            updates: dict[int, bytes] = {}
            due: _Due = []
            for key, old in zip(keys, olds, strict=True):
                if old is None:
                    continue
                row, version, expires_ms = POINT_HEADER.unpack_from(old)
                if 0 < expires_ms <= now_ms:
                    continue
                if change.expires_ms is not None and change.expires_ms != expires_ms:
                    if expires_ms:
                        due.append((due_key(expires_ms, row), None))
                    expires_ms = change.expires_ms
                    if expires_ms:
                        due.append((due_key(expires_ms, row), key))
                raw = _changed(old, change)
                points.append((key, POINT_HEADER.pack(row, version + 1, expires_ms) + raw))
                kept.append(old)
                if change.touches_payload:
                    updates[row] = raw
            if points:
                effects = self._effects(now_ms, dirty=list(updates))
                state.commit(points, effects, (), updates, due, olds=kept)
                state.expiry.added(change.expires_ms or NOTHING_DUE)
            return len(points)

    def update_where(self, where: Filter | None, change: Change) -> int:
        """Change the payload of the points that pass the filter, of all where it is None. Returns how many.

        More than UPDATE_CHUNK points go in several batches; the points are fixed when the call begins.
        """
        state = self._state
        encode_payload(change.fields)
        with self._others_out():
            state.begin_write()
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

    def purge(self) -> bool:
        """Delete a batch of points that have expired; returns whether there were any."""
        state = self._state
        with state.lock:
            now_ms = state.begin_write()
            if not state.expiry.to_purge:
                return False
            expired = state.expiry.expired(now_ms, PURGE_CHUNK)
            if expired:
                record = self._effects(now_ms, killed=[row for _, row, _ in expired])
                points = [(id_key, None) for _, _, id_key in expired]
                due: _Due = [(key, None) for key, _, _ in expired]
                olds = state.store.get_points([id_key for id_key, _ in points])
                state.commit(points, record, (), due=due, olds=olds)
            state.expiry.to_purge = len(expired) == PURGE_CHUNK
            return bool(expired)

    @contextmanager
    def _others_out(self) -> Generator[None]:
        """Let no other writer in while the block writes in batches of its own."""
        with self._state.lock:
            before, self._alone = self._alone, threading.get_ident()
            try:
                yield
            finally:
                self._alone = before

    def _combined(self, write: Callable[[], T]) -> T:
        """Carry a batch out together with those of other writers."""
        state = self._state
        if self._alone == threading.get_ident():
            # In one change of state, so that nobody sees the batch before the time of its next expiry.
            with state.together():
                return write()
        return self._combiner.run(write)

    def _carry_out(self, group: Sequence[Request]) -> None:
        """Carry out some batches, in order, with one sync for all; one that is refused fails alone."""
        state = self._state
        unsettled = set(map(id, group))
        try:
            with state.lock, state.together():
                for request in group:
                    before = state.staged
                    try:
                        request.value = request.write()
                    except BaseException as fault:
                        request.error = fault
                    if state.staged == before:  # nothing of it waits for the sync
                        unsettled.discard(id(request))
        except BaseException as fault:
            for request in group:
                if id(request) in unsettled and request.error is None:
                    request.error = fault

    @staticmethod
    def _effects(
        now_ms: int, *, killed: Sequence[int] = (), dirty: Sequence[int] = ()
    ) -> LogRecord:
        return LogRecord(
            time_ms=now_ms,
            first_row=0,
            keys=[],
            vectors=memoryview(b""),
            killed=pack_rows(killed),
            dirty=pack_rows(dirty),
        )


def _versions(found: Sequence[bytes | None], now_ms: int) -> list[int]:
    """Versions of points' records, 0 where there is none or it has expired."""
    versions: list[int] = []
    for raw in found:
        _, version, expires_ms = (0, 0, 0) if raw is None else POINT_HEADER.unpack_from(raw)
        versions.append(0 if 0 < expires_ms <= now_ms else version)
    return versions


def _changed(record: bytes, change: Change) -> bytes:
    """Payload bytes of a point's record after a change."""
    return encode_payload(change.apply(decode_payload(record[HEADER_BYTES:])))
