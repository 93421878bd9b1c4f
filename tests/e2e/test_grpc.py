"""The conformance suite over gRPC, and what is gRPC's own: streams, health, reflection, deadlines, bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from conformance import Conformance
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from serving import Gate, grpc_of, metric

import vicinal
from vicinal.server.admission import Admission
from vicinal.server.keys import Key, KeyStore
from vicinal.wire import messages as m
from vicinal.wire.protobuf import FAULT_KEY, PROTO, file_descriptor, message_class

SERVICE = "vicinal.v1.Vicinal"
QUERY = np.array([3, 0], np.float32).tobytes()


class TestGrpc(Conformance):
    """`grpc://`, the server in a thread of this process."""

    @pytest.fixture
    def db(self, empty_server: Any) -> Iterator[Any]:
        with vicinal.open(grpc_of(empty_server)) as db:
            yield db


class Stub:
    """The service as a program of another language sees it: messages of the .proto file, and nothing of ours."""

    def __init__(self, url: str) -> None:
        self.channel = grpc.insecure_channel(url.removeprefix("grpc://"))

    def __call__(self, name: str, answer: str, kind: str = "unary_unary") -> Any:
        return getattr(self.channel, kind)(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_class(answer).FromString,
        )


@pytest.fixture
def server(local: vicinal.Database) -> Iterator[Any]:
    with local.serve(http_port=0, grpc_port=0) as running:
        yield running


@pytest.fixture
def stub(server: Any) -> Iterator[Stub]:
    stub = Stub(grpc_of(server))
    yield stub
    stub.channel.close()


def request(name: str, **fields: Any) -> Any:
    """A request on `docs`."""
    return message_class(f"{name}Request")(collection="docs", **fields)


def upsert(*numbers: int, dim: int = 2) -> Any:
    """An upsert of points with these ids."""
    vectors = np.zeros((len(numbers), dim), np.float32).tobytes()
    return request("Upsert", ids={"numbers": numbers}, vectors=vectors)


def fault_of(error: grpc.RpcError) -> m.Fault:
    """The Fault in an error's trailer."""
    trailers: Any = error.trailing_metadata()
    return PROTO.decode(dict(trailers)[FAULT_KEY], m.Fault)


def test_each_upsert_of_a_stream_is_answered_and_those_before_a_fault_are_kept(
    local: vicinal.Database, stub: Stub
) -> None:
    answers = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in stub("UpsertStream", "Counted", "stream_stream")(
            iter([upsert(100, 101), upsert(102), upsert(103, dim=3), upsert(104)])
        ):
            answers.append(answer.count)
    assert answers == [2, 1]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fault_of(caught.value).code == "dimension"
    points = local.collection("docs").get([100, 101, 102, 103, 104])
    assert [p is not None for p in points] == [True, True, True, False, False]


def test_searches_of_a_stream_are_answered_in_their_order(stub: Stub) -> None:
    queries = [
        request("Search", vector=np.array([i, 0], np.float32).tobytes(), k=1) for i in range(20)
    ] * 5
    answers = stub("SearchStream", "HitsOut", "stream_stream")(iter(queries))
    assert [a.hits[0].id.number for a in answers] == list(range(20)) * 5


def test_a_search_that_fails_ends_its_stream_after_the_answers_before_it(stub: Stub) -> None:
    requests = [
        request("Search", vector=QUERY, k=1),
        request("Search", vector=QUERY, where="a ="),
        request("Search", vector=QUERY, k=1),
    ]
    answers = []
    with pytest.raises(grpc.RpcError) as caught:
        answers += stub("SearchStream", "HitsOut", "stream_stream")(iter(requests))
    assert fault_of(caught.value).code == "filter"


def test_a_scroll_stream_gives_every_point_once(stub: Stub) -> None:
    pages = list(
        stub("ScrollStream", "PageOut", "unary_stream")(request("Scroll", limit=7, where="n > 2"))
    )
    assert [len(page.points) for page in pages] == [7, 7, 3]
    assert [p.id.number for page in pages for p in page.points] == list(range(3, 20))


