"""Work behind the writers' backs: linking the tail into its graph, sealing it into files, merging segments.

A rewrite never blocks searches and holds the writers up only for the switch: it copies live rows
of its sources into a new segment, and under the lock carries over what died or changed meanwhile,
commits the new manifest, and swaps the view.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from pyroaring import BitMap

from vicinal.engine.critical import uninterrupted
from vicinal.engine.records import Manifest, SegmentEntry, encode_manifest
from vicinal.engine.segment import SealedSegment, Segment
from vicinal.engine.segment_files import (
    Progress,
    calibrate_given,
    link_memory,
    live_rows,
    open_segment,
    remove_segment,
    rewrite_memory,
    segment_bytes,
    write_segment,
)
from vicinal.engine.state import CollectionState, View
from vicinal.index import GraphIndex, release_free_memory
from vicinal.model.errors import invariant

MANIFEST_KEY = "manifest"

LINK_ROWS_MIN = 1_000
"""Pending rows worth linking: fewer are scanned in less time than a graph is walked."""

LINK_STEP_ROWS = 2_000
SEAL_ROWS = 65_536
SEAL_ROWS_HARD = 4 * SEAL_ROWS
"""The tail is sealed at SEAL_ROWS once writers pause, at SEAL_ROWS_HARD even if they don't."""

SEAL_LOG_RECORDS = 20_000
"""The log is trimmed (by sealing) when it holds more records, so that opening stays quick."""

TRIMMED_BUFFERS_MIN = 16 * 2**20
"""Write buffers worth emptying when the log was trimmed: what they hold is mostly trimmed, or replaced since."""

QUIET_S = 0.1
DEAD_SHARE_MAX = 0.25
MERGE_FANIN = 4
TIER_RATIO = 4


