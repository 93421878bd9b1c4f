"""Hostile senders meet a server of its own: answered or cut off, with bounded memory, while others are served."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from serving import http_call

MIB = 2**20
SERVER = """
import sys
import vicinal
from vicinal.server.config import ServerConfig
from vicinal.server.running import Running
with vicinal.open(sys.argv[1]) as db:
    db.collection("docs", dim=2, metric="l2").upsert([{"id": 1, "vector": [1, 2]}])
    limits = {"request_bytes_max": 2**20, "request_bytes_total_max": 8 * 2**20, "read_s_max": 3.0}
    config = ServerConfig(http_port=0, grpc_port=0, **limits)
    running = Running(db.engine, config)
    running.run(lambda: print(running.url, running.grpc_url, flush=True))
"""
SEARCH = "/v1/collections/docs/search"
QUERY = {"vector": [1, 2]}


class Server:
    """A served database in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", SERVER, str(folder / "db")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url, self.grpc_url = self.process.stdout.readline().split()
        parts = urlsplit(self.url)
        self.address = (parts.hostname, parts.port)
        self.answers()  # so that what is loaded at the first request is
        self.before = self.peak_bytes()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)  # type: ignore[arg-type]

    def answers(self) -> None:
        """It still does what it is for."""
        assert http_call(self.url, "POST", SEARCH, QUERY)[0] == 200

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            pytest.skip("memory of a process is not told here")
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024

    @property
    def grown_bytes(self) -> int:
        """How much more memory it has had at most than before."""
        return self.peak_bytes() - self.before


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.answers()
    server.process.terminate()
    assert server.process.wait(30) == 0
    server.process.stdout.close()  # type: ignore[union-attr]


def head(length: int | None, *more: str) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [
        f"POST {SEARCH} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        framing,
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def first_answer(connection: socket.socket) -> tuple[int, Any]:
    """(status, body) of what came, 0 where the server only closed."""
    raw = b""
    try:
        while part := connection.recv(65_536):
            raw += part
            start, end, body = raw.partition(b"\r\n\r\n")
            length = int(start.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if end and len(body) >= length:
                return int(raw[9:12]), json.loads(body)
    except ConnectionError:
        pass
    return 0, None


def test_a_body_of_a_gibibyte_is_refused_when_it_is_announced(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(head(2**30))
        status, body = first_answer(connection)
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert server.grown_bytes < 8 * MIB


def test_a_body_without_an_end_is_cut_off_at_the_bound(server: Server) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with server.connect() as connection:
        connection.sendall(head(None))
        sent = 0
        try:
            for _ in range(1024):
                connection.sendall(chunk)
                sent += 65_536
        except ConnectionError:
            sent += 0  # cut off, as it should be
        status, _ = first_answer(connection)
    assert status in (413, 0)
    assert server.grown_bytes < 24 * MIB


def test_a_body_that_swells_when_unpacked_is_not_unpacked(server: Server) -> None:
    bomb = gzip.compress(bytes(256 * MIB), 9)
    assert len(bomb) < MIB
    for _ in range(12):  # more than all bodies together may have, were it not given back
        status, body, _ = http_call(
            server.url, "POST", SEARCH, bomb, **{"Content-Encoding": "gzip"}
        )
        assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert server.grown_bytes < 24 * MIB


def test_a_packed_body_that_is_none_is_a_mistake_of_its_sender(server: Server) -> None:
    good = gzip.compress(json.dumps(QUERY).encode())
    assert http_call(server.url, "POST", SEARCH, good, **{"Content-Encoding": "gzip"})[0] == 200
    for encoding, body in (
        ("gzip", b"{}"),
        ("gzip", good[:-9]),
        ("gzip", good + b"more"),
        ("gzip", good + good),
        ("zstd", good),
        ("gzip, gzip", gzip.compress(good)),
    ):
        status, answer, _ = http_call(
            server.url, "POST", SEARCH, body, **{"Content-Encoding": encoding}
        )
        assert (status, answer["error"]["code"]) == (400, "invalid_argument"), (encoding, body)


def test_a_grpc_message_that_swells_when_unpacked_is_refused(server: Server) -> None:
    grpc = pytest.importorskip("grpc")
    target = urlsplit(server.grpc_url).netloc
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(
        target, options=options, compression=grpc.Compression.Gzip
    ) as channel:
        search = channel.unary_unary("/vicinal.v1.Vicinal/Search")
        with pytest.raises(grpc.RpcError) as refused:
            search(bytes(128 * MIB), timeout=60)
    assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    assert server.grown_bytes < 48 * MIB


def test_many_senders_that_never_finish_leave_the_others_served(server: Server) -> None:
    slow = [server.connect() for _ in range(300)]
    try:
        for connection in slow[:150]:
            connection.sendall(b"POST /v1/info HTTP/1.1\r\nHost: local")
        for connection in slow[150:]:
            connection.sendall(head(1000) + b"{")
        for _ in range(20):
            server.answers()
        assert server.grown_bytes < 64 * MIB
        deadline = time.monotonic() + 30
        for connection in slow:  # all are cut off, without having sent more
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            first_answer(connection)
    finally:
        for connection in slow:
            connection.close()


def test_a_nesting_bomb_is_a_mistake_of_its_sender(server: Server) -> None:
    for body in (b'{"vector":' + b"[" * 500_000, b'{"where":' + b'{"a":' * 200_000, b"[" * MIB):
        answer = http_call(server.url, "POST", SEARCH, body[:MIB])
        assert 400 <= answer[0] < 500
