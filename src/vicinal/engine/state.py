"""The state of one open collection: its store, its view of segments, and how a log record changes them.

Invariants. A record is applied to memory after the store holds it, and in the order of the log.
`epoch`, `kills` and `commits` grow by one when such a change begins and by one when it ends: a
reader that finds an even number before and the same one after saw one state throughout. The view
is replaced, never changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vicinal.engine.critical import uninterrupted
from vicinal.engine.expiry import Expiry
from vicinal.engine.lineage import Lineage
from vicinal.engine.loss import LostSegment, describe
from vicinal.engine.memory import MemoryBudget
from vicinal.engine.records import LogRecord, encode_log, unpack_rows
from vicinal.engine.segment import Rows, SealedSegment, Segment, TailSegment, held_bytes
from vicinal.engine.segment_files import rewrite_memory
from vicinal.index import GraphIndex
from vicinal.index.footprint import SMALL_STEP_BYTES, grown
from vicinal.model.clock import SYSTEM_CLOCK, Clock
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import (
    ClosedError,
    CorruptionError,
    InternalError,
    MemoryLimitError,
    ReadOnlyError,
    StorageError,
    invariant,
)
from vicinal.model.status import SERVING, Health, Status
from vicinal.storage.store import Store
from vicinal.telemetry.log import get_logger

SHED_BUFFERS_MIN = 2**20
"""Write buffers of less stay in memory: many small tables would cost more than they give back."""

ENTRY_BYTES = 100
"""What an entry of a write buffer takes beside its key and value."""

_log = get_logger("engine.memory")


@dataclass(frozen=True, slots=True)
class View:
    """The segments that hold all rows, oldest rows first: sealed ones, a tail being sealed, the tail."""

    sealed: tuple[SealedSegment, ...]
    frozen: TailSegment | None
    tail: TailSegment
    segments: tuple[Segment, ...] = field(init=False)
    """All of them; empty ones too."""
    only_sealed: SealedSegment | None = field(init=False)
    """The segment that holds all rows as long as the tail has none."""

    def __post_init__(self) -> None:
        frozen = () if self.frozen is None else (self.frozen,)
        only = self.sealed[0] if len(self.sealed) == 1 and self.frozen is None else None
        object.__setattr__(self, "segments", (*self.sealed, *frozen, self.tail))
        object.__setattr__(self, "only_sealed", only)

    def locate(self, rows: Rows) -> Iterator[tuple[Segment, Rows, Rows]]:
        """Yield (segment, positions in rows, local rows) for each segment that holds some of rows."""
        for segment in self.segments:
            local = segment.local_rows(rows)
            places = np.flatnonzero(local >= 0)
            if len(places):
                yield segment, places, local[places]


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch that is in the store: what commit was given."""

    points: Sequence[tuple[bytes, bytes | None]]
    record: LogRecord
    payloads: Sequence[bytes]
    updates: Mapping[int, bytes] | None
    olds: Sequence[bytes | None]


class _Staging:
    """Batches that become durable and visible together, and the memory that is kept for them."""

    def __init__(self, now_ms: int, room: ExitStack) -> None:
        self.now_ms = now_ms
        self.room = room
        self.batches: list[_Batch] = []
        self.began = False
        """Whether anything was tried in the store."""


