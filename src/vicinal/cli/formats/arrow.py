"""Parquet and Arrow IPC (Feather version 2), both by pyarrow.

Columns are `id`, `vector` (a fixed-size list), one for each payload field that fits a column (see `fields`), and
`_payload`, JSON text of the rest. The schema's metadata says what the collection was, so that nothing has to be
said again at import. Any other table is read as it is: a null is then a null in the payload.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
import numpy as np
import numpy.typing as npt

from vicinal.cli.formats.rows import (
    FileError,
    Reader,
    ReadOptions,
    Rows,
    Shape,
    Writer,
    escape_field,
    id_from_json,
    id_to_json,
    unescape_field,
)

METADATA = b"vicinal"
REST = "_payload"


class _Made(msgspec.Struct):
    """What the metadata of a file says of the collection it came from."""

    dim: Annotated[int, msgspec.Meta(ge=1)]
    metric: str
    dtype: Literal["f32", "f16", "i8", "bit"]
    id: str
    rest: str
    format: int = 1


class ArrowReader(Reader):
    """Reads record batches; rows are numbered from 1."""

    def __init__(self, path: Path, kind: str, options: ReadOptions) -> None:
        self._pa = _pyarrow()
        self._path, self._kind, self._options = path, kind, options
        with self._reading():
            schema, self.n_rows = self._open()
            len(schema.names)  # raises where one is not UTF-8
        metadata: dict[bytes, bytes] = schema.metadata or {}
        self._made = self._what_was_made(metadata.get(METADATA))
        if self._made is not None:
            self.shape = Shape(self._made.dim, self._made.metric, self._made.dtype)
        self._id, self._vector = options.id_column or "id", options.vector_column or "vector"
        wanted = [("--id-column", self._id)] + [("--vector-column", self._vector)] * options.vectors
        for option, column in wanted:
            if column not in schema.names:
                known = ", ".join(map(repr, schema.names)) or "none"
                raise FileError(
                    f"{path}: no column {column!r}; it has {known}; {option} names another"
                )
        self._fields = [n for n in schema.names if n not in (self._id, self._vector)]

    def batches(self) -> Iterator[Rows]:
        """Yield rows; FileError names the row with a bad id or vector."""
        number = 1
        skip = self._options.skip
        batches = self._record_batches()
        while True:
            with self._reading():
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
            passed = min(skip, batch.num_rows)
            skip -= passed
            number += passed
            for start in range(passed, batch.num_rows, self._options.batch_size):
                part = batch.slice(start, self._options.batch_size)
                yield self._rows(part, number)
                number += part.num_rows

    @contextmanager
    def _reading(self) -> Generator[None]:
        """Around what reads the file: says that it cannot be read."""
        try:
            yield
        except (self._pa.ArrowException, OSError, UnicodeDecodeError) as fault:
            raise FileError(
                f"{self._path}: not a readable {self._kind} file: {fault}; write it again"
            ) from None

    def _what_was_made(self, raw: bytes | None) -> _Made | None:
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=_Made)
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise FileError(
                f"{self._path}: what it says of the collection it came from is damaged: {fault}; export it again"
            ) from None

    def _open(self) -> tuple[Any, int]:
        if self._kind == "parquet":
            import pyarrow.parquet as pq

            file: Any = pq.ParquetFile(self._path)
            return file.schema_arrow, file.metadata.num_rows
        with self._ipc() as source:
            if hasattr(source, "num_record_batches"):
                return source.schema, sum(
                    source.get_batch(i).num_rows for i in range(source.num_record_batches)
                )
            return source.schema, sum(batch.num_rows for batch in source)

    def _ipc(self) -> Any:
        """The file format, or the stream format, which has no index."""
        memory = self._pa.memory_map(str(self._path))
        try:
            return self._pa.ipc.open_file(memory)
        except self._pa.ArrowInvalid:
            memory.seek(0)
            return self._pa.ipc.open_stream(memory)

    def _record_batches(self) -> Iterator[Any]:
        if self._kind == "parquet":
            import pyarrow.parquet as pq

            file: Any = pq.ParquetFile(self._path)
            yield from file.iter_batches(batch_size=self._options.batch_size)
            return
        with self._ipc() as source:
            if hasattr(source, "num_record_batches"):
                for i in range(source.num_record_batches):
                    yield source.get_batch(i)
            else:
                yield from source

    def _rows(self, batch: Any, number: int) -> Rows:
        ids = self._ids(batch.column(self._id), number)
        vectors = (
            self._vectors(batch.column(self._vector), number) if self._options.vectors else None
        )
        return Rows(number, ids, vectors, self._payloads(batch, number))

    def _ids(self, column: Any, number: int) -> list[Any]:
        kind = self._made.id if self._made else None
        ids: list[Any] = column.to_pylist()
        for i, id_ in enumerate(ids):
            place = f"{self._path}, row {number + i}"
            try:
                if kind == "uuid":
                    ids[i] = uuid.UUID(id_)
                elif kind == "mixed":
                    ids[i] = id_from_json(json.loads(id_))
                elif isinstance(id_, bool) or not isinstance(id_, str | int | uuid.UUID):
                    raise ValueError(
                        f"id {id_!r} is of type {column.type}; an id is a string, an integer or a UUID"
                    )
            except (TypeError, ValueError) as fault:
                raise FileError(f"{place}: {fault}; --id-column names another column") from None
        return ids

    def _vectors(self, column: Any, number: int) -> npt.NDArray[Any]:
        pa = self._pa
        kind = column.type
        if not (
            pa.types.is_fixed_size_list(kind)
            or pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
        ):
            raise FileError(
                f"{self._path}: column {self._vector!r} is of type {kind}; vectors are lists of numbers; "
                "--vector-column names another"
            )
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise FileError(f"{self._path}, row {number + row}: the vector is null; drop the row")
        if not pa.types.is_fixed_size_list(kind):
            lengths = np.asarray(column.value_lengths().to_numpy(zero_copy_only=False))
            odd = np.flatnonzero(lengths != lengths[0])
            if len(odd):
                raise FileError(
                    f"{self._path}, row {number + int(odd[0])}: the vector has {lengths[odd[0]]} dimensions, "
                    f"the one of row {number} has {lengths[0]}"
                )
        flat = column.flatten()
        if flat.null_count:
            per_row = len(flat) // len(column)
            row = flat.is_null().to_pylist().index(True) // per_row
            raise FileError(
                f"{self._path}, row {number + row}: the vector holds a null; drop the row"
            )
        values = flat.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "fiu":
            raise FileError(
                f"{self._path}: column {self._vector!r} holds {kind.value_type}; vectors are numbers"
            )
        return values.reshape(len(column), -1)

    def _payloads(self, batch: Any, number: int) -> list[dict[str, Any]]:
        if not self._fields:
            return [{} for _ in range(batch.num_rows)]
        rows: list[dict[str, Any]] = batch.select(self._fields).to_pylist()
        if not self._made:
            return rows
        rest = self._made.rest
        payloads: list[dict[str, Any]] = []
        for i, row in enumerate(rows):
            text = row.pop(rest, None)
            payload = {
                unescape_field(name): value for name, value in row.items() if value is not None
            }
            try:
                payload |= json.loads(text) if text else {}
            except (TypeError, ValueError) as fault:
                raise FileError(
                    f"{self._path}, row {number + i}: column {rest!r} is no JSON object: {fault}"
                ) from None
            payloads.append(payload)
        return payloads


class ArrowWriter(Writer):
    """Writes record batches as they come."""

    def __init__(self, path: Path, kind: str, shape: Shape) -> None:
        super().__init__(path)
        self._pa = _pyarrow()
        self._shape = shape
        self._rest = REST
        while self._rest in shape.fields:
            self._rest += "_"
        self._schema = self._make_schema()
        if kind == "parquet":
            import pyarrow.parquet as pq

            self._out: Any = pq.ParquetWriter(str(self.temporary), self._schema, compression="zstd")
        else:
            self._out = self._pa.ipc.new_file(str(self.temporary), self._schema)

    def write(self, rows: Rows) -> None:
        """Append rows."""
        pa, shape = self._pa, self._shape
        columns: list[Any] = [pa.array(self._id_values(rows), self._schema.field("id").type)]
        if rows.vectors is not None:
            flat = pa.array(np.ascontiguousarray(rows.vectors).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, shape.columns))
        for name in shape.fields:
            values = [payload.get(name) for payload in rows.payloads]
            columns.append(pa.array(values, self._schema.field(escape_field(name)).type))
        columns.append(pa.array([self._rest_of(p) for p in rows.payloads], pa.string()))
        self._out.write_batch(pa.record_batch(columns, schema=self._schema))

    def finish(self) -> list[Path]:
        """Complete the file."""
        self._out.close()
        self.temporary.replace(self.path)
        return [self.path]

    def abandon(self) -> None:
        """Remove what was written so far."""
        self._out.close()
        super().abandon()

    def _id_values(self, rows: Rows) -> list[Any]:
        kind = self._shape.id_kind
        if kind in ("int", "str"):
            return cast("list[Any]", rows.ids)
        return [str(i) if kind == "uuid" else json.dumps(id_to_json(i)) for i in rows.ids]

    def _rest_of(self, payload: dict[str, Any]) -> str | None:
        rest = {name: value for name, value in payload.items() if name not in self._shape.fields}
        return json.dumps(rest, ensure_ascii=False, separators=(",", ":")) if rest else None

    def _make_schema(self) -> Any:
        pa, shape = self._pa, self._shape
        kinds = {
            "bool": pa.bool_(),
            "int": pa.int64(),
            "float": pa.float64(),
            "string": pa.string(),
        }
        element = {"f32": pa.float32(), "f16": pa.float16(), "i8": pa.int8(), "bit": pa.uint8()}[
            shape.dtype
        ]
        fields = [
            pa.field("id", pa.int64() if shape.id_kind == "int" else pa.string()),
            pa.field("vector", pa.list_(element, shape.columns)),
        ]
        for name, kind in shape.fields.items():
            outer, _, inner = kind.partition(":")
            fields.append(
                pa.field(escape_field(name), pa.list_(kinds[inner]) if inner else kinds[outer])
            )
        fields.append(pa.field(self._rest, pa.string()))
        made = _Made(shape.dim, shape.metric, cast("Any", shape.dtype), shape.id_kind, self._rest)
        return pa.schema(fields, metadata={METADATA: msgspec.json.encode(made)})


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
    except ImportError:
        raise FileError(
            "Parquet and Arrow files need pyarrow; pip install 'vicinal[arrow]' brings it"
        ) from None
    return pa
