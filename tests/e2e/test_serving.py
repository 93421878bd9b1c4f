"""A served database: plain HTTP, limits, deadlines, joined and batched searches, stopping, and trying again."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from serving import Gate, http_call, metric

import vicinal
from vicinal.client.local import LocalCollection
from vicinal.engine.collection import Collection
from vicinal.engine.reader import Reader
from vicinal.model.errors import DeadlineError
from vicinal.server import gateway
from vicinal.server.gateway import Gateway

COMMAND = Path(sys.executable).with_name("vicinal")


def test_plain_json_is_enough(local: vicinal.Database) -> None:
    with local.serve(http_port=0) as server:
        url, base = server.url, "/v1/collections/plain"
        assert http_call(url, "PUT", base, {"dim": 2, "metric": "l2"})[0] == 200
        points = [
            {"id": "a", "vector": [1, 0], "payload": {"lang": "en"}},
            {"id": {"uuid": "12345678-1234-5678-1234-567812345678"}, "vector": "AAAAAAAAAAA="},
        ]
        assert http_call(url, "POST", f"{base}/points", {"points": points})[1] == {"count": 2}
        query = {"vector": [1, 0], "k": 2, "with_vectors": True}
        assert http_call(url, "POST", f"{base}/search", query)[1] == {
            "hits": [
                {"id": "a", "distance": 0.0, "payload": {"lang": "en"}, "vector": [1.0, 0.0]},
                {
                    "id": {"uuid": "12345678-1234-5678-1234-567812345678"},
                    "distance": 1.0,
                    "payload": {},
                    "vector": [0.0, 0.0],
                },
            ],
            "recall_estimate": 1.0,
        }
        for given, answered in (
            ("2100-01-02T03:04:05.678Z", "2100-01-02T03:04:05.678000Z"),
            ("2100-01-02T03:04:05+01:00", "2100-01-02T02:04:05Z"),
            (4e9, "2096-10-02T07:06:40Z"),
            ("never", None),
        ):
            change = {"ids": ["a"], "expires_at": given}
            assert http_call(url, "PATCH", f"{base}/points", change)[1] == {"count": 1}
            found = http_call(url, "POST", f"{base}/points/get", {"ids": ["a"]})[1]["points"][0]
            assert found.get("expires_at") == answered
        for wrong in ("tomorrow", "2100-01-02T03:04:05", -1, 4e12):
            change = {"ids": ["a"], "expires_at": wrong}
            status, answer, _ = http_call(url, "PATCH", f"{base}/points", change)
            assert (status, "expires_at" in answer["error"]["message"]) == (400, True)
        change = {"where": {"lang": "en"}, "delete_keys": ["lang"], "dry_run": True}
        assert http_call(url, "PATCH", f"{base}/points", change)[1] == {"count": 1}
        assert http_call(url, "GET", "/v1/status")[1]["collections"]["plain"] == {
            "health": "serving", "reason": None
        }  # fmt: skip
        where = {"where": {"lang": "en"}}
        assert http_call(url, "POST", f"{base}/points/count", where)[1] == {"count": 1}
        assert http_call(url, "DELETE", base)[1] == {"name": "plain"}


def test_errors_have_a_code_a_message_and_a_status(local: vicinal.Database) -> None:
    with local.serve(http_port=0) as server:
        docs = "/v1/collections/docs"
        cases: list[tuple[str, str, Any, int, str]] = [
            ("POST", f"{docs}/search", {"vector": [1]}, 400, "dimension"),
            ("POST", f"{docs}/search", {"vector": [1, 2], "k": 0}, 400, "limit"),
            ("POST", f"{docs}/search", {"vector": [1, 2], "efsearch": 9}, 400, "invalid_argument"),
            ("POST", f"{docs}/search", b"{", 400, "invalid_argument"),
            ("POST", f"{docs}/points/count", {"where": "a ="}, 400, "filter"),
            ("PUT", docs, {"dim": 3}, 409, "collection_mismatch"),
            ("GET", "/v1/collections/none/stats", None, 404, "not_found"),
            ("GET", "/v2/info", None, 404, "not_found"),
            ("GET", f"{docs}/search", None, 405, "invalid_argument"),
            ("PUT", "/v1/collections/%ff", {"dim": 2}, 400, "invalid_argument"),
        ]
        for method, path, body, status, code in cases:
            answer = http_call(server.url, method, path, body)
            assert (answer[0], answer[1]["error"]["code"]) == (status, code), (method, path, answer)
            assert len(answer[1]["error"]["message"]) > 10
        status, answer, _ = http_call(
            server.url, "POST", f"{docs}/search", b"{}", **{"Content-Type": "text/plain"}
        )
        assert (status, answer["error"]["code"]) == (400, "invalid_argument")
        assert http_call(server.url, "POST", f"{docs}/points/count", {"where": "a ="})[1]["error"][
            "details"
        ] == {"column": 4}


def test_searches_that_wait_together_become_one_call_and_equal_ones_one_search(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with (
        local.serve(http_port=0, search_threads=1, recall_share=0) as server,
        vicinal.open(server.url) as db,
        ThreadPoolExecutor(12) as pool,
    ):
        docs = db.collection("docs")
        first = pool.submit(docs.search, [0.0, 0.0], k=1)
        assert gate.entered.acquire(timeout=30)
        rest = [pool.submit(docs.search, [float(i // 2), 0.0], k=1) for i in range(2, 12)]
        others = pool.submit(docs.search, [1.0, 0.0], k=2)
        line = "vicinal_searches_waiting"
        while (
            metric(server.url, line) < 6 or metric(server.url, "vicinal_searches_joined_total") < 5
        ):
            pass
        gate.open.set()
        assert first.result()[0].id == 0
        assert [f.result()[0].id for f in rest] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert others.result()[0].id == 1
        assert gate.sizes == [1, 5, 1]


def test_a_search_does_not_wait_for_one_whose_deadline_is_over(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be there until the event loop has told what waited for it."""
    search, began = Gateway._search, []

    async def late(self: Gateway, call: gateway.Call, engine: Collection) -> bytes:
        over: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        flight = (gateway._key(engine, gateway._digest(call)), engine.version)
        self._flights[flight] = over
        over.add_done_callback(partial(self._land, flight))
        over.set_exception(DeadlineError("the time was over"))
        began.append(flight)
        return await search(self, call, engine)

    monkeypatch.setattr(Gateway, "_search", late)
    with local.serve(http_port=0, recall_share=0) as server:
        for _ in range(2):
            path = "/v1/collections/docs/search"
            assert http_call(server.url, "POST", path, {"vector": [1, 0]})[0] == 200
    assert len(began) == 2


