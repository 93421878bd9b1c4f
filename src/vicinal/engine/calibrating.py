"""Calibration of a collection's graphs: by their own points while they are built, or by queries that the user gave.

Given queries are kept in the store. They measure every graph that is built later; tables of the segments
that were there already are kept beside them, because a segment's files never change.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vicinal.engine.maintenance import Maintenance
from vicinal.engine.segment import SealedSegment
from vicinal.engine.segment_files import calibrate_given, lacks_own_table
from vicinal.engine.state import CollectionState
from vicinal.model.decoding import UNDECODABLE
from vicinal.model.errors import CorruptionError
from vicinal.model.metric import VectorType
from vicinal.telemetry.log import get_logger

CALIBRATION_KEY = "calibration"

_log = get_logger("engine.calibrating")


class GivenQueries(msgspec.Struct, frozen=True):
    """What is kept: n queries as bytes of their rows, and tables by the number of the segment."""

    n: int
    queries: bytes
    tables: dict[int, bytes]


def restore_calibration(state: CollectionState) -> None:
    """After the segments were opened: what the store keeps of an earlier calibration. A damaged record is left
    alone, and the graphs' own tables stand."""
    raw = state.store.get_meta(CALIBRATION_KEY)
    if raw is None:
        return
    try:
        kept = msgspec.msgpack.decode(raw, type=GivenQueries)
        rows = np.frombuffer(kept.queries, _query_dtype(state)).reshape(kept.n, -1)
        if rows.shape[1] != state.config.columns:
            raise CorruptionError(f"queries of {rows.shape[1]} columns")
        for segment in state.view.sealed:
            table = kept.tables.get(segment.number)
            if table is not None and segment.index.n_linked:
                segment.index.restore_calibration(table)
    except (*UNDECODABLE, CorruptionError, ValueError) as fault:
        _log.warning("collection %r: its calibration is damaged: %s", state.name, fault)
        return
    state.given_queries = rows
    for segment in state.view.sealed:  # a graph that was damaged is made anew, without them
        calibrate_given(segment.index, rows, threads=0)


class Calibrator:
    """Calibrates the graphs of one collection."""

    def __init__(self, state: CollectionState, maintenance: Maintenance) -> None:
        self._state = state
        self._maintenance = maintenance

    def calibrate(self, queries: npt.NDArray[Any] | None, *, threads: int) -> None:
        """Measure every graph with queries (n, columns), checked, and keep them; or forget them where None."""
        state = self._state
        with state.maintenance:
            state.check_writable()
            if queries is None:
                self._forget(threads)
            else:
                self._give(np.ascontiguousarray(queries), threads)

    def _give(self, queries: npt.NDArray[Any], threads: int) -> None:
        state = self._state
        tables: dict[int, bytes] = {}
        for segment in state.view.segments:
            if segment.index.n_linked == 0:
                continue
            segment.index.calibrate(queries, threads=threads)
            table = segment.index.calibration_bytes
            if isinstance(segment, SealedSegment) and table is not None:
                tables[segment.number] = table
        kept = GivenQueries(len(queries), queries.tobytes(), tables)
        self._keep(msgspec.msgpack.encode(kept), queries)

    def _forget(self, threads: int) -> None:
        state = self._state
        before = state.given_queries
        state.given_queries = None  # graphs that are built from here on measure themselves
        try:
            self._maintenance.rebuild(lambda s: lacks_own_table(s.index), threads=threads)
            self._keep(None, None)
        except BaseException:
            state.given_queries = before
            raise

    def _keep(self, raw: bytes | None, queries: npt.NDArray[Any] | None) -> None:
        state = self._state
        with state.lock:
            state.commits += 1  # cached answers were found with other beams
            try:
                state.store.write(meta={CALIBRATION_KEY: raw}, frees=raw is None)
                state.given_queries = queries
            finally:
                state.commits += 1


def _query_dtype(state: CollectionState) -> np.dtype[Any]:
    """As `GraphIndex.search` takes queries."""
    dtype = state.config.dtype
    return np.dtype(np.float32) if dtype is VectorType.F16 else dtype.numpy
