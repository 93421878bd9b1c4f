"""JSON Lines: one object a line with `id`, `vector` and the payload's fields.

A UUID id is `{"$uuid": "..."}`; a payload field called `id` or `vector` is `payload.id` or `payload.vector`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from vicinal.cli.formats.rows import (
    FileError,
    Reader,
    ReadOptions,
    Rows,
    Writer,
    escape_field,
    id_from_json,
    id_to_json,
    stack,
    unescape_field,
)

LINE_BYTES_MAX = 64 * 2**20


class JsonlReader(Reader):
    """Reads line by line; blank lines are passed over and keep their number."""

    unit = "line"

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._path = path
        self._options = options
        self._id = options.id_column or "id"
        self._vector = options.vector_column or "vector"

    def batches(self) -> Iterator[Rows]:
        """Yield rows; FileError names the line that is no object, or lacks its id or vector."""
        rows = _Builder()
        skip = self._options.skip
        with self._path.open("rb") as file:
            for number, line in enumerate(_lines(file, self._path), 1):
                if not line.strip():
                    continue
                if skip:
                    skip -= 1
                    continue
                rows.add(number, self._parse(number, line))
                if len(rows.ids) >= self._options.batch_size:
                    yield self._rows(rows)
                    rows = _Builder()
        if rows.ids:
            yield self._rows(rows)

    def _parse(self, number: int, line: bytes) -> tuple[Any, Any, dict[str, Any]]:
        place = f"{self._path}, line {number}"
        try:
            record: Any = msgspec.json.decode(line)
        except msgspec.DecodeError as fault:
            try:
                record = json.loads(line)  # knows NaN and Infinity, which a payload may hold
            except (ValueError, RecursionError):
                raise FileError(f"{place}: not JSON: {fault}") from None
        except UnicodeDecodeError as fault:
            raise FileError(f"{place}: not UTF-8: {fault.reason}") from None
        except RecursionError:
            raise FileError(f"{place}: nested too deep; store the inner part as text") from None
        if not isinstance(record, dict):
            raise FileError(
                f"{place}: not a JSON object but {type(record).__name__}; each line is one object"
            )
        fields = cast("dict[str, Any]", record)
        wanted = (self._id, self._vector) if self._options.vectors else (self._id,)
        for column in wanted:
            if column not in fields:
                option = "--id-column" if column == self._id else "--vector-column"
                known = ", ".join(map(repr, fields)) or "none"
                raise FileError(
                    f"{place}: no field {column!r}; it has {known}; {option} names another"
                )
        try:
            id_ = id_from_json(fields.pop(self._id))
        except ValueError as fault:
            raise FileError(f"{place}: {fault}") from None
        vector = fields.pop(self._vector) if self._options.vectors else None
        return id_, vector, {unescape_field(name): value for name, value in fields.items()}

    def _rows(self, built: _Builder) -> Rows:
        rows = Rows(built.numbers[0], built.ids, None, built.payloads, built.numbers)
        if self._options.vectors:
            rows.vectors = stack(built.vectors, rows, self.unit, self._path)
        return rows


class JsonlWriter(Writer):
    """Writes one object a line; numbers in full, so that they come back equal."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = self.temporary.open("wb")
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: Rows) -> None:
        """Append rows; without vectors the lines have none."""
        for i, (id_, payload) in enumerate(zip(rows.ids, rows.payloads, strict=True)):
            record: dict[str, Any] = {"id": id_to_json(id_)}
            if rows.vectors is not None:
                vector = rows.vectors[i]
                record["vector"] = (
                    vector.astype(np.float64) if vector.dtype.kind == "f" else vector
                ).tolist()
            record.update((escape_field(name), value) for name, value in payload.items())
            line = self._encoder.encode(record)
            if b"null" in line:  # which NaN and infinity would turn into
                line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
            self._file.write(line + b"\n")

    def finish(self) -> list[Path]:
        """Complete the file."""
        self._file.close()
        self.temporary.replace(self.path)
        return [self.path]

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._file.close()
        super().abandon()


class _Builder:
    """The columns of a batch in the making."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.ids: list[Any] = []
        self.vectors: list[Any] = []
        self.payloads: list[dict[str, Any]] = []

    def add(self, number: int, row: tuple[Any, Any, dict[str, Any]]) -> None:
        self.numbers.append(number)
        self.ids.append(row[0])
        self.vectors.append(row[1])
        self.payloads.append(row[2])


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise FileError(
                f"{path}, line {number}: longer than {LINE_BYTES_MAX} bytes; is this a JSON Lines file?"
            )
        yield line