def test_a_deadline_ends_the_wait_and_not_the_one_of_another(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with (
        local.serve(http_port=0, search_threads=1, recall_share=0) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        path = "/v1/collections/docs/search"
        patient = pool.submit(http_call, server.url, "POST", path, {"vector": [1, 0]})
        assert gate.entered.acquire(timeout=30)
        status, answer, _ = http_call(
            server.url, "POST", path, {"vector": [1, 0]}, **{"Vicinal-Timeout-Ms": "50"}
        )
        assert (status, answer["error"]["code"]) == (504, "deadline")
        status, answer, _ = http_call(
            server.url, "POST", path, {"vector": [2, 0]}, **{"Vicinal-Timeout-Ms": "50"}
        )
        assert (status, answer["error"]["code"]) == (504, "deadline")
        gate.open.set()
        assert patient.result()[0] == 200
        assert http_call(server.url, "POST", path, {"vector": [2, 0]})[0] == 200
        for value in ("0", "x", "-5", "9" * 13):
            headers = {"Vicinal-Timeout-Ms": value}
            assert http_call(server.url, "POST", path, {"vector": [1, 0]}, **headers)[0] == 400


def test_too_many_requests_are_refused_and_told_when_to_come_back(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with (
        local.serve(http_port=0, requests_max=2, recall_share=0) as server,
        ThreadPoolExecutor(3) as pool,
    ):
        path = "/v1/collections/docs/search"
        held = [
            pool.submit(http_call, server.url, "POST", path, {"vector": [i, 0]}) for i in range(2)
        ]
        for _ in held:
            assert gate.entered.acquire(timeout=30)
        status, answer, headers = http_call(server.url, "GET", "/v1/info")
        assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "overloaded", "1")
        assert http_call(server.url, "GET", "/livez")[0] == 200
        waiting = pool.submit(vicinal.open, server.url)
        gate.open.set()
        assert [f.result()[0] for f in held] == [200, 200]
        with waiting.result() as db:
            assert db.collections() == ["docs"], "the client comes back by itself"


def test_bodies_are_bounded(local: vicinal.Database) -> None:
    with local.serve(http_port=0, request_bytes_max=10_000) as server:
        path = "/v1/collections/docs/points/get"
        status, answer, _ = http_call(server.url, "POST", path, b"x" * 10_001)
        assert (status, answer["error"]["code"]) == (413, "request_too_large")
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        chunks = (b"x" * 1_000 for _ in range(11))
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, chunks, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
        with vicinal.open(server.url) as db, pytest.raises(vicinal.LimitError, match="10000"):
            db.collection("docs").upsert(ids=range(2_000), vectors=np.zeros((2_000, 2)))
        assert local.collection("docs").count() == 20


def test_senders_that_are_slow_or_send_endless_headers_are_cut_off(local: vicinal.Database) -> None:
    with local.serve(http_port=0, read_s_max=0.3, requests_max=5) as server:
        address = ("127.0.0.1", server.port)
        head = b"POST /v1/collections/docs/search HTTP/1.1\r\nHost: localhost\r\n"
        body = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        starts = [b"", b"G", head, head + body]
        slow = [socket.create_connection(address, timeout=30) for _ in range(4 * len(starts))]
        for i, connection in enumerate(slow):
            connection.sendall(starts[i % len(starts)])
        answers = []
        for connection in slow:
            try:
                answers.append(connection.recv(65_536))
            except ConnectionResetError:
                answers.append(b"")
            connection.close()
        assert [a[:12] for a in answers] == [b"", b"", b"", b"HTTP/1.1 504"] * 4
        with socket.create_connection(address, timeout=30) as endless:
            endless.sendall(head)
            with pytest.raises(OSError):
                for _ in range(1_000):
                    endless.sendall(b"X-Filler: " + b"x" * 10_000 + b"\r\n")
        with vicinal.open(server.url) as db:
            assert db.collection("docs").count() == 20, "and none of them is left"


def test_a_key_has_its_rate(tmp_path: Path) -> None:
    from vicinal.server.keys import KeyStore

    with vicinal.open(tmp_path / "db") as db:
        text, _ = KeyStore(tmp_path / "db").create()
        other, _ = KeyStore(tmp_path / "db").create()
        with db.serve(http_port=0, key_requests_per_s_max=0.001) as server:

            def status(key: str) -> tuple[int, str | None]:
                answer = http_call(server.url, "GET", "/v1/info", Authorization=f"Bearer {key}")
                return answer[0], answer[2]["Retry-After"]

            assert status(text) == (200, None)
            refused, after = status(text)
            assert (refused, int(after or 0) > 100) == (429, True)
            assert status(other) == (200, None)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"http_port": -1}, "http_port"),
        ({"requests_max": 0}, "requests_max"),
        ({"cache_bytes_max": -1}, "cache_bytes_max"),
        ({"timeout_s_max": 0}, "timeout_s_max"),
        ({"batch_max": 2.5}, "batch_max"),
        ({"grpc": 1}, "grpc"),
    ],
)
def test_options_out_of_range_start_nothing(
    local: vicinal.Database, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match=word):
        local.serve(**options)


