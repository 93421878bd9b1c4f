"""What readers yield and writers take, and how ids and payload fields are written where a format knows only JSON."""

from __future__ import annotations

import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from vicinal.model.errors import InvalidArgumentError, VicinalError
from vicinal.model.ids import PointId

UUID_KEY = "$uuid"
_RESERVED = re.compile(r"(payload\.)*(id|vector)\Z")


class FileError(VicinalError):
    """A file that cannot be read or written as asked; names the file, the place in it, and the remedy."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a file is read.

    Attributes
    ----------
    id_column, vector_column : where ids and vectors are; None is `id` and `vector`.
    ids : for .npy, the file with the ids; None numbers the rows.
    batch_size : rows of one batch.
    skip : rows to pass over at the start.
    vectors : whether vectors are wanted; without, a file needs none.
    """

    id_column: str | None = None
    vector_column: str | None = None
    ids: Path | None = None
    batch_size: int = 10_000
    skip: int = 0
    vectors: bool = True


@dataclass(slots=True)
class Rows:
    """Consecutive rows of a file.

    Attributes
    ----------
    start : 1-based number of the first row (line, for JSON Lines; `numbers` where lines were blank).
    vectors : (n, columns), or a list of n lists of numbers, not yet checked.
    """

    start: int
    ids: list[PointId]
    vectors: npt.NDArray[Any] | None
    payloads: list[dict[str, Any]]
    numbers: list[int] | None = None

    def place(self, i: int) -> int:
        """The number of row i in its file."""
        return self.start + i if self.numbers is None else self.numbers[i]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a collection holds: all that a writer or a new collection needs to know."""

    dim: int
    metric: str
    dtype: str
    n_points: int = 0
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    id_kind: str = "mixed"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype of a stored row."""
        return np.dtype({"f32": "<f4", "f16": "<f2", "i8": "i1", "bit": "u1"}[self.dtype])

    @property
    def columns(self) -> int:
        """Elements of a stored row."""
        return self.dim // 8 if self.dtype == "bit" else self.dim


class Reader(ABC):
    """Rows of a file, batch by batch.

    Attributes
    ----------
    n_rows : how many there are, None where only reading tells.
    shape : what the file itself says about its vectors, None where it says nothing.
    unit : what one place in the file is called, for messages.
    """

    n_rows: int | None = None
    shape: Shape | None = None
    unit: str = "row"

    @abstractmethod
    def batches(self) -> Iterator[Rows]:
        """Yield the rows in order; FileError names the row that is bad."""


class Writer(ABC):
    """A file in the making: under a temporary name until `finish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.part")

    @abstractmethod
    def write(self, rows: Rows) -> None:
        """Append rows; vectors are in the stored dtype."""

    @abstractmethod
    def finish(self) -> list[Path]:
        """Complete the file, give it its name, and return every file made."""

    def abandon(self) -> None:
        """Remove what was written so far."""
        self.temporary.unlink(missing_ok=True)


def id_to_json(id_: PointId) -> Any:
    """A UUID is `{"$uuid": "..."}`, so that it comes back as one; str and int are themselves."""
    return {UUID_KEY: str(id_)} if isinstance(id_, uuid.UUID) else id_


def id_from_json(value: Any) -> PointId:
    """Reverse `id_to_json`; ValueError where the value is no id."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if set(fields) == {UUID_KEY}:
            return uuid.UUID(str(fields[UUID_KEY]))
    raise ValueError(f'id {value!r} is neither a string, an integer, nor {{"{UUID_KEY}": "..."}}')


def escape_field(name: str) -> str:
    """A payload field that is called `id` or `vector` stands beside those as `payload.id`, `payload.vector`."""
    return f"payload.{name}" if _RESERVED.match(name) else name


def unescape_field(name: str) -> str:
    """Reverse `escape_field`."""
    return name.removeprefix("payload.") if _RESERVED.match(name) else name


