"""The exact index: every search compares the query with every row.

Promises: results are exact and complete; a search sees every row added before it began; removed
rows never come back. The right index below some ten thousand rows, and the truth that others are
measured against.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from vicinal.index.arrays import (
    check_k,
    check_threads,
    filter_words,
    query_rows,
    row_numbers,
    stored_rows,
)
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.limits import DIM_MAX
from vicinal.model.metric import Metric, VectorType, check_pair, parse_metric, parse_vector_type
from vicinal.native import Flat

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class FlatIndex:
    """Exact nearest-neighbour search over rows 0..n-1, numbered in order of adding.

    Parameters
    ----------
    dim : elements of a vector, 1 to DIM_MAX; a multiple of 8 for bit.
    metric : l2, ip, cosine, manhattan, or hamming (bit only).
    dtype : how rows are stored: f32, f16, i8 or bit.

    Raises
    ------
    InvalidArgumentError : a value out of range, or a metric that does not apply to the dtype.

    Notes
    -----
    Thread-safe: searches run beside add and remove, and release the GIL.
    """

    def __init__(
        self, *, dim: int, metric: str | Metric = "l2", dtype: str | VectorType = "f32"
    ) -> None:
        self._metric = parse_metric(metric)
        self._dtype = parse_vector_type(dtype)
        check_pair(self._metric, self._dtype)
        if not 0 < dim <= DIM_MAX:
            raise InvalidArgumentError(f"dim is {dim}; choose 1 to {DIM_MAX}")
        self._native = Flat(dim, self._metric.value, self._dtype.value)

    def add(self, X: ArrayLike) -> NDArray[np.int64]:
        """Append vectors and return their row numbers.

        Parameters
        ----------
        X : (n, dim) numbers, or what `vicinal.index.arrays.stored_rows` takes for i8 and bit.

        Returns
        -------
        rows : (n,) int64.

        Raises
        ------
        DimensionError : another number of columns.
        VectorValueError : a vector holds NaN or infinity, or is zero under cosine; none is added.
        """
        vectors = stored_rows(X, self.dim, self._dtype)
        first = self._native.append(vectors)
        return np.arange(first, first + len(vectors), dtype=np.int64)

    def remove(self, rows: ArrayLike) -> int:
        """Remove rows at once and return how many were live.

        Raises
        ------
        InvalidArgumentError : a row that was never added; then none is removed.
        """
        return self._native.remove(row_numbers(rows))

    def search(
        self,
        Q: ArrayLike,
        *,
        k: int = 10,
        threads: int = 1,
        filter: NDArray[Any] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the k nearest live rows of each query that pass the filter.

        Parameters
        ----------
        Q : (n_queries, dim) or (dim,) numbers; float32 is taken as it is.
        k : 1 to K_MAX.
        threads : at most so many threads; 0 takes all.
        filter : a mask of n booleans, or a uint64 bitset (see `vicinal.index.arrays.filter_words`).

        Returns
        -------
        rows : (n_queries, k) int64, ascending by distance with ties by row, padded with -1.
        distances : (n_queries, k) float32, padded with infinity.

        Raises
        ------
        DimensionError, LimitError, InvalidArgumentError : an argument out of range, named.
        VectorValueError : a query holds NaN or infinity, or is zero under cosine.
        """
        queries = query_rows(Q, self.dim, self._dtype)
        words = filter_words(filter, self.n)
        return self._native.search(queries, check_k(k), check_threads(threads), words)

    def vectors(self, rows: ArrayLike) -> NDArray[Any]:
        """Return the stored vectors of rows, exactly as added: (n, columns) of the stored dtype."""
        return self._native.vectors(row_numbers(rows)).view(self._dtype.numpy)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, replacing it atomically.

        Raises
        ------
        StorageError : the operating system refused.
        """
        self._native.save(os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FlatIndex:
        """Read an index that save() wrote.

        Raises
        ------
        CorruptionError : the file is not a flat index, or fails its size or checksums.
        StorageError : the operating system refused.
        """
        native = Flat.load(os.fspath(path))
        index = cls.__new__(cls)
        index._metric = parse_metric(native.metric)
        index._dtype = parse_vector_type(native.dtype)
        index._native = native
        return index

    @property
    def n(self) -> int:
        """Rows added so far, removed ones included."""
        return self._native.n

    @property
    def n_live(self) -> int:
        """Rows added and not removed."""
        return self._native.n_live

    @property
    def dim(self) -> int:
        """Elements of a vector."""
        return self._native.dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._metric.value

    @property
    def dtype(self) -> str:
        """Name of the stored vector type."""
        return self._dtype.value

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory held for rows, norms and tombstones."""
        return self._native.memory_bytes

    def __len__(self) -> int:
        return self.n_live

    def __repr__(self) -> str:
        return (
            f"FlatIndex(dim={self.dim}, metric={self.metric!r}, dtype={self.dtype!r}, "
            f"n={self.n}, n_live={self.n_live})"
        )
