"""What a database and a collection are made of, as `Database` and `Collection` see it: a directory here, or a server.

Arguments are already checked and in the engine's terms (keys, arrays, payload bytes, filters). A transport carries them
out and answers in the engine's terms, raising the errors of `model/errors.py` whatever lies between.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from vicinal.client.batch import Batch, Progress
from vicinal.client.explanation import Explanation
from vicinal.client.many import OneSearch
from vicinal.model.change import Change, Conditions
from vicinal.model.config import CollectionConfig
from vicinal.model.filter import Filter
from vicinal.model.hits import Hits, HitsBatch, Page, Point
from vicinal.model.search import SearchOptions
from vicinal.model.snapshot import Snapshot
from vicinal.model.status import Status


class CollectionTransport(Protocol):
    """One collection."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def config(self) -> CollectionConfig:
        """Its configuration, fixed when it was made."""
        ...

    def upsert(self, batch: Batch, progress: Progress | None) -> None:
        """Insert or replace points in the parts of the batch, each all or nothing; its conditions are checked for all
        of them before anything is written."""
        ...

    def search_given(
        self, query: npt.NDArray[Any], options: SearchOptions, threads: int
    ) -> Hits | HitsBatch | None:
        """What `Collection.search` answers, with the query unchecked, as the caller gave it; threads 0 is all.

        None: the query has to be looked at, or the search cannot be carried out in this way; then it goes to `search`.
        """
        ...

    def search(
        self,
        queries: npt.NDArray[Any],
        options: SearchOptions,
        *,
        threads: int,
    ) -> HitsBatch:
        """The k nearest of each of (n, columns) queries; threads 0 is all."""
        ...

    def search_many(
        self, searches: list[OneSearch], time_ms: float | None
    ) -> list[HitsBatch | None]:
        """What each of them finds; None where it was not carried out within time_ms."""
        ...

    def get(self, keys: list[bytes], *, with_vectors: bool) -> list[Point | None]:
        """Points of keys."""
        ...

    def update(self, keys: list[bytes], change: Change, conditions: Conditions) -> int:
        """Change payloads, all or nothing; how many of the points there were."""
        ...

    def update_where(self, where: Filter | None, change: Change) -> int:
        """Change the payloads of what passes, of all where it is None; how many there were."""
        ...

    def delete(self, keys: list[bytes], conditions: Conditions) -> int:
        """Delete by key, where conditions hold for all of them; how many there were."""
        ...

    def delete_where(self, where: Filter | None) -> int:
        """Delete what passes, all where it is None; how many there were."""
        ...

    def count(self, where: Filter | None) -> int:
        """How many pass."""
        ...

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
        ...

    def explain(self, queries: npt.NDArray[Any], options: SearchOptions) -> Explanation:
        """Run one search, which needs neither payload nor vectors, and say how."""
        ...

    def stats(self) -> dict[str, Any]:
        """Figures."""
        ...

    def calibrate(self, queries: npt.NDArray[Any] | None, *, threads: int) -> None:
        """Measure recall over the beam width with (n, columns) queries, or, with None, with the points themselves."""
        ...

    def optimize(self, *, threads: int, progress: Progress | None) -> None:
        """Bring everything into one graph, and return when it is done."""
        ...

    def request_optimize(self) -> None:
        """Leave that to the background."""
        ...


class DatabaseTransport(Protocol):
    """One database."""

    @property
    def address(self) -> str:
        """Where it is: a path or a URL."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether it refuses writes."""
        ...

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        ...

    def collection(
        self, name: str, config: CollectionConfig | None, changes: dict[str, object]
    ) -> CollectionTransport:
        """Find a collection, or make it with config; each of changes must agree with what exists."""
        ...

    def collections(self) -> list[str]:
        """Names, sorted."""
        ...

    def drop(self, name: str) -> None:
        """Delete a collection."""
        ...

    def status(self) -> dict[str, Status]:
        """How each collection is."""
        ...

    def stats(self) -> dict[str, Any]:
        """Memory of the database and of its collections."""
        ...

    def snapshot(
        self, name: str | None, collections: Sequence[str] | None, progress: Progress | None
    ) -> Snapshot:
        """Keep this moment of the collections, of all where None."""
        ...

    def snapshots(self) -> list[Snapshot]:
        """The snapshots there are, oldest first."""
        ...

    def drop_snapshot(self, name: str) -> None:
        """Delete a snapshot."""
        ...

    def backup(
        self, target: str | Path, collections: Sequence[str] | None, progress: Progress | None
    ) -> Snapshot:
        """Write a copy of the collections, of all where None, to a place that the caller names."""
        ...

    def close(self) -> None:
        """Give everything back. Idempotent."""
        ...
