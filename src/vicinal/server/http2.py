"""HTTP/2 (RFC 9113) as gRPC needs it: one connection, its streams, flow control both ways. It knows no message.

Strangers talk to it, so what they can make it hold is bounded: unread bytes of a stream by STREAM_ROOM until somebody
reads it, headers by the owner's bound, a frame by FRAME_BYTES_MAX and in time, answers that are not fetched by the
transport's buffer: while that is full nothing more is read, pings and settings, which ask for an answer each, included.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from vicinal.server.hpack import Field, HeaderDecoder, HeaderError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0, 1, 3, 6
STREAM_CLOSED, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 7, 8, 9
ENHANCE_YOUR_CALM = 11
_STREAMS, _WINDOW, _FRAME, _HEADER_LIST = 3, 4, 5, 6
"""Settings; of others nothing depends."""

NUMBER_MAX = 2**31 - 1
FRAME_BYTES = 16_384
"""Every peer takes frames of so many bytes."""

FRAME_BYTES_MAX = 65_536
"""Of a frame that comes, and of one that goes, where the peer takes them; so streams take turns."""

STREAM_ROOM = 65_535
"""Bytes of a stream that come before somebody wants them; what HTTP/2 begins with."""

READ_ROOM = 2**20
"""Bytes of a stream that may be on their way to somebody who wants them."""

CONNECTION_ROOM = 2**22
SETTINGS_MAX = 32
CONTINUATIONS_MAX = 32
LEAVING = b"leaving."
"""The ping after which no call can be on its way that does not know that this side goes."""

_FRAME_HEAD = struct.Struct(">HBBBI")


def frame(kind: int, flags: int, number: int, body: bytes) -> bytes:
    """One frame as bytes."""
    length = len(body)
    return _FRAME_HEAD.pack(length >> 8, length & 0xFF, kind, flags, number) + body


class Stream(ABC):
    """One request and its answer. A subclass says what becomes of what comes."""

    __slots__ = (
        "_drained",
        "_offset",
        "_out",
        "_trailers",
        "closed",
        "connection",
        "ended",
        "number",
        "room",
        "window",
    )

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection, self.number = connection, number
        self.window, self.room = connection.window_first, STREAM_ROOM
        self.ended, self.closed = False, False
        self._out: deque[bytes] = deque()
        self._offset = 0
        self._trailers: bytes | None = None
        self._drained: asyncio.Future[None] | None = None

    @abstractmethod
    def came(self, data: bytes) -> None:
        """Bytes of the request."""

    @abstractmethod
    def over(self) -> None:
        """The request is whole."""

    @abstractmethod
    def broken(self) -> None:
        """The peer does not want it any more, or is gone."""

    def grant(self) -> None:
        """Somebody waits for the request's next bytes: let READ_ROOM of them come."""
        more = READ_ROOM - self.room
        if more > 0 and not self.ended and not self.closed:
            self.room += more
            self.connection.write(frame(WINDOW_UPDATE, 0, self.number, more.to_bytes(4, "big")))

    def head(self, block: bytes) -> None:
        """The answer's header block."""
        if not self.closed:
            self.connection.write(_headers(self.number, block, 0))

    def answer(self, head: bytes, body: bytes, trailers: bytes) -> None:
        """The whole answer; what cannot go at once goes when it can."""
        connection, length = self.connection, len(body)
        if self.closed:
            return
        if (
            length <= self.window
            and length <= connection.window
            and length <= connection.frame_max
            and not connection.paused
        ):
            self.window -= length
            connection.window -= length
            number, pack = self.number, _FRAME_HEAD.pack
            connection.write(
                b"".join(
                    (
                        pack(0, len(head), HEADERS, END_HEADERS, number),
                        head,
                        pack(length >> 8, length & 0xFF, DATA, 0, number),
                        body,
                        _headers(number, trailers, END_STREAM),
                    )
                )
                if len(head) < 256
                else _headers(number, head, 0)
                + frame(DATA, 0, number, body)
                + _headers(number, trailers, END_STREAM)
            )
            self._close()
            return
        self.head(head)
        self.put(body)
        self.finish(trailers)

    def put(self, body: bytes) -> None:
        """Bytes of the answer, which go when there is room for them; see `drained`."""
        if body and not self.closed:
            self._out.append(body)
            self.flush()

    def finish(self, trailers: bytes) -> None:
        """The end of the answer, after what was put."""
        if not self.closed:
            self._trailers = trailers
            self.flush()

    async def drained(self) -> None:
        """Wait until what was put has gone."""
        while (self._out or self.connection.paused) and not self.closed:
            self.connection.blocked[self] = None
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def flush(self) -> None:
        """Send what there is room for."""
        connection = self.connection
        while self._out:
            body = self._out[0]
            count = min(
                len(body) - self._offset, self.window, connection.window, connection.frame_max
            )
            if count <= 0 or connection.paused:
                connection.blocked[self] = None
                return
            part = body[self._offset : self._offset + count]
            self.window -= count
            connection.window -= count
            self._offset += count
            if self._offset == len(body):
                self._out.popleft()
                self._offset = 0
            connection.write(frame(DATA, 0, self.number, part))
        connection.blocked.pop(self, None)
        if self._trailers is not None:
            connection.write(_headers(self.number, self._trailers, END_STREAM))
            self._close()
        elif self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def reset(self, code: int) -> None:
        """End it at once."""
        if not self.closed:
            self.ended = True  # one reset is enough
            self.connection.write(frame(RST_STREAM, 0, self.number, code.to_bytes(4, "big")))
            self._close()

    def lost(self) -> None:
        """The peer ended it."""
        if not self.closed:
            self.ended = True
            self._close()
            self.broken()

    def _close(self) -> None:
        connection = self.connection
        self.closed = True
        self._out.clear()
        connection.blocked.pop(self, None)
        connection.streams.pop(self.number, None)
        if not self.ended:  # what is still to come is not wanted
            connection.write(
                frame(RST_STREAM, 0, self.number, NO_ERROR.to_bytes(4, "big")),
            )
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        connection.rest()