class Maintenance:
    """Maintenance of one collection; one unit of work at a time."""

    def __init__(self, state: CollectionState, purge: Callable[[], bool]) -> None:
        """purge : deletes a batch of points that have expired; returns whether there were any."""
        self._state = state
        self._purge = purge
        self.last_trimmed = state.store.last_seq
        self._optimize_requested = False

    def step(self) -> bool:
        """Do one unit of background work; returns whether there was any. Called by the background thread."""
        state = self._state
        if state.read_only or state.closed or state.failure is not None or state.lost:
            return False
        with state.maintenance:
            if self._optimize_requested:
                self._optimize_requested = False
                self.optimize(threads=1)
                return True
            if state.expiry.to_purge and self._purge():
                return True
            view = state.view
            quiet = time.monotonic() - state.last_write_s > QUIET_S
            must_seal = view.frozen is not None or self._must_seal(view, quiet=quiet)
            if must_seal and self._fits([view.frozen or view.tail]):
                self._seal(threads=1)
                return True
            if quiet and view.frozen is None:
                group = self._merge_candidates(view)
                if group and self._fits(group):
                    with self._room(group):
                        self._rewrite(group, threads=1)
                    return True
            return self._link(view.tail.index, quiet=quiet)

    def relieve(self) -> bool:
        """Seal the tail, so that its memory is given back; returns whether anything was.

        For a writer that met the memory budget. It must not hold the writers' lock.
        """
        state = self._state
        before = state.budget.used
        with state.maintenance:
            state.check_writable()
            if state.budget.used >= before:
                view = state.view
                tail = view.frozen or view.tail
                if tail.n < LINK_ROWS_MIN or not self._fits([tail]):
                    return False
                self._seal(threads=0)
        return state.budget.used < before

    def _link(self, index: GraphIndex, *, quiet: bool) -> bool:
        pending = index.n - index.n_linked
        if pending < LINK_ROWS_MIN or not (quiet or pending >= 20 * LINK_ROWS_MIN):
            return False
        state = self._state
        needed = partial(link_memory, state.config, index, LINK_STEP_ROWS)
        if state.budget.limit is not None and not state.budget.fits(needed()):
            return False
        with state.budget.reserve(f"linking rows of collection {state.name!r}", needed):
            index.link(LINK_STEP_ROWS, threads=1)
        calibrate_given(index, state.given_queries, threads=1)
        return True

    def _room(self, sources: Sequence[Segment]) -> AbstractContextManager[None]:
        """Room in memory to rewrite sources."""
        state = self._state
        return state.budget.reserve(
            f"compacting collection {state.name!r}", partial(rewrite_memory, state.config, sources)
        )

    def _fits(self, sources: Sequence[Segment]) -> bool:
        """Whether `_room` would be there without shedding."""
        state = self._state
        return state.budget.limit is None or state.budget.fits(
            rewrite_memory(state.config, sources)
        )

    def _is_pressed(self, view: View) -> bool:
        """Whether the tail has to be sealed while the budget still has room to do so."""
        state = self._state
        room = state.budget.room()
        if room is None or view.tail.n < LINK_ROWS_MIN:
            return False
        return room < rewrite_memory(state.config, [view.tail]) + (state.budget.limit or 0) // 8

    def optimize(self, *, threads: int, progress: Progress | None = None) -> None:
        """Bring everything into one sealed segment without dead rows. Searches and writes go on meanwhile."""
        state = self._state
        with state.maintenance:
            state.check_writable()
            while self._purge():
                continue
            if state.view.frozen is not None:
                self._seal(threads=threads)
            view = state.view
            tail_in_use = view.tail.n > 0
            clean = len(view.sealed) <= 1 and not any(s.dead or s.dirty for s in view.sealed)
            if not tail_in_use and clean:
                return
            with self._room(view.segments):
                with state.lock:
                    through = state.store.last_seq if tail_in_use else None
                    if tail_in_use:
                        self._freeze()
                    view = state.view
                sources: list[Segment] = [*view.sealed]
                if view.frozen is not None:
                    sources.append(view.frozen)
                self._rewrite(sources, threads=threads, trim_through=through, progress=progress)

    def rebuild(self, chosen: Callable[[Segment], bool], *, threads: int) -> None:
        """Write the chosen sealed segments anew, each by itself, and seal the tail if it is chosen."""
        state = self._state
        with state.maintenance:
            if state.view.frozen is not None:
                self._seal(threads=threads)
            for segment in state.view.sealed:
                if chosen(segment):
                    with self._room([segment]):
                        self._rewrite([segment], threads=threads)
            if chosen(state.view.tail):
                self._seal(threads=threads)

    def request_optimize(self) -> None:
        """Let the background thread optimize."""
        self._optimize_requested = True

    def _must_seal(self, view: View, *, quiet: bool) -> bool:
        n = view.tail.n
        if n == 0:
            return False
        records = self._state.store.last_seq - self.last_trimmed
        return (
            n >= SEAL_ROWS_HARD
            or self._is_pressed(view)
            or (quiet and n >= SEAL_ROWS)
            or (quiet and records > SEAL_LOG_RECORDS)
        )

    def _freeze(self) -> None:
        """Begin a new tail; called with the lock held."""
        state = self._state
        view = state.view
        invariant(view.frozen is None, "one tail is sealed at a time")
        tail = state.new_tail(view.tail.base + view.tail.n)
        state.view = View(view.sealed, view.tail, tail)

    def _seal(self, *, threads: int) -> None:
        state = self._state
        with self._room([state.view.frozen or state.view.tail]):
            with state.lock:
                if state.view.frozen is None:
                    self._freeze()
                frozen = state.view.frozen
                through = self._sealed_through()
            if frozen is not None:
                self._rewrite([frozen], threads=threads, trim_through=through)

    def _sealed_through(self) -> int | None:
        """The last log record whose rows are all outside the tail, known only while the tail is empty."""
        state = self._state
        return state.store.last_seq if state.view.tail.n == 0 else None

    def _rewrite(
        self,
        sources: Sequence[Segment],
        *,
        threads: int,
        trim_through: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Replace sources, which follow each other, by one new segment, or by none if no row lives."""
        state = self._state
        with state.lock:
            number = state.next_segment
            state.next_segment += 1
            dead_before = [BitMap(s.dead) for s in sources]
            for source in sources:
                source.dirty_since = BitMap()
        try:
            rows = [live_rows(s, dead) for s, dead in zip(sources, dead_before, strict=True)]
            kept = [(s, local) for s, local in zip(sources, rows, strict=True) if len(local)]
            new: SealedSegment | None = None
            if kept:
                state.store.space.admit_files(
                    f"compacting collection {state.name!r}", segment_bytes(state.config, kept)
                )
                try:
                    write_segment(
                        state.path,
                        number,
                        state.config,
                        kept,
                        threads=threads,
                        progress=progress,
                        queries=state.given_queries,
                    )
                    new = open_segment(
                        state.path,
                        number,
                        state.config,
                        state.store,
                        verify=False,
                        budget=state.budget,
                    )
                except BaseException:
                    remove_segment(state.path, number)
                    raise
            with state.lock, uninterrupted():
                if new is not None:
                    self._carry_over(sources, dead_before, new)
                self._switch(sources, new, trim_through)
        finally:
            for source in sources:
                source.dirty_since = None
        # A power cut must not find the old manifest without the old segments.
        state.store.sync()
        for source in sources:
            if isinstance(source, SealedSegment):
                remove_segment(state.path, source.number)
        if state.store.space.short:
            state.store.reclaim()
        elif trim_through is not None:
            # Else a small collection that changes for ever would fill RocksDB's buffers and write-ahead logs.
            state.store.flush(at_least=TRIMMED_BUFFERS_MIN, wait=False)
        release_free_memory()  # else the heap keeps gaps, of the size of what was replaced

    @staticmethod
    def _carry_over(
        sources: Sequence[Segment], dead_before: Sequence[BitMap], new: SealedSegment
    ) -> None:
        """Repeat on the new segment what happened to its sources while it was written."""
        for source, before in zip(sources, dead_before, strict=True):
            died = np.asarray((source.dead - before).to_array(), dtype=np.int64)
            if len(died):
                new.kill(new.local_rows(source.global_rows(died)))
            hidden = np.asarray(source.hidden.to_array(), dtype=np.int64)
            if len(hidden):
                new.hide(new.local_rows(source.global_rows(hidden)))
            changed = np.asarray((source.dirty_since or BitMap()).to_array(), dtype=np.int64)
            if len(changed):
                local = new.local_rows(source.global_rows(changed))
                new.mark_dirty(local[local >= 0])

    def _switch(
        self, sources: Sequence[Segment], new: SealedSegment | None, trim_through: int | None
    ) -> None:
        """Commit the manifest and swap the view; called with the lock held."""
        state = self._state
        view = state.view
        sealed: list[SealedSegment] = []
        placed = False
        for segment in view.sealed:
            if segment in sources:
                if not placed and new is not None:
                    sealed.append(new)
                placed = True
            else:
                sealed.append(segment)
        if not placed and new is not None:
            sealed.append(new)
        frozen = None if view.frozen in sources else view.frozen
        changed = View(tuple(sealed), frozen, view.tail)
        self.commit_manifest(changed, trim_through)
        state.view = changed

    def commit_manifest(
        self,
        view: View,
        trim_through: int | None,
        *,
        points: Sequence[tuple[bytes, None]] = (),
        due: Sequence[tuple[bytes, bytes | None]] = (),
        meta: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write which segments are live, with their dead and dirty rows as of now.

        points, due, meta : what goes from the store with segments that are given up, and into it, in the same batch.
        """
        state = self._state
        first_unsealed = view.frozen.base if view.frozen is not None else view.tail.base
        manifest = Manifest(
            segments=tuple(
                SegmentEntry(
                    s.number, s.n, s.row_min, s.row_max, s.dead.serialize(), s.dirty.serialize()
                )
                for s in view.sealed
            ),
            next_row=first_unsealed,
            next_segment=state.next_segment,
            sequence=state.store.last_seq,
        )
        state.store.write(
            meta={**(meta or {}), MANIFEST_KEY: encode_manifest(manifest)},
            points=points,
            due=due,
            trim_log_through=trim_through,
            frees=True,
        )
        if trim_through is not None:
            self.last_trimmed = trim_through

    def _merge_candidates(self, view: View) -> list[Segment]:
        """Neighbouring segments worth rewriting: one with many dead rows, or several of like size."""
        for segment in view.sealed:
            if len(segment.dead) > DEAD_SHARE_MAX * segment.n:
                return [segment]
        run: list[Segment] = []
        for segment in view.sealed:
            if run and not _same_tier([*run, segment]):
                run = []
            run.append(segment)
            if len(run) == MERGE_FANIN:
                return run
        return []


def _same_tier(segments: Sequence[Segment]) -> bool:
    sizes = [max(1, s.n_live) for s in segments]
    return max(sizes) <= TIER_RATIO * min(sizes)