def test_stopping_finishes_what_is_under_way_and_frees_the_port(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    server = local.serve(http_port=0)
    with ThreadPoolExecutor(2) as pool:
        path = "/v1/collections/docs/search"
        held = pool.submit(http_call, server.url, "POST", path, {"vector": [1, 0]})
        assert gate.entered.acquire(timeout=30)
        stopping = pool.submit(server.close)
        gate.open.set()
        assert held.result()[0] == 200
        stopping.result()
    server.close()
    with pytest.raises(vicinal.UnavailableError, match=str(server.port)):
        vicinal.open(server.url, retries=0)
    with local.serve(http_port=server.port) as again, vicinal.open(again.url) as db:
        assert db.collections() == ["docs"]
    assert local.collection("docs").count() == 20, "the database stays open"


def test_a_port_in_use_is_an_error_that_names_it(local: vicinal.Database) -> None:
    with (
        local.serve(http_port=0) as server,
        pytest.raises(vicinal.StorageError, match=str(server.port)),
    ):
        local.serve(http_port=server.port)


def test_a_bug_is_an_internal_error_and_the_server_goes_on(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: LocalCollection, *args: Any, **options: Any) -> Any:
        raise ZeroDivisionError

    with local.serve(http_port=0) as server, vicinal.open(server.url) as db:
        docs = db.collection("docs")
        with monkeypatch.context() as patch:
            patch.setattr(LocalCollection, "search", broken)
            for query in ([1.0, 0.0], [[1.0, 0.0], [2.0, 0.0]]):
                with pytest.raises(vicinal.InternalError, match="ZeroDivisionError"):
                    docs.search(query)
        assert docs.search([1.0, 0.0], k=1)[0].id == 1


class Flaky:
    """A server that breaks the first connections after it read a request, then passes on to a real one."""

    def __init__(self, target: int, breaks: int) -> None:
        self.target, self.breaks, self.requests = target, breaks, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                request = client.recv(65_536)
                head, _, body = request.partition(b"\r\n\r\n")
                length = [h for h in head.lower().split(b"\r\n") if b"content-length" in h]
                while length and len(body) < int(length[0].split(b":")[1]):
                    body += client.recv(65_536)
                request = head + b"\r\n\r\n" + body
                self.requests += 1
                if self.breaks:
                    self.breaks -= 1
                    continue
                with socket.create_connection(("127.0.0.1", self.target)) as server:
                    server.sendall(
                        request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
                    )
                    server.settimeout(0.5)
                    try:
                        while data := server.recv(65_536):
                            client.sendall(data)
                    except TimeoutError:
                        server.close()


def test_a_read_is_tried_again_after_a_broken_connection_and_a_write_is_not(
    local: vicinal.Database,
) -> None:
    with local.serve(http_port=0) as server:
        flaky = Flaky(server.port, breaks=2)
        url = f"http://127.0.0.1:{flaky.port}"
        with vicinal.open(url, retries=3) as db:
            docs = db.collection("docs")
            before = flaky.requests
            flaky.breaks = 3
            assert docs.count() == 20
            assert flaky.requests == before + 4
            before = flaky.requests
            flaky.breaks = 1
            with pytest.raises(vicinal.UnavailableError, match="may or may not"):
                docs.delete([1])
            assert flaky.requests == before + 1
            assert docs.count() == 20
        flaky.breaks = 1
        with pytest.raises(vicinal.UnavailableError):
            vicinal.open(url, retries=0)
        flaky.listener.close()


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("http://", {}),
        ("http://host:port", {}),
        ("http://user:pw@host", {}),
        ("ftp://host", {}),
        ("http://127.0.0.1:1", {"timeout_s": 0}),
        ("http://127.0.0.1:1", {"timeout_s": "3"}),
        ("http://127.0.0.1:1", {"retries": -1}),
        ("http://127.0.0.1:1", {"api_key": "a\nb"}),
        ("http://127.0.0.1:1", {"read_only": True}),
        ("http://127.0.0.1:1", {"durability": "none"}),
        (":memory:", {"api_key": "x"}),
        (":memory:", {"timeout_s": 3.0}),
    ],
)
def test_addresses_and_options_that_do_not_fit_are_refused(
    address: str, options: dict[str, Any]
) -> None:
    with pytest.raises(vicinal.InvalidArgumentError):
        vicinal.open(address, **options)


