"""Messages: ids keep their type, vectors their bits, errors their class, in both encodings; OpenAPI lists all of it."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import numpy as np
import pytest

import vicinal
from vicinal.model.clock import expiry_ms, to_datetime
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import OverloadedError
from vicinal.model.metric import Metric, VectorType
from vicinal.server.openapi import openapi, path_of
from vicinal.wire import messages as m
from vicinal.wire.codec import (
    JSON,
    MSGPACK,
    Codec,
    from_wire_ids,
    from_wire_time,
    many_vectors,
    to_wire_id,
    to_wire_time,
)
from vicinal.wire.faults import codes, from_fault, http_status, to_fault
from vicinal.wire.operations import OPERATIONS

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda c: c.name)
L2 = CollectionConfig(dim=2, metric=Metric.L2)


@BOTH
def test_ids_keep_their_type(codec: Codec) -> None:
    ids = ["7", 7, -(2**63), 2**63 - 1, uuid.UUID(int=7), "é"]
    body = codec.encode(m.Get(ids=[to_wire_id(i) for i in ids]))
    back = from_wire_ids(codec.decode(body, m.Get).ids)
    assert [(type(i), i) for i in back] == [(type(i), i) for i in ids]


@BOTH
def test_vectors_are_numbers_or_their_bytes(codec: Codec) -> None:
    rows = np.array([[0.1, -2.5], [3e38, 1e-40]], np.float32)
    for given in (rows.tobytes(), rows.tolist()):
        body = codec.encode(m.SearchBatch(vectors=given))
        back = np.asarray(many_vectors(codec.decode(body, m.SearchBatch).vectors, L2), np.float32)
        assert back.tobytes() == rows.tobytes()


@pytest.mark.parametrize("raw", [b"123", b"12345678abcd", b"1234"])
def test_bytes_that_are_no_whole_vectors_are_refused(raw: bytes) -> None:
    with pytest.raises(vicinal.DimensionError, match=str(len(raw))):
        many_vectors(raw, L2)


def test_queries_of_an_f16_collection_are_f32() -> None:
    half = CollectionConfig(dim=2, metric=Metric.L2, dtype=VectorType.F16)
    row = np.array([[1, 2]])
    assert many_vectors(row.astype(np.float32).tobytes(), half, query=True).dtype == np.float32
    assert many_vectors(row.astype(np.float16).tobytes(), half).dtype == np.float16


@BOTH
def test_times_keep_their_millisecond(codec: Codec) -> None:
    times = [0, 1, 1_700_000_000_001, 4_102_542_245_678, 253_402_300_799_000]
    body = codec.encode(m.Upsert(expires_at=[to_wire_time(ms) for ms in times]))
    back = codec.decode(body, m.Upsert).expires_at
    assert isinstance(back, list)
    assert [expiry_ms(from_wire_time(time or "")) for time in back] == times
    point = m.PointOut(
        id=1, version=1, payload=msgspec.Raw(b"{}"), expires_at=to_datetime(times[3])
    )
    if codec is MSGPACK:
        point.payload = msgspec.Raw(b"\x80")
    assert codec.decode(codec.encode(point), m.PointOut).expires_at == to_datetime(times[3])


@BOTH
def test_an_option_that_does_not_exist_is_refused_by_name(codec: Codec) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="efsearch"):
        codec.decode(codec.encode({"vector": [1.0], "efsearch": 3}), m.Search)


@BOTH
@pytest.mark.parametrize("value", ["10", 10.5, True, None])
def test_a_value_of_another_type_is_refused_with_its_place(codec: Codec, value: Any) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match=r"\$\.k"):
        codec.decode(codec.encode({"vector": [1.0], "k": value}), m.Search)


@BOTH
def test_bodies_that_are_no_messages_are_refused(codec: Codec) -> None:
    for body in (b"\xc1", b"{", b"[]", b"\xff\xfe", b'"x"'):
        with pytest.raises(vicinal.InvalidArgumentError):
            codec.decode(body, m.Search)
    assert codec.decode(b"", m.Count) == m.Count()


def test_a_body_nested_without_end_is_refused() -> None:
    body = b'{"ids":["a"],"payload":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001
    with pytest.raises(vicinal.InvalidArgumentError):
        JSON.load(JSON.decode(body, m.Update).payload)


@BOTH
def test_payloads_left_out_are_not_written(codec: Codec) -> None:
    hits = m.HitsOut(hits=[m.HitOut(id=1, distance=0.5)])
    plain = msgspec.json.decode if codec is JSON else msgspec.msgpack.decode
    assert plain(codec.encode(hits)) == {"hits": [{"id": 1, "distance": 0.5}]}


@BOTH
@pytest.mark.parametrize("code", sorted(codes()))
def test_every_error_comes_back_as_its_class_with_message_and_attributes(
    codec: Codec, code: str
) -> None:
    kind = codes()[code]
    error: vicinal.VicinalError
    if kind is vicinal.VersionConflictError:
        error = vicinal.VersionConflictError(uuid.UUID(int=7), 1, 2)
    elif kind is vicinal.NotFoundError:
        error = vicinal.NotFoundError("there is no point", uuid.UUID(int=7))
    elif kind is vicinal.MemoryLimitError:
        error = vicinal.MemoryLimitError("what was given", 300, 200, 400)
    else:
        error = kind("what was given, the limit, the way out")
    if isinstance(error, vicinal.FilterError):
        error.column = 7
    if isinstance(error, OverloadedError):
        error.retry_after_s = 2.5
    body = codec.encode(m.Failed(error=to_fault(error)))
    back = from_fault(codec.decode(body, m.Failed).error)
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert 400 <= http_status(error) <= 599


def test_codes_are_stable_names() -> None:
    public = {"dimension", "vector_value", "filter", "limit", "not_found", "read_only", "closed"}
    assert public <= set(codes())
    assert from_fault(m.Fault(code="of_the_future", message="x")).args == ("x",)


def test_statuses_follow_the_kind_of_error() -> None:
    expected = {
        vicinal.DimensionError: 400,
        vicinal.NotFoundError: 404,
        vicinal.CollectionMismatchError: 409,
        vicinal.ReadOnlyError: 403,
        vicinal.CorruptionError: 500,
    }
    assert {kind: http_status(kind("x")) for kind in expected} == expected
    assert http_status(OverloadedError("x")) == 503
    assert http_status(OverloadedError("x", rate_limited=True)) == 429


def test_openapi_has_every_operation_with_its_messages() -> None:
    document = openapi()
    listed = {
        (entry["operationId"], path, method)
        for path, entries in document["paths"].items()
        for method, entry in entries.items()
    }
    assert listed == {(o.name, path_of(o), o.method.lower()) for o in OPERATIONS}
    search = document["components"]["schemas"]["Search"]
    assert search["required"] == ["vector"]
    assert search["additionalProperties"] is False
    assert search["properties"]["k"]["default"] == 10
