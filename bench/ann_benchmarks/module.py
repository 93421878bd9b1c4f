"""Vicinal's index for ann-benchmarks (https://github.com/erikbern/ann-benchmarks).

Copy this folder to ann_benchmarks/algorithms/vicinal of a checkout, then `python install.py --algorithm vicinal` and
`python run.py --algorithm vicinal --dataset sift-128-euclidean`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vicinal.index import GraphIndex

from ..base.module import BaseANN

METRICS = {"euclidean": "l2", "angular": "cosine", "ip": "ip", "hamming": "hamming"}


class Vicinal(BaseANN):
    """One graph index; the query argument is the beam width.

    Parameters
    ----------
    metric : ann-benchmarks' name of it.
    options : of the index: M and ef_construction.
    """

    def __init__(self, metric: str, options: dict[str, int]) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}; known are {', '.join(METRICS)}")
        unknown = set(options) - {"M", "ef_construction"}
        if unknown:
            raise ValueError(f"unknown options {sorted(unknown)}; known are M and ef_construction")
        self._metric = METRICS[metric]
        self._options = options
        self._ef = 0
        self.name = f"vicinal {options}"

    def fit(self, X: np.ndarray) -> None:
        """Build the index with every core; X is (n, dim) float32, or booleans under hamming."""
        rows = self._rows(X)
        bits = self._metric == "hamming"
        self._index = GraphIndex(
            rows.shape[1] * (8 if bits else 1),
            self._metric,
            "bit" if bits else "f32",
            **self._options,
        )
        self._index.build(rows)

    def set_query_arguments(self, ef_search: int) -> None:
        """Choose the beam width; a search for more neighbours than that takes as much as it needs."""
        self._ef = ef_search
        self.name = f"vicinal {self._options} ef_search {ef_search}"

    def query(self, q: np.ndarray, n: int) -> np.ndarray:
        """Rows of the n nearest vectors."""
        return self._index.search(self._rows(q[np.newaxis]), k=n, ef_search=max(self._ef, n))[0][0]

    def batch_query(self, X: np.ndarray, n: int) -> None:
        """Search for all at once, with every core."""
        self.res = self._index.search(self._rows(X), k=n, ef_search=max(self._ef, n), threads=0)[0]

    def get_batch_results(self) -> np.ndarray:
        """What the last batch found, (n_queries, n)."""
        return self.res

    def get_additional(self) -> dict[str, Any]:
        """Figures stored beside the results."""
        return {"index_bytes": self._index.memory_bytes}

    def done(self) -> None:
        """Give the memory back."""
        self._index.close()

    def _rows(self, values: np.ndarray) -> np.ndarray:
        if self._metric != "hamming":
            return np.ascontiguousarray(values, dtype=np.float32)
        return np.packbits(values, axis=1) if values.dtype == np.bool_ else values
