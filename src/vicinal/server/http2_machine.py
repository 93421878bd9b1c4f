"""What this side adds to h2's state of a connection: what has come and is not whole yet, plain frames read without h2's
objects, and whole answers in one go.

h2 has no names for the first. For the others its parts are used as they are, so that it knows of every request and
answer what it would know had it read or made the frames one by one. What is read here is what needs no judgement: a
request whose header block came before on the connection and was found good by h2, its body, room for answers, pings.
All else, whatever is wrong included, is left to h2, of which nothing was changed by then.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionState, H2Connection
from h2.events import Event, RequestReceived
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs, StreamState
from hpack import HeaderTuple

from vicinal.wire.varint import varint

Fields = tuple[HeaderTuple, ...]
"""Of an answer. Those that differ from call to call are never to be indexed, else each takes a place in the tables."""

Field = tuple[str, str]
"""Of a request: name and value."""

Plain = tuple[int, list[Field] | None, bytes, bool]
"""What plain frames say: the stream (0 is the connection), the head of a request that begins with it, bytes of its
body, and whether it ends with them. One with neither head nor bytes that does not end has more room for its answer."""

KNOWN_MAX = 16
"""Header blocks of a connection that are known, the latest; a client's are mostly alike."""

KNOWN_BYTES_MAX = 4 * 1024
"""Of a known block, unpacked."""

FRAME_BYTES_MAX = 2**16
"""Of a frame that comes, and of one that goes, where the peer takes them; so streams take turns."""

FRAME_BYTES_LEAST = 2**14
"""Of a frame that every peer takes."""

FRAME_HEAD_BYTES = 9
_FRAME_HEAD = struct.Struct(">IBI")
"""Of a frame: its length and type as one number, its flags, its stream."""

_WORD = struct.Struct(">I")
_DATA, _HEADERS, _PING, _WINDOW_UPDATE = 0, 1, 6, 8
_END_STREAM, _ACK, _END_HEADERS = 0x01, 0x01, 0x04
_NUMBER_MAX = 2**31 - 1

_CONFIG = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_outbound_headers=False,  # they are ours
    normalize_outbound_headers=False,
)


class Frames(FrameBuffer):
    """h2's bytes that came and are no whole frame or header block yet; it has no name for them itself."""

    @property
    def begun(self) -> bool:
        """Whether there are any."""
        return bool(self._data or self._headers_buffer)

    @property
    def rest_bytes(self) -> int:
        """Of a frame; h2 looks at its length only when it is whole."""
        return len(self._data)

    @property
    def block_bytes(self) -> int:
        """Of a header block."""
        return sum(len(frame.data) for frame in self._headers_buffer)


