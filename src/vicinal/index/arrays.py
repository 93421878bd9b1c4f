"""What callers pass as vectors, queries, rows and filters, turned into arrays for native code.

Native code casts nothing. Here a value is converted only where no meaning is lost: real numbers
become float32 or float16, integers within [-128, 127] become int8, booleans are packed to bits.
All else raises and says what to pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vicinal.model.errors import DimensionError, InvalidArgumentError, LimitError
from vicinal.model.limits import BATCH_QUERIES_MAX, K_MAX, THREADS_MAX
from vicinal.model.metric import VectorType

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def stored_rows(values: ArrayLike, dim: int, dtype: VectorType, name: str = "X") -> NDArray[Any]:
    """Return values as a C-contiguous (n, dtype.columns(dim)) array of the stored dtype.

    Parameters
    ----------
    values : (n, dim) numbers; for bit (n, dim) booleans, or (n, dim / 8) packed uint8.
    name : the caller's name of the argument, for messages.

    Raises
    ------
    DimensionError : another number of columns.
    InvalidArgumentError : not two-dimensional, or elements that the dtype cannot hold.
    """
    array = np.asarray(values)
    if array.ndim != 2:
        raise InvalidArgumentError(f"{name} has {array.ndim} dimensions; pass (n, dim)")
    if dtype is VectorType.BIT and array.dtype == np.bool_:
        _check_columns(array.shape[1], dim, f"{name} of booleans")
        return np.packbits(array, axis=1)
    _check_columns(array.shape[1], dtype.columns(dim), name)
    return np.ascontiguousarray(_elements(array, dtype, name))


def query_rows(values: ArrayLike, dim: int, dtype: VectorType, name: str = "Q") -> NDArray[Any]:
    """Return queries as stored_rows does, float32 where rows are f16; one query may be (dim,)."""
    array = np.asarray(values)
    if array.ndim == 1:
        array = array[np.newaxis]
    query_type = VectorType.F32 if dtype is VectorType.F16 else dtype
    queries = stored_rows(array, dim, query_type, name)
    if len(queries) > BATCH_QUERIES_MAX:
        raise LimitError(f"{len(queries)} queries; pass at most {BATCH_QUERIES_MAX} in one call")
    return queries


def row_numbers(values: ArrayLike, name: str = "rows") -> NDArray[np.int64]:
    """Return row numbers as a one-dimensional int64 array; a single number may be a scalar."""
    array = np.asarray(values)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim > 1 or array.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"{name} is {array.dtype} of {array.ndim} dimensions; pass integers of one dimension"
        )
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise InvalidArgumentError(f"{name} holds {array.max()}, above any row number")
    return np.ascontiguousarray(array.reshape(-1), dtype=np.int64)


def filter_words(values: NDArray[Any] | None, n: int) -> NDArray[np.uint64] | None:
    """Return a filter as words of a bitset over rows.

    Parameters
    ----------
    values : None (all rows pass); a boolean mask of shape (n,); or a packed bitset, uint64, with
        bit r % 64 of word r // 64 for row r. Rows past the end of a bitset do not pass.
    n : rows of the index.
    """
    if values is None:
        return None
    if values.ndim != 1 or values.dtype not in (np.dtype(np.bool_), np.dtype(np.uint64)):
        raise InvalidArgumentError(
            f"filter is {values.dtype} of {values.ndim} dimensions; pass a mask of {n} booleans "
            "or a uint64 bitset"
        )
    if values.dtype == np.uint64:
        return np.ascontiguousarray(values)
    if len(values) != n:
        raise InvalidArgumentError(f"filter has {len(values)} booleans, the index {n} rows")
    packed = np.packbits(values, bitorder="little")
    words = np.zeros((n + 63) // 64 * 8, np.uint8)
    words[: len(packed)] = packed
    return words.view("<u8").astype(np.uint64, copy=False)


def check_k(k: int) -> int:
    """Return k; LimitError above K_MAX, InvalidArgumentError below 1."""
    if k < 1:
        raise InvalidArgumentError(f"k is {k}; choose 1 to {K_MAX}")
    if k > K_MAX:
        raise LimitError(f"k is {k}, above the limit of {K_MAX}; ask for fewer or scroll")
    return k


def check_threads(threads: int) -> int:
    """Return threads (0: all); InvalidArgumentError outside 0 to THREADS_MAX."""
    if not 0 <= threads <= THREADS_MAX:
        raise InvalidArgumentError(f"threads is {threads}; choose 0 (all) to {THREADS_MAX}")
    return threads


def _check_columns(columns: int, expected: int, name: str) -> None:
    if columns != expected:
        raise DimensionError(f"{name} has {columns} columns, the index needs {expected}")


def _elements(array: NDArray[Any], dtype: VectorType, name: str) -> NDArray[Any]:
    wanted = dtype.numpy
    if array.dtype == wanted or array.size == 0:
        return array.astype(wanted, copy=False)
    if dtype in (VectorType.F32, VectorType.F16) and array.dtype.kind in "fiu":
        with np.errstate(over="ignore"):  # becomes infinity, which native code refuses by row
            return array.astype(wanted)
    if dtype is VectorType.I8 and array.dtype.kind in "iu":
        low, high = array.min(), array.max()
        if low < -128 or high > 127:
            raise InvalidArgumentError(
                f"{name} holds {low if low < -128 else high}; int8 rows hold -128 to 127"
            )
        return array.astype(wanted)
    remedy = {
        VectorType.F32: "real numbers",
        VectorType.F16: "real numbers",
        VectorType.I8: "integers from -128 to 127",
        VectorType.BIT: "booleans, or uint8 packed as numpy.packbits does",
    }[dtype]
    raise InvalidArgumentError(
        f"{name} is {array.dtype}, the index stores {dtype.value}; pass {remedy}"
    )
