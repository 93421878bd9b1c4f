"""Vectors to measure with, out of a file: all formats that `import` reads, and HDF5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from vicinal.cli.formats import FileError, ReadOptions, open_reader
from vicinal.model.metric import parse_metric

HDF5_SUFFIXES = (".h5", ".hdf5")
HDF5_ROWS, HDF5_QUERIES = "train", "test"
HDF5_METRICS = {
    "euclidean": "l2",
    "angular": "cosine",
    "hamming": "hamming",
    "ip": "ip",
    "dot": "ip",
}
"""What files of ann-benchmarks call the metrics."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Rows (n, columns) and what the file says about them; None where it says nothing.

    Attributes
    ----------
    queries : (n_queries, columns), where the file has some of its own.
    """

    rows: npt.NDArray[Any]
    queries: npt.NDArray[Any] | None = None
    metric: str | None = None
    dtype: str | None = None


def load_vectors(
    path: Path, *, column: str | None = None, id_column: str | None = None, limit: int | None = None
) -> Vectors:
    """The vectors of a file; the first `limit` rows only where that is given.

    Parameters
    ----------
    column : where the vectors are: a column of a table (`vector`), a data set of HDF5 (`train`, or its only matrix).
    id_column : of a table, where it is not `id`; ids are checked and not used.

    Raises
    ------
    FileError : the file cannot be read, or holds no matrix of numbers.
    """
    if path.suffix.lower() in HDF5_SUFFIXES:
        return _from_hdf5(path, column, limit)
    if path.suffix.lower() == ".npy":
        from vicinal.cli.formats.npy import load_matrix

        if column is not None:
            raise FileError(
                f"{path}: --vector-column goes with tables and HDF5; a .npy file is one matrix"
            )
        return Vectors(np.ascontiguousarray(load_matrix(path)[:limit]))
    return _from_table(path, column, id_column, limit)


def _from_table(
    path: Path, column: str | None, id_column: str | None, limit: int | None
) -> Vectors:
    reader = open_reader(path, None, ReadOptions(id_column=id_column, vector_column=column))
    parts: list[npt.NDArray[Any]] = []
    n = 0
    for batch in reader.batches():
        if batch.vectors is None:
            raise FileError(f"{path}: {reader.unit} {batch.start} has no vector")
        parts.append(np.asarray(batch.vectors))
        n += len(batch.vectors)
        if limit is not None and n >= limit:
            break
    if not parts:
        raise FileError(f"{path}: has no rows; there is nothing to measure")
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise FileError(f"{path}: vectors of {min(widths)} and of {max(widths)} dimensions")
    said = reader.shape
    rows = np.concatenate(parts)[:limit]
    if said is None:
        return Vectors(rows)
    return Vectors(rows, None, said.metric, said.dtype)


def _from_hdf5(path: Path, column: str | None, limit: int | None) -> Vectors:
    try:
        import h5py
    except ImportError:
        raise FileError(f"{path}: HDF5 needs h5py; pip install 'vicinal[hdf5]'") from None
    library: Any = h5py
    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    try:
        file: Any = library.File(path, "r")
    except OSError as fault:
        raise FileError(f"{path}: not a readable HDF5 file: {fault}") from None
    with file:
        matrices = list(_matrices(file))
        name = column
        if name is None:
            name = (
                HDF5_ROWS
                if HDF5_ROWS in matrices
                else (matrices[0] if len(matrices) == 1 else None)
            )
        if name is None or name not in matrices:
            known = ", ".join(map(repr, matrices)) or "none"
            raise FileError(
                f"{path}: which data set holds the vectors? Its matrices are {known}; --vector-column names one"
            )
        queries = None
        if name == HDF5_ROWS and HDF5_QUERIES in matrices:
            queries = np.asarray(file[HDF5_QUERIES])
        said = file.attrs.get("distance")
        said = said.decode() if isinstance(said, bytes) else said
        if said is not None and said not in HDF5_METRICS:
            known = ", ".join(HDF5_METRICS)
            raise FileError(
                f"{path}: its distance is {said!r}, which is none of ours; known are {known}"
            )
        metric = None if said is None else HDF5_METRICS[said]
        return Vectors(np.asarray(file[name][:limit]), queries, metric)


def _matrices(file: Any) -> Iterator[str]:
    for name, value in file.items():
        if getattr(value, "ndim", 0) == 2 and value.dtype.kind in "fiub":
            yield cast("str", name)


def stored(
    vectors: Vectors, metric: str | None, dtype: str | None, path: Path
) -> tuple[Vectors, str, str, int]:
    """Vectors as an index takes them, with metric, dtype and dimensions: as asked, as the file says, or cosine of f32.

    Booleans become packed bits.
    """
    rows, queries = vectors.rows, vectors.queries
    said = vectors.metric
    name = parse_metric(metric).value if metric is not None else said
    if dtype is None:
        dtype = vectors.dtype
    if dtype is None:
        if name == "hamming" or rows.dtype == np.bool_:
            dtype = "bit"
        else:
            dtype = {"float16": "f16", "int8": "i8"}.get(rows.dtype.name, "f32")
    name = name or ("hamming" if dtype == "bit" else "cosine")
    if dtype == "bit":
        if rows.dtype == np.bool_:
            rows = np.packbits(rows, axis=1)
        if queries is not None and queries.dtype == np.bool_:
            queries = np.packbits(queries, axis=1)
        if rows.dtype != np.uint8:
            raise FileError(
                f"{path}: holds {rows.dtype}; dtype bit takes booleans, or uint8 packed as numpy.packbits does"
            )
    dim = rows.shape[1] * (8 if dtype == "bit" else 1)
    return Vectors(rows, queries, name, dtype), name, dtype, dim
