"""Those who are told of searches: the slow-query log, a server's metrics, its recall monitor. Nobody, by default.

A search looks once whether somebody watches; only then are its parts timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from vicinal.engine.reader import SegmentRun
from vicinal.model.hits import HitsBatch
from vicinal.model.search import SearchOptions

if TYPE_CHECKING:
    from vicinal.engine.collection import Collection, Version


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """A search that is done.

    Attributes
    ----------
    queries : (n, columns), as they were searched for; the caller's own, to be read only while one is told.
    version : of the collection when the search began; see `Collection.held_since`.
    began_s, seconds : when it began, by `time.perf_counter`, and how long it took.
    """

    collection: Collection
    queries: npt.NDArray[Any]
    options: SearchOptions
    version: Version
    found: HitsBatch
    runs: list[SegmentRun]
    began_s: float
    seconds: float


Watcher: TypeAlias = Callable[[SearchRecord], None]


class Watchers:
    """The watchers of a database. They are told in the searching thread, so they are quick and raise nothing."""

    def __init__(self) -> None:
        self.all: tuple[Watcher, ...] = ()

    def add(self, watcher: Watcher) -> None:
        """Tell it of every search from now on."""
        self.all += (watcher,)

    def remove(self, watcher: Watcher) -> None:
        """Tell it no more."""
        self.all = tuple(w for w in self.all if w is not watcher)

    def tell(self, record: SearchRecord) -> None:
        """Tell all."""
        for watcher in self.all:
            watcher(record)


def watched(collection: Collection) -> Callable[..., HitsBatch]:
    """`Reader.search` of the collection, of which its watchers are told."""

    def search(queries: npt.NDArray[Any], options: SearchOptions, *, threads: int) -> HitsBatch:
        runs: list[SegmentRun] = []
        version, began_s = collection.version, time.perf_counter()
        found = collection.reader.search(queries, options, threads=threads, runs=runs)
        seconds = time.perf_counter() - began_s
        collection.watchers.tell(
            SearchRecord(collection, queries, options, version, found, runs, began_s, seconds)
        )
        return found

    return search
