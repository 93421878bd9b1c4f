"""What users hand over, turned into what the engine takes: keys, one C-ordered matrix, payload bytes.

Conversions are those a user expects and no others: lists and float64 become the collection's
float type, integers become int8 where they fit, tables become columns. Whatever would lose information raises.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from vicinal.index import NORM_SQUARED_MAX, NORM_SQUARED_MIN, usual_queries
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import DimensionError, InvalidArgumentError, VectorValueError
from vicinal.model.metric import Metric, VectorType
from vicinal.model.payload import encode_payload

ID_FIELD, VECTOR_FIELD = "id", "vector"

_FLOATS = (VectorType.F32, VectorType.F16)


def to_matrix(
    vectors: Any, config: CollectionConfig, what: str, *, query: bool = False
) -> npt.NDArray[Any]:
    """Return (n, columns), C order, in the dtype that the native index takes.

    Stored rows have the collection's dtype; queries float32 for f32 and f16, int8 for i8, packed uint8 for bit.

    Raises
    ------
    DimensionError : another number of columns.
    VectorValueError : NaN, infinity (also by overflow to f16), or zero under cosine; names the row.
    InvalidArgumentError : not numbers, or not representable in the dtype.
    """
    dtype = config.dtype
    target = np.dtype(np.float32) if query and dtype is VectorType.F16 else dtype.numpy
    array = _as_array(vectors, what)
    if array.ndim != 2:
        raise InvalidArgumentError(f"{what}: shape is {array.shape}; give (n, {config.dim})")
    if array.shape[1] != config.columns:
        given, unit = (
            array.shape[1],
            " bytes (8 dimensions each)" if dtype is VectorType.BIT else "",
        )
        raise DimensionError(
            f"{what}: dimension is {given}{unit}, the collection's is {config.columns}{unit}"
        )
    if array.dtype == target:
        converted = np.ascontiguousarray(array)
    elif dtype in (VectorType.F32, VectorType.F16):
        if array.dtype.kind not in "fiu":
            raise InvalidArgumentError(f"{what}: dtype is {array.dtype}; give numbers")
        with np.errstate(over="ignore"):
            converted = np.ascontiguousarray(array, dtype=target)
    else:
        converted = _exact_integers(array, target, what)
    _check_rows(converted, array, config, what)
    return converted


def to_query(vector: Any, config: CollectionConfig) -> tuple[npt.NDArray[Any], bool]:
    """Return ((n, columns) queries, whether a single one was given)."""
    if config.dtype in _FLOATS:
        # The common cases in one look; whatever is wrong with others is found and named below.
        numbers = vector if type(vector) is np.ndarray else _floats(vector)
        if numbers is not None:
            ndim = usual_queries(numbers, config.dim)
            if ndim == 1:
                return numbers.reshape(1, -1), True
            if ndim == 2:
                return numbers, False
    array = _as_array(vector, "query")
    single = array.ndim == 1
    if array.size == 0 and not single:
        raise InvalidArgumentError("query batch is empty; give at least one query")
    return to_matrix(array.reshape(1, -1) if single else array, config, "query", query=True), single


def _floats(vector: Any) -> npt.NDArray[np.float32] | None:
    """A list that begins with a float, in a quarter of the time that NumPy takes; None where it is anything else."""
    if type(vector) is not list or not vector:
        return None
    numbers = cast("list[Any]", vector)
    if type(numbers[0]) is not float:
        return None
    try:
        return np.frombuffer(array("f", numbers), np.float32)
    except (TypeError, OverflowError):
        return None


def rows_to_columns(
    rows: Iterable[Mapping[str, Any]],
) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
    """Split dicts into ids, vectors and payloads: every field but `id` and `vector` is payload."""
    ids: list[Any] = []
    vectors: list[Any] = []
    payloads: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if not isinstance(cast("object", row), Mapping):
            raise InvalidArgumentError(
                f"point {i} is of type {type(row).__name__}; give dicts, or ids= and vectors="
            )
        payload = dict(row)
        for field in (ID_FIELD, VECTOR_FIELD):
            if field not in payload:
                raise InvalidArgumentError(f"point {i} has no {field!r}; it has {sorted(payload)}")
        ids.append(payload.pop(ID_FIELD))
        vectors.append(payload.pop(VECTOR_FIELD))
        payloads.append(payload)
    return ids, vectors, payloads


def to_payloads(payload: Any, n: int) -> list[bytes] | None:
    """Payload bytes of n points from dicts, an Arrow table or batch, or a pandas or polars frame; None stays None."""
    if payload is None:
        return None
    records = _records(payload)
    if len(records) != n:
        raise InvalidArgumentError(f"payload has {len(records)} rows for {n} ids")
    return [encode_payload(record) for record in records]


def batches(n: int, row_bytes: int, bytes_max: int, rows_max: int) -> Iterator[tuple[int, int]]:
    """Cut n rows into ranges of at most bytes_max bytes of vectors and rows_max rows."""
    step = max(1, min(rows_max, bytes_max // max(1, row_bytes)))
    for start in range(0, n, step):
        yield start, min(n, start + step)


def _records(payload: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(payload, Mapping):
        raise InvalidArgumentError("payload is one dict; give a list with one dict for each id")
    if hasattr(payload, "to_pylist"):  # Arrow
        return payload.to_pylist()
    if hasattr(payload, "to_dicts"):  # polars
        return payload.to_dicts()
    if hasattr(payload, "to_dict") and hasattr(payload, "columns"):  # pandas
        records = payload.to_dict(orient="records")
        return [{k: _no_nan(v) for k, v in record.items()} for record in records]
    if isinstance(payload, Sequence) and not isinstance(payload, str | bytes):
        return cast("Sequence[Mapping[str, Any]]", payload)
    if isinstance(payload, Iterable):
        return list(cast("Iterable[Mapping[str, Any]]", payload))
    raise InvalidArgumentError(
        f"payload is of type {type(payload).__name__}; give dicts, an Arrow table, or a pandas or polars frame"
    )


def _no_nan(value: Any) -> Any:
    """pandas writes a missing value as NaN, NaT or NA; here it is null."""
    if isinstance(value, float):
        return None if value != value else value
    name = type(value).__name__
    if name in ("NaTType", "NAType"):
        return None
    return value.to_pydatetime() if name == "Timestamp" else value


def _as_array(vectors: Any, what: str) -> npt.NDArray[Any]:
    if isinstance(vectors, np.ndarray):
        return cast("npt.NDArray[Any]", vectors)
    if hasattr(vectors, "to_numpy"):
        return _from_table(vectors, what)
    if isinstance(vectors, list | tuple) and vectors and isinstance(vectors[0], np.ndarray):
        return _stack([np.asarray(v) for v in cast("list[Any]", vectors)], what)
    given = cast("Any", vectors)
    try:
        return np.asarray(given)
    except ValueError:
        lengths = sorted({len(v) if hasattr(v, "__len__") else 1 for v in given})
        raise DimensionError(f"{what}: vectors differ in length: {lengths}") from None


def _from_table(column: Any, what: str) -> npt.NDArray[Any]:
    """Arrow list arrays, pandas and polars columns of vectors."""
    if hasattr(column, "combine_chunks"):  # pyarrow.ChunkedArray
        column = column.combine_chunks()
    if hasattr(column, "flatten") and hasattr(column, "type") and hasattr(column, "null_count"):
        if column.null_count:
            raise InvalidArgumentError(
                f"{what}: {column.null_count} vectors are null; drop those points"
            )
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if len(column) and len(flat) % len(column):
            raise DimensionError(f"{what}: vectors differ in length")
        return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)
    values = column.to_numpy()
    if values.dtype != object or values.ndim != 1:
        return values
    null = sum(value is None for value in values)
    if null:
        raise InvalidArgumentError(f"{what}: {null} vectors are null; drop those points")
    return _stack([np.asarray(value) for value in values], what)


def _stack(vectors: list[npt.NDArray[Any]], what: str) -> npt.NDArray[Any]:
    shapes = {vector.shape for vector in vectors}
    if len(shapes) > 1:
        raise DimensionError(f"{what}: vectors differ in shape: {sorted(map(str, shapes))}")
    return np.stack(vectors)


def _exact_integers(
    array: npt.NDArray[Any], target: np.dtype[np.generic], what: str
) -> npt.NDArray[Any]:
    if array.dtype.kind not in "iufb":
        raise InvalidArgumentError(f"{what}: dtype is {array.dtype}; give integers for {target}")
    with np.errstate(invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype=target)
    if not np.array_equal(converted, array):
        limits = np.iinfo(cast("Any", target))
        raise InvalidArgumentError(
            f"{what}: values do not fit {target} exactly ({limits.min} to {limits.max}, whole numbers)"
        )
    return converted


def _check_rows(
    converted: npt.NDArray[Any], given: npt.NDArray[Any], config: CollectionConfig, what: str
) -> None:
    """Refuse rows that have no distance: not finite, or without a direction under cosine."""
    cosine = config.metric is Metric.COSINE
    if converted.dtype == np.float32:
        # One pass in the good case: a row with NaN or infinity has no finite square sum.
        squares = np.einsum("ij,ij->i", converted, converted)
        if np.isfinite(squares).all() and (not cosine or (squares > NORM_SQUARED_MIN).all()):
            return
    if converted.dtype.kind == "f" and not np.isfinite(converted).all():
        row, column = (int(v) for v in np.argwhere(~np.isfinite(converted))[0])
        raise VectorValueError(
            f"{what}: row {row} holds {given[row, column]!r} at position {column}, which is not a "
            f"finite {converted.dtype}; drop the point or mend the value"
        )
    if not cosine:
        return
    wide = converted.astype(np.float64)
    squares = np.einsum("ij,ij->i", wide, wide)
    bad = (squares <= NORM_SQUARED_MIN) | (squares >= NORM_SQUARED_MAX)
    if bad.any():
        row = int(np.argmax(bad))
        kind = "the zero vector" if squares[row] == 0 else f"of length {squares[row] ** 0.5:.3g}"
        raise VectorValueError(
            f"{what}: row {row} is {kind}, which has no usable direction; the cosine metric needs one "
            "(drop the point, scale it, or use metric='l2')"
        )
