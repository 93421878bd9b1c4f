"""What the harness measures: the index by itself, and a durable collection, behind one shape."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import vicinal
from bench.datasets import Dataset
from vicinal.index import GraphIndex
from vicinal.model.memory import index_bytes

BATCH = 1_000
INSERT_SHARE = 0.1
"""Of the points, how many are inserted into what the others built."""

SINGLES = 200


class Target(Protocol):
    """Something that is built from a data set and searched."""

    def build(self) -> dict[str, float]:
        """Take all points in; return what it cost."""
        ...

    def batch(self, queries: np.ndarray, ef: int, threads: int) -> np.ndarray:
        """Distances (n, k) of one batched call."""
        ...

    def single(self, query: np.ndarray, ef: int) -> np.ndarray:
        """Distances (1, k) of one call with one query (1, columns)."""
        ...

    def accounted_bytes(self) -> int:
        """Memory that it says it holds."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class IndexTarget:
    """`vicinal.index.GraphIndex`."""

    def __init__(self, data: Dataset, options: dict[str, Any]) -> None:
        self._data = data
        self._options = options
        self._index = self._new()

    def _new(self) -> GraphIndex:
        data = self._data
        return GraphIndex(data.dim, data.metric, data.dtype, **self._options)

    def build(self) -> dict[str, float]:
        started = time.perf_counter()
        self._index.build(self._data.base)
        return {"build_s": time.perf_counter() - started}

    def insert(self) -> dict[str, float]:
        """Rates of inserting the last points into an index of the others, in batches and one by one."""
        base = self._data.base
        first = len(base) - int(len(base) * INSERT_SHARE)
        last = len(base) - SINGLES
        index = self._new()
        index.build(base[:first])
        started = time.perf_counter()
        for i in range(first, last, BATCH):
            index.add(base[i : min(i + BATCH, last)])
        batched = (last - first) / (time.perf_counter() - started)
        started = time.perf_counter()
        for i in range(last, len(base)):
            index.add(base[i : i + 1], threads=1)
        return {
            "insert_batch_per_s": batched,
            "insert_single_per_s": (len(base) - last) / (time.perf_counter() - started),
        }

    def batch(self, queries: np.ndarray, ef: int, threads: int) -> np.ndarray:
        return self._index.search(queries, k=self._data.k, ef_search=ef, threads=threads)[1]

    def single(self, query: np.ndarray, ef: int) -> np.ndarray:
        return self._index.search(query, k=self._data.k, ef_search=ef)[1]

    def accounted_bytes(self) -> int:
        return self._index.memory_bytes

    def close(self) -> None:
        self._index.close()


class CollectionTarget:
    """A collection on disk with the default durability: every batch is on disk when its upsert returns."""

    def __init__(self, data: Dataset, options: dict[str, Any]) -> None:
        if options:
            raise ValueError(f"a collection takes no {', '.join(options)}; measure the index")
        self._data = data
        self._folder = Path(tempfile.mkdtemp(prefix="vicinal-bench-"))
        self._db = vicinal.open(self._folder / "db")
        self._docs = self._new("bench")

    def _new(self, name: str) -> vicinal.Collection:
        data = self._data
        return self._db.collection(name, dim=data.dim, metric=data.metric, dtype=data.dtype)

    def build(self) -> dict[str, float]:
        started = time.perf_counter()
        fill(self._docs, self._data.base)
        ingest = time.perf_counter() - started
        self._docs.optimize()
        return {"build_s": time.perf_counter() - started, "ingest_s": ingest}

    def insert(self) -> dict[str, float]:
        base = self._data.base
        docs = self._new("insert")
        started = time.perf_counter()
        fill(docs, base[:-SINGLES])
        batched = (len(base) - SINGLES) / (time.perf_counter() - started)
        started = time.perf_counter()
        for i in range(len(base) - SINGLES, len(base)):
            docs.upsert(ids=[i], vectors=base[i : i + 1])
        rate = SINGLES / (time.perf_counter() - started)
        return {"insert_batch_per_s": batched, "insert_single_per_s": rate}

    def batch(self, queries: np.ndarray, ef: int, threads: int) -> np.ndarray:
        found: Any = self._docs.search(
            queries, k=self._data.k, ef_search=ef, threads=threads, with_payload=False
        )
        return found.distances

    def single(self, query: np.ndarray, ef: int) -> np.ndarray:
        found: Any = self._docs.search(query[0], k=self._data.k, ef_search=ef, with_payload=False)
        return found.distances[np.newaxis]

    def accounted_bytes(self) -> int:
        return index_bytes(self._docs.stats())

    def close(self) -> None:
        self._db.close()
        shutil.rmtree(self._folder)


TARGETS = {"index": IndexTarget, "collection": CollectionTarget}


def fill(docs: vicinal.Collection, X: np.ndarray, *, first_id: int = 0) -> None:
    """Upsert rows in batches under the ids first_id onwards."""
    for i in range(0, len(X), BATCH):
        end = min(i + BATCH, len(X))
        docs.upsert(ids=np.arange(first_id + i, first_id + end), vectors=X[i:end])
