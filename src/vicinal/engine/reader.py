"""Searches, point look-ups and counts: readers take no lock unless writers keep changing what they look at.

A reader notes a count of changes, works on one view, and looks at the count again (see
`engine.state`). If a batch came meanwhile and could have mixed two states into one answer, it starts
anew, the last time under the writers' lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from vicinal.engine.expiry import NOTHING_DUE
from vicinal.engine.loss import describe
from vicinal.engine.planner import SegmentPlan, combined_recall, plan_segment
from vicinal.engine.records import HEADER_BYTES, POINT_HEADER
from vicinal.engine.segment import Rows, Segment
from vicinal.engine.state import CollectionState, View
from vicinal.index import Beam, GraphIndex, default_ef
from vicinal.model.errors import CorruptionError, StorageError, UnknownFieldError
from vicinal.model.filter import Filter, fields, path_text
from vicinal.model.hits import Hits, HitsBatch, Point
from vicinal.model.ids import decode_id
from vicinal.model.search import SearchOptions

T = TypeVar("T")

OPTIMISTIC_ATTEMPTS = 3
"""Tries before a reader waits for the writers."""


_Read: TypeAlias = tuple[HitsBatch, bool]
"""What was found, and whether some payload came from the store, which is ahead of memory while a batch is committed."""


@dataclass(slots=True)
class SegmentRun:
    """One segment's part of a search, for `explain`."""

    plan: SegmentPlan
    seconds: float


class _MovedError(Exception):
    """A row was replaced while it was looked at."""


