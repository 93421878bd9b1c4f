"""What tests of a served database share: calls of HTTP, plain or as bytes, lines of /metrics, a gate for searches."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import vicinal
from vicinal.engine.reader import Reader
from vicinal.server.running import Running

SEARCH = "/v1/collections/docs/search"


def http_call(
    url: str, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, http.client.HTTPMessage]:
    """One JSON request: (status, decoded body, headers)."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, raw, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        content = answer.read()
        kind = answer.headers["Content-Type"]
        return answer.status, json.loads(content) if "json" in kind else content, answer.headers
    finally:
        connection.close()


def metric(url: str, line: str) -> float:
    """The value of one line of /metrics; 0 where it is not there."""
    page = http_call(url, "GET", "/metrics")[1].decode()
    found = [row.rpartition(" ")[2] for row in page.splitlines() if row.rpartition(" ")[0] == line]
    return float(found[0]) if found else 0.0


def raw(body: bytes, length: int | None = None) -> bytes:
    """A search as bytes, whose head may say another length than it has."""
    length = len(body) if length is None else length
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}"
    return head.encode() + b"\r\n\r\n" + body


def answer(connection: socket.socket) -> tuple[int, bytes, Any]:
    """(status, head, body) of the next response."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = connection.recv(65_536)
        assert part, got
        got += part
    head, _, body = got.lower().partition(b"\r\n\r\n")
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    assert len(body) == length
    return int(head[9:12]), head, json.loads(body)


def connect(server: Any) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


class Gate:
    """Holds the answers of native searches until it is opened, and counts their queries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), threading.Semaphore(0)
        self.sizes: list[int] = []
        real = Reader.search

        def search(reader: Reader, queries: Any, *args: Any, **options: Any) -> Any:
            self.sizes.append(len(queries))
            found = real(reader, queries, *args, **options)
            self.entered.release()
            assert self.open.wait(30)
            return found

        monkeypatch.setattr(Reader, "search", search)


def grpc_of(server: Running) -> str:
    """Where it speaks gRPC."""
    assert server.grpc_url is not None
    return server.grpc_url


def flight_of(server: Running) -> str:
    """Where it speaks Arrow Flight."""
    assert server.flight_url is not None
    return server.flight_url


def vector_of(point: vicinal.Point | None) -> np.ndarray:
    """The vector of a point that is there and was asked for with it."""
    assert point is not None and point.vector is not None
    return point.vector
