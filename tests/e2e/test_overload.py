"""A full server: what it refuses, how it says so, and what it goes on answering."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from serving import SEARCH, answer, connect, http_call, metric, raw

import vicinal

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