class Machine(H2Connection):
    MAX_CLOSED_STREAMS = 1_024
    """That are remembered, for what still comes for them."""

    def __init__(self, frames: Frames) -> None:
        super().__init__(_CONFIG)
        self.incoming_buffer = frames
        self._frames = frames
        self._known: dict[bytes, list[Field]] = {}
        self._newest: tuple[bytes, bytes] | None = None
        self._entries = 0

    def take(self, data: bytes) -> list[Event | Plain]:
        """What the frames say that are whole with these bytes. Raises ProtocolError, after which h2 has it said why."""
        events: list[Event | Plain] = []
        at, end = 0, len(data)
        if self._frames.begun or self.state_machine.state is not ConnectionState.SERVER_OPEN:
            end = 0
        while end - at >= FRAME_HEAD_BYTES:
            word, flags, number = _FRAME_HEAD.unpack_from(data, at)
            begin = at + FRAME_HEAD_BYTES
            stop = begin + (word >> 8)
            if stop > end:
                break
            kind, number = word & 0xFF, number & _NUMBER_MAX
            if kind == _HEADERS and flags == _END_HEADERS:
                if not self._begin(events, number, data[begin:stop]):
                    events += self._learn(data[at:stop], number)
            elif kind == _DATA and not flags & ~_END_STREAM:
                if not self._body(events, number, data[begin:stop], ended=bool(flags)):
                    break
            elif kind == _WINDOW_UPDATE and stop - begin == 4:
                if not self._room(events, number, _WORD.unpack_from(data, begin)[0] & _NUMBER_MAX):
                    break
            elif kind == _PING and not flags and not number and stop - begin == 8:
                self._data_to_send += _FRAME_HEAD.pack(8 << 8 | _PING, _ACK, 0) + data[begin:stop]
            else:
                break
            at = stop
        if at < len(data):
            events += self.receive_data(data[at:] if at else data)
            self._look_at_table()
        return events

    def _begin(self, events: list[Event | Plain], number: int, block: bytes) -> bool:
        """Whether this is a request that is plainly right."""
        fields = self._known.get(block)
        if (
            fields is None
            or not number & 1
            or number <= self.highest_inbound_stream_id
            or len(self.streams) >= self.local_settings.max_concurrent_streams
        ):
            return False
        stream = self._begin_new_stream(number, AllowedStreamIDs.ODD)
        stream.state_machine.process_input(StreamInputs.RECV_HEADERS)
        events.append((number, fields, b"", False))
        return True

    def _learn(self, frame: bytes, number: int) -> list[Event | Plain]:
        """Have h2 read a header frame; what it found good is known when it comes again, as long as the connection's
        table of headers, which it may name, is what it was."""
        events: list[Event | Plain] = [*self.receive_data(frame)]
        changed = self._look_at_table()
        if len(events) != 1 or not isinstance(event := events[0], RequestReceived):
            return events
        fields = decoded(event)
        if (
            not changed
            and len(frame) + sum(len(n) + len(v) for n, v in fields) <= KNOWN_BYTES_MAX
            and all(name != "content-length" for name, _ in fields)  # h2 counts those of a stream
        ):
            if len(self._known) >= KNOWN_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[frame[FRAME_HEAD_BYTES:]] = fields
        return [(number, fields, b"", False)]

    def _look_at_table(self) -> bool:
        """Whether the table that the peer's header blocks name has changed; then none is known."""
        entries = self.decoder.header_table.dynamic_entries
        newest = entries[0] if entries else None
        if newest is self._newest and len(entries) == self._entries:
            return False
        self._newest, self._entries = newest, len(entries)
        self._known.clear()
        return True

    def _body(self, events: list[Event | Plain], number: int, data: bytes, *, ended: bool) -> bool:
        """Whether these bytes are plainly those of a request."""
        count = len(data)
        stream: Any = self.streams.get(number)  # some names of which are h2's own
        if stream is None or stream.state_machine.state is not StreamState.OPEN:
            return False
        windows = self._inbound_flow_control_window_manager, stream._inbound_window_manager
        if (
            count > self.max_inbound_frame_size
            or count > windows[0].current_window_size
            or count > windows[1].current_window_size
            or stream._expected_content_length is not None
        ):
            return False
        windows[0].current_window_size -= count
        windows[1].current_window_size -= count
        if ended:
            stream.state_machine.state = StreamState.HALF_CLOSED_REMOTE
        if count or ended:
            events.append((number, None, data, ended))
        return True

    def _room(self, events: list[Event | Plain], number: int, more: int) -> bool:
        """Whether this is plainly more room for answers."""
        if not more:
            return False
        where = self if not number else self.streams.get(number)
        if where is None:  # those that were answered have no use for it
            return number & 1 == 1 and number <= self.highest_inbound_stream_id
        if where is not self and where.state_machine.state is StreamState.CLOSED:
            return True
        if where.outbound_flow_control_window + more > _NUMBER_MAX:
            return False
        where.outbound_flow_control_window += more
        events.append((number, None, b"", False))
        return True

    def answer(self, number: int, head: Fields, body: bytes, trailers: Fields) -> bytes | None:
        """The frames of a whole answer, in a tenth of the time that h2 takes to make them one by one; None where they
        cannot go at once. h2 is told that they went."""
        stream = self.streams.get(number)
        if (
            stream is None
            or stream.state_machine.headers_sent
            or self.state_machine.state is not ConnectionState.SERVER_OPEN
            or self.encoder.table_size_changes  # of which the next block of h2's has to tell
            or len(body) > min(self.max_outbound_frame_size, self.local_flow_control_window(number))
        ):
            return None
        block, last = _kept_literals(head), _literals(trailers)
        if len(last) > FRAME_BYTES_LEAST:
            return None
        try:
            stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        except ProtocolError:
            return None
        self.outbound_flow_control_window -= len(body)
        if stream.closed:
            self._closed_streams[number] = self.streams.pop(number).closed_by
        return b"".join(
            (
                _FRAME_HEAD.pack(len(block) << 8 | _HEADERS, _END_HEADERS, number),
                block,
                _FRAME_HEAD.pack(len(body) << 8 | _DATA, 0, number),
                body,
                _FRAME_HEAD.pack(len(last) << 8 | _HEADERS, _END_HEADERS | _END_STREAM, number),
                last,
            )
        )


def decoded(event: RequestReceived) -> list[Field]:
    """The head of a request."""
    return [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers]


def _literals(fields: Fields) -> bytes:
    """A header block that neither reads nor writes the connection's table of headers (RFC 7541, 6.2.2 and 6.2.3), so
    that it is the same wherever it is sent."""
    parts: list[bytes] = []
    for field in fields:
        name, value = field
        parts += (
            b"\x00" if field.indexable else b"\x10",
            _length(len(name)),
            name,
            _length(len(value)),
            value,
        )
    return b"".join(parts)


_kept_literals = lru_cache(maxsize=16)(_literals)
"""Of the few heads that there are."""


def _length(count: int) -> bytes:
    """Of a text in a header block, as it is: an integer whose first byte has seven bits for it (RFC 7541, 5.1)."""
    return bytes((count,)) if count < 0x7F else b"\x7f" + varint(count - 0x7F)


def machine_of(frames: Frames, *, streams_max: int, header_bytes_max: int) -> Machine:
    """One that reads into `frames` and takes so many streams at once, and heads of so many bytes."""
    machine = Machine(frames)
    bounds = {
        SettingCodes.MAX_CONCURRENT_STREAMS: streams_max,
        SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES_MAX,
        SettingCodes.MAX_HEADER_LIST_SIZE: header_bytes_max,
    }
    machine.local_settings = Settings(client=False, initial_values=bounds)
    machine.max_inbound_frame_size = FRAME_BYTES_MAX
    machine.decoder.max_header_list_size = header_bytes_max
    return machine
