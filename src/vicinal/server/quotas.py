"""How much a key, and a collection, may hold: points, and bytes of files. What does not fit is refused before any of it
is written, over every protocol alike.

A collection's limits are those of the server's configuration. A key's are on what the collections that it is for hold
together. Points are exact: as long as a write fits whatever of it is new, it goes on beside others, for which its
points count already; one that might not fit waits for those, and then only what is new counts. Bytes are those of the
files, as they were measured less than MEASURE_S_MAX ago, and of what was let in since. Deleting is always possible.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from vicinal.client.batch import Batch, Progress
from vicinal.client.local import LocalCollection
from vicinal.engine.collection import Collection
from vicinal.engine.database import Database
from vicinal.model.change import Change, Conditions, WriteMode
from vicinal.model.errors import CorruptionError, NotFoundError, QuotaError
from vicinal.server.config import ServerConfig
from vicinal.server.keys import Key
from vicinal.storage.files import tree_bytes

MEASURE_S_MAX = 1.0
LIMITS_MAX = 10_000
"""Limits that are remembered; one more forgets those that nobody uses."""


class _Limit:
    """One limit, and the writes under way that it concerns."""

    def __init__(
        self,
        what: str,
        points_max: int | None,
        bytes_max: int | None,
        held: Callable[[], list[Collection]],
    ) -> None:
        self._what, self._held = what, held
        self.points_max, self.bytes_max = points_max, bytes_max
        self._turn = threading.Condition()
        self._alone = False
        self._under_way = 0
        self._reserved = 0
        self._measured, self._measured_s = 0, -MEASURE_S_MAX

    @contextmanager
    def room(self, points: int, size: int, missing: Callable[[], int]) -> Generator[None]:
        """Let a write of so many points and bytes go on in the block.

        missing : how many of the points are not there yet; asked only where it matters.

        Raises QuotaError where they do not fit.
        """
        alone = self._enter(points, size, missing)
        try:
            yield
        finally:
            with self._turn:
                if alone:
                    self._alone = False
                else:
                    self._under_way -= 1
                    self._reserved -= points
                self._turn.notify_all()

    def _enter(self, points: int, size: int, missing: Callable[[], int]) -> bool:
        """Whether the write goes on alone. Raises QuotaError."""
        with self._turn:
            self._turn.wait_for(lambda: not self._alone)
            self._take_bytes(size)
            most = self.points_max
            if most is None or not points or self._points() + self._reserved + points <= most:
                self._under_way += 1
                self._reserved += points
                return False
            self._alone = True
            self._turn.wait_for(lambda: not self._under_way)
        try:
            # What is deleted from here on makes room, so the two numbers need not be of one moment.
            new, used = missing(), self._points()
            if new and used + new > most:
                raise QuotaError(self._what, "points", new, used, most)
        except BaseException:
            with self._turn:
                self._alone = False
                self._turn.notify_all()
            raise
        return True

    def _take_bytes(self, size: int) -> None:
        if self.bytes_max is None:
            return
        now_s = time.monotonic()
        if now_s - self._measured_s >= MEASURE_S_MAX or self._measured + size > self.bytes_max:
            self._measured = sum(tree_bytes(held.state.path) for held in self._held())
            self._measured_s = now_s
        if self._measured + size > self.bytes_max:
            raise QuotaError(self._what, "bytes", size, self._measured, self.bytes_max)
        self._measured += size

    def _points(self) -> int:
        return sum(held.reader.count(None) for held in self._held())

    @property
    def idle(self) -> bool:
        """Whether nobody uses it."""
        return not self._alone and not self._under_way


class Quotas:
    """The limits of one server. Thread-safe."""

    def __init__(self, database: Database, config: ServerConfig) -> None:
        self._database = database
        self._points_max = config.collection_points_max or None
        self._bytes_max = config.collection_bytes_max or None
        self._lock = threading.Lock()
        self._limits: dict[tuple[Any, ...], _Limit] = {}

    def collection(self, engine: Collection, key: Key | None) -> LocalCollection:
        """The transport that carries out the requests of a key on a collection."""
        limits = self._of(engine, key)
        return LimitedCollection(engine, limits) if limits else LocalCollection(engine)

    def _of(self, engine: Collection, key: Key | None) -> list[_Limit]:
        """The limits of a write, always in one order, so that none waits for another in a circle."""
        limits: list[_Limit] = []
        if self._points_max is not None or self._bytes_max is not None:
            what = f"collection {engine.name!r}"
            limits.append(
                self._limit(
                    ("collection", engine.incarnation),
                    lambda: _Limit(what, self._points_max, self._bytes_max, lambda: [engine]),
                )
            )
        if key is not None and (key.points_max is not None or key.bytes_max is not None):
            what = f"what key {key.id} is for"
            names, most = key.collections, (key.points_max, key.bytes_max)
            limits.append(
                self._limit(
                    ("key", key.id, names, *most),
                    lambda: _Limit(what, *most, lambda: self._named(names)),
                )
            )
        return limits

    def _limit(self, name: tuple[Any, ...], make: Callable[[], _Limit]) -> _Limit:
        with self._lock:
            found = self._limits.get(name)
            if found is None:
                if len(self._limits) >= LIMITS_MAX:
                    self._limits = {n: limit for n, limit in self._limits.items() if not limit.idle}
                found = self._limits[name] = make()
            return found

    def _named(self, names: tuple[str, ...] | None) -> list[Collection]:
        """The collections of these names that there are, all where None."""
        held: list[Collection] = []
        for name in self._database.collections() if names is None else names:
            engine = self._database.opened(name)
            if engine is None:
                try:
                    engine = self._database.collection(name, None, {})
                except (NotFoundError, CorruptionError):  # what cannot be opened cannot grow
                    continue
            held.append(engine)
        return held


class LimitedCollection(LocalCollection):
    """A collection whose writes must fit some limits."""

    def __init__(self, engine: Collection, limits: list[_Limit]) -> None:
        super().__init__(engine)
        self._limits = limits

    def upsert(self, batch: Batch, progress: Progress | None) -> None:
        """Insert or replace points. Raises QuotaError, before any part is written."""
        only_old = batch.conditions.mode is WriteMode.UPDATE_ONLY
        payloads = batch.payloads
        size = batch.vectors.nbytes + sum(map(len, batch.keys))
        size += 0 if payloads is None else sum(map(len, payloads))

        def missing() -> int:
            return sum(p is None for p in self.engine.reader.get(batch.keys, with_vectors=False))

        with self._room(0 if only_old else len(batch.keys), size, missing):
            super().upsert(batch, progress)

    def update(self, keys: list[bytes], change: Change, conditions: Conditions) -> int:
        """Change payloads. Raises QuotaError."""
        with self._room(0, len(keys), lambda: 0):
            return super().update(keys, change, conditions)

    def update_where(self, where: Any, change: Change) -> int:
        """Change the payloads of what passes. Raises QuotaError."""
        with self._room(0, 1, lambda: 0):
            return super().update_where(where, change)

    @contextmanager
    def _room(self, points: int, size: int, missing: Callable[[], int]) -> Generator[None]:
        with ExitStack() as stack:
            for limit in self._limits:
                stack.enter_context(limit.room(points, size, missing))
            yield