def stack(vectors: Iterable[Any], first: Rows, unit: str, path: Path) -> npt.NDArray[Any]:
    """Turn lists of numbers into a matrix; FileError names the row that differs in length or holds no number."""
    rows: list[Any] = list(vectors)
    lengths = [len(cast("list[Any]", v)) if isinstance(v, list) else -1 for v in rows]
    for i, length in enumerate(lengths):
        if length < 0:
            raise FileError(
                f"{path}, {unit} {first.place(i)}: the vector is {_shorten(rows[i])}; it is a list of numbers"
            )
        if length != lengths[0]:
            raise FileError(
                f"{path}, {unit} {first.place(i)}: the vector has {length} dimensions, the one of "
                f"{unit} {first.place(0)} has {lengths[0]}"
            )
    try:
        matrix = np.asarray(rows, dtype=np.float64)
        if np.isfinite(matrix).all():
            return matrix
    except (TypeError, ValueError, OverflowError):
        matrix = None
    for i, row in enumerate(rows):  # something is no finite number; null would pass for NaN
        for j, value in enumerate(row):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise FileError(
                    f"{path}, {unit} {first.place(i)}: the vector holds {_shorten(value)} at position {j}; "
                    "it is a list of numbers"
                )
    if matrix is None:
        raise FileError(
            f"{path}, {unit}s {first.place(0)} to {first.place(len(rows) - 1)}: a vector holds an integer too large "
            "for a float; it is a list of numbers"
        )
    return matrix


def check_batch(rows: Rows, reader: Reader, path: Path, shape: Shape) -> None:
    """Raise FileError naming the first row whose vector the collection would refuse."""
    vectors = rows.vectors
    if vectors is None or not len(vectors):
        return
    if vectors.shape[1] != shape.columns:
        packed = f" ({shape.columns} bytes)" if shape.dtype == "bit" else ""
        raise FileError(
            f"{path}, {reader.unit} {rows.place(0)}: the vector has {vectors.shape[1]} dimensions, "
            f"the collection has {shape.dim}{packed}; give the right file, or another collection"
        )
    if vectors.dtype.kind == "f":
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(
                vectors.astype(shape.numpy) if shape.numpy.kind == "f" else vectors
            ).all(axis=1)
        if bad.any():
            i = int(np.argmax(bad))
            raise FileError(
                f"{path}, {reader.unit} {rows.place(i)}: the vector holds NaN, infinity or a number too large for "
                f"{shape.dtype}; drop the row or mend the value"
            )
    if shape.metric == "cosine":
        zero = ~vectors.any(axis=1)
        if zero.any():
            raise FileError(
                f"{path}, {reader.unit} {rows.place(int(np.argmax(zero)))}: the vector is zero, which has no "
                "direction; drop the row, or use a collection with --metric l2"
            )


def last_of_each(rows: Rows) -> tuple[Rows, int]:
    """Rows without those whose id comes again later in the batch, and how many those were: the later row wins."""
    last = {_id_key(id_): i for i, id_ in enumerate(rows.ids)}
    if len(last) == len(rows.ids):
        return rows, 0
    keep = sorted(last.values())
    kept = Rows(
        rows.start,
        [rows.ids[i] for i in keep],
        None if rows.vectors is None else rows.vectors[keep],
        [rows.payloads[i] for i in keep],
        [rows.place(i) for i in keep],
    )
    return kept, len(rows.ids) - len(keep)


def blame(fault: InvalidArgumentError, rows: Rows, reader: Reader, path: Path) -> FileError:
    """Say where in the file an error of the engine comes from."""
    first, last = rows.place(0), rows.place(len(rows.ids) - 1)
    where = f"{reader.unit} {first}" if first == last else f"{reader.unit}s {first} to {last}"
    return FileError(f"{path}, {where}: {fault}")


def _id_key(id_: PointId) -> tuple[type, PointId]:
    return type(id_), id_


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
