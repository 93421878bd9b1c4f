"""The vector index: exact rows, one-byte codes and a proximity graph, searchable while it changes.

Promises: a search sees every appended row at once; it returns min(k, live rows that pass the filter) results always;
distances are exact; searches run beside append, link, remove and repair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vicinal.model.errors import InvalidArgumentError
from vicinal.model.limits import DIM_MAX
from vicinal.model.metric import Metric, VectorType, check_pair, parse_metric, parse_vector_type
from vicinal.native import Graph

Progress = Callable[[int, int], bool | None]
Rows = NDArray[Any]


class GraphIndex:
    """Nearest-neighbour index over rows 0..n-1 of one dimension, metric and dtype."""

    def __init__(
        self,
        dim: int,
        metric: str | Metric = "l2",
        dtype: str | VectorType = "f32",
        M: int = 32,
        ef_construction: int = 200,
        seed: int = 0,
    ) -> None:
        self._metric = parse_metric(metric)
        self._dtype = parse_vector_type(dtype)
        check_pair(self._metric, self._dtype)
        if not 0 < dim <= DIM_MAX:
            raise InvalidArgumentError(f"dim is {dim}; choose 1 to {DIM_MAX}")
        self._native = Graph(dim, self._metric.value, self._dtype.value, M, ef_construction, seed)
        self._dim, self._M = dim, M
        self.search = self._native.search

    def build(
        self, X: Rows, threads: int = 0, progress: Progress | None = None, copy: bool = True
    ) -> None:
        self._native.build(self._convert(X), threads=threads, copy=copy, progress=progress)

    def append(self, X: Rows) -> int:
        return self._native.append(self._convert(X))

    def link(
        self, max_rows: int | None = None, threads: int = 1, progress: Progress | None = None
    ) -> int:
        return self._native.link(max_rows=max_rows, threads=threads, progress=progress)

    def add(self, X: Rows, threads: int = 0) -> NDArray[np.int64]:
        first = self.append(X)
        if self.n >= 1000:
            self.link(threads=threads)
        return np.arange(first, first + len(X))

    def remove(self, rows: NDArray[np.int64]) -> int:
        return self._native.remove(np.ascontiguousarray(rows, dtype=np.int64))

    def vectors(self, rows: NDArray[np.int64]) -> Rows:
        raw = self._native.rows_bytes(np.ascontiguousarray(rows, dtype=np.int64))
        return raw.view(self._dtype.numpy)

    @property
    def n(self) -> int:
        return self._native.n

    @property
    def n_linked(self) -> int:
        return self._native.n_linked

    @property
    def n_live(self) -> int:
        return self._native.n_live

    @property
    def memory_bytes(self) -> int:
        return self._native.memory_bytes

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def M(self) -> int:
        return self._M

    @property
    def metric(self) -> str:
        return self._metric.value

    @property
    def dtype(self) -> str:
        return self._dtype.value

    def _convert(self, X: Rows) -> Rows:
        return np.ascontiguousarray(X, dtype=self._dtype.numpy)