class Owner(ABC):
    """Who has connections.

    Attributes
    ----------
    streams_max : of one connection at the same time.
    header_bytes_max : of the headers of one stream.
    read_s_max : within which a frame, once begun, has to be whole; the greeting of a connection, too.
    """

    streams_max: int
    header_bytes_max: int
    read_s_max: float
    connections: set[Connection]

    @abstractmethod
    def begin(self, connection: Connection, number: int, fields: list[Field]) -> Stream | None:
        """The stream that begins with these headers; None where they are no request."""

    @abstractmethod
    def rested(self) -> None:
        """A stream has ended, or a call."""


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._decoder = HeaderDecoder(owner.header_bytes_max)
        self._rest, self._needed = bytearray(), 0
        self._greeted, self._settled, self._frames = False, False, 0
        self._block: bytearray | None = None
        self._block_of, self._block_flags, self._block_parts = 0, 0, 0
        self._last, self._room, self._taken = 0, CONNECTION_ROOM, 0
        self._timer: asyncio.TimerHandle | None = None
        self._goes, self._said = False, False
        self._transport: Any = None
        self.streams: dict[int, Stream] = {}
        self.blocked: dict[Stream, None] = {}
        self.window, self.window_first, self.frame_max = STREAM_ROOM, STREAM_ROOM, FRAME_BYTES
        self.paused = False
        self.peer: str | None = None

    def connection_made(self, transport: Any) -> None:
        """Say how much is taken."""
        self._transport = transport
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            transport.abort()
            return
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else None
        self._owner.connections.add(self)
        settings = (
            (_STREAMS, self._owner.streams_max),
            (_FRAME, FRAME_BYTES_MAX),
            (_HEADER_LIST, self._owner.header_bytes_max),
        )
        body = b"".join(struct.pack(">HI", name, value) for name, value in settings)
        more = CONNECTION_ROOM - STREAM_ROOM
        self.write(
            frame(SETTINGS, 0, 0, body) + frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big"))
        )
        self._watch(-1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there for the answers any more."""
        del exc
        self._said = True
        if self._timer is not None:
            self._timer.cancel()
        self._owner.connections.discard(self)
        for stream in list(self.streams.values()):
            stream.lost()

    def pause_writing(self) -> None:
        """The peer does not take its answers; so it says nothing more until it does."""
        self.paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It does."""
        self.paused = False
        self._transport.resume_reading()
        self._flush()

    def write(self, data: bytes) -> None:
        """Send frames."""
        if not self._said:
            self._transport.write(data)

    def leave(self) -> None:
        """Tell the peer to make its next call elsewhere; those that come before it knows are taken. The connection ends
        with the last of them."""
        if not self._said:
            self.write(_goaway(NUMBER_MAX, NO_ERROR) + frame(PING, 0, 0, LEAVING))

    def close(self) -> None:
        """End it; what was written still goes."""
        if self.streams:
            self.abort()
        else:
            self._fail(NO_ERROR)

    def abort(self) -> None:
        """End it at once."""
        self._said = True
        self._transport.abort()

    def rest(self) -> None:
        """A stream has ended; end with the last."""
        if not self.streams:
            if self._goes:
                self._fail(NO_ERROR)
            self._owner.rested()

    def data_received(self, data: bytes) -> None:
        """Take the frames that are whole."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        try:
            self._take(data)
        except _BrokenError as fault:
            self._fail(fault.code)
        except HeaderError:
            self._fail(COMPRESSION_ERROR)

    def _take(self, data: bytes) -> None:
        place, end, needed = 0, len(data), 9
        if not self._greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise _BrokenError(PROTOCOL_ERROR)
            if end < len(PREFACE):
                self._rest += data
                self._needed = len(PREFACE)
                return
            self._greeted, place = True, len(PREFACE)
        while end - place >= 9 and not self._said:
            length = data[place] << 16 | data[place + 1] << 8 | data[place + 2]
            if length > FRAME_BYTES_MAX:
                raise _BrokenError(FRAME_SIZE_ERROR)
            after = place + 9 + length
            if after > end:
                needed = 9 + length
                break
            number = int.from_bytes(data[place + 5 : place + 9], "big") & NUMBER_MAX
            self._frames += 1
            self._frame(data[place + 3], data[place + 4], number, data[place + 9 : after])
            place = after
        if place < end and not self._said:
            self._rest += data[place:]
            self._needed = needed

    def _frame(self, kind: int, flags: int, number: int, body: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or number != self._block_of):
            raise _BrokenError(PROTOCOL_ERROR)
        if not self._settled and kind != SETTINGS:
            raise _BrokenError(PROTOCOL_ERROR)
        if kind == DATA:
            self._data(flags, number, body)
        elif kind == HEADERS:
            body = _unpadded(flags, body)
            if flags & PRIORITISED:
                if len(body) < 5:
                    raise _BrokenError(FRAME_SIZE_ERROR)
                body = body[5:]
            if number % 2 == 0:
                raise _BrokenError(PROTOCOL_ERROR)
            if flags & END_HEADERS:
                self._headers(number, flags, body)
            else:
                self._block, self._block_parts = bytearray(body), 0
                self._block_of, self._block_flags = number, flags
        elif kind == WINDOW_UPDATE:
            self._window_update(number, body)
        elif kind == PING:
            self._ping(flags, number, body)
        elif kind == SETTINGS:
            self._settings(flags, number, body)
        elif kind == RST_STREAM:
            if len(body) != 4:
                raise _BrokenError(FRAME_SIZE_ERROR)
            if number == 0 or number > self._last:
                raise _BrokenError(PROTOCOL_ERROR)
            if (stream := self.streams.get(number)) is not None:
                stream.lost()
        elif kind == CONTINUATION:
            self._continuation(flags, body)
        elif kind == PUSH_PROMISE:
            raise _BrokenError(PROTOCOL_ERROR)
        # The others say nothing that an answer depends on.

    def _data(self, flags: int, number: int, body: bytes) -> None:
        size = len(body)
        self._room -= size
        if self._room < 0:
            raise _BrokenError(FLOW_CONTROL_ERROR)
        self._taken += size
        if self._taken >= CONNECTION_ROOM // 2:
            # At once, read or not: a stream that nobody reads now must not hold up the others.
            self.write(frame(WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big")))
            self._room, self._taken = self._room + self._taken, 0
        if flags & PADDED:
            body = _unpadded(flags, body)
        stream = self.streams.get(number)
        if stream is None:
            if number == 0 or number > self._last:
                raise _BrokenError(PROTOCOL_ERROR)
            return  # it was ended, which the peer did not know
        if stream.ended:
            stream.reset(STREAM_CLOSED)
            stream.broken()
            return
        stream.room -= size
        if stream.room < 0:
            stream.reset(FLOW_CONTROL_ERROR)
            stream.broken()
            return
        if body:
            stream.came(body)
        if flags & END_STREAM:
            stream.ended = True
            stream.over()

    def _continuation(self, flags: int, body: bytes) -> None:
        block = self._block
        if block is None:
            raise _BrokenError(PROTOCOL_ERROR)
        block += body
        self._block_parts += 1
        if len(block) > self._owner.header_bytes_max or self._block_parts > CONTINUATIONS_MAX:
            raise _BrokenError(ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            self._block = None
            self._headers(self._block_of, self._block_flags, bytes(block))

    def _headers(self, number: int, flags: int, block: bytes) -> None:
        fields = self._decoder.decode(block)
        stream = self.streams.get(number)
        if stream is not None:  # trailers, which say nothing
            if stream.ended or not flags & END_STREAM:
                stream.reset(PROTOCOL_ERROR)
                stream.broken()
                return
        elif number <= self._last:
            return  # of a stream that was ended, which the peer did not know
        else:
            self._last = number
            made = None
            if len(self.streams) >= self._owner.streams_max:
                code = REFUSED_STREAM
            else:
                code, made = PROTOCOL_ERROR, self._owner.begin(self, number, fields)
            if made is None:
                self.write(frame(RST_STREAM, 0, number, code.to_bytes(4, "big")))
                return
            stream = made
        if flags & END_STREAM:
            stream.ended = True
            stream.over()

    def _window_update(self, number: int, body: bytes) -> None:
        if len(body) != 4:
            raise _BrokenError(FRAME_SIZE_ERROR)
        more = int.from_bytes(body, "big") & NUMBER_MAX
        if number == 0:
            self.window += more
            if not more:
                raise _BrokenError(PROTOCOL_ERROR)
            if self.window > NUMBER_MAX:
                raise _BrokenError(FLOW_CONTROL_ERROR)
            self._flush()
            return
        if number > self._last:
            raise _BrokenError(PROTOCOL_ERROR)
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.window += more
        if not more or stream.window > NUMBER_MAX:
            stream.reset(FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR)
            stream.broken()
        else:
            stream.flush()

    def _ping(self, flags: int, number: int, body: bytes) -> None:
        if len(body) != 8:
            raise _BrokenError(FRAME_SIZE_ERROR)
        if number:
            raise _BrokenError(PROTOCOL_ERROR)
        if not flags & ACK:
            self.write(frame(PING, ACK, 0, body))
        elif body == LEAVING:
            self._goes = True
            self.rest()

    def _settings(self, flags: int, number: int, body: bytes) -> None:
        if number:
            raise _BrokenError(PROTOCOL_ERROR)
        if len(body) % 6 or (flags & ACK and body):
            raise _BrokenError(FRAME_SIZE_ERROR)
        self._settled = True
        if flags & ACK:
            return
        if len(body) > 6 * SETTINGS_MAX:
            raise _BrokenError(ENHANCE_YOUR_CALM)
        settings = dict[int, int](struct.iter_unpack(">HI", body))
        self.frame_max = min(FRAME_BYTES_MAX, settings.get(_FRAME, self.frame_max))
        if self.frame_max < FRAME_BYTES:
            raise _BrokenError(PROTOCOL_ERROR)
        first = settings.get(_WINDOW, self.window_first)
        more, self.window_first = first - self.window_first, first
        if first > NUMBER_MAX:
            raise _BrokenError(FLOW_CONTROL_ERROR)
        self.write(frame(SETTINGS, ACK, 0, b""))
        if more:
            for stream in self.streams.values():
                stream.window += more
                if stream.window > NUMBER_MAX:
                    raise _BrokenError(FLOW_CONTROL_ERROR)
            self._flush()

    def _flush(self) -> None:
        for stream in list(self.blocked):
            stream.flush()

    def _fail(self, code: int) -> None:
        """Say why, and close."""
        if not self._said:
            self.write(_goaway(self._last, code))
            self._said = True
            self._transport.close()

    def _watch(self, frames: int) -> None:
        """A frame or a header block that was begun a while ago and is not whole is cut off, as is a silent stranger."""
        if (
            frames == self._frames
            and not self.paused
            and (self._rest or self._block is not None or not self._settled)
        ):
            self.abort()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._owner.read_s_max, self._watch, self._frames)


class _BrokenError(Exception):
    """The peer does not keep to the protocol."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _goaway(last: int, code: int) -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))


def _headers(number: int, block: bytes, flags: int) -> bytes:
    """A header block as frames that every peer takes."""
    if len(block) <= FRAME_BYTES:
        return frame(HEADERS, flags | END_HEADERS, number, block)
    parts = [block[i : i + FRAME_BYTES] for i in range(0, len(block), FRAME_BYTES)]
    frames = [frame(HEADERS, flags, number, parts[0])]
    frames += [frame(CONTINUATION, 0, number, part) for part in parts[1:-1]]
    return b"".join((*frames, frame(CONTINUATION, END_HEADERS, number, parts[-1])))


def _unpadded(flags: int, body: bytes) -> bytes:
    if not flags & PADDED:
        return body
    if not body or body[0] >= len(body):
        raise _BrokenError(PROTOCOL_ERROR)
    return body[1 : len(body) - body[0]]
