"""Whatever is sent to whichever route, the answer is a success or a mistake of the sender, in the documented form."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vicinal
from vicinal.server.asgi import RestApp
from vicinal.server.config import ServerConfig
from vicinal.server.gateway import Gateway
from vicinal.server.keys import KeyStore
from vicinal.server.openapi import path_of
from vicinal.wire import messages as m
from vicinal.wire.codec import JSON, MSGPACK, Codec
from vicinal.wire.faults import codes
from vicinal.wire.operations import OPERATIONS, Operation

VECTOR = st.one_of(
    st.just([1.0, 2.0]),
    st.lists(st.one_of(st.floats(), st.integers(), st.none()), max_size=4),
    st.binary(max_size=20),
)
ID = st.one_of(
    st.integers(-(2**70), 2**70),
    st.text(max_size=5),
    st.just({"uuid": "12345678-1234-5678-1234-567812345678"}),
    st.just({"uuid": "x"}),
    st.none(),
)
VALUE = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
WHERE = st.one_of(
    st.sampled_from(
        ["n > 1", "id = 1", "n >", "not (n in (1, 2))", "n like '%'", "a.b is null", ""]
    ),
    st.dictionaries(st.sampled_from(["n", "$or", "$not", "a.b", ""]), VALUE, max_size=2),
    VALUE,
)
COUNT = st.one_of(st.integers(-2, 12), st.sampled_from([2**31, 2**63, 10**12]), VALUE)
PAYLOAD = st.one_of(st.dictionaries(st.text(max_size=4), VALUE, max_size=3), VALUE)
TIME = st.one_of(
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(["never", "2100-01-01T00:00:00Z", "2100-01-01", "9999-12-31T23:59:59-23:59"]),
    VALUE,
)
POINT = st.fixed_dictionaries({"id": ID, "vector": VECTOR}, optional={"payload": PAYLOAD})
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "points": st.lists(POINT, max_size=3),
    "ids": st.lists(ID, max_size=4),
    "vector": VECTOR,
    "vectors": st.one_of(st.lists(VECTOR, max_size=3), st.binary(max_size=33)),
    "payload": PAYLOAD,
    "payloads": st.lists(PAYLOAD, max_size=4),
    "where": WHERE,
    "k": COUNT,
    "ef_search": COUNT,
    "recall": st.one_of(st.floats(), st.sampled_from([0.5, 1.0, 0, -1, 2, True, "1"])),
    "searches": st.one_of(
        st.lists(
            st.fixed_dictionaries(
                {"vector": VECTOR}, optional={"k": COUNT, "where": WHERE, "exact": st.booleans()}
            ),
            max_size=3,
        ),
        VALUE,
    ),
    "time_ms": st.one_of(st.sampled_from([0, 5, 1e9, -1.0]), st.floats(), VALUE),
    "queries": st.one_of(st.lists(VECTOR, max_size=30), st.binary(max_size=300)),
    "limit": COUNT,
    "threads": st.sampled_from([1, 2, 0, -1, 10**9, "1"]),
    "dim": st.sampled_from([1, 2, 0, -1, 10**9, 2.0, "2"]),
    "cursor": st.one_of(st.text(max_size=20), st.sampled_from(["AAAA", "lMDCwsAB"])),
    "mode": st.sampled_from(["upsert", "insert_only", "update_only", "", 1]),
    "if_version": st.one_of(COUNT, st.lists(COUNT, max_size=4)),
    "expires_at": st.one_of(TIME, st.lists(TIME, max_size=4)),
    "delete_keys": st.lists(st.one_of(st.text(max_size=4), VALUE), max_size=3),
    "ttl": st.one_of(st.floats(), COUNT),
    "name": st.one_of(st.sampled_from(["a", "..", "a/b", "x" * 200]), VALUE),
    "collections": st.lists(st.sampled_from(["docs", "none", "", 1]), max_size=2),
    "sample": COUNT,
    "seed": COUNT,
    "color_by": st.sampled_from(["n", "", ".", "a.b", "id", "id.x", "x" * 2_000]),
    "order_by": st.sampled_from(["n", "", ".", "a.b", "id", "x" * 2_000]),
}


@pytest.fixture(scope="module")
def app() -> Iterator[tuple[RestApp, asyncio.AbstractEventLoop]]:
    with vicinal.open(":memory:") as db:
        db.collection("docs", dim=2, metric="l2").upsert(
            [{"id": i, "vector": [i, 1], "n": i, "a": {"b": "x"}} for i in range(9)]
        )
        config = ServerConfig(search_threads=1, auth=False)
        gateway = Gateway(db.engine, config, KeyStore(Path("/nonexistent")))
        loop = asyncio.new_event_loop()
        yield RestApp(gateway), loop
        gateway.close()
        loop.close()


def send(
    app: tuple[RestApp, asyncio.AbstractEventLoop], method: str, path: str, body: bytes, kind: str
) -> tuple[int, bytes]:
    """One request without a network."""

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": [(b"content-type", kind.encode()), (b"accept", kind.encode())],
    }
    status, _, answer = app[1].run_until_complete(app[0].respond(scope, receive))
    return status, answer


def check(codec: Codec, operation: Operation, status: int, body: bytes) -> None:
    """The answer is in the documented form, and nothing is the server's fault."""
    if status == 200:
        codec.decode(body, operation.answer)
        return
    fault = codec.decode(body, m.Failed).error
    assert status < 500, fault
    assert fault.code in codes()
    assert len(fault.message) > 10


