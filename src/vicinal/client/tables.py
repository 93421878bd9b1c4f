"""Points and hits as Arrow columns.

An id is a struct of `number`, `text` and `uuid`, of which one is not null, so that it keeps its type and every stream
has one schema. A vector is a FixedSizeList; a payload is MessagePack as it is stored (binary), or JSON (text).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from vicinal.model.config import CollectionConfig
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.hits import HitsBatch, Point, id_array
from vicinal.model.ids import PointId
from vicinal.model.payload import decode_payload
from vicinal.model.recall import mean_recall
from vicinal.wire import messages as m
from vicinal.wire.arrow import data_of, pa
from vicinal.wire.codec import codec_by_look, stored_dtype

ID, VECTOR, PAYLOAD, EXPIRES, QUERY, DISTANCE, VERSION = (
    "id",
    "vector",
    "payload",
    "expires_at",
    "query",
    "distance",
    "version",
)
ID_TYPE: Any = pa.struct([("number", pa.int64()), ("text", pa.utf8()), ("uuid", pa.binary(16))])
TIME_TYPE: Any = pa.timestamp("ms", "UTC")


def vector_type(config: CollectionConfig, *, query: bool = False) -> Any:
    """The type of a vector column."""
    return pa.list_(pa.from_numpy_dtype(stored_dtype(config, query=query)), config.columns)


def payload_type(json: bool) -> Any:
    """The type of a payload column."""
    return pa.utf8() if json else pa.binary()


def points_schema(config: CollectionConfig, *, with_vectors: bool, json: bool) -> Any:
    """The schema of points that are read."""
    fields: list[Any] = [(ID, ID_TYPE), (VERSION, pa.int64()), (PAYLOAD, payload_type(json))]
    fields.append((EXPIRES, TIME_TYPE))
    if with_vectors:
        fields.append((VECTOR, vector_type(config)))
    return pa.schema(fields)


def points_batch(points: Sequence[Point], schema: Any, config: CollectionConfig) -> Any:
    """Points as a record batch of `points_schema`."""
    json = schema.field(PAYLOAD).type == pa.utf8()
    columns = [
        id_column([p.id for p in points]),
        pa.array([p.version for p in points], pa.int64()),
        payload_column([p.raw_payload for p in points], json=json),
        pa.array([p.expires_at for p in points], TIME_TYPE),
    ]
    if len(schema) > len(columns):
        rows = [cast("npt.NDArray[Any]", p.vector) for p in points]
        matrix = np.stack(rows) if rows else np.empty((0, config.columns), config.dtype.numpy)
        columns.append(vector_column(matrix))
    return pa.record_batch(columns, schema=schema)


class HitsMetadata(msgspec.Struct, frozen=True):
    """What a record batch of hits says beside its columns."""

    recall_estimate: float | None = None


def hits_schema(
    config: CollectionConfig, *, with_payload: bool, with_vectors: bool, json: bool
) -> Any:
    """The schema of what searches find; `query` is the place of the query in its batch."""
    fields: list[Any] = [(QUERY, pa.int32()), (ID, ID_TYPE), (DISTANCE, pa.float32())]
    if with_payload:
        fields.append((PAYLOAD, payload_type(json)))
    if with_vectors:
        fields.append((VECTOR, vector_type(config)))
    return pa.schema(fields)


def hits_batch(found: HitsBatch, schema: Any) -> Any:
    """What queries found as a record batch of `hits_schema`: (n, k) hits in n * k rows."""
    n, k = found.ids.shape
    columns = [
        pa.array(np.repeat(np.arange(n, dtype=np.int32), k)),
        id_column(found.ids.reshape(-1)),
        pa.array(np.ascontiguousarray(found.distances, np.float32).reshape(-1)),
    ]
    if found.raw_payloads is not None:
        flat = [raw for row in found.raw_payloads for raw in row]
        columns.append(payload_column(flat, json=schema.field(PAYLOAD).type == pa.utf8()))
    if found.vectors is not None:
        columns.append(vector_column(found.vectors.reshape(n * k, -1)))
    return pa.record_batch(columns, schema=schema)


def hits_message(found: HitsBatch, schema: Any) -> bytes:
    """`hits_batch` as a FlightData, whose metadata says the recall to expect."""
    metadata = msgspec.json.encode(HitsMetadata(found.recall_estimate))
    return data_of(hits_batch(found, schema).serialize(), metadata=metadata)


def recall_of(metadata: bytes) -> float | None:
    """The recall to expect that the metadata of `hits_message` says."""
    return msgspec.json.decode(metadata, type=HitsMetadata).recall_estimate


def found_of(
    batches: Sequence[Any],
    counts: Sequence[int],
    recalls: Sequence[float | None],
    config: CollectionConfig,
) -> HitsBatch:
    """What `hits_message` made of the hits of counts[i] queries each, put together again."""
    width = min(batch.num_rows // n for batch, n in zip(batches, counts, strict=True))
    total = sum(counts)
    parts: list[Any] = []
    names = batches[0].schema.names
    for batch, n in zip(batches, counts, strict=True):
        whole = batch.num_rows // n
        kept = [i for i in range(n * whole) if i % whole < width] if whole > width else None
        parts.append(batch if kept is None else batch.take(pa.array(kept)))
    ids = [id_values(part.column(ID)) for part in parts]
    whole_ids = (
        np.concatenate(ids)
        if all(i.dtype == np.int64 for i in ids)
        else id_array([i for part in ids for i in part.tolist()])
    )
    distances = np.concatenate([part.column(DISTANCE).to_numpy() for part in parts])
    payloads = vectors = None
    if PAYLOAD in names:
        flat = [raw for part in parts for raw in part.column(PAYLOAD).to_pylist()]
        payloads = [flat[i * width : (i + 1) * width] for i in range(total)]
    if VECTOR in names:
        matrices = [vector_matrix(part.column(VECTOR), VECTOR) for part in parts]
        vectors = np.concatenate(matrices).reshape(total, width, config.columns)
    return HitsBatch(
        whole_ids.reshape(total, width),
        distances.reshape(total, width),
        payloads,
        vectors,
        recall_estimate=mean_recall(recalls, counts),
    )


def id_column(ids: Sequence[PointId] | npt.NDArray[Any]) -> Any:
    """Ids as a column."""
    if isinstance(ids, np.ndarray) and ids.dtype == np.int64:
        n = len(ids)
        return pa.StructArray.from_arrays(
            [pa.array(ids), pa.nulls(n, pa.utf8()), pa.nulls(n, pa.binary(16))],
            fields=list(ID_TYPE),
        )
    values = ids.tolist() if isinstance(ids, np.ndarray) else ids
    texts = [i if isinstance(i, str) else None for i in values]
    uuids = [i.bytes if isinstance(i, uuid.UUID) else None for i in values]
    numbers = [i if isinstance(i, int) else None for i in values]
    return pa.StructArray.from_arrays(
        [
            pa.array(numbers, pa.int64()),
            pa.array(texts, pa.utf8()),
            pa.array(uuids, pa.binary(16)),
        ],
        fields=list(ID_TYPE),
    )


def id_values(column: Any) -> npt.NDArray[Any]:
    """The ids of a column: a struct as `id_column` makes it, or a column of one type; dictionaries too.

    Raises InvalidArgumentError where a value is null, or the type is none of an id.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_struct(kind):
        return _struct_ids(column)
    if column.null_count:
        raise InvalidArgumentError(
            f"column {ID!r} has {column.null_count} nulls; drop those points"
        )
    if pa.types.is_integer(kind):
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16:
        return _objects([uuid.UUID(bytes=raw) for raw in column.to_pylist()])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind).endswith("uuid>"):
        return _objects(column.to_pylist())
    raise InvalidArgumentError(
        f"column {ID!r} is of type {kind}; give int64, utf8, fixed_size_binary[16] (UUIDs) or {ID_TYPE}"
    )


