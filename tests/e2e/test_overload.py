"""A full server: what it refuses, how it says so, and what it goes on answering."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from serving import SEARCH, answer, connect, http_call, metric, raw

import vicinal
from vicinal.server import admission, http

QUERY = {"vector": [1, 2]}


@pytest.fixture
def full(local: vicinal.Database) -> Iterator[tuple[Any, socket.socket]]:
    """A server that has room for one request, and the connection of the one that it waits for."""
    with (
        local.serve(http_port=0, requests_max=1, recall_share=0.0) as server,
        connect(server) as slow,
    ):
        body = json.dumps(QUERY).encode()
        slow.sendall(raw(body)[: -len(body)])
        while http_call(server.url, "POST", SEARCH, QUERY)[0] != 503:
            continue  # until the server has met its head
        yield server, slow


def test_refusals_are_whole_answers_and_their_connection_goes_on(
    full: tuple[Any, socket.socket],
) -> None:
    server, slow = full
    before = metric(server.url, 'vicinal_refused_total{code="overloaded",protocol="http"}')
    with connect(server) as connection:
        for _ in range(3):
            connection.sendall(raw(json.dumps(QUERY).encode()))
            status, head, body = answer(connection)
            assert (status, body["error"]["code"]) == (503, "overloaded")
            assert b"retry-after: 1" in head
            assert body["error"]["details"]["retry_after_s"] == 1.0
        body = json.dumps(QUERY).encode()
        slow.sendall(body)
        assert answer(slow)[0] == 200, "the one that was let in is answered"
        connection.sendall(raw(body))
        assert answer(connection)[0] == 200
    after = metric(server.url, 'vicinal_refused_total{code="overloaded",protocol="http"}')
    assert after - before == 3


def test_a_full_server_says_that_it_lives_and_what_it_does(full: tuple[Any, Any]) -> None:
    server, _ = full
    for path in ("/livez", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert http_call(server.url, "GET", path)[0] == 200


def test_what_comes_in_pieces_is_refused_too(full: tuple[Any, Any]) -> None:
    server, _ = full
    request = raw(json.dumps(QUERY).encode())
    with connect(server) as connection:
        for _ in range(2):
            for cut in (20, len(request) - 5):
                connection.sendall(request[:cut])
                connection.sendall(request[cut:])
                status, _, body = answer(connection)
                assert (status, body["error"]["code"]) == (503, "overloaded")


def test_two_requests_at_once_are_both_answered_in_their_order(full: tuple[Any, Any]) -> None:
    server, _ = full
    with connect(server) as connection:
        connection.sendall(raw(json.dumps(QUERY).encode()) * 2)
        got = b""
        while got.count(b"HTTP/1.1 503") < 2:
            part = connection.recv(65_536)
            assert part
            got += part


def test_what_comes_behind_a_refused_request_before_it_is_told_waits_for_its_turn(
    full: tuple[Any, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "REFUSE_S", 0.2)
    server, slow = full
    body = json.dumps(QUERY).encode()
    told = 'vicinal_refused_total{code="overloaded",protocol="http"}'
    before = metric(server.url, told)
    with connect(server) as connection, connect(server) as gone:
        gone.sendall(raw(body))
        connection.sendall(raw(body))
        while metric(server.url, told) < before + 2:
            continue  # until both are refused, and neither is told
        gone.close()
        slow.sendall(body)
        assert answer(slow)[0] == 200
        connection.sendall(raw(body))
        got = b""
        while b"HTTP/1.1 200" not in got:  # both may come at once
            part = connection.recv(65_536)
            assert part, got
            got += part
        assert got.startswith(b"HTTP/1.1 503")


def test_a_server_that_stops_tells_those_who_were_refused(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "REFUSE_S", 0.5)
    body = json.dumps(QUERY).encode()
    with local.serve(http_port=0, requests_max=1, recall_share=0.0) as server:
        with connect(server) as slow, connect(server) as refused:
            slow.sendall(raw(body)[: -len(body)])
            while metric(server.url, "vicinal_requests_under_way") < 1:
                continue
            refused.sendall(raw(body))
            told = 'vicinal_refused_total{code="overloaded",protocol="http"}'
            while metric(server.url, told) < 1:
                continue
            stopping = threading.Thread(target=server.close)
            stopping.start()
            assert answer(refused)[0] == 503
            assert refused.recv(1) == b"", "its connection is closed"
            slow.sendall(body)
            assert answer(slow)[0] == 200
        stopping.join(30)
        assert not stopping.is_alive()


def test_a_client_is_told_overloaded_and_does_it_when_there_is_room(
    full: tuple[Any, socket.socket],
) -> None:
    server, slow = full
    with pytest.raises(vicinal.OverloadedError, match="as many requests are under way"):
        vicinal.open(server.url, retries=0).collection("docs")
    slow.sendall(json.dumps(QUERY).encode())
    assert answer(slow)[0] == 200
    with vicinal.open(server.url) as db:
        assert db.collection("docs").count() == 20


Slow = tuple[Any, threading.Event, list[socket.socket]]


@contextmanager
def held_up(local: vicinal.Database) -> Generator[Slow]:
    """A server of which two searches are under way and three are held until the event is set, and the connections of
    the five, in their order."""
    go = threading.Event()

    def watch(_: object) -> None:
        go.wait(20)

    local.engine.watchers.add(watch)
    with (
        local.serve(
            http_port=0, search_threads=1, batch_max=1, cache_bytes_max=0, recall_share=0.0
        ) as server,
        ExitStack() as stack,
    ):
        connections = list[socket.socket]()
        for place in range(5):
            connections.append(stack.enter_context(connect(server)))
            connections[-1].sendall(raw(json.dumps({"vector": [place, 0], "k": 1}).encode()))
            until_waiting(server, place)
        try:
            yield server, go, connections
        finally:
            go.set()


@pytest.fixture
def slow(local: vicinal.Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """`held_up`, however long it takes."""
    monkeypatch.setattr(admission, "HELD_S_MAX", 60.0)
    with held_up(local) as found:
        yield found


def until_waiting(server: Any, count: int) -> None:
    end = time.monotonic() + 20
    while metric(server.url, "vicinal_searches_waiting") != count:
        assert time.monotonic() < end


def test_searches_that_are_held_are_answered_in_their_turn(slow: Slow) -> None:
    server, go, connections = slow
    assert metric(server.url, "vicinal_requests_under_way") == 5
    assert http_call(server.url, "GET", "/v1/collections/docs")[0] == 200, "others are not held"
    go.set()
    nearest = [answer(connection)[2]["hits"][0]["id"] for connection in connections]
    assert nearest == [0, 1, 2, 3, 4]
    until_waiting(server, 0)
    assert metric(server.url, "vicinal_requests_under_way") == 0


def test_what_comes_behind_a_held_search_is_answered_after_it(slow: Slow) -> None:
    server, go, connections = slow
    last = connections[-1]
    for place in (7, 9):
        last.sendall(raw(json.dumps({"vector": [place, 0], "k": 1}).encode()))
        time.sleep(0.05)  # so that each is read by itself
    go.set()
    whole, found = last.makefile("rb"), list[int]()
    while len(found) < 3:
        length = 0
        while (line := whole.readline().lower()) != b"\r\n":
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        found.append(json.loads(whole.read(length))["hits"][0]["id"])
    assert found == [4, 7, 9]
    assert metric(server.url, "vicinal_requests_under_way") == 0


def test_a_held_search_whose_client_leaves_is_forgotten(slow: Slow) -> None:
    server, go, connections = slow
    connections[3].close()
    go.set()
    assert [answer(connections[place])[0] for place in (0, 1, 2, 4)] == [200] * 4
    until_waiting(server, 0)
    assert http_call(server.url, "POST", SEARCH, QUERY)[0] == 200


def test_a_held_search_that_is_no_http_leaves_its_place(slow: Slow) -> None:
    server, go, connections = slow
    with connect(server) as wrong:
        body = json.dumps(QUERY).encode()
        wrong.sendall(raw(body).replace(b"Host: localhost", b"Host\x00: localhost"))
        until_waiting(server, 5)
        go.set()
        assert wrong.recv(65_536).startswith(b"HTTP/1.1 400")
    assert [answer(connection)[0] for connection in connections] == [200] * 5
    for _ in range(5):
        assert http_call(server.url, "POST", SEARCH, QUERY)[0] == 200


def test_held_searches_are_told_that_the_server_stops(slow: Slow) -> None:
    server, go, connections = slow
    closing = threading.Thread(target=server.close)
    closing.start()
    for connection in connections[2:]:
        status, _, body = answer(connection)
        assert (status, body["error"]["code"]) == (503, "overloaded")
        assert connection.recv(65_536) == b"", "and the connection is closed"
    go.set()
    assert [answer(connection)[0] for connection in connections[:2]] == [200, 200]
    closing.join(20)
    assert not closing.is_alive()


def test_a_search_that_is_held_long_is_told_when_its_time_is_over(local: vicinal.Database) -> None:
    with held_up(local) as (server, _, _), connect(server) as connection:
        request = raw(json.dumps(QUERY).encode())
        connection.sendall(request.replace(b"Host:", b"Vicinal-Timeout-Ms: 50\r\nHost:"))
        status, _, body = answer(connection)
    assert (status, body["error"]["code"]) == (504, "deadline")
