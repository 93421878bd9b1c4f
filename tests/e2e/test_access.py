"""Every route with every kind of key: what a key does not allow is refused before its body is looked at."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

import vicinal
from vicinal.server import keys as keys_module
from vicinal.server.keys import KeyStore
from vicinal.server.openapi import path_of
from vicinal.wire.operations import DROP, OPERATIONS, REVOKE_KEY, Operation, Role

BODIES = {
    "open": {"dim": 2},
    "upsert": {"points": [{"id": 1, "vector": [1.0, 2.0]}]},
    "update": {"ids": [1], "payload": {"a": 1}},
    "delete": {"ids": [99]},
    "get": {"ids": [1]},
    "search": {"vector": [1.0, 2.0]},
    "search_batch": {"vectors": [[1.0, 2.0]]},
    "explain": {"vector": [1.0, 2.0]},
    "drop_snapshot": {"name": "kept"},
    "create_key": {"role": "read"},
}
JSON = {"Content-Type": "application/json"}


@dataclass
class Served:
    """A server that asks for keys, and some of them."""

    url: str
    store: KeyStore
    keys: dict[str, str]
    spare: str = ""

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

    def call(self, operation: Operation, key: str | None, collection: str = "docs") -> int:
        """The status of an operation, sent with a body that is right."""
        path = path_of(operation).replace("{collection}", collection)
        sent = {"id": self.spare} if operation is REVOKE_KEY else BODIES.get(operation.name, {})
        body = msgspec.json.encode(sent)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self.send(operation.method, path, body, **headers)[0]


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
        with db.serve(http_port=0) as server:
            yield Served(server.url, store, keys, store.create()[1].id)


OTHERS = [o for o in OPERATIONS if o is not DROP]


@pytest.mark.parametrize("operation", [*OTHERS, DROP], ids=lambda o: o.name)
def test_a_route_answers_the_keys_that_it_is_for(served: Served, operation: Operation) -> None:
    refused = {k: served.call(operation, served.keys.get(k)) for k in ("none", "wrong", "expired")}
    assert refused == {"none": 401, "wrong": 401, "expired": 401}
    expected = {
        role: 200 if Role[role.upper()] >= operation.role else 403 for role in ("read", "write")
    }
    assert {role: served.call(operation, served.keys[role]) for role in expected} == expected
    if operation.on_collection:
        assert served.call(operation, served.keys["other"]) == 403
        assert served.call(operation, served.keys["other"], "other") == 200
    else:
        some = 403 if operation.every_collection else 200
        assert served.call(operation, served.keys["other"]) == some
    assert served.call(operation, served.keys["admin"]) == 200


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
    key = {"Authorization": f"Bearer {served.keys['read']}"}
    assert served.send("GET", "/v1/collections/nothing/stats", **key)[0] == 404
    assert served.send("GET", "/v1/nothing", **key)[0] == 404
    status, page, _ = served.send("GET", "/metrics", **key)
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