def _struct_ids(column: Any) -> npt.NDArray[Any]:
    names = {column.type.field(i).name for i in range(column.type.num_fields)}
    if names != {"number", "text", "uuid"}:
        raise InvalidArgumentError(f"column {ID!r} is a struct of {sorted(names)}; give {ID_TYPE}")
    numbers, texts, uuids = (column.field(name) for name in ("number", "text", "uuid"))
    n = len(column)
    alone = numbers.null_count == 0 and texts.null_count == uuids.null_count == n
    if alone and numbers.type == pa.int64():
        return numbers.to_numpy()
    rows = zip(numbers.to_pylist(), texts.to_pylist(), uuids.to_pylist(), strict=True)
    values: list[PointId] = []
    for i, row in enumerate(rows):
        given = [value for value in row if value is not None]
        if len(given) != 1:
            raise InvalidArgumentError(
                f"column {ID!r}: row {i} has {len(given)} of number, text and uuid; give one"
            )
        value = given[0]
        values.append(uuid.UUID(bytes=value) if isinstance(value, bytes) else value)
    return _objects(values)


def _objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    made = np.empty(len(values), object)
    made[:] = values
    return made


def vector_column(matrix: npt.NDArray[Any]) -> Any:
    """(n, columns) rows as a FixedSizeList column, without a copy."""
    flat = np.ascontiguousarray(matrix).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix.shape[1])


