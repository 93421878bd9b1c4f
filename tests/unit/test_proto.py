"""The .proto file is what the code runs on, numbers stay, and no bytes are the codec's fault."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from vicinal.model.errors import InvalidArgumentError, VicinalError
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire import schema
from vicinal.wire.operations import OPERATIONS, Operation
from vicinal.wire.protobuf import PROTO, collection_of, encode_request, file_descriptor
from vicinal.wire.prototext import proto_text

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "proto" / "vicinal" / "v1" / "vicinal.proto"
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
RAW = msgspec.Raw(b"\x81\xa1a\x01")

REQUESTS: list[tuple[Operation, m.Request]] = [
    (
        ops.UPSERT,
        m.Upsert(
            points=[
                m.NewPoint(id=m.UuidId(ID), vector=b"1234", payload=RAW),
                m.NewPoint(id="", vector=b""),
                m.NewPoint(id=-(2**63), vector=b"1"),
            ],
            if_version=[1, None, 0],
            expires_at=["never", None, 2.5],
        ),
    ),
    (
        ops.UPSERT,
        m.Upsert(
            ids=[1, -2],
            vectors=b"ab",
            payloads=[RAW],
            mode="insert_only",
            if_version=0,
            expires_at=3.0,
        ),
    ),
    (ops.UPSERT, m.Upsert(points=[])),
    (ops.DELETE, m.Delete(ids=[])),
    (ops.DELETE, m.Delete(ids=["a", 1, m.UuidId(ID)], dry_run=True)),
    (ops.UPDATE, m.Update(all=True, payload=RAW, delete_keys=[], expires_at="never")),
    (ops.SEARCH, m.Search(vector=b"1", k=0, with_payload=False)),
    (ops.SEARCH, m.Search(vector=b"1")),
    (ops.SCROLL, m.Scroll(cursor="", limit=0)),
    (ops.OPEN, m.OpenCollection(dim=4, ttl=0.5)),
    (ops.SNAPSHOT, m.TakeSnapshot(collections=["a"])),
    (ops.OPTIMIZE, m.Optimize(wait=False)),
]


def test_the_proto_file_is_up_to_date() -> None:
    assert FILE.read_text() == proto_text(), "run: python tools/make_proto.py"


def test_protoc_reads_in_the_file_what_the_code_runs_on(tmp_path: Path) -> None:
    target = tmp_path / "made.bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}"]
    subprocess.run([*command, f"--descriptor_set_out={target}", FILE], check=True)
    (made,) = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file
    for message in made.message_type:
        for field in [*message.field, *(f for nested in message.nested_type for f in nested.field)]:
            field.ClearField("json_name")
    assert made == file_descriptor()


def test_a_field_without_a_number_is_a_fault_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(name for name in schema.NUMBERS["SearchRequest"] if name != "k")
    monkeypatch.setitem(schema.NUMBERS, "SearchRequest", kept)
    schema.messages.cache_clear()
    try:
        with pytest.raises(VicinalError, match=r"SearchRequest.*\['k'\]"):
            schema.messages()
    finally:
        schema.messages.cache_clear()


def test_a_field_that_is_gone_keeps_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.NUMBERS, "Counted", ("old", "count"))
    schema.messages.cache_clear()
    try:
        message = schema.messages()["Counted"]
        assert [(f.name, f.number) for f in message.fields] == [("count", 2)]
        assert message.reserved == (("old", 1),)
        assert "  reserved 1;" in proto_text()
    finally:
        schema.messages.cache_clear()


@pytest.mark.parametrize(("operation", "request_"), REQUESTS)
def test_a_request_comes_back_as_it_was(operation: Operation, request_: m.Request) -> None:
    name = "cöl" if operation.on_collection else None
    body = encode_request(operation, name, request_)
    assert PROTO.decode(body, type(request_)) == request_
    if name is not None:
        assert collection_of(body) == name


def test_the_collection_is_found_wherever_it_stands() -> None:
    body = encode_request(ops.SEARCH, None, m.Search(vector=b"12345678", k=7))
    assert collection_of(body) == ""
    assert collection_of(body + b"\x0a\x04docs") == "docs"


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0f",
        b"\x0a\x01\xff",
        b"\x80",
    ],
)
def test_bytes_that_are_no_message_name_no_collection(body: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        collection_of(body)


@given(st.binary(max_size=64), st.sampled_from(OPERATIONS))
def test_no_bytes_are_the_codecs_fault(body: bytes, operation: Operation) -> None:
    def attempt(call: Any) -> None:
        try:
            call()
        except InvalidArgumentError as refused:
            assert str(refused)

    attempt(lambda: PROTO.decode(body, operation.request))
    attempt(lambda: collection_of(body))
    attempt(lambda: PROTO.load(msgspec.Raw(body)))