def test_what_only_a_directory_has_says_so(local: vicinal.Database) -> None:
    with local.serve(http_port=0) as server, vicinal.open(server.url) as db:
        assert db.address == server.url
        assert server.url in repr(db)
        for ask in (lambda: db.path, lambda: db.serve(http_port=0)):
            with pytest.raises(vicinal.InvalidArgumentError, match="served"):
                ask()


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "db"
    process = subprocess.Popen(
        [COMMAND, "serve", path, "--http-port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        record = json.loads(process.stdout.readline())
        assert record["keys"] is False
        with vicinal.open(record["url"]) as db:
            db.collection("docs", dim=2).upsert([{"id": 1, "vector": [1, 2]}])
        for other in ("grpc_url", "flight_url"):
            with vicinal.open(record[other]) as db:
                assert db.collection("docs").count() == 1
        with pytest.raises(vicinal.LockedError):
            vicinal.open(path)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    with vicinal.open(path) as db:
        assert db.collection("docs").count() == 1


def test_keys_of_the_command_line_open_a_served_database(tmp_path: Path) -> None:
    path = tmp_path / "db"

    def keys(*arguments: object) -> Any:
        out = subprocess.run(
            [COMMAND, "keys", *map(str, arguments), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(out.stdout)

    with vicinal.open(path) as db:
        made = keys("create", path, "--role", "write", "-c", "docs", "--expires", "1h")
        assert made["key"].startswith(f"vk_{made['id']}_")
        assert [k["id"] for k in keys("list", path)] == [made["id"]]
        assert "key" not in keys("list", path)[0]
        db.collection("docs", dim=2)
        with (
            db.serve(http_port=0) as server,
            vicinal.open(server.url, api_key=made["key"]) as remote,
        ):
            assert remote.collections() == ["docs"]
    assert keys("revoke", path, made["id"])["id"] == made["id"]
    assert keys("list", path) == []


def test_a_request_logs_nothing_and_a_fault_of_ours_does(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with local.serve(http_port=0) as server, vicinal.open(server.url) as db:
        caplog.clear()  # that it serves
        docs = db.collection("docs")
        docs.search([1.0, 0.0])
        docs.upsert([{"id": 1, "vector": [1, 0]}])
        with pytest.raises(vicinal.DimensionError):
            db.collection("docs").search([1.0])
        assert [r.getMessage() for r in caplog.records if r.name.startswith("vicinal")] == []
        monkeypatch.setattr(Reader, "count", lambda reader, where: 1 // 0)
        with pytest.raises(vicinal.InternalError):
            docs.count()
        assert [r.exc_info is not None for r in caplog.records if r.name == "vicinal.server"] == [
            True
        ]


def test_many_searches_answer_what_was_found_when_their_time_is_over(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with (
        local.serve(http_port=0, search_threads=1, recall_share=0) as server,
        vicinal.open(server.url) as db,
    ):
        docs = db.collection("docs")
        gate.open.set()
        path = "/v1/collections/docs/search/many"
        searches = [{"vector": [i, 0], "k": 1} for i in (1, 2, 3)]
        assert http_call(server.url, "POST", path, {"searches": searches[:1]})[0] == 200
        gate.open.clear()
        body = {"searches": searches, "time_ms": 200}
        status, answer, _ = http_call(server.url, "POST", path, body)
        assert status == 200
        assert answer["missing"] == [1, 2], (
            "the first was in the cache, the others wait at the gate"
        )
        assert [[h["id"] for h in r["hits"]] for r in answer["results"]] == [[1], [], []]
        headers = {"Vicinal-Timeout-Ms": "50"}
        status, answer, _ = http_call(server.url, "POST", path, {"searches": searches}, **headers)
        assert (status, answer["error"]["code"]) == (504, "deadline")
        gate.open.set()
        assert docs.search_many([{"query": [2, 0]}, {"query": [3, 0]}]).complete
        assert sum(gate.sizes) == 4, "what was not begun in time never was"
