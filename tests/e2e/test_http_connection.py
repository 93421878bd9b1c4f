"""A connection of HTTP by itself: the order of answers, when it ends, and what it owes to old and careful clients."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from serving import answer, connect, http_call, raw

import vicinal
from vicinal.server import http

BODY = json.dumps({"vector": [1, 2], "k": 3}).encode()
OTHER = json.dumps({"vector": [1, 2], "k": 5}).encode()


@pytest.fixture
def server(local: vicinal.Database) -> Iterator[Any]:
    with local.serve(http_port=0, recall_share=0.0) as running:
        yield running


def ends(connection: socket.socket) -> bool:
    """Whether the other side ends it in order, with nothing more to say."""
    return connection.recv(65_536) == b""


def test_requests_sent_at_once_are_answered_one_after_the_other(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(raw(BODY) + raw(OTHER) + raw(b"{") + raw(BODY))
        whole = connection.makefile("rb")
        found: list[tuple[int, Any]] = []
        for _ in range(4):
            status, length = int(whole.readline().split()[1]), 0
            while (line := whole.readline().lower()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            found.append((status, json.loads(whole.read(length))))
    assert [status for status, _ in found] == [200, 200, 400, 200]
    assert [len(found[i][1]["hits"]) for i in (0, 1, 3)] == [3, 5, 3]


def test_who_wants_the_connection_closed_is_told_so(server: Any) -> None:
    for request in (
        raw(BODY).replace(b"Host:", b"Connection: close\r\nHost:"),
        raw(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with connect(server) as connection:
            connection.sendall(request)
            status, head, _ = answer(connection)
            assert status == 200
            assert b"connection: close" in head
            assert ends(connection)


def test_who_asks_before_it_sends_a_body_is_told_to_go_on(server: Any) -> None:
    with connect(server) as connection:
        head = raw(b"", len(BODY)).replace(b"Host:", b"Expect: 100-continue\r\nHost:")
        connection.sendall(head)
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert answer(connection)[0] == 200


def test_the_head_of_an_answer_alone_has_its_length(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + raw(BODY))
        got = b""
        while b'"hits"' not in got:
            got += connection.recv(65_536)
    head, _, rest = got.partition(b"\r\n\r\n")
    assert b"content-length: 3" in head
    assert rest.startswith(b"HTTP/1.1 200")


def test_a_connection_that_is_silent_after_its_answer_ends_in_order(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE_S", 0.2)
    monkeypatch.setattr(http, "LOOK_S", 0.05)
    with (
        local.serve(http_port=0, requests_max=1, recall_share=0.0) as server,
        connect(server) as quiet,
    ):
        quiet.sendall(raw(BODY))
        assert answer(quiet)[0] == 200
        assert ends(quiet)
        with connect(server) as slow, connect(server) as refused:
            slow.sendall(raw(BODY)[:-1])
            while http_call(server.url, "POST", "/v1/collections/docs/count", {})[0] != 503:
                continue  # until the server has met its head
            refused.sendall(raw(BODY))
            assert answer(refused)[0] == 503
            assert ends(refused)
            slow.sendall(BODY[-1:])
            assert answer(slow)[0] == 200, (
                "silence in the middle of a request has a bound of its own"
            )
