"""One open collection: recovery, and the entry to its reader, writer and maintenance."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from vicinal.engine.calibrating import Calibrator, restore_calibration
from vicinal.engine.lineage import LINEAGE_KEY, new_token
from vicinal.engine.loss import (
    LostSegment,
    describe,
    due_of,
    homeless,
    is_damage,
    set_aside,
)
from vicinal.engine.maintenance import MANIFEST_KEY, Maintenance
from vicinal.engine.memory import MemoryBudget
from vicinal.engine.reader import Reader
from vicinal.engine.records import POINT_HEADER, Manifest, SegmentEntry, decode_manifest
from vicinal.engine.replay import replay
from vicinal.engine.scroll import Scroller
from vicinal.engine.segment import SealedSegment
from vicinal.engine.segment_files import open_segment, remove_orphans
from vicinal.engine.state import CollectionState, View
from vicinal.engine.watch import Watchers
from vicinal.engine.writer import Writer
from vicinal.index import GraphIndex, release_free_memory
from vicinal.model.clock import SYSTEM_CLOCK, Clock
from vicinal.model.config import CollectionConfig
from vicinal.model.decoding import UNDECODABLE
from vicinal.model.errors import CorruptionError, NotFoundError, StorageError
from vicinal.storage.durability import Durability
from vicinal.storage.files import tree_bytes
from vicinal.storage.space import Space
from vicinal.storage.store import Store
from vicinal.telemetry.log import get_logger

CONFIG_KEY = "config"

_log = get_logger("engine.collection")

Version: TypeAlias = tuple[int, int, int]

_incarnations = itertools.count(1)


class Collection:
    """A collection of points; see `vicinal.client.Collection` for the public face."""

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        create: CollectionConfig | None,
        read_only: bool,
        durability: Durability,
        on_write: Callable[[], None],
        clock: Clock = SYSTEM_CLOCK,
        space: Space | None = None,
        budget: MemoryBudget | None = None,
        accept_loss: bool = False,
        watchers: Watchers | None = None,
    ) -> None:
        """Open the collection at path, or make it with the configuration `create`.

        accept_loss : open it whatever acknowledged writes the store has lost and whatever segments are damaged, so
            that `give_up` can follow.

        Raises CorruptionError where nothing could be served. MemoryLimitError where the budget has no room for
        what must be in memory; nothing was changed.
        """
        budget = budget or MemoryBudget()
        store = Store.open(
            path / "store",
            read_only=read_only,
            durability=durability,
            create=create is not None,
            space=space,
            memory=budget.stores,
            accept_loss=accept_loss,
        )
        try:
            config = _load_config(store, create, name)
            self.state = state = CollectionState(
                name,
                path,
                config,
                store,
                read_only=read_only,
                clock=clock,
                wake=on_write,
                budget=budget,
            )
            budget.join(state)
            try:
                self._recover(accept_loss=accept_loss)
                restore_calibration(state)
            except BaseException:
                budget.leave(state)
                state.view = View((), None, state.new_tail(0))
                raise
        except BaseException:
            store.close()
            raise
        self.name = name
        self.config = config
        self.incarnation = next(_incarnations)
        """Differs from that of every other collection opened by this process, dropped namesakes included."""
        self.reader = Reader(self.state)
        self.writer = Writer(self.state)
        self.scroller = Scroller(self.state, self.reader)
        self.maintenance = Maintenance(self.state, self.writer.purge)
        self._calibrator = Calibrator(self.state, self.maintenance)
        self.on_write = on_write
        self.watchers = Watchers() if watchers is None else watchers

    def calibrate(self, queries: npt.NDArray[Any] | None, *, threads: int) -> None:
        """Measure the recall of every graph over the beam width; see `engine.calibrating`."""
        self._calibrator.calibrate(queries, threads=threads)

    def close(self) -> None:
        """Give back files and memory; what was acknowledged is durable as the durability promises. Idempotent."""
        state = self.state
        with state.maintenance, state.lock:
            if state.closed:
                return
            state.closed = True
            state.budget.leave(state)
            state.store.close()
            tail = state.new_tail(0)
            state.view = View((), None, tail)
        release_free_memory()

    @property
    def version(self) -> Version:
        """Changes with every batch, and when points that have expired are hidden: see `held_since`."""
        return self.incarnation, self.state.commits, self.state.kills

    def held_since(self, version: object) -> bool:
        """Whether an answer computed since that reading of `version` is right as long as `version` stays the same and
        nothing has expired (`has_expired`). It is not while a batch is under way: then a number is odd."""
        now = self.version
        return version == now and now[1] % 2 == 0 and now[2] % 2 == 0

    @property
    def mark(self) -> bytes | None:
        """A name of what the collection holds that is the same in every process and after a restart, and that nothing
        else ever has; None where there is none now. Right as long as a `version` read before it is `held_since`."""
        state = self.state
        if state.lost or state.failure is not None or state.store.failure is not None:
            return None
        return state.lineage.name

    def fresh_ms(self) -> tuple[int, int]:
        """(the time, when the next point expires), ms since 1970: an answer is right from the one until before the
        other, as long as a `version` read before is `held_since`."""
        expiry = self.state.expiry
        return expiry.now_ms(), expiry.next_ms

    @property
    def has_expired(self) -> bool:
        """Whether points have expired that nobody has hidden yet: `version` does not tell of them."""
        expiry = self.state.expiry
        return expiry.next_ms <= expiry.now_ms()

    def hide_expired(self) -> None:
        """Hide them, as every read does; waits for a write under way."""
        self.state.begin_read()

    def stats(self) -> dict[str, Any]:
        """Figures of the collection: points, segments, memory and disk in bytes."""
        state = self.state
        state.begin_read()
        view = state.view
        status = state.status()
        segments = [s for s in view.segments if s.n]
        linked = sum(s.index.n_linked for s in segments)
        rows = sum(s.n for s in segments)
        return {
            "name": self.name,
            "status": status.health.value,
            "reason": status.reason,
            "points": sum(s.n_live for s in segments),
            "dim": self.config.dim,
            "metric": self.config.metric.value,
            "dtype": self.config.dtype.value,
            "strict": self.config.strict,
            "ttl_s": self.config.ttl,
            "dead_rows": sum(len(s.dead) for s in segments),
            "indexed_ratio": linked / rows if rows else 1.0,
            "tail_points": view.tail.n_live + (view.frozen.n_live if view.frozen else 0),
            "segments": [
                {
                    "number": s.number if isinstance(s, SealedSegment) else None,
                    "rows": s.n,
                    "dead": len(s.dead),
                    "linked": s.index.n_linked,
                    "calibrated": _calibrated(s.index),
                    "index_bytes": s.index.memory_bytes,
                    "rebuilt": s.rebuilt if isinstance(s, SealedSegment) else [],
                    "payload_index": s.payload_index.stats(),
                }
                for s in segments
            ],
            "memory_bytes": state.memory(),
            "mapped_bytes": state.mapped(),
            "memory_budget": state.budget.stats(),
            "disk_bytes": {
                "store": state.store.disk_bytes(),
                "segments": tree_bytes(state.path / "segments"),
            },
        }

    def give_up(self) -> list[bytes]:
        """Drop the points of lost segments from the store, and the segments from the manifest; returns their ids' keys.

        The damaged files are kept apart. All of it is one batch.
        """
        state = self.state
        with state.maintenance, state.lock:
            lost = state.lost
            points: list[tuple[bytes, bytes]] = []
            for point in state.store.scan_points():
                row = np.array(POINT_HEADER.unpack_from(point[1])[:1], np.int64)
                if homeless(row, lost).any() and not any(state.view.locate(row)):
                    points.append(point)
            for each in lost:
                set_aside(state.path, each.entry.number)
            state.lost = ()
            dropped = [key for key, _ in points]
            self.maintenance.commit_manifest(
                state.view,
                None,
                points=[(key, None) for key in dropped],
                due=[entry for _, raw in points for entry in due_of(raw)],
                meta={LINEAGE_KEY: new_token()},  # less is there than what had the old name
            )
            state.store.sync()
            return dropped

    def _recover(self, *, accept_loss: bool) -> None:
        """Load the manifest's segments, then replay what the log still holds."""
        state = self.state
        where = f"collection {state.name!r}"
        raw = state.store.get_meta(MANIFEST_KEY)
        manifest = Manifest() if raw is None else decode_manifest(raw, where)
        if not state.read_only:
            remove_orphans(state.path, {entry.number for entry in manifest.segments})
        sealed: list[SealedSegment] = []
        lost: list[LostSegment] = []
        first: CorruptionError | StorageError | None = None
        for entry in manifest.segments:
            try:
                sealed.append(self._open_segment(entry))
            except (CorruptionError, StorageError) as fault:
                if not is_damage(fault, read_only=state.read_only):
                    raise
                first = first or fault
                n_live = entry.n_rows - len(entry.dead_rows(where))
                lost.append(LostSegment(entry, n_live, str(fault)))
        state.next_segment = manifest.next_segment
        state.view = View(tuple(sealed), None, state.new_tail(manifest.next_row))
        replay(state)
        state.expiry.load()
        state.lost = tuple(lost)
        if first is None or accept_loss:
            return
        if not any(s.n_live for s in state.view.segments):
            raise first
        _log.error("collection %r: %s", state.name, describe(state.lost))

    def _open_segment(self, entry: SegmentEntry) -> SealedSegment:
        state = self.state
        segment = open_segment(
            state.path,
            entry.number,
            state.config,
            state.store,
            repair=not state.read_only,
            budget=state.budget,
        )
        if segment.n != entry.n_rows:
            raise CorruptionError(
                f"segment {entry.number} of collection {state.name!r} has {segment.n} rows, "
                f"the manifest says {entry.n_rows}; restore the collection from a snapshot"
            )
        where = f"collection {state.name!r}, segment {entry.number}"
        dead = entry.dead_rows(where)
        if dead:
            segment.kill(np.asarray(dead.to_array(), np.int64))
        segment.dirty = entry.dirty_rows(where)
        return segment


def _calibrated(index: GraphIndex) -> dict[str, Any] | None:
    """What measured the graph's recall; None where nothing did."""
    table = index.calibration
    if table is None:
        return None
    return {"rows": table.n_rows, "queries": table.n_queries, "given": table.given}


def _load_config(store: Store, create: CollectionConfig | None, name: str) -> CollectionConfig:
    raw = store.get_meta(CONFIG_KEY)
    if raw is not None:
        try:
            return msgspec.msgpack.decode(raw, type=CollectionConfig)
        except UNDECODABLE as fault:
            raise CorruptionError(f"collection {name!r}: configuration: {fault}") from None
    if create is None:
        raise NotFoundError(f"collection {name!r} has no configuration; it was never made whole")
    store.write(meta={CONFIG_KEY: msgspec.msgpack.encode(create)})
    return create