def vector_matrix(column: Any, what: str) -> npt.NDArray[Any]:
    """(n, columns) rows of a FixedSizeList column, without a copy where they lie aligned.

    Raises InvalidArgumentError where it is another type, or holds nulls.
    """
    if not pa.types.is_fixed_size_list(column.type):
        raise InvalidArgumentError(
            f"column {what!r} is of type {column.type}; give a FixedSizeList"
        )
    flat = column.flatten()
    if column.null_count or flat.null_count:
        raise InvalidArgumentError(f"column {what!r} has nulls; drop those points")
    try:
        values = flat.to_numpy(zero_copy_only=True)
    except pa.ArrowInvalid:
        raise InvalidArgumentError(
            f"column {what!r} is of type {column.type}; its values are numbers"
        ) from None
    return np.require(values, requirements="A").reshape(len(column), column.type.list_size)


def payload_column(raws: Sequence[bytes], *, json: bool) -> Any:
    """Stored payloads as a column."""
    if not json:
        return pa.array(raws, pa.binary())
    return pa.array([msgspec.json.encode(decode_payload(raw)).decode() for raw in raws], pa.utf8())


def payload_values(batch: Any) -> list[Any] | None:
    """The payload of each row of points to write: the column `payload`, and every column that is not the point's own
    as a field of that name. None where there is neither."""
    names = batch.schema.names
    if len(set(names)) != len(names):
        raise InvalidArgumentError(f"the columns are {names}; name each of them once")
    others = [name for name in names if name not in (ID, VECTOR, PAYLOAD, EXPIRES)]
    rows: list[Any] | None = None
    if PAYLOAD in names:
        column = batch.column(PAYLOAD)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        rows = [_payload(raw) for raw in column.to_pylist()]
    if others:
        fields = batch.select(others).to_pylist()
        if rows is None:
            return fields
        return [{**(row or {}), **more} for row, more in zip(rows, fields, strict=True)]
    return rows


def _payload(raw: Any) -> Any:
    if raw is None:
        return None
    if not isinstance(raw, bytes | str):
        raise InvalidArgumentError(
            f"column {PAYLOAD!r} holds {type(raw).__name__}; give MessagePack (binary) or JSON (text)"
        )
    content = raw.encode() if isinstance(raw, str) else raw
    return codec_by_look(content).load(msgspec.Raw(content))


def expiry_values(batch: Any) -> list[Any] | None:
    """When each point to write expires: the column `expires_at`, times or seconds since 1970, null as the ttl says."""
    if EXPIRES not in batch.schema.names:
        return None
    return cast("list[Any]", batch.column(EXPIRES).to_pylist())


def upsert_schema(config: CollectionConfig) -> Any:
    """The schema of `upsert_batch`."""
    return pa.schema([(ID, ID_TYPE), (VECTOR, vector_type(config)), (PAYLOAD, pa.binary())])


def upsert_batch(request: m.Upsert, config: CollectionConfig) -> Any:
    """The record batch of an upsert's columns."""
    ids = request.ids or []
    if all(type(i) is int for i in ids):
        column = id_column(np.array(ids, np.int64))
    else:
        column = id_column([i.uuid if isinstance(i, m.UuidId) else i for i in ids])
    raw = cast("bytes", request.vectors)
    matrix = np.frombuffer(raw, config.dtype.numpy).reshape(-1, config.columns)
    payloads = [bytes(raw) for raw in request.payloads or [b"\x80"] * len(ids)]
    columns = [column, vector_column(matrix), pa.array(payloads, pa.binary())]
    return pa.record_batch(columns, schema=upsert_schema(config))