def test_payloads_are_json_text_where_the_caller_asks_for_it(stub: Stub) -> None:
    made = stub("Upsert", "Counted")(
        request(
            "Upsert", ids={"texts": ["j"]}, vectors=QUERY, payloads={"values": [b'{"a": [1, "x"]}']}
        )
    )
    assert made.count == 1
    ask, wanted = stub("Get", "Points"), request("Get", ids={"texts": ["j"]})
    shown = ask(wanted, metadata=(("vicinal-payload", "json"),))
    assert shown.points[0].payload == b'{"a":[1,"x"]}'
    assert ask(wanted).points[0].payload[0] == 0x81, "else it is MessagePack"
    with pytest.raises(grpc.RpcError) as caught:
        ask(wanted, metadata=(("vicinal-payload", "xml"),))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_field_that_a_request_does_not_have_is_refused(stub: Stub) -> None:
    call = stub.channel.unary_unary(f"/{SERVICE}/Count")
    body = request("Count").SerializeToString()
    assert call(body)
    with pytest.raises(grpc.RpcError) as caught:
        call(body + b"\xf8\x07\x01")  # field 127, a number
    assert "no field 127" in str(caught.value.details())


STRANGER = b"\xf8\x07\x01"
"""Field 127, a number."""


@pytest.mark.parametrize(
    ("name", "fields", "outer"),
    [
        # Of field `outer` of the message, one part is the stranger.
        ("Upsert", {"vectors": QUERY}, "ids"),
        ("Upsert", {"ids": {"numbers": [1]}, "vectors": QUERY}, "if_version"),
        ("Upsert", {}, "points.values"),
        ("Upsert", {}, "points.values.id"),
        ("Upsert", {"vectors": QUERY}, "ids.mixed"),
        ("Update", {"ids": {"numbers": [1]}}, "expires_at"),
        ("Get", {}, "ids"),
        ("Describe", {}, ""),
        ("Drop", {}, ""),
        ("Stats", {}, ""),
    ],
)
def test_a_field_that_a_message_within_a_request_does_not_have_is_refused(
    local: vicinal.Database, stub: Stub, name: str, fields: dict[str, Any], outer: str
) -> None:
    message = request(name, **fields)
    inner = message
    for part in filter(None, outer.split(".")):
        inner = getattr(inner, part)
        inner = inner.add() if hasattr(inner, "add") else inner
    inner.SetInParent()
    inner.MergeFromString(STRANGER)
    with pytest.raises(grpc.RpcError) as caught:
        stub.channel.unary_unary(f"/{SERVICE}/{name}")(message.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no field 127" in str(caught.value.details())
    assert local.collections() == ["docs"]


def test_a_call_has_an_id_which_its_caller_may_give(
    local: vicinal.Database, stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "vicinal.requests")
    count = stub("Count", "Counted")

    def ids(call: Any) -> str:
        return dict(call.trailing_metadata())["x-request-id"]

    assert ids(count.with_call(request("Count"), metadata=(("x-request-id", "mine-1"),))[1]) == (
        "mine-1"
    )
    assert len(ids(count.with_call(request("Count"), metadata=(("x-request-id", "a b"),))[1])) > 8
    with pytest.raises(grpc.RpcError) as caught:
        count(request("Count", where="a ="), metadata=(("x-request-id", "mine-2"),))
    assert ids(caught.value) == "mine-2"
    stream = stub("UpsertStream", "Counted", "stream_stream")(
        iter([upsert(1), upsert(2)]), metadata=(("x-request-id", "mine-3"),)
    )
    assert [answer.count for answer in stream] == [1, 1]
    assert ids(stream) == "mine-3"


def test_what_is_refused_before_its_operation_is_counted(
    local: vicinal.Database, tmp_path: Any
) -> None:
    with local.serve(http_port=0, grpc_port=0, requests_max=1, request_bytes_max=2_000) as server:
        stub = Stub(grpc_of(server))
        search = stub("SearchStream", "HitsOut", "stream_stream")
        with pytest.raises(grpc.RpcError) as caught:  # of eight at once all but one are too many
            for _ in range(200):  # unless each is answered before the next is read
                list(search(iter([request("Search", vector=QUERY)] * 8)))
        assert fault_of(caught.value).code == "overloaded"
        line = 'vicinal_refused_total{code="overloaded",protocol="grpc"}'
        assert metric(server.url, line) >= 1
        stub.channel.close()


def test_health_and_reflection_say_what_is_served(server: Any, stub: Stub) -> None:
    health: Any = health_pb2_grpc.HealthStub(stub.channel)
    ask = health.Check
    for name in ("", SERVICE):
        answer = ask(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    shown = ProtoReflectionDescriptorDatabase(stub.channel)
    assert SERVICE in shown.get_services()
    file = shown.FindFileContainingSymbol(SERVICE)
    assert file.message_type == file_descriptor().message_type


def test_reflection_answers_under_its_newer_name_too(stub: Stub) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    ask = stub.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    (raw,) = ask(iter([request.SerializeToString()]))
    found = reflection_pb2.ServerReflectionResponse.FromString(raw)
    assert SERVICE in [service.name for service in found.list_services_response.service]


def test_a_full_server_refuses_calls_and_says_that_it_lives(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    options: dict[str, Any] = {"requests_max": 1, "recall_share": 0, "search_threads": 1}
    with local.serve(http_port=0, grpc_port=0, **options) as server:
        stub = Stub(grpc_of(server))
        search = stub("Search", "HitsOut")
        held = search.future(request("Search", vector=QUERY, k=1))
        assert gate.entered.acquire(timeout=30)
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                search(request("Search", vector=QUERY, k=2))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            fault = fault_of(caught.value)
            assert (fault.code, fault.details["retry_after_s"]) == ("overloaded", 1.0)
        health: Any = health_pb2_grpc.HealthStub(stub.channel)
        ask = health.Check
        assert ask(health_pb2.HealthCheckRequest()).status == 1
        gate.open.set()
        assert len(held.result(30).hits) == 1
        line = 'vicinal_refused_total{code="overloaded",protocol="grpc"}'
        assert metric(server.url, line) == 3
        assert len(search(request("Search", vector=QUERY, k=2)).hits) == 2
        stub.channel.close()


def test_a_caller_without_a_key_is_refused_before_a_message_is_read(
    local: vicinal.Database, server: Any, stub: Stub
) -> None:
    open_door = stub("Count", "Counted")(request("Count"))
    assert open_door.count == 20
    KeyStore(local.path).create(role="admin")
    never = threading.Event()

    def silent() -> Iterator[Any]:
        never.wait()
        yield request("Count")

    for key in (None, "Bearer vk_wrong", "Basic x"):
        metadata = () if key is None else (("authorization", key),)
        with local.serve(http_port=0, grpc_port=0, auth=True) as asking:
            other = Stub(grpc_of(asking))
            with pytest.raises(grpc.RpcError) as caught:
                other("Count", "Counted", "stream_unary")(silent(), metadata=metadata, timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            never.set()
            other.channel.close()
        never.clear()


def test_a_key_allows_what_its_role_and_collections_say(
    tmp_path: Any,
) -> None:
    with vicinal.open(tmp_path / "db") as db:
        for name in ("docs", "other"):
            db.collection(name, dim=2)
        store = KeyStore(tmp_path / "db")
        reader, _ = store.create(role="read", collections=("docs",))
        with (
            db.serve(http_port=0, grpc_port=0) as server,
            vicinal.open(grpc_of(server), api_key=reader) as remote,
        ):
            assert remote.collections() == ["docs"]
            docs = remote.collection("docs")
            assert docs.count() == 0
            for refused in (
                lambda: docs.upsert([{"id": 1, "vector": [1, 2]}]),
                lambda: remote.collection("other"),
                lambda: remote.drop("docs"),
                lambda: remote.snapshots(),
            ):
                with pytest.raises(vicinal.ForbiddenError):
                    refused()
            with pytest.raises(vicinal.UnauthenticatedError):
                vicinal.open(grpc_of(server))


def test_a_message_above_the_bound_is_refused_and_the_next_is_not(local: vicinal.Database) -> None:
    with (
        local.serve(http_port=0, grpc_port=0, request_bytes_max=4_096) as server,
        vicinal.open(grpc_of(server)) as db,
    ):
        docs = db.collection("docs")
        with pytest.raises(vicinal.RequestTooLargeError, match="4096"):
            docs.upsert(ids=range(1_000, 2_000), vectors=np.ones((1_000, 2), np.float32))
        assert docs.count() == 20
        assert docs.upsert(ids=[50], vectors=[[1, 1]]) == 1


def test_a_call_ends_with_its_deadline_and_others_go_on(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with local.serve(http_port=0, grpc_port=0, search_threads=1, recall_share=0) as server:
        with vicinal.open(grpc_of(server), timeout_s=2) as db:
            docs = db.collection("docs")
            with pytest.raises(vicinal.DeadlineError, match=r"time"):
                docs.search([1.0, 0.0])
            assert docs.count() == 20
        gate.open.set()


def test_what_is_too_much_is_refused_and_done_by_trying_again(
    local: vicinal.Database, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large upsert is a stream; refused in its middle, it goes on from there, and nothing is written twice."""
    real, entered = Admission.enter, []

    def enter(admission: Admission, key: Key | None) -> None:
        entered.append(key)
        if len(entered) in (4, 5):
            raise vicinal.OverloadedError("too much for a test", 0.01)
        real(admission, key)

    monkeypatch.setattr("vicinal.client.batch.BATCH_ROWS_MAX", 10)
    with vicinal.open(grpc_of(server)) as db:
        docs = db.collection("docs")
        monkeypatch.setattr(Admission, "enter", enter)
        docs.upsert(ids=range(100, 155), vectors=np.ones((55, 2), np.float32))
        assert len(entered) > 6 + 2, "what was refused goes on in smaller parts"
        points = docs.get(list(range(100, 155)))
    assert [p.version for p in points if p is not None] == [1] * 55


def test_a_large_upsert_that_fails_keeps_the_parts_before(
    local: vicinal.Database, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vicinal.client.batch.BATCH_ROWS_MAX", 10)
    real, entered = Admission.enter, []

    def enter(admission: Admission, key: Key | None) -> None:
        entered.append(key)
        if len(entered) == 3:
            raise vicinal.StorageError("the disk of a test")
        real(admission, key)

    with vicinal.open(grpc_of(server)) as db:
        docs = db.collection("docs")
        monkeypatch.setattr(Admission, "enter", enter)
        with pytest.raises(vicinal.StorageError, match="disk of a test"):
            docs.upsert(ids=range(100, 135), vectors=np.ones((35, 2), np.float32))
        assert docs.count() == 40


def test_a_server_that_went_away_is_unavailable(local: vicinal.Database) -> None:
    with local.serve(http_port=0, grpc_port=0) as server:
        url = grpc_of(server)
        db = vicinal.open(url, retries=1)
        docs = db.collection("docs")
    with pytest.raises(vicinal.UnavailableError):
        docs.count()
    with pytest.raises(vicinal.UnavailableError):
        docs.upsert([{"id": 1, "vector": [1, 2]}])
    db.close()
    with pytest.raises(vicinal.ClosedError):
        docs.count()
    with pytest.raises(vicinal.UnavailableError):
        vicinal.open(url, retries=0)


@pytest.mark.parametrize("address", ["grpc://", "grpc://h:x", "grpc://h/path", "grpc://u:p@h"])
def test_an_address_with_more_than_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="address"):
        vicinal.open(address)


def test_a_port_in_use_is_said_and_nothing_is_left_running(local: vicinal.Database) -> None:
    with local.serve(http_port=0, grpc_port=0) as server:
        port = int(grpc_of(server).rpartition(":")[2])
        with pytest.raises(vicinal.StorageError, match=str(port)):
            local.serve(http_port=0, grpc_port=port)
        with vicinal.open(grpc_of(server)) as db:
            assert db.collection("docs").count() == 20
