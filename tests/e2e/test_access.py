"""Every operation with every kind of key, over every protocol: what a key does not allow is refused before its body is
looked at. Who may do what stands here once more, so that neither a new operation nor a changed role goes unseen."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

import vicinal
from vicinal.server import keys as keys_module
from vicinal.server.keys import KeyStore
from vicinal.server.openapi import path_of
from vicinal.wire.codec import JSON as JSON_CODEC
from vicinal.wire.operations import OPERATIONS, REVOKE_KEY, Operation, Role
from vicinal.wire.protobuf import encode_request, message_class
from vicinal.wire.schema import method_name, methods

BODIES = {
    "open": {"dim": 2},
    "upsert": {"points": [{"id": 1, "vector": [1.0, 2.0]}]},
    "update": {"ids": [1], "payload": {"a": 1}},
    "delete": {"ids": [99]},
    "get": {"ids": [1]},
    "search": {"vector": [1.0, 2.0]},
    "search_batch": {"vectors": [[1.0, 2.0]]},
    "search_many": {"searches": [{"vector": [1.0, 2.0]}]},
    "explain": {"vector": [1.0, 2.0]},
    "drop_snapshot": {"name": "kept"},
    "create_key": {"role": "read"},
}
JSON = {"Content-Type": "application/json"}
PROTOCOLS = ("http", "grpc", "flight")

READERS = [
    "open",
    "describe",
    "get",
    "scroll",
    "count",
    "search",
    "search_batch",
    "search_many",
    "explain",
    "project",
    "stats",
]
WRITERS = ["upsert", "update", "delete"]
ADMINS = ["drop", "optimize", "calibrate"]
ANYBODY = ["info", "list", "status"]
"""About the whole database; a key for some collections sees those."""
OVERSEERS = ["snapshot", "snapshots", "drop_snapshot", "keys", "create_key", "revoke_key"]
"""About the whole database, for admins of all collections only."""

GRPC_STREAMS = {"UpsertStream": "upsert", "SearchStream": "search", "ScrollStream": "scroll"}
"""Methods beside those of the operations, and what they do."""

FLIGHT_CALLS = {
    "DoGet search": "search",
    "DoGet search_batch": "search_batch",
    "DoGet scroll": "scroll",
    "DoPut": "upsert",
    "DoExchange": "search_batch",
    "GetFlightInfo": "count",
    "GetSchema": "count",
}


@dataclass
class Served:
    """A server that asks for keys, and some of them."""

    url: str
    store: KeyStore
    keys: dict[str, str]
    spare: str = ""
    grpc_url: str = ""
    flight_url: str = ""

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """One request: (status, body, headers)."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=20)
        try:
            connection.request(method, path, body, {**JSON, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def call(
        self,
        operation: Operation,
        key: str | None,
        collection: str = "docs",
        protocol: str = "http",
    ) -> int:
        """The status of an operation, as HTTP has it, sent with a body that is right."""
        sent = {"id": self.spare} if operation is REVOKE_KEY else BODIES.get(operation.name, {})
        body = msgspec.json.encode(sent)
        token = None if key is None else f"Bearer {key}"
        if protocol == "http":
            path = path_of(operation).replace("{collection}", collection)
            headers = {} if token is None else {"Authorization": token}
            return self.send(operation.method, path, body, **headers)[0]
        name = collection if operation.on_collection else None
        if protocol == "grpc":
            request: Any = JSON_CODEC.decode(body, operation.request)
            for part in (
                request,
                *(getattr(request, "points", None) or getattr(request, "searches", ())),
            ):
                for field in {"vector", "vectors"} & set(part.__struct_fields__):
                    if getattr(part, field) is not None:
                        vector = np.array(getattr(part, field), np.float32)
                        setattr(part, field, vector.tobytes())
            raw = encode_request(operation, name, request)
            return self.grpc(method_name(operation), raw, token)
        command = {"request": sent} if name is None else {"request": sent, "collection": name}
        action = fl.Action(operation.name, msgspec.json.encode(command))
        return self.flight(lambda client, options: list(client.do_action(action, options)), token)

    def grpc(self, method: str, raw: bytes, token: str | None) -> int:
        """The status of a call with one request."""
        metadata = () if token is None else (("authorization", token),)
        with grpc.insecure_channel(self.grpc_url.removeprefix("grpc://")) as channel:
            call = channel.stream_stream(f"/vicinal.v1.Vicinal/{method}")
            try:
                assert list(call(iter([raw]), metadata=metadata, timeout=20))
            except grpc.RpcError as fault:
                return STATUSES[fault.code()]
        return 200

    def flight(self, call: Callable[[Any, Any], Any], token: str | None) -> int:
        """The status of a call that is made with (client, options)."""
        headers = [] if token is None else [(b"authorization", token.encode())]
        with fl.connect(self.flight_url.replace("flight", "grpc")) as client:
            try:
                call(client, fl.FlightCallOptions(headers=headers, timeout=20))
            except fl.FlightUnauthenticatedError:
                return 401
            except fl.FlightUnauthorizedError:
                return 403
            except OSError as fault:  # what GetSchema raises
                return {"Unauthenticated": 401, "Unauthorized": 403}[str(fault).split()[-1]]
        return 200


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with vicinal.open(tmp_path / "db") as db:
        for name in ("docs", "other"):
            db.collection(name, dim=2, metric="l2").upsert([{"id": 1, "vector": [1, 2]}])
        db.snapshot("kept")
        store = KeyStore(tmp_path / "db")
        keys = {role.name.lower(): store.create(role=role.name.lower())[0] for role in Role}
        keys["other"] = store.create(role="admin", collections=("other",))[0]
        keys["expired"] = store.create(role="admin", valid_s=1e-6)[0]
        keys["wrong"] = keys["admin"][:-2] + ("aa" if keys["admin"][-2:] != "aa" else "bb")
        with db.serve(http_port=0, grpc_port=0, flight_port=0) as server:
            assert server.grpc_url is not None and server.flight_url is not None
            spare = store.create()[1].id
            yield Served(server.url, store, keys, spare, server.grpc_url, server.flight_url)


STATUSES = {grpc.StatusCode.UNAUTHENTICATED: 401, grpc.StatusCode.PERMISSION_DENIED: 403}


def expected(operation: str) -> dict[str, int]:
    """Statuses by key; `other@other` is the key of `other` on that collection."""
    least = 3 if operation in (*ADMINS, *OVERSEERS) else 2 if operation in WRITERS else 1
    found = {"none": 401, "wrong": 401, "expired": 401}
    found |= {role: 200 if Role[role.upper()] >= least else 403 for role in ("read", "write")}
    if operation in (*ANYBODY, *OVERSEERS):
        found["other"] = 200 if operation in ANYBODY else 403
    else:
        found |= {"other": 403, "other@other": 200}
    return found | {"admin": 200}


def test_it_is_known_who_may_do_what() -> None:
    named = [*READERS, *WRITERS, *ADMINS, *ANYBODY, *OVERSEERS]
    assert sorted(named) == sorted(o.name for o in OPERATIONS), "an operation without a row here"
    beside = {method.name for method in methods()} - {method_name(o) for o in OPERATIONS}
    assert beside == set(GRPC_STREAMS), "a method of gRPC without a row here"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
def test_an_operation_answers_the_keys_that_it_is_for(
    served: Served, operation: Operation, protocol: str
) -> None:
    given = {}
    for who in expected(operation.name):
        key, _, place = who.partition("@")
        collection = place or "docs"
        given[who] = served.call(operation, served.keys.get(key), collection, protocol)
    assert given == expected(operation.name)


@pytest.mark.parametrize("method", GRPC_STREAMS)
def test_a_stream_of_grpc_answers_the_keys_that_its_operation_is_for(
    served: Served, method: str
) -> None:
    operation = GRPC_STREAMS[method]
    vector = np.ones(2, np.float32).tobytes()
    fields: dict[str, Any] = {
        "upsert": {"ids": {"numbers": [1]}, "vectors": vector},
        "search": {"vector": vector},
        "scroll": {},
    }[operation]
    given = {}
    for who in expected(operation):
        key, _, place = who.partition("@")
        request = message_class(f"{operation.capitalize()}Request")(
            collection=place or "docs", **fields
        )
        token = None if key == "none" else f"Bearer {served.keys[key]}"
        given[who] = served.grpc(method, request.SerializeToString(), token)
    assert given == expected(operation)


def flight_call(name: str, collection: str) -> Callable[[Any, Any], Any]:
    """What a Flight client does for a row of FLIGHT_CALLS."""
    requests = {"search": {"vector": [1, 2]}, "search_batch": {"vectors": [[1, 2]]}, "scroll": {}}
    kind, _, operation = name.partition(" ")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 2)
    path = fl.FlightDescriptor.for_path(collection)

    def exchange(client: Any, options: Any) -> None:
        batch = pa.record_batch([vectors], names=["vector"])
        command = {"operation": "search_batch", "collection": collection, "request": {}}
        descriptor = fl.FlightDescriptor.for_command(msgspec.json.encode(command))
        writer, reader = client.do_exchange(descriptor, options)
        with writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            assert reader.read_all().num_rows == 1

    def put(client: Any, options: Any) -> None:
        batch = pa.record_batch([pa.array([1]), vectors], names=["id", "vector"])
        writer, answers = client.do_put(path, batch.schema, options)
        with writer:
            writer.write_batch(batch)
            writer.done_writing()
            assert answers.read() is not None

    def get(client: Any, options: Any) -> None:
        command = {
            "operation": operation, "collection": collection, "request": requests[operation]
        }  # fmt: skip
        ticket = fl.Ticket(msgspec.json.encode(command))
        assert client.do_get(ticket, options).read_all().num_rows == 1

    return {
        "DoGet": get,
        "DoPut": put,
        "DoExchange": exchange,
        "GetFlightInfo": lambda client, options: client.get_flight_info(path, options),
        "GetSchema": lambda client, options: client.get_schema(path, options),
    }[kind]


@pytest.mark.parametrize("name", FLIGHT_CALLS)
def test_a_call_of_flight_answers_the_keys_that_its_operation_is_for(
    served: Served, name: str
) -> None:
    given = {}
    for who in expected(FLIGHT_CALLS[name]):
        key, _, place = who.partition("@")
        token = None if key == "none" else f"Bearer {served.keys[key]}"
        given[who] = served.flight(flight_call(name, place or "docs"), token)
    assert given == expected(FLIGHT_CALLS[name])


def test_flights_and_actions_are_listed_for_those_with_a_key_only(served: Served) -> None:
    seen: dict[str, list[bytes]] = {}

    def flights(client: Any, options: Any) -> None:
        seen["now"] = [f.descriptor.path[0] for f in client.list_flights(options=options)]

    for who, names in (("read", [b"docs", b"other"]), ("other", [b"other"])):
        assert served.flight(flights, f"Bearer {served.keys[who]}") == 200
        assert seen["now"] == names
    for call in (flights, lambda client, options: list(client.list_actions(options))):
        for token in (None, f"Bearer {served.keys['wrong']}"):
            assert served.flight(call, token) == 401
        assert served.flight(call, f"Bearer {served.keys['read']}") == 200


def test_a_body_is_not_looked_at_before_the_key(served: Served) -> None:
    for operation in OPERATIONS:
        path = path_of(operation).replace("{collection}", "docs")
        status, body, headers = served.send(operation.method, path, b"{{{")
        assert status == 401
        assert headers["WWW-Authenticate"] == "Bearer"
        assert b"docs" not in body


def test_paths_that_do_not_exist_tell_a_stranger_nothing(served: Served) -> None:
    assert served.send("GET", "/v1/collections/nothing/stats")[0] == 401
    assert served.send("GET", "/v1/nothing")[0] == 401
    assert served.send("GET", "/metrics")[0] == 401
    key = f"Bearer {served.keys['read']}"
    assert served.send("GET", "/v1/collections/nothing/stats", Authorization=key)[0] == 404
    assert served.send("GET", "/v1/nothing", Authorization=key)[0] == 404
    status, page, _ = served.send("GET", "/metrics", Authorization=key)
    assert status == 200
    assert b'vicinal_points{collection="docs"} 1.0' in page
    for path in ("/healthz", "/livez", "/readyz", "/openapi.json"):
        assert served.send("GET", path)[0] == 200


def test_a_key_of_one_collection_sees_no_other(served: Served) -> None:
    with vicinal.open(served.url, api_key=served.keys["other"]) as db:
        assert db.collections() == ["other"]
        with pytest.raises(vicinal.ForbiddenError, match="docs"):
            db.collection("docs")
        assert db.collection("other").count() == 1
        assert list(db.status()) == ["other"]
        with pytest.raises(vicinal.ForbiddenError, match="for all"):
            db.snapshot(collections=["other"])


def test_a_write_key_finds_collections_and_makes_none(served: Served) -> None:
    with vicinal.open(served.url, api_key=served.keys["write"]) as db:
        assert db.collection("docs", dim=2).upsert([{"id": 2, "vector": [0, 0]}]) == 1
        with pytest.raises(vicinal.CollectionMismatchError):
            db.collection("docs", dim=3)
        with pytest.raises(vicinal.ForbiddenError, match="admin"):
            db.collection("new", dim=2)
        with pytest.raises(vicinal.NotFoundError):
            db.collection("new")
        assert db.collections() == ["docs", "other"]


def test_a_revoked_key_stops_working(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "RELOAD_S_MAX", 0.0)
    with vicinal.open(served.url, api_key=served.keys["read"]) as db:
        docs = db.collection("docs")
        assert docs.count() == 1
        served.store.revoke(served.keys["read"].split("_")[1])
        with pytest.raises(vicinal.UnauthenticatedError):
            docs.count()


def test_opening_without_the_right_key_says_so(served: Served) -> None:
    for key in (None, served.keys["wrong"], "", "nonsense"):
        with pytest.raises(vicinal.UnauthenticatedError, match="vicinal keys create"):
            vicinal.open(served.url, api_key=key)


def test_the_network_is_not_served_without_keys_by_mistake(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db:
        for options in ({"host": "0.0.0.0"}, {"auth": True}):  # noqa: S104
            with pytest.raises(vicinal.InvalidArgumentError, match="keys create"):
                db.serve(http_port=0, **options)
        with db.serve(http_port=0, host="0.0.0.0", auth=False) as server:  # noqa: S104
            remote = vicinal.open(server.url)
            assert remote.collections() == []
            remote.close()


def test_without_keys_only_names_of_this_machine_are_answered(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db, db.serve(http_port=0) as server:
        plain = Served(server.url, KeyStore(tmp_path / "db"), {})
        assert plain.send("GET", "/v1/info", Host=f"localhost:{server.port}")[0] == 200
        assert plain.send("GET", "/v1/info", Host="[::1]:1")[0] == 200
        for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:7333"):
            assert plain.send("GET", "/v1/info", Host=host)[0] == 403