class CollectionState:
    """Shared by the reader, the writer and the maintenance of one collection."""

    def __init__(
        self,
        name: str,
        path: Path,
        config: CollectionConfig,
        store: Store,
        *,
        read_only: bool,
        clock: Clock = SYSTEM_CLOCK,
        wake: Callable[[], None] = lambda: None,
        budget: MemoryBudget | None = None,
    ) -> None:
        self.name = name
        self.path = path
        self.config = config
        self.store = store
        self.read_only = read_only
        self.budget = budget or MemoryBudget()
        self.expiry = Expiry(store, clock)
        self.lineage = Lineage(store)
        self.wake = wake
        """Tells the background thread that there may be work."""
        self.lock = threading.RLock()
        """Held by writers, and while a new view is switched in."""
        self.maintenance = threading.RLock()
        """Held while segments are written; taken before `lock`, never after it."""
        self.epoch = 0
        """Changes of memory."""
        self.kills = 0
        """Those of them in which rows die: only they can make an unfiltered search miss a point."""
        self.commits = 0
        """Changes of the store together with memory, which follows it."""
        self.next_segment = 1
        self.last_write_s = 0.0
        """Monotonic time of the last batch."""
        self.given_queries: npt.NDArray[Any] | None = None
        """Queries of the user that calibrate every graph, (n, columns); None: graphs measure themselves."""
        self.closed = False
        self.failure: str | None = None
        self._refused: MemoryLimitError | None = None
        self._staging: _Staging | None = None
        self.lost: tuple[LostSegment, ...] = ()
        """Segments that could not be opened; while there are any, nothing is written."""
        self.view = View((), None, self.new_tail(0))

    def new_index(self) -> GraphIndex:
        """An empty index of this collection's configuration."""
        c = self.config
        return GraphIndex(
            dim=c.dim,
            metric=c.metric.value,
            dtype=c.dtype.value,
            M=c.M,
            ef_construction=c.ef_construction,
        )

    def new_tail(self, base: int) -> TailSegment:
        """An empty tail whose first row will be base."""
        return TailSegment(self.new_index(), self.store, base, self.budget)

    @property
    def next_row(self) -> int:
        """The global number that the next added point gets, behind those that are staged."""
        staged = () if self._staging is None else self._staging.batches
        return self.view.tail.base + self.view.tail.n + sum(len(b.record.keys) for b in staged)

    def check_open(self) -> None:
        """Raise where the collection is closed or its memory lags behind its store."""
        if self.closed:
            raise ClosedError(f"collection {self.name!r} is closed; open the database again")
        if self.failure is not None:
            raise InternalError(
                f"collection {self.name!r} could not apply a committed batch ({self.failure}); "
                "nothing is lost: close the database and open it again"
            )

    def status(self) -> Status:
        """What the collection can do now."""
        if self.failure is not None:
            return Status(Health.QUARANTINED, self.failure)
        if self.lost:
            return Status(Health.DEGRADED, describe(self.lost))
        if self.store.failure is not None:
            return Status(
                Health.READ_ONLY,
                f"a write failed ({self.store.failure}); close the database and open it again",
            )
        if self.store.space.refusal is not None:
            return Status(Health.FULL, self.store.space.refusal)
        if self._refused is not None and not self.budget.fits(self._refused.needed):
            return Status(Health.FULL, str(self._refused))
        return SERVING

    def check_writable(self) -> None:
        """Raise where writes are not possible."""
        self.check_open()
        if self.read_only:
            raise ReadOnlyError(
                f"collection {self.name!r} was opened read-only; open the database without read_only"
            )
        if self.lost:
            raise CorruptionError(f"collection {self.name!r} takes no write: {describe(self.lost)}")

    def begin_read(self) -> int:
        """Raise where reading is not possible; hide what has expired. Returns the time in ms."""
        self.check_open()
        expiry = self.expiry
        now_ms = expiry.now_ms()
        if expiry.next_ms <= now_ms:
            with self.lock:
                expiry.take_due(now_ms, self._hide)
            if not self.read_only:
                self.wake()
        return now_ms

    def begin_write(self) -> int:
        """Raise where writing is not possible; hide what has expired. Called with the lock held; returns the time."""
        if self._staging is not None:  # what expires now may be staged, and could not be hidden yet
            return self._staging.now_ms
        self.check_writable()
        return self.begin_read()

    def commit(
        self,
        points: Sequence[tuple[bytes, bytes | None]],
        record: LogRecord,
        payloads: Sequence[bytes],
        updates: Mapping[int, bytes] | None = None,
        due: Sequence[tuple[bytes, bytes | None]] = (),
        *,
        olds: Sequence[bytes | None],
    ) -> None:
        """Make a batch durable and then visible: the one place where that happens. Called with the lock held.

        olds : the records that points replace, in their order, None where there was none.

        Raises MemoryLimitError or StorageError where the budget or the disk has no room: nothing was changed.
        """
        batch = _Batch(points, record, payloads, updates, olds)
        with self.together() as staging:
            self._stage(staging, batch, due)

    def _stage(
        self, staging: _Staging, batch: _Batch, due: Sequence[tuple[bytes, bytes | None]]
    ) -> None:
        points = batch.points
        frees = all(value is None for _, value in points)
        with ExitStack() as room:
            if not frees:
                room.enter_context(
                    self._room_for(batch.record, points, batch.payloads, batch.updates)
                )
            # From here on the store is ahead of memory.
            self.commits += not staging.began
            staging.began = True
            try:
                raw = encode_log(batch.record)
                meta = self.lineage.meta()
                seq = self.store.write(
                    points=points, log=raw, meta=meta, due=due, frees=frees, settle=False
                )
                self.lineage.wrote(seq)
            except StorageError:
                if self.store.failure is not None:  # nobody knows whether the store has it
                    staging.batches.append(batch)
                raise
            staging.batches.append(batch)
            staging.room.push(room.pop_all())

    @contextmanager
    def together(self) -> Generator[_Staging]:
        """Let the batches that are committed in the block share one sync. Called with the lock held.

        They are durable and visible when the block is left, which raises where that failed, for all of them. A block
        within another is part of it.
        """
        if self._staging is not None:
            yield self._staging
            return
        now_ms = self.begin_write()
        with uninterrupted(), ExitStack() as room:
            staging = self._staging = _Staging(now_ms, room)
            try:
                try:
                    yield staging
                except BaseException:
                    with suppress(StorageError):  # the store is read-only then, and says why
                        self._publish(staging.batches)
                    raise
                self._publish(staging.batches)
            finally:
                self._staging = None
                self.commits += staging.began
            self.last_write_s = time.monotonic()

    @property
    def staged(self) -> int:
        """Batches that are in the store and wait to become durable and visible."""
        return 0 if self._staging is None else len(self._staging.batches)

    def _publish(self, batches: Sequence[_Batch]) -> None:
        """Make what was staged durable, then bring memory up to it."""
        if not batches:
            return
        try:
            self.store.settle()
        except StorageError:
            # Memory never gets these batches, so no look-up may show them either: of two, the first knew the truth.
            for batch in reversed(batches):
                keys = (key for key, _ in batch.points)
                self.store.keep_acknowledged(dict(zip(keys, batch.olds, strict=True)))
            raise
        for batch in batches:
            self.apply(batch.record, batch.payloads, batch.updates)

    def memory(self) -> dict[str, int]:
        """Bytes of memory that the collection holds, by structure."""
        found = {"index": 0, "rows": 0, "payload_index": 0}
        for segment in self.view.segments:
            for structure, held in segment.memory().items():
                found[structure] += held
        found["store"] = self.store.memory_bytes()
        return found

    def mapped(self) -> dict[str, int]:
        """Bytes of files that the collection maps, by structure."""
        found = {"graph": 0, "vectors": 0, "rows": 0, "payload": 0}
        for segment in self.view.segments:
            for structure, held in segment.mapped().items():
                found[structure] += held
        return found

    def shed_filters(self) -> None:
        """Drop filter results and field indexes; they are made again when they are needed."""
        for segment in self.view.segments:
            segment.shed()

    def shed_buffers(self) -> None:
        """Write RocksDB's buffers to tables where they hold more than a little."""
        try:
            self.store.flush(at_least=SHED_BUFFERS_MIN)
        except (
            ClosedError,
            StorageError,
        ) as fault:  # then the next write of this collection says so
            _log.warning("collection %r: its buffers stay in memory: %s", self.name, fault)

    def room_for_rows(self, record: LogRecord) -> int:
        """Bytes of memory that the rows of a record take in the tail, without their payloads."""
        if not record.keys:
            return 0
        n, held = len(record.keys), self.view.tail.n * self.config.row_bytes
        vectors = grown(held + len(record.vectors)) - held
        # Their lengths and the live bits grow in steps of their own.
        return vectors + 4 * n + 2 * SMALL_STEP_BYTES + held_bytes(record.keys) + 8 * n

    @contextmanager
    def _room_for(
        self,
        record: LogRecord,
        points: Sequence[tuple[bytes, bytes | None]],
        payloads: Sequence[bytes],
        updates: Mapping[int, bytes] | None,
    ) -> Generator[None]:
        """Room for a batch, and spare room to seal the tail with it: sealing is what gives the memory back."""

        def needed() -> int:
            rows = self.room_for_rows(record) + held_bytes(payloads)
            rows += held_bytes([*(updates or {}).values()])
            batch = sum(len(key) + len(value or b"") + ENTRY_BYTES for key, value in points)
            return rows + batch + len(record.vectors)

        what = f"the write of {len(points)} points to {self.name!r}"
        spare = partial(rewrite_memory, self.config, [self.view.tail], payloads)
        with ExitStack() as stack:
            try:
                stack.enter_context(self.budget.reserve(what, needed, spare))
            except MemoryLimitError as fault:
                self._refused = fault
                raise
            self._refused = None
            yield

    def _hide(self, rows: Sequence[int]) -> None:
        """Take rows that have expired out of everybody's sight."""
        self.epoch += 1
        self.kills += 1
        try:
            for segment, _, local in self.view.locate(np.asarray(rows, np.int64)):
                segment.hide(local)
        finally:
            self.kills += 1
            self.epoch += 1

    def apply(
        self,
        record: LogRecord,
        payloads: Sequence[bytes | None],
        updates: Mapping[int, bytes] | None = None,
    ) -> None:
        """Bring memory up to a record that the store holds.

        payloads : of the added points; None where the store is to be asked later.
        updates : new payload of each dirty row by global number; at replay the store is asked instead.
        """
        kills = bool(record.killed)
        self.epoch += 1
        self.kills += kills
        try:
            tail = self.view.tail
            if record.keys and record.first_row >= tail.base:
                invariant(
                    record.first_row == tail.base + tail.n, "rows of the log follow each other"
                )
                tail.append(record.keys, self.decode_vectors(record), payloads)
            if record.killed:
                for segment, _, local in self.view.locate(unpack_rows(record.killed)):
                    segment.kill(local)
            if record.dirty:
                rows = unpack_rows(record.dirty)
                for segment, places, local in self.view.locate(rows):
                    self._apply_dirty(segment, rows[places], local, updates)
        except BaseException as fault:
            self.failure = f"{type(fault).__name__}: {fault}"
            raise
        finally:
            self.kills += kills
            self.epoch += 1

    def decode_vectors(self, record: LogRecord) -> npt.NDArray[np.generic]:
        """(n, columns) view of a record's vectors in the collection's dtype."""
        rows = np.frombuffer(record.vectors, dtype=self.config.dtype.numpy)
        return rows.reshape(len(record.keys), self.config.columns)

    @staticmethod
    def _apply_dirty(
        segment: Segment, rows: Rows, local: Rows, updates: Mapping[int, bytes] | None
    ) -> None:
        if isinstance(segment, SealedSegment):
            segment.mark_dirty(local)
        elif isinstance(segment, TailSegment) and updates is not None:
            for row, place in zip(rows.tolist(), local.tolist(), strict=True):
                segment.set_payload(place, updates[row])