SHARED_APP = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda c: c.name)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
@settings(SHARED_APP)
@given(data=st.data())
def test_no_message_is_the_servers_fault(
    app: Any, operation: Operation, codec: Codec, data: st.DataObject
) -> None:
    check_message(app, operation, codec, data)


@pytest.mark.long
@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda c: c.name)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
@settings(SHARED_APP, max_examples=200)
@given(data=st.data())
def test_no_message_of_many_is_the_servers_fault(
    app: Any, operation: Operation, codec: Codec, data: st.DataObject
) -> None:
    check_message(app, operation, codec, data)


def check_message(app: Any, operation: Operation, codec: Codec, data: st.DataObject) -> None:
    """Send an operation some of its fields, well or badly filled, and look at the answer."""
    names = list(operation.request.__struct_fields__)
    drawn = {
        name: data.draw(FIELDS.get(name, VALUE), label=name)
        for name in (data.draw(st.lists(st.sampled_from(names), unique=True)) if names else [])
    }
    if data.draw(st.integers(0, 9)) == 0:
        drawn["stranger"] = 1
    name = data.draw(st.sampled_from(["docs", "docs", "docs", "none", "%00", "%ff", "..", ""]))
    if operation.name == "drop":
        name = "none"
    path = path_of(operation).replace("{collection}", name)
    try:
        raw = codec.encode(drawn)
    except (OverflowError, UnicodeEncodeError, msgspec.MsgspecError):
        return
    check(codec, operation, *send(app, operation.method, path, raw, codec.content_type))


@settings(max_examples=300, deadline=None)
@given(
    operation=st.sampled_from(OPERATIONS),
    body=st.binary(max_size=60),
    codec=st.sampled_from([JSON, MSGPACK]),
)
def test_no_bytes_are_the_servers_fault(
    app: Any, operation: Operation, body: bytes, codec: Codec
) -> None:
    path = path_of(operation).replace(
        "{collection}", "other" if operation.name == "drop" else "docs"
    )
    check(codec, operation, *send(app, operation.method, path, body, codec.content_type))


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]),
    path=st.lists(
        st.sampled_from(
            ["v1", "collections", "docs", "points", "search", "", "%2F", "..", "é", "info", "ui"]
        ),
        max_size=6,
    ).map(lambda parts: "/" + "/".join(parts)),
)
def test_no_path_is_the_servers_fault(app: Any, method: str, path: str) -> None:
    if method == "DELETE" and path.startswith("/v1/collections/"):
        path = path.replace("docs", "none")
    assert send(app, method, path, b"{}", "application/json")[0] < 500
