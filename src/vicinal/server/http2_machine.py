"""What this side adds to h2's state of a connection: what has come and is not whole yet, and whole answers in one go.

h2 has no names for the first. For the second its parts are used as they are, so that it knows of every answer what it
would know had it made the frames one by one.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs
from hpack import HeaderTuple

from vicinal.wire.varint import varint

Fields = tuple[HeaderTuple, ...]
"""Of an answer. Those that differ from call to call are never to be indexed, else each takes a place in the tables."""

FRAME_BYTES_MAX = 2**16
"""Of a frame that comes, and of one that goes, where the peer takes them; so streams take turns."""

FRAME_BYTES_LEAST = 2**14
"""Of a frame that every peer takes."""

FRAME_HEAD_BYTES = 9
_FRAME_HEAD = struct.Struct(">IBI")
"""Of a frame: its length and type as one number, its flags, its stream."""

_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS = 0x01, 0x04

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
    machine = Machine(_CONFIG)
    machine.incoming_buffer = frames
    bounds = {
        SettingCodes.MAX_CONCURRENT_STREAMS: streams_max,
        SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES_MAX,
        SettingCodes.MAX_HEADER_LIST_SIZE: header_bytes_max,
    }
    machine.local_settings = Settings(client=False, initial_values=bounds)
    machine.max_inbound_frame_size = FRAME_BYTES_MAX
    machine.decoder.max_header_list_size = header_bytes_max
    return machine
