"""What is read without h2's objects is what h2 reads: frames in any order, good and bad, cut anywhere, through both."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
from h2 import events
from h2.exceptions import ProtocolError
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from vicinal.server.http2_machine import Frames, Machine, Plain, decoded, machine_of

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PROMISE, PING, GO_AWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITISED = 1, 4, 8, 32
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAMS_MAX = 4

PLAIN = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", "here")]
HEADS = [
    PLAIN,
    [*PLAIN, ("te", "trailers")],
    [*PLAIN, ("content-length", "3")],
    [*PLAIN, ("Upper", "case")],
    [*PLAIN, ("x", " space ")],
    [(":method", "POST")],
    [],
]
SELDOM = st.sampled_from([False] * 19 + [True])
KINDS = st.sampled_from(
    ["calls"] * 6
    + ["heads", "data", "data", "window", "window", "ping", "reset", "other", "answer", "answer"]
)
FLAGS = st.one_of(*[st.sampled_from([0, END_STREAM])] * 9, st.integers(0, 255))


def frame(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + body


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """What a peer sends, most of it as it should be, and which streams are answered meanwhile."""
    encoder, number, steps = Encoder(), -1, list[tuple[str, Any]]()
    blocks = st.sampled_from(HEADS)
    for _ in range(draw(st.integers(8, 30))):
        kind = draw(KINDS)
        near = draw(
            st.sampled_from([number] * 8 + [number - 2] * 4 + [number - 4, 0, 0, number + 2, 2])
        )
        near = max(0, near)
        if kind in ("calls", "heads"):
            number += 2
            head = PLAIN if kind == "calls" else draw(blocks)
            indexed = draw(st.booleans())
            fields = [(n, v, not indexed) for n, v in head]
            flags = draw(st.integers(0, 255)) if draw(SELDOM) else END_HEADERS
            which = near if draw(SELDOM) else number
            steps.append(("send", frame(HEADERS, flags, which, encoder.encode(fields))))
        if kind == "calls":
            body = b"x" * draw(st.sampled_from([0, 1, 3, 700]))
            steps.append(("send", frame(DATA, END_STREAM, number, body)))
        elif kind == "data":
            count = draw(st.sampled_from([0, 1, 3, 3, 16_384, 40_000, 65_535, 65_536, 65_537]))
            steps.append(("send", frame(DATA, draw(FLAGS), near, b"y" * count)))
        elif kind == "window":
            more = draw(st.sampled_from([1, 1000, 2**30, 1, 1000, 0, 2**31 - 1, 2**31, 2**32 - 1]))
            length = draw(st.sampled_from([4] * 9 + [3, 5]))
            steps.append(
                ("send", frame(WINDOW, draw(FLAGS), near, more.to_bytes(5, "big")[-length:]))
            )
        elif kind == "ping":
            body = b"p" * draw(st.sampled_from([8] * 9 + [7, 9]))
            steps.append(("send", frame(PING, draw(FLAGS), int(draw(SELDOM)), body)))
        elif kind == "reset":
            steps.append(("send", frame(RESET, 0, near, bytes(4))))
        elif kind == "other":
            if not draw(SELDOM):  # most end the connection
                continue
            body = draw(st.binary(max_size=12))
            steps.append(("send", frame(draw(st.integers(0, 12)), draw(FLAGS), near, body)))
        elif kind == "answer":
            steps.append(("answer", near))
    return steps


def begun() -> Machine:
    machine = machine_of(Frames(server=True), streams_max=STREAMS_MAX, header_bytes_max=4_096)
    machine.initiate_connection()
    return machine


def said(event: Any) -> list[tuple[Any, ...]]:
    """What an event tells the streams."""
    if isinstance(event, tuple):
        number, fields, body, ended = cast("Plain", event)
        if fields is not None:
            return [("head", number, tuple(fields))]
        found: list[tuple[Any, ...]] = [("data", number, body)] if body else []
        if ended:
            found.append(("end", number))
        return found or [("room", number)]
    if isinstance(event, events.RequestReceived):
        return [("head", event.stream_id, tuple(decoded(event)))]
    if isinstance(event, events.DataReceived):
        return [("data", event.stream_id, bytes(event.data))] if event.data else []
    if isinstance(event, events.StreamEnded):
        return [("end", event.stream_id)]
    if isinstance(event, events.WindowUpdated):
        return [("room", event.stream_id)]
    if isinstance(event, (events.PingReceived, events.PriorityUpdated)):
        return []
    return [(type(event).__name__, getattr(event, "stream_id", None))]


def state(machine: Any) -> tuple[Any, ...]:
    """All that decides what becomes of what comes next."""
    streams = {
        number: (
            stream.state_machine.state,
            stream.outbound_flow_control_window,
            stream.inbound_flow_control_window,
        )
        for number, stream in machine.streams.items()
        if stream.open
    }
    return (
        machine.state_machine.state,
        machine.outbound_flow_control_window,
        machine.inbound_flow_control_window,
        machine.highest_inbound_stream_id,
        list(machine.decoder.header_table.dynamic_entries),
        streams,
        machine.data_to_send(),
    )


def differences(chunks: list[tuple[str, Any]]) -> list[Any]:
    """Where the two ways part, of bytes that come and streams that are answered."""
    quick, plain = begun(), begun()
    steps: list[tuple[str, Any]] = [("send", PREFACE + frame(SETTINGS, 0, 0, b"")), *chunks]
    for kind, what in steps:
        if kind == "answer":
            frames: list[Any] = [
                machine.answer(what, (), b"answer", ()) for machine in (quick, plain)
            ]
            if frames[0] != frames[1]:
                return frames
            continue
        faults = list[str | None]()
        found = list[list[tuple[Any, ...]]]()
        for read in (quick.take, plain.receive_data):
            try:
                found.append([part for event in read(what) for part in said(event)])
                faults.append(None)
            except ProtocolError as fault:
                faults.append(f"{type(fault).__name__}: {fault}")
                found.append([])
        states = state(quick), state(plain)
        for pair in (faults, found, states):
            if pair[0] != pair[1]:
                return [what, *pair]
        if faults[0] is not None:
            break
    return []


@settings(max_examples=400, deadline=None)
@given(conversations(), st.lists(st.integers(0, 4_000), max_size=8), st.booleans())
def test_frames_are_read_as_h2_reads_them(
    steps: list[tuple[str, Any]], cuts: list[int], together: bool
) -> None:
    chunks: list[tuple[str, Any]] = []
    for kind, what in steps:
        if together and kind == "send" and chunks and chunks[-1][0] == "send":
            chunks[-1] = ("send", chunks[-1][1] + what)
        else:
            chunks.append((kind, what))
    cut: list[tuple[str, Any]] = []
    for kind, what in chunks:
        if kind == "answer":
            cut.append((kind, what))
            continue
        places = [0, *sorted(place for place in cuts if place < len(what)), len(what)]
        cut += [("send", what[begin:end]) for begin, end in itertools.pairwise(places)]
    assert differences(cut) == []


BLOCK = Encoder().encode([(n, v, True) for n, v in PLAIN])
COUNTED = Encoder().encode([(n, v, True) for n, v in [*PLAIN, ("content-length", "3")]])
NAMED = b"\x83\x86\xbe\x01\x04here"
"""Its path is the newest of the table."""


def path(name: bytes) -> bytes:
    """A block that puts a path in the table."""
    return b"\x83\x86\x44" + bytes((len(name),)) + name + b"\x01\x04here"


def heads(*blocks: bytes) -> list[bytes]:
    """A request of each block."""
    return [frame(HEADERS, END_HEADERS, 2 * i + 1, block) for i, block in enumerate(blocks)]


@pytest.mark.parametrize(
    "sent",
    [
        heads(path(b"/one"), NAMED, path(b"/two"), NAMED),
        heads(path(b"/one"), NAMED, NAMED, b"\x20\x3f\x61" + NAMED),
        [*heads(BLOCK, BLOCK), frame(HEADERS, END_HEADERS, 1, BLOCK)],
        [*heads(BLOCK, BLOCK), frame(HEADERS, END_HEADERS, 4, BLOCK)],
        [*heads(COUNTED, COUNTED, COUNTED), frame(DATA, END_STREAM, 5, b"four")],
        [*heads(COUNTED), frame(DATA, END_STREAM, 1, b"abc")],
        [*heads(BLOCK, BLOCK), *[frame(DATA, 0, n, bytes(40_000)) for n in (1, 3)]],
        [*heads(BLOCK, BLOCK), frame(DATA, 0, 1, b"")[:5], frame(DATA, 0, 1, b"")[5:]],
        [
            *heads(BLOCK, BLOCK)[:1],
            frame(DATA, 0, 1, bytes(18))[:9],
            bytes(18),
            *heads(BLOCK, BLOCK)[1:],
        ],
        [*heads(BLOCK), frame(HEADERS, 0, 3, BLOCK), frame(DATA, 0, 1, b"x")],
        [*heads(BLOCK), frame(HEADERS, 0, 3, BLOCK), frame(CONTINUATION, END_HEADERS, 3, b"")],
        [*heads(BLOCK), frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff")],
        [*heads(BLOCK), frame(WINDOW, 0, 5, bytes(4)), frame(WINDOW, 0, 5, b"\0\0\0\1")],
    ],
)
def test_what_is_not_plain_is_left_to_h2(sent: list[bytes]) -> None:
    assert differences([("send", part) for part in sent]) == []


def test_a_request_that_came_before_is_read_without_h2(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = begun()
    first, second, third = heads(BLOCK, BLOCK, BLOCK)
    machine.take(PREFACE + frame(SETTINGS, 0, 0, b"") + first)
    machine.take(second)
    monkeypatch.setattr(machine, "receive_data", None)
    found = machine.take(third + frame(DATA, END_STREAM, 5, b"body"))
    assert found == [(5, PLAIN, b"", False), (5, None, b"body", True)]
    assert machine.answer(5, (), b"answer", ()) is not None
    assert 5 not in machine.streams
