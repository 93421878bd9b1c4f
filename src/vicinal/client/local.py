"""The transport to a database in this process: straight calls of the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy.typing as npt

from vicinal.client.batch import Batch, Progress
from vicinal.client.explanation import Explanation, explain
from vicinal.client.many import OneSearch
from vicinal.engine.collection import Collection
from vicinal.engine.database import Database
from vicinal.engine.watch import watched
from vicinal.model.change import Change, Conditions
from vicinal.model.clock import NEVER_MS
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import MemoryLimitError
from vicinal.model.filter import Filter
from vicinal.model.hits import Hits, HitsBatch, Page, Point
from vicinal.model.search import SearchOptions
from vicinal.model.snapshot import Snapshot
from vicinal.model.status import Status


class LocalCollection:
    """A collection of this process; see `CollectionTransport`."""

    def __init__(self, engine: Collection) -> None:
        self.engine = engine

    @property
    def name(self) -> str:
        """Its name."""
        return self.engine.name

    @property
    def config(self) -> CollectionConfig:
        """Its configuration."""
        return self.engine.config

    def upsert(self, batch: Batch, progress: Progress | None) -> None:
        """Insert or replace points. A call of many parts with conditions keeps other writers out meanwhile."""
        engine, writer = self.engine, self.engine.writer
        ttl = engine.config.ttl
        default_ms = NEVER_MS if ttl is None else engine.state.expiry.now_ms() + round(ttl * 1000)
        parts = batch.parts()
        with ExitStack() as stack:
            excludes_others = batch.conditions.any and len(parts) > 1
            if excludes_others:
                stack.enter_context(writer.exclusive(batch.keys, batch.conditions))
            for start, end in parts:
                part = batch.part(start, end)
                expiries = part.expiries(default_ms)
                while True:
                    try:
                        writer.upsert(
                            part.keys, part.vectors, part.payloads, part.conditions, expiries
                        )
                        break
                    except MemoryLimitError:
                        # In an exclusive call others wait for us, sealing among them.
                        if excludes_others or not engine.maintenance.relieve():
                            raise
                engine.on_write()
                batch.report(end, progress)

    def search_given(
        self, query: npt.NDArray[Any], options: SearchOptions, threads: int
    ) -> Hits | HitsBatch | None:
        """The usual search at once; whoever watches searches is told by `search`."""
        engine = self.engine
        if engine.watchers.all:
            return None
        return engine.reader.walk(query, options, threads)

    def search(
        self,
        queries: npt.NDArray[Any],
        options: SearchOptions,
        *,
        threads: int,
    ) -> HitsBatch:
        """The k nearest of each query."""
        reader = self.engine.reader
        if options.where is not None:
            reader.check_fields(options.where)
        search = watched(self.engine) if self.engine.watchers.all else reader.search
        return search(queries, options, threads=threads)

    def search_many(
        self, searches: list[OneSearch], time_ms: float | None
    ) -> list[HitsBatch | None]:
        """One after the other."""
        end = None if time_ms is None else time.monotonic() + time_ms / 1000
        found: list[HitsBatch | None] = []
        for one in searches:
            if end is not None and time.monotonic() >= end:
                found.append(None)
                continue
            found.append(self.search(one.query, one.options, threads=1))
        return found

    def get(self, keys: list[bytes], *, with_vectors: bool) -> list[Point | None]:
        """Points of keys."""
        return self.engine.reader.get(keys, with_vectors=with_vectors)

    def update(self, keys: list[bytes], change: Change, conditions: Conditions) -> int:
        """Change payloads."""
        count = self.engine.writer.update(keys, change, conditions)
        self.engine.on_write()
        return count

    def update_where(self, where: Filter | None, change: Change) -> int:
        """Change the payloads of what passes."""
        if where is not None:
            self.engine.reader.check_fields(where)
        count = self.engine.writer.update_where(where, change)
        self.engine.on_write()
        return count

    def delete(self, keys: list[bytes], conditions: Conditions) -> int:
        """Delete by key."""
        count = self.engine.writer.delete(keys, conditions)
        self.engine.on_write()
        return count

    def delete_where(self, where: Filter | None) -> int:
        """Delete what passes."""
        if where is not None:
            self.engine.reader.check_fields(where)
        count = self.engine.writer.delete_where(where)
        self.engine.on_write()
        return count

    def count(self, where: Filter | None) -> int:
        """How many pass."""
        if where is not None:
            self.engine.reader.check_fields(where)
        return self.engine.reader.count(where)

    def scroll(
        self,
        *,
        where: Filter | None,
        order_by: str | None,
        descending: bool,
        limit: int,
        cursor: str | None,
        with_vectors: bool,
    ) -> Page:
        """One page."""
        if where is not None:
            self.engine.reader.check_fields(where)
        return self.engine.scroller.page(
            where=where,
            order_by=order_by,
            descending=descending,
            limit=limit,
            cursor=cursor,
            with_vectors=with_vectors,
        )

    def explain(self, queries: npt.NDArray[Any], options: SearchOptions) -> Explanation:
        """Run one search and say how."""
        if options.where is not None:
            self.engine.reader.check_fields(options.where)
        return explain(self.engine, queries, options)

    def stats(self) -> dict[str, Any]:
        """Figures."""
        return self.engine.stats()

    def calibrate(self, queries: npt.NDArray[Any] | None, *, threads: int) -> None:
        """Measure recall over the beam width."""
        self.engine.state.check_writable()
        self.engine.calibrate(queries, threads=threads)

    def optimize(self, *, threads: int, progress: Progress | None) -> None:
        """Bring everything into one graph."""
        self.engine.state.check_writable()
        self.engine.maintenance.optimize(threads=threads, progress=progress)

    def request_optimize(self) -> None:
        """Leave that to the background."""
        self.engine.state.check_writable()
        self.engine.maintenance.request_optimize()
        self.engine.on_write()


class LocalDatabase:
    """A database of this process; see `DatabaseTransport`."""

    def __init__(self, engine: Database) -> None:
        self.engine = engine

    @property
    def address(self) -> str:
        """Its directory."""
        return str(self.engine.path)

    @property
    def read_only(self) -> bool:
        """Whether it was opened read-only."""
        return self.engine.read_only

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return self.engine.closed

    def collection(
        self, name: str, config: CollectionConfig | None, changes: dict[str, object]
    ) -> LocalCollection:
        """Find or make a collection."""
        return LocalCollection(self.engine.collection(name, config, changes))

    def collections(self) -> list[str]:
        """Names, sorted."""
        return self.engine.collections()

    def drop(self, name: str) -> None:
        """Delete a collection."""
        self.engine.drop(name)

    def status(self) -> dict[str, Status]:
        """How each collection is."""
        return self.engine.status()

    def stats(self) -> dict[str, Any]:
        """Memory of the database and of its collections."""
        return self.engine.stats()

    def snapshot(
        self, name: str | None, collections: Sequence[str] | None, progress: Progress | None
    ) -> Snapshot:
        """Keep this moment of the collections."""
        return self.engine.snapshot(name, collections, progress)

    def snapshots(self) -> list[Snapshot]:
        """The snapshots there are."""
        return self.engine.snapshots()

    def drop_snapshot(self, name: str) -> None:
        """Delete a snapshot."""
        self.engine.drop_snapshot(name)

    def backup(
        self, target: str | Path, collections: Sequence[str] | None, progress: Progress | None
    ) -> Snapshot:
        """Write a copy of the collections."""
        return self.engine.backup(target, collections, progress)

    def close(self) -> None:
        """Close it. Idempotent."""
        self.engine.close()