class Reader:
    """Reads of one collection."""

    def __init__(self, state: CollectionState) -> None:
        self._state = state

    def search(
        self,
        queries: npt.NDArray[Any],
        options: SearchOptions,
        *,
        threads: int,
        runs: list[SegmentRun] | None = None,
    ) -> HitsBatch:
        """Search (n, columns) queries; they and their options are already checked. k results where k points match.

        threads : 0 is all.
        runs : gets what each segment did.
        """
        if runs is None:
            found = self.walk(queries, options, threads)
            if isinstance(found, HitsBatch):
                return found
        return self._search_planned(queries, options, threads, runs)

    def walk(
        self, queries: npt.NDArray[Any], options: SearchOptions, threads: int
    ) -> Hits | HitsBatch | None:
        """The usual search at its least cost: one sealed segment holds all rows, and its graph is walked.

        queries : (n, columns), or (columns,) for one. Only these are not checked yet.

        Returns Hits for one, HitsBatch for many. None where it is not that search, where the queries are not what the
        index takes (see `GraphIndex.walk`), or where a batch came meanwhile: then they are to be looked at, and the
        search is planned and carried out in full.
        """
        if options.where is not None or options.exact:
            return None
        state = self._state
        if state.closed or state.failure is not None or state.expiry.next_ms != NOTHING_DUE:
            state.begin_read()  # else there is nothing to look at, nor a clock to ask
        view = state.view
        segment = view.only_sealed
        kills, commits = state.kills, state.commits
        k, ef_search, recall = options.k, options.ef_search, options.recall
        # A tail that never changed has no rows.
        if segment is None or k >= segment.n_walked or view.tail.stamp or kills % 2:
            return None
        near_part, expected = None, None
        if recall is not None:
            if recall == 1:
                return None
            ef_search, expected, near_part = segment.index.choose_beam(k, recall)
            if ef_search == 0:
                return None
            if ef_search < k:
                ef_search = k
        elif ef_search is None:
            ef_search = default_ef(k)
        wants_ids_only = not (options.with_payload or options.with_vectors)
        labels = segment.int_labels if wants_ids_only else None
        walked = segment.index.walk(queries, k, ef_search, threads, labels, near_part)
        if walked is None:
            return None
        ids, distances, fewest, known = walked
        if fewest < k or kills != state.kills:
            return None
        if recall is None:
            expected = known
        one = ids.ndim == 1
        if labels is not None:
            found = Hits if one else HitsBatch
            return found(ids, distances, None, None, expected)
        rows = ids.reshape(-1, k)
        batch, read_store = self._one(segment, rows, distances.reshape(-1, k), options)
        if read_store and (commits % 2 or commits != state.commits):
            return None
        batch.recall_estimate = expected
        return batch[0] if one else batch

    def get(self, keys: list[bytes], *, with_vectors: bool) -> list[Point | None]:
        """The points of keys, None where there is none."""
        state = self._state
        for _ in range(OPTIMISTIC_ATTEMPTS):
            try:
                return self._get(keys, with_vectors=with_vectors)
            except _MovedError:
                continue
        with state.lock:
            try:
                return self._get(keys, with_vectors=with_vectors)
            except _MovedError:
                raise StorageError(
                    f"collection {state.name!r}: the store holds a batch whose write failed, so its "
                    "vectors are not in memory; close the database and open it again"
                ) from None

    def count(self, where: Filter | None) -> int:
        """How many points pass the filter, exactly."""

        def attempt() -> int:
            segments = self._state.view.segments
            if where is None:
                return sum(s.n_live for s in segments)
            return sum(s.match(where).count for s in segments if s.n)

        return self.consistent(attempt)

    def consistent(self, attempt: Callable[[], T], *, with_store: bool = False) -> T:
        """Run attempt until no batch came meanwhile, at last under the lock.

        with_store : whether attempt reads the store beside memory.
        """
        state = self._state
        for _ in range(OPTIMISTIC_ATTEMPTS):
            state.begin_read()
            changes = state.commits if with_store else state.epoch
            result = attempt()
            if changes % 2 == 0 and changes == (state.commits if with_store else state.epoch):
                return result
        with state.lock:
            state.begin_read()
            return attempt()

    def check_fields(self, where: Filter) -> None:
        """In strict mode raise UnknownFieldError for a field that no point has."""
        if not self._state.config.strict:
            return
        self._state.begin_read()
        segments = [s for s in self._state.view.segments if s.n_live]
        for path in fields(where):
            if path != ("id",) and segments and not any(s.has_field(path) for s in segments):
                known = sorted({f for s in segments for f in s.sample_fields()})
                raise UnknownFieldError(
                    f"field {path_text(path)} is in no point of {self._state.name!r}; known are {', '.join(known)}"
                )

    def points(self, segment: Segment, local: Sequence[int], *, with_vectors: bool) -> list[Point]:
        """Points of local rows with their versions."""
        keys = segment.keys(local)
        rows = segment.global_rows(np.asarray(local, np.int64)).tolist()
        vectors = segment.index.vectors(np.asarray(local, np.int64)) if with_vectors else None
        points: list[Point] = []
        for i, raw in enumerate(self._state.store.get_points(keys)):
            if raw is None:
                continue
            row, version, expires_ms = POINT_HEADER.unpack_from(raw)
            if row != rows[i]:
                continue  # replaced since; the caller sees that a batch came and starts anew
            vector = None if vectors is None else vectors[i]
            payload = raw[HEADER_BYTES:]
            points.append(Point(decode_id(keys[i]), version, payload, vector, expires_ms))
        return points

    def _search_planned(
        self,
        queries: npt.NDArray[Any],
        options: SearchOptions,
        threads: int,
        runs: list[SegmentRun] | None,
    ) -> HitsBatch:
        """Search whatever segments there are, and again where a batch came meanwhile."""
        state = self._state

        def attempt() -> _Read:
            if runs is not None:
                runs.clear()
            return self._search_view(state.view, queries, options, threads, runs)

        where = options.where
        for _ in range(OPTIMISTIC_ATTEMPTS):
            state.begin_read()
            commits = state.commits
            # Rows that only come, without others that go, cannot make an unfiltered search wrong.
            changes = state.kills if where is None else state.epoch
            found, read_store = attempt()
            if changes % 2 or changes != (state.kills if where is None else state.epoch):
                continue
            if not read_store or (commits % 2 == 0 and commits == state.commits):
                return found
        with state.lock:
            state.begin_read()
            return attempt()[0]

    def _search_view(
        self,
        view: View,
        queries: npt.NDArray[Any],
        options: SearchOptions,
        threads: int,
        runs: list[SegmentRun] | None,
    ) -> _Read:
        k, where, exact = options.k, options.where, _is_exact(options)
        plans: list[SegmentPlan] = []
        parts: list[tuple[Segment, Rows, npt.NDArray[np.float32]]] = []
        total = 0
        for segment in view.segments:
            n = segment.n
            if n == 0:
                continue
            match = segment.match(where) if where is not None else None
            count = segment.n_live if match is None else match.count
            if count == 0:
                continue
            total += count
            wanted = min(k, count)
            share = None if match is None else count / max(segment.n_live, count)
            beam = _beam(segment.index, wanted, options, share)
            scan_max, walk_by = _with_filter(segment.index, wanted, options, beam, share)
            plan = plan_segment(
                n_rows=n,
                n_live=segment.n_live,
                n_matches=count,
                n_linked=segment.index.n_linked,
                filtered=match is not None,
                scan_max=scan_max,
                walk_by=walk_by,
                k=k,
                beam=beam,
                exact=exact,
            )
            plans.append(plan)
            began = time.perf_counter() if runs is not None else 0.0
            rows, distances = segment.index.search(
                queries,
                k=wanted,
                ef_search=plan.ef_search,
                threads=threads,
                filter=None if match is None else match.bitset,
                exact=exact,
                strategy=plan.strategy,
                near_part=plan.near_part,
            )
            if runs is not None:
                runs.append(SegmentRun(plan, time.perf_counter() - began))
            parts.append((segment, rows, distances))
        n_queries = len(queries)
        if not parts:
            nothing = HitsBatch(
                np.empty((n_queries, 0), np.int64),
                np.empty((n_queries, 0), np.float32),
                [[] for _ in range(n_queries)] if options.with_payload else None,
                np.empty((n_queries, 0, self._state.config.columns), self._state.config.dtype.numpy)
                if options.with_vectors
                else None,
                recall_estimate=1.0,
            )
            return nothing, False
        if len(parts) == 1:
            segment, rows, distances = parts[0]
            if len(rows) and rows[:, -1].min() < 0:
                # Rows died between the count and the search.
                width = int((rows >= 0).sum(axis=1).min())
                rows, distances = rows[:, :width], distances[:, :width]
            found, read_store = self._one(segment, rows, distances, options)
        else:
            found, read_store = self._merge(parts, min(k, total), options)
        found.recall_estimate = combined_recall(plans)
        return found, read_store

    def _one(
        self,
        segment: Segment,
        rows: Rows,
        distances: npt.NDArray[np.float32],
        options: SearchOptions,
    ) -> _Read:
        ids = segment.int_ids(rows)
        if ids is None:
            ids = np.empty(rows.shape, dtype=object)
            ids.reshape(-1)[:] = segment.ids(rows.reshape(-1).tolist())
        payloads = vectors = None
        read_store = False
        if options.with_payload:
            payloads, read_store = segment.payload_lists(rows)
        if options.with_vectors:
            vectors = segment.index.vectors(rows.reshape(-1)).reshape(*rows.shape, -1)
        return HitsBatch(ids, distances, payloads, vectors), read_store

    def _merge(
        self,
        parts: list[tuple[Segment, Rows, npt.NDArray[np.float32]]],
        k: int,
        options: SearchOptions,
    ) -> _Read:
        distances = np.concatenate([d for _, _, d in parts], axis=1)
        rows = np.concatenate([r for _, r, _ in parts], axis=1)
        source = np.repeat(np.arange(len(parts)), [r.shape[1] for _, r, _ in parts])
        order = np.argsort(np.where(rows < 0, np.inf, distances), axis=1, kind="stable")[:, :k]
        distances = np.take_along_axis(distances, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        source = source[order]
        if len(rows) and rows[:, -1].min() < 0:
            width = int((rows >= 0).sum(axis=1).min())
            rows, distances, source = rows[:, :width], distances[:, :width], source[:, :width]
        ids: npt.NDArray[Any] = np.empty(rows.shape, dtype=object)
        flat: list[bytes] = [b""] * rows.size
        vectors: npt.NDArray[Any] | None = None
        if options.with_vectors:
            config = self._state.config
            vectors = np.empty((*rows.shape, config.columns), config.dtype.numpy)
        all_ints, read_store = True, False
        for i, (segment, _, _) in enumerate(parts):
            here = source == i
            local = rows[here]
            if not len(local):
                continue
            ints = segment.int_ids(local)
            all_ints = all_ints and ints is not None
            if ints is not None:
                ids[here] = ints
            else:
                column = np.empty(len(local), dtype=object)
                column[:] = segment.ids(local.tolist())
                ids[here] = column
            if options.with_payload:
                places, listed = np.flatnonzero(here.reshape(-1)).tolist(), local.tolist()
                read_store = read_store or segment.reads_store(listed)
                for place, raw in zip(places, segment.payloads(listed), strict=True):
                    flat[place] = raw
            if vectors is not None:
                vectors[here] = segment.index.vectors(local)
        payloads = None
        if options.with_payload:
            width = rows.shape[1]
            payloads = [flat[i * width : (i + 1) * width] for i in range(len(rows))]
        whole = ids.astype(np.int64) if all_ints else ids
        return HitsBatch(whole, distances, payloads, vectors), read_store

    def _get(self, keys: list[bytes], *, with_vectors: bool) -> list[Point | None]:
        state = self._state
        now_ms = state.begin_read()
        points: list[Point | None] = []
        rows: list[int] = []
        places: list[int] = []
        for i, raw in enumerate(state.store.get_points(keys)):
            if raw is None:
                points.append(None)
                continue
            row, version, expires_ms = POINT_HEADER.unpack_from(raw)
            if 0 < expires_ms <= now_ms:
                points.append(None)
                continue
            payload = raw[HEADER_BYTES:]
            points.append(Point(decode_id(keys[i]), version, payload, expires_ms=expires_ms))
            rows.append(row)
            places.append(i)
        if with_vectors and rows:
            wanted = 0
            for segment, found, local in state.view.locate(np.asarray(rows, np.int64)):
                for place, vector in zip(found.tolist(), segment.index.vectors(local), strict=True):
                    point = points[places[int(place)]]
                    if point is not None:
                        point.vector = vector
                        wanted += 1
            if wanted != len(rows) and state.lost:
                raise CorruptionError(
                    f"collection {state.name!r}: vectors were asked for that are lost: {describe(state.lost)}"
                )
            if wanted != len(rows):
                raise _MovedError  # a batch was in the store and not yet in memory, or a segment was rewritten
        return points


def _is_exact(options: SearchOptions) -> bool:
    return options.exact or options.recall == 1


def _beam(index: GraphIndex, k: int, options: SearchOptions, share: float | None) -> Beam:
    """How wide to search an index for k results, by the recall asked for or by the beam width.

    share : of the rows that match; None is no filter.
    """
    recall = options.recall
    if recall is not None and recall < 1:
        return index.choose_beam(k, recall, share)
    ef_search = _work(options)
    return index.same_work(k, max(k, ef_search), share)


def _work(options: SearchOptions) -> int:
    return default_ef(options.k) if options.ef_search is None else options.ef_search


def _with_filter(
    index: GraphIndex, k: int, options: SearchOptions, beam: Beam, share: float | None
) -> tuple[int, Literal["filter", "gate"]]:
    """Matches that are compared faster than this traversal is done, and how else they are found."""
    if share is None:
        return 0, "gate"
    work = max(k, beam.ef_search if options.recall is not None else _work(options))
    return index.scan_matches_max(k, work, share), index.filtered_walk(k, work, share)
