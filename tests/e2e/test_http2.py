"""HTTP/2 below gRPC, frame by frame: what it does for a peer that keeps to the protocol, and how it ends one that does
not, with little memory, while others are served."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from hpack import Decoder, Encoder
from serving import Gate, grpc_of, http_call, vector_of

import vicinal
from vicinal.server import http2
from vicinal.server.grpc_port import METADATA_BYTES_MAX, STREAMS_MAX
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.protobuf import PROTO, encode_request

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, CANCEL, ENHANCE_YOUR_CALM = 6, 8, 11
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = b"/vicinal.v1.Vicinal/"
SEARCH = encode_request(ops.SEARCH, "docs", m.Search(vector=np.ones(2, "<f4").tobytes(), k=1))


def frame(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + body


class Peer:
    """A client that sends what it likes."""

    def __init__(self, url: str, *, greet: bool = True, window: int = 65_535) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=20)
        self.decoder, self.got = Decoder(), b""
        self.fields = dict[int, dict[str, str]]()
        if greet:
            settings = (4).to_bytes(2, "big") + window.to_bytes(4, "big")
            self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, kind: int, flags: int, number: int, body: bytes = b"") -> None:
        self.socket.sendall(frame(kind, flags, number, body))

    def head(self, number: int, method: bytes = b"Search", *more: tuple[bytes, bytes]) -> None:
        self.send(HEADERS, END_HEADERS, number, block(method, *more))

    def ask(self, number: int, message: bytes = SEARCH, method: bytes = b"Search") -> None:
        self.head(number, method)
        self.send(DATA, END_STREAM, number, prefixed(message))

    def frame(self) -> tuple[int, int, int, bytes] | None:
        """(kind, flags, stream, body) of the next; None at the end of the connection."""
        while (length := self._length()) is None or len(self.got) < 9 + length:
            try:
                part = self.socket.recv(65_536)
            except ConnectionError:
                return None
            if not part:
                return None
            self.got += part
        body, head = self.got[9 : 9 + length], self.got[:9]
        self.got = self.got[9 + length :]
        if head[3] == HEADERS:
            assert head[4] & END_HEADERS
            fields = self.decoder.decode(body, raw=True)
            came = {name.decode(): value.decode() for name, value in fields}
            self.fields.setdefault(int.from_bytes(head[5:9], "big"), {}).update(came)
        return head[3], head[4], int.from_bytes(head[5:9], "big"), body

    def until(self, kind: int, number: int | None = None) -> bytes:
        """The body of the next frame of a kind, of a stream."""
        while (found := self.frame()) is not None:
            if found[0] == kind and number in (None, found[2]):
                return found[3]
        raise AssertionError(f"the connection ended without frame {kind}")

    def answer(self, number: int) -> tuple[bytes, dict[str, str]]:
        """(message bytes, trailers) of a stream."""
        data = b""
        while (found := self.frame()) is not None:
            kind, flags, of, body = found
            if of != number:
                continue
            assert kind != RST_STREAM, body
            data += body if kind == DATA else b""
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                return data, self.fields[number]
        raise AssertionError("the connection ended without an answer")

    def error(self) -> int:
        """The code with which the server ends the connection."""
        code = -1
        while (found := self.frame()) is not None:
            if found[0] == GOAWAY:
                code = int.from_bytes(found[3][4:8], "big")
        return code

    def _length(self) -> int | None:
        return int.from_bytes(self.got[:3], "big") if len(self.got) >= 9 else None


def block(method: bytes, *more: tuple[bytes, bytes]) -> bytes:
    fields = (
        *((b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"here")),
        (b":path", PATH + method),
        (b"content-type", b"application/grpc"),
        *more,
    )
    return encoded(*fields)


def encoded(*fields: tuple[bytes, bytes]) -> bytes:
    """A header block that leaves the tables alone."""
    return Encoder().encode((name, value, True) for name, value in fields)


def prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def ids(data: bytes) -> list[Any]:
    assert int.from_bytes(data[1:5], "big") == len(data) - 5
    return [hit.id for hit in PROTO.decode(data[5:], m.HitsOut).hits]


@pytest.fixture
def server(local: vicinal.Database) -> Iterator[Any]:
    with local.serve(http_port=0, grpc_port=0, read_s_max=1.0, recall_share=0) as running:
        yield running
        with vicinal.open(grpc_of(running)) as db:  # others are served
            assert db.collection("docs").count() == 20


@pytest.fixture
def connect() -> Iterator[Any]:
    """Makes peers, which are gone at the end."""
    with ExitStack() as stack:

        def connect(url: str, **options: Any) -> Peer:
            peer = Peer(url, **options)
            stack.callback(peer.socket.close)
            return peer

        yield connect


@pytest.fixture
def peer(server: Any, connect: Any) -> Peer:
    return connect(server.grpc_url)


def test_a_call_is_answered_however_its_bytes_are_cut(peer: Peer) -> None:
    raw = frame(HEADERS, END_HEADERS, 1, block(b"Search"))
    raw += frame(DATA, END_STREAM, 1, prefixed(SEARCH))
    for place in range(len(raw)):
        peer.socket.sendall(raw[place : place + 1])
    data, fields = peer.answer(1)
    assert (ids(data), fields["grpc-status"], fields[":status"]) == ([1], "0", "200")


def test_headers_may_come_in_parts_padded_and_with_a_priority(peer: Peer) -> None:
    whole = block(b"Search")
    first = b"\x03" + bytes(4) + b"\x10" + whole[:20] + bytes(3)
    peer.send(HEADERS, PADDED | PRIORITISED, 1, first)
    peer.send(CONTINUATION, 0, 1, whole[20:30])
    peer.send(CONTINUATION, END_HEADERS, 1, whole[30:])
    peer.send(DATA, PADDED, 1, b"\x02" + prefixed(SEARCH) + bytes(2))
    trailers = encoded((b"x-more", b"1"))
    peer.send(HEADERS, END_HEADERS | END_STREAM, 1, trailers)
    assert ids(peer.answer(1)[0]) == [1]


def test_an_answer_goes_no_faster_than_its_reader_allows(server: Any, connect: Any) -> None:
    peer = connect(server.grpc_url, window=10)
    peer.ask(
        1, encode_request(ops.SEARCH, "docs", m.Search(vector=SEARCH[-10:-2], k=20)), b"Search"
    )
    peer.ask(3, encode_request(ops.COUNT, "docs", m.Count()), b"Count")
    assert peer.answer(3)[1]["grpc-status"] == "0", "one stream does not hold up another"
    data = b""
    peer = connect(server.grpc_url, window=10)
    peer.ask(1)
    while len(data) < 10:
        data += peer.until(DATA, 1)
    assert len(data) == 10
    wanted = 5 + int.from_bytes(data[1:5], "big")
    while len(data) < wanted:
        peer.send(WINDOW_UPDATE, 0, 1, (3).to_bytes(4, "big"))
        part = peer.until(DATA, 1)
        assert 0 < len(part) <= 3
        data += part
    assert ids(data) == [1]
    # A window that settings make smaller than nothing has to be filled first.
    peer.ask(3)
    got = len(peer.until(DATA, 3))
    peer.send(SETTINGS, 0, 0, (4).to_bytes(2, "big") + bytes(4))
    peer.send(WINDOW_UPDATE, 0, 3, (10).to_bytes(4, "big"))
    peer.send(PING, 0, 0, b"12345678")
    assert peer.until(PING) == b"12345678"
    peer.send(WINDOW_UPDATE, 0, 3, (1_000).to_bytes(4, "big"))
    assert got + len(peer.answer(3)[0]) == wanted


def test_answers_share_the_connection_s_window(peer: Peer) -> None:
    peer.send(SETTINGS, 0, 0, (4).to_bytes(2, "big") + (2**20).to_bytes(4, "big"))
    search = m.Search(vector=np.ones(2, "<f4").tobytes(), k=20)
    numbers = list(range(1, 2 * STREAMS_MAX, 2))
    got = dict.fromkeys(numbers, b"")

    def take(frame: tuple[int, int, int, bytes] | None) -> None:
        assert frame is not None
        if frame[0] == DATA:
            got[frame[2]] += frame[3]

    for number in numbers:
        peer.ask(number, encode_request(ops.SEARCH, "docs", search))
    while sum(map(len, got.values())) < 65_535:
        take(peer.frame())
    peer.send(PING, 0, 0, bytes(8))
    while (found := peer.frame()) is not None and found[0] != PING:
        take(found)
    assert sum(map(len, got.values())) == 65_535
    peer.send(WINDOW_UPDATE, 0, 0, (2**20).to_bytes(4, "big"))
    while any(
        len(data) < 5 or len(data) < 5 + int.from_bytes(data[1:5], "big") for data in got.values()
    ):
        take(peer.frame())
    assert {tuple(sorted(ids(data))) for data in got.values()} == {tuple(range(20))}


def test_a_peer_that_keeps_no_table_of_headers_can_read_every_answer(
    server: Any, connect: Any
) -> None:
    peer = connect(server.grpc_url, greet=False)
    peer.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, (1).to_bytes(2, "big") + bytes(4)))
    peer.decoder.max_allowed_table_size = 0
    for number in (1, 3, 7, 9):
        peer.ask(number)
        data, fields = peer.answer(number)
        assert (ids(data), fields["grpc-status"]) == ([1], "0")
        if number == 3:
            peer.ask(5, method=b"Nothing")
            assert peer.answer(5)[1]["grpc-status"] == "12"


def test_a_large_message_and_a_large_answer_pass(local: vicinal.Database, server: Any) -> None:
    n = 60_000
    with vicinal.open(server.grpc_url) as db:
        wide = db.collection("wide", dim=64, metric="l2")
        vectors = np.random.default_rng(1).random((n, 64), np.float32)
        assert wide.upsert(ids=range(n), vectors=vectors) == n
        found = wide.get(list(range(9_000)), with_vectors=True)
        assert all(np.array_equal(vector_of(p), vectors[i]) for i, p in enumerate(found))
        assert [p.id for p in found if p is not None] == list(range(9_000))
        db.drop("wide")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),  # no stream was begun
        (frame(HEADERS, END_HEADERS, 2, block(b"Search")), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\x0f"), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, encoded((b":method", b"POST"))), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"") + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 100, PROTOCOL_ERROR),
        (
            frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, bytes(16_000)) * 10,
            ENHANCE_YOUR_CALM,
        ),
        (
            frame(HEADERS, END_HEADERS, 1, block(b"Search", (b"x", b"y" * METADATA_BYTES_MAX))),
            ENHANCE_YOUR_CALM,
        ),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
        (frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"), FLOW_CONTROL_ERROR),
        (
            frame(
                SETTINGS, 0, 0, b"".join(n.to_bytes(2, "big") + bytes(4) for n in range(99, 999))
            ),
            ENHANCE_YOUR_CALM,
        ),
        (
            b"".join(
                frame(HEADERS, END_HEADERS, n, block(b"Upsert")) + frame(RST_STREAM, 0, n, bytes(4))
                for n in range(1, 2 * http2.RESETS_MAX + 2, 2)
            ),
            ENHANCE_YOUR_CALM,
        ),
        (frame(PUSH_PROMISE, 0, 1, bytes(8)), PROTOCOL_ERROR),
        (b"\xff\xff\xff\0\0\0\0\0\1" + bytes(http2.FRAME_BYTES_MAX + 1), FRAME_SIZE_ERROR),
        (frame(DATA, 0, 1, bytes(http2.FRAME_BYTES_MAX + 1)), FRAME_SIZE_ERROR),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_how(peer: Peer, raw: bytes, code: int) -> None:
    peer.socket.sendall(raw)
    assert peer.error() == code


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n\r\n", PREFACE + bytes(9), b"PRI x"])
def test_a_stranger_that_speaks_something_else_is_cut_off(
    server: Any, connect: Any, greeting: bytes
) -> None:
    peer = connect(server.grpc_url, greet=False)
    peer.socket.sendall(greeting)
    assert peer.error() in (PROTOCOL_ERROR, -1)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        PREFACE[:10],
        PREFACE,
        PREFACE + frame(SETTINGS, 0, 0, b"") + b"\0",
        PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 0, 1, b""),
    ],
)
def test_what_is_begun_and_never_finished_is_cut_off(server: Any, connect: Any, raw: bytes) -> None:
    peer = connect(server.grpc_url, greet=False)
    peer.socket.sendall(raw)
    assert peer.error() == -1  # within the 20 s of the socket, and without a word


def test_more_than_is_allowed_is_not_taken(peer: Peer, server: Any, connect: Any) -> None:
    peer.head(1, b"Count")
    peer.send(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff")
    assert int.from_bytes(peer.until(RST_STREAM, 1), "big") == FLOW_CONTROL_ERROR
    peer.ask(3)
    assert ids(peer.answer(3)[0]) == [1], "the connection is as it was"
    many = connect(server.grpc_url)
    for n in range(STREAMS_MAX + 1):
        many.head(2 * n + 1, b"UpsertStream")
    assert many.error() == PROTOCOL_ERROR


def test_what_nobody_reads_is_not_taken_beyond_its_room(
    server: Any, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    peer.head(1)
    peer.send(DATA, 0, 1, prefixed(SEARCH))
    assert gate.entered.acquire(timeout=20)
    for _ in range(4):
        peer.send(DATA, 0, 1, bytes(16_000))
    peer.send(DATA, 0, 1, bytes(2_000))
    assert peer.error() == FLOW_CONTROL_ERROR
    gate.open.set()


def test_a_caller_that_goes_still_gets_its_answers(
    server: Any, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    peer.ask(1)
    assert gate.entered.acquire(timeout=20)
    peer.send(GOAWAY, 0, 0, bytes(8))
    gate.open.set()
    assert ids(peer.answer(1)[0]) == [1]
    assert peer.error() == NO_ERROR


def test_pings_that_are_not_read_are_not_gathered(server: Any, peer: Peer) -> None:
    """The server stops reading where its own answers are not read, so that the sender is held up."""
    peer.socket.settimeout(1.0)
    sent = 0
    with pytest.raises(TimeoutError):
        for _ in range(2_000):
            peer.socket.sendall(frame(PING, 0, 0, bytes(8)) * 1_000)
            sent += 17_000
    assert sent < 32 * 2**20
    peer.socket.close()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (((b"grpc-encoding", b"zstd"),), "12"),
        (((b"grpc-timeout", b"soon"),), "12"),
        (((b"vicinal-payload", b"xml"),), "3"),
        (((b"vicinal-compression", b"zstd"),), "3"),
    ],
)
def test_metadata_that_mean_nothing_are_refused(peer: Peer, fields: Any, status: str) -> None:
    peer.head(1, b"Search", *fields)
    assert peer.answer(1)[1]["grpc-status"] == status


def test_what_is_no_call_is_refused(peer: Peer) -> None:
    peer.head(1, b"Nothing")
    assert peer.answer(1)[1]["grpc-status"] == "12"
    fields = ((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/"))
    peer.send(HEADERS, END_HEADERS | END_STREAM, 5, encoded(*fields))
    assert peer.answer(5)[1] == {":status": "415"}
    peer.head(7)
    peer.send(DATA, END_STREAM, 7, prefixed(SEARCH)[:-1])
    assert peer.answer(7)[1]["grpc-status"] == "3"
    peer.head(9)
    peer.send(DATA, END_STREAM, 9, b"")
    assert peer.answer(9)[1]["grpc-status"] == "3"
    peer.head(11)
    peer.send(DATA, 0, 11, b"\0\xff\xff\xff\xff")
    assert peer.answer(11)[1]["grpc-status"] == "8", "its length says that it is too large"


def test_a_call_that_is_given_up_leaves_no_trace(
    local: vicinal.Database, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with local.serve(http_port=0, grpc_port=0, recall_share=0, search_threads=1) as held:
        peer = connect(held.grpc_url)
        peer.ask(1)
        assert gate.entered.acquire(timeout=20)
        peer.send(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big"))
        peer.head(3, b"Upsert")  # never sent whole, and given up
        peer.send(RST_STREAM, 0, 3, CANCEL.to_bytes(4, "big"))
        gate.open.set()
        peer.ask(5)
        assert ids(peer.answer(5)[0]) == [1]
        end = time.monotonic() + 20
        line = "vicinal_requests_under_way 0.0"
        while line not in _metrics(held) and time.monotonic() < end:
            time.sleep(0.01)
        assert line in _metrics(held)


def _metrics(server: Any) -> str:
    return http_call(server.url, "GET", "/metrics")[1].decode()


def test_a_server_that_stops_finishes_what_it_has_and_says_that_it_goes(
    local: vicinal.Database, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    running = local.serve(http_port=0, grpc_port=0, recall_share=0)
    peer = connect(running.grpc_url)
    peer.ask(1)
    assert gate.entered.acquire(timeout=20)
    stopping = threading.Thread(target=running.close)
    stopping.start()
    assert peer.until(GOAWAY)[:4] == b"\x7f\xff\xff\xff", "calls on their way are not lost"
    peer.ask(3)
    assert peer.answer(3)[1]["grpc-status"] == "14"
    peer.send(PING, ACK, 0, http2.LEAVING)
    gate.open.set()
    assert ids(peer.answer(1)[0]) == [1]
    assert peer.error() == NO_ERROR
    stopping.join(30)
    assert not stopping.is_alive()


def test_a_call_that_answers_for_long_ends_with_its_deadline(server: Any) -> None:
    channel = grpc.insecure_channel(urlsplit(server.grpc_url).netloc)
    never = threading.Event()

    def silent() -> Iterator[bytes]:
        yield SEARCH
        never.wait()

    call = channel.stream_stream(f"{PATH.decode()}SearchStream")(silent(), timeout=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    never.set()
    channel.close()
