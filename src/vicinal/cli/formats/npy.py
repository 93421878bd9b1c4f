"""A .npy matrix of vectors; ids (and payload) come from a second file, or rows are numbered from 0.

The second file is .npy (integers or strings), .txt (one id a line; integers where every line is one), or .jsonl
(`id` and payload fields). Writing makes `NAME.npy` and `NAME.points.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vicinal.cli.formats.jsonl import JsonlReader, JsonlWriter
from vicinal.cli.formats.rows import FileError, Reader, ReadOptions, Rows, Shape, Writer

POINTS_SUFFIX = ".points.jsonl"


class NpyReader(Reader):
    """Reads slices of a memory-mapped matrix; rows are numbered from 1 in messages."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._path, self._options = path, options
        self._matrix = load_matrix(path)
        self.n_rows = len(self._matrix)
        self._ids = (
            None if options.ids is None or _is_jsonl(options.ids) else _load_ids(options.ids)
        )
        if self._ids is not None and len(self._ids) != self.n_rows:
            raise FileError(
                f"{options.ids} has {len(self._ids)} ids, {path} has {self.n_rows} vectors"
            )

    def batches(self) -> Iterator[Rows]:
        """Yield rows."""
        if self._options.ids is not None and self._ids is None:
            yield from self._with_points(self._options.ids)
            return
        size = self._options.batch_size
        for start in range(self._options.skip, self.n_rows or 0, size):
            vectors = np.asarray(self._matrix[start : start + size])
            numbers = range(start, start + len(vectors))
            ids: list[Any] = list(numbers) if self._ids is None else [self._ids[i] for i in numbers]
            yield Rows(start + 1, ids, vectors, [{} for _ in numbers])

    def _with_points(self, points: Path) -> Iterator[Rows]:
        options = ReadOptions(
            id_column=self._options.id_column,
            batch_size=self._options.batch_size,
            skip=self._options.skip,
            vectors=False,
        )
        start = self._options.skip
        for rows in JsonlReader(points, options).batches():
            end = start + len(rows.ids)
            if end > len(self._matrix):
                raise FileError(
                    f"{points} has more than the {len(self._matrix)} rows of {self._path}"
                )
            rows.vectors = np.asarray(self._matrix[start:end])
            rows.start, rows.numbers = start + 1, None
            yield rows
            start = end
        if start != max(len(self._matrix), self._options.skip):
            raise FileError(
                f"{points} has {start} rows, {self._path} has {len(self._matrix)} vectors"
            )


class NpyWriter(Writer):
    """Writes a matrix and, beside it, ids and payload."""

    def __init__(self, path: Path, shape: Shape) -> None:
        super().__init__(path)
        size = (shape.n_points, shape.columns)
        self._file = self.temporary.open("wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(shape.numpy),
            "fortran_order": False,
            "shape": size,
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._expected = shape.n_points
        self._written = 0
        self._points = JsonlWriter(path.with_name(path.stem + POINTS_SUFFIX))

    def write(self, rows: Rows) -> None:
        """Append rows."""
        if rows.vectors is not None:
            self._file.write(np.ascontiguousarray(rows.vectors).tobytes())
            self._written += len(rows.vectors)
        self._points.write(Rows(rows.start, rows.ids, None, rows.payloads))

    def finish(self) -> list[Path]:
        """Complete both files."""
        if self._written != self._expected:
            raise FileError(
                f"{self.path}: {self._written} points were read where {self._expected} were counted; "
                "the collection changed meanwhile, so export it again"
            )
        self._file.close()
        made = self._points.finish()
        self.temporary.replace(self.path)
        return [self.path, *made]

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._file.close()
        self._points.abandon()
        super().abandon()


def load_matrix(path: Path) -> npt.NDArray[Any]:
    """A .npy file of two dimensions and numbers, memory-mapped; never unpickled."""
    matrix = _load(path, mmap_mode="r")
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise FileError(
            f"{path}: holds {matrix.dtype} of shape {matrix.shape}; vectors are a matrix (n, dim) of numbers"
        )
    return matrix


def _load(path: Path, mmap_mode: Literal["r"] | None = None) -> Any:
    try:
        array: Any = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except Exception as fault:  # the header is a Python expression: its reader raises what it meets
        raise FileError(f"{path}: not a readable .npy file: {fault}") from None
    if not hasattr(array, "ndim"):
        raise FileError(f"{path}: holds an archive of arrays; give one array, as .npy")
    return array


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() in (".jsonl", ".ndjson")


def _load_ids(path: Path) -> list[Any]:
    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    if path.suffix.lower() == ".npy":
        ids = _load(path)
        if ids.ndim != 1 or ids.dtype.kind not in "iuU":
            raise FileError(
                f"{path}: holds {ids.dtype} of shape {ids.shape}; ids are integers or strings, shape (n,)"
            )
        return ids.tolist()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as fault:
        raise FileError(
            f"{path}: not UTF-8 at byte {fault.start}; ids are text, one a line"
        ) from None
    try:
        return [int(line) for line in lines]
    except ValueError:
        return lines
