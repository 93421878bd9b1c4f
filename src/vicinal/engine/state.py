"""The state of one open collection: its store, its view of segments, and how a log record changes them.

Invariants. A record is applied to memory after the store holds it, and in the order of the log.
`epoch`, `kills` and `commits` grow by one when such a change begins and by one when it ends: a
reader that finds an even number before and the same one after saw one state throughout. The view
is replaced, never changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vicinal.engine.critical import uninterrupted
from vicinal.engine.expiry import Expiry
from vicinal.engine.records import LogRecord, encode_log, unpack_rows
from vicinal.engine.segment import Rows, SealedSegment, Segment, TailSegment
from vicinal.index import GraphIndex
from vicinal.model.clock import SYSTEM_CLOCK, Clock
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import (
    ClosedError,
    InternalError,
    ReadOnlyError,
    StorageError,
    invariant,
)
from vicinal.model.status import SERVING, Health, Status
from vicinal.storage.store import Store


@dataclass(frozen=True, slots=True)
class View:
    """The segments that hold all rows, oldest rows first: sealed ones, a tail being sealed, the tail."""

    sealed: tuple[SealedSegment, ...]
    frozen: TailSegment | None
    tail: TailSegment

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All of them; empty ones too."""
        if self.frozen is None:
            return (*self.sealed, self.tail)
        return (*self.sealed, self.frozen, self.tail)

    def locate(self, rows: Rows) -> Iterator[tuple[Segment, Rows, Rows]]:
        """Yield (segment, positions in rows, local rows) for each segment that holds some of rows."""
        for segment in self.segments:
            local = segment.local_rows(rows)
            places = np.flatnonzero(local >= 0)
            if len(places):
                yield segment, places, local[places]


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
    ) -> None:
        self.name = name
        self.path = path
        self.config = config
        self.store = store
        self.read_only = read_only
        self.expiry = Expiry(store, clock)
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
        return TailSegment(self.new_index(), self.store, base)

    @property
    def next_row(self) -> int:
        """The global number that the next added point gets."""
        return self.view.tail.base + self.view.tail.n

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
        if self.store.failure is not None:
            return Status(
                Health.READ_ONLY,
                f"a write failed ({self.store.failure}); close the database and open it again",
            )
        if self.store.space.refusal is not None:
            return Status(Health.FULL, self.store.space.refusal)
        return SERVING

    def check_writable(self) -> None:
        """Raise where writes are not possible."""
        self.check_open()
        if self.read_only:
            raise ReadOnlyError(
                f"collection {self.name!r} was opened read-only; open the database without read_only"
            )

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
        """
        frees = all(value is None for _, value in points)
        with uninterrupted():
            self.commits += 1
            try:
                try:
                    self.store.write(points=points, log=encode_log(record), due=due, frees=frees)
                except StorageError:
                    if self.store.failure is not None:
                        # Memory never gets this batch; so no look-up may show it either.
                        keys = (key for key, _ in points)
                        self.store.keep_acknowledged(dict(zip(keys, olds, strict=True)))
                    raise
                self.apply(record, payloads, updates)
            finally:
                self.commits += 1
            self.last_write_s = time.monotonic()

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
                invariant(record.first_row == self.next_row, "rows of the log follow each other")
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
