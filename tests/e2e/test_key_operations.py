"""Keys over the network: an admin of all collections lists, makes and revokes them; nobody else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving import http_call

import vicinal
from vicinal.server import keys as keys_module
from vicinal.server.keys import KeyStore


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_the_first_key_is_an_admins_and_closes_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "RELOAD_S_MAX", 0.0)
    with vicinal.open(tmp_path / "db") as db, db.serve(http_port=0) as server:
        url = server.url
        assert http_call(url, "GET", "/v1/keys")[1] == {"keys": []}
        assert http_call(url, "GET", "/v1/info")[1]["role"] is None
        for wrong in (
            {"role": "read"},
            {"role": "admin", "collections": ["a"]},
            {"role": "admin", "valid_s": 60},
        ):
            status, answer, _ = http_call(url, "POST", "/v1/keys", wrong)
            assert (status, "first key" in answer["error"]["message"]) == (400, True)
        made = http_call(url, "POST", "/v1/keys", {"role": "admin", "name": "Ada"})[1]
        assert http_call(url, "GET", "/v1/keys")[0] == 401
        head = bearer(made["key"])
        assert http_call(url, "GET", "/v1/info", **head)[1]["role"] == "admin"
        request = {"role": "write", "collections": ["a", "b"], "valid_s": 3600, "requests_per_s": 5}
        second = http_call(url, "POST", "/v1/keys", request, **head)[1]
        listed = http_call(url, "GET", "/v1/keys", **head)[1]["keys"]
        assert [k["id"] for k in listed] == [made["info"]["id"], second["info"]["id"]]
        assert (listed[0]["name"], listed[0]["expires"]) == ("Ada", None)
        assert (listed[1]["collections"], listed[1]["requests_per_s"]) == (["a", "b"], 5.0)
        assert listed[1]["expires"].startswith("20")
        assert "hash" not in str(listed)
        assert made["key"].split("_", 2)[2] not in str(listed)
        info = http_call(url, "GET", "/v1/info", **bearer(second["key"]))[1]
        assert (info["role"], info["collections"]) == ("write", ["a", "b"])
        gone = http_call(url, "POST", "/v1/keys/revoke", {"id": second["info"]["id"]}, **head)
        assert (gone[0], gone[1]["id"]) == (200, second["info"]["id"])
        assert http_call(url, "GET", "/v1/info", **bearer(second["key"]))[0] == 401
        again = http_call(url, "POST", "/v1/keys/revoke", {"id": second["info"]["id"]}, **head)
        assert (again[0], again[1]["error"]["code"]) == (404, "not_found")


def test_a_server_with_its_door_open_makes_no_keys(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db, db.serve(http_port=0, auth=False) as server:
        for method, path, body in (
            ("GET", "/v1/keys", None),
            ("POST", "/v1/keys", {"role": "admin"}),
            ("POST", "/v1/keys/revoke", {"id": "x"}),
        ):
            status, answer, _ = http_call(server.url, method, path, body)
            assert (status, answer["error"]["code"]) == (403, "forbidden")
    assert KeyStore(tmp_path / "db").list() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "king"},
        {"role": "read", "collections": []},
        {"role": "read", "valid_s": -1},
        {"role": "read", "name": "a\nb"},
        {"role": "read", "name": "x" * 129},
        {"role": "read", "requests_per_s": 0},
        {"role": "read", "requests_per_s": -3},
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with vicinal.open(tmp_path / "db") as db:
        admin, _ = KeyStore(tmp_path / "db").create(role="admin")
        with db.serve(http_port=0) as server:
            status, answer, _ = http_call(server.url, "POST", "/v1/keys", wrong, **bearer(admin))
            assert (status, answer["error"]["code"]) == (400, "invalid_argument")


def test_a_key_keeps_to_its_own_rate(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db:
        store = KeyStore(tmp_path / "db")
        slow, _ = store.create(role="read", requests_per_s=0.001)
        free, _ = store.create(role="read")
        with db.serve(http_port=0) as server:
            assert http_call(server.url, "GET", "/v1/info", **bearer(slow))[0] == 200
            status, answer, headers = http_call(server.url, "GET", "/v1/info", **bearer(slow))
            assert (status, answer["error"]["code"]) == (429, "overloaded")
            assert "0.001 requests a second" in answer["error"]["message"]
            assert int(headers["Retry-After"]) > 100
            assert {
                http_call(server.url, "GET", "/v1/info", **bearer(free))[0] for _ in range(20)
            } == {200}
