"""A connection of HTTP/2 and its streams, as gRPC needs them: the library h2 on the event loop. It knows no message.

Strangers talk to it, so what they can make it hold is bounded. h2 ends connections that break the protocol, and bounds
the size of a whole frame, the streams of a connection, the fields of a header block, its parts (64) and both windows
of flow control; what comes for a stream that was ended it drops. Ours are the unread bytes of a stream, by STREAM_ROOM
until somebody reads it; the bytes of a frame and of a header block that are not whole, and the time they may take to
become it; calls given up in a row; settings; and answers that are not fetched: while the transport's buffer is full
nothing more is read, pings and settings, which ask for an answer each, included.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import Any

from h2 import events as h2_events
from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame

from vicinal.server.http2_machine import (
    FRAME_BYTES_MAX,
    FRAME_HEAD_BYTES,
    Field,
    Fields,
    Frames,
    decoded,
    machine_of,
)
from vicinal.telemetry.log import get_logger

NUMBER_MAX = 2**31 - 1
STREAM_ROOM = 65_535
"""Bytes of a stream that come before somebody wants them; what HTTP/2 begins with."""

READ_ROOM = 2**20
"""Bytes of a stream that may be on their way to somebody who wants them."""

CONNECTION_ROOM = 2**24
WRITE_BYTES = 2**18
"""Of answers that are gathered before they are written; fewer are written together at the end of the loop's turn."""

SETTINGS_MAX = 64
"""That a peer has named, known or not; h2 keeps them all."""

RESETS_MAX = 1_000
"""Calls of a connection that were given up, less those that were answered."""

LEAVING = b"leaving."
"""The ping after which no call can be on its way that does not know that this side goes."""
_log = get_logger("server")


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
    )

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection, self.number, self.room = connection, number, STREAM_ROOM
        self.ended, self.closed = False, False
        self._out: deque[bytes] = deque()
        self._offset = 0
        self._trailers: Fields | None = None
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
            with suppress(ProtocolError):  # it was ended, and that is the next to be heard of it
                self.connection.machine.increment_flow_control_window(more, self.number)
                self.connection.write_soon(0)

    def head(self, fields: Fields) -> None:
        """The answer's headers."""
        if not self.closed:
            self._send_headers(fields, last=False)

    def answer(self, head: Fields, body: bytes, trailers: Fields) -> None:
        """The whole answer; what cannot go at once goes when it can."""
        connection = self.connection
        if not self.closed and connection.answer(self.number, head, body, trailers):
            self._close()
            if not connection.streams:  # nobody whose answer could go with it
                connection.write()
            return
        self.head(head)
        self.put(body)
        self.finish(trailers)

    def put(self, body: bytes) -> None:
        """Bytes of the answer, which go when there is room for them; see `drained`."""
        if body and not self.closed:
            self._out.append(body)
            self.flush()

    def finish(self, trailers: Fields) -> None:
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
            try:
                count = min(len(body) - self._offset, connection.room_of(self.number))
                if count <= 0 or connection.paused:
                    connection.blocked[self] = None
                    return
                part = body[self._offset : self._offset + count]
                connection.machine.send_data(self.number, part)
            except ProtocolError:
                self.lost()
                return
            self._offset += count
            if self._offset == len(body):
                self._out.popleft()
                self._offset = 0
            connection.write_soon(count)
        connection.blocked.pop(self, None)
        if self._trailers is not None:
            if self._send_headers(self._trailers, last=True):
                connection.answered()
                self._close()
        elif self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def reset(self, code: ErrorCodes) -> None:
        """End it at once."""
        if not self.closed:
            self._end(code)
            self.ended = True
            self._close()

    def lost(self) -> None:
        """The peer ended it."""
        if not self.closed:
            self.ended = True
            self._close()
            self.broken()

    def _send_headers(self, fields: Fields, *, last: bool) -> bool:
        try:
            self.connection.machine.send_headers(self.number, fields, end_stream=last)
        except ProtocolError:  # it was ended, and that is the next to be heard of it
            self.lost()
            return False
        self.connection.write_soon(0)
        return True

    def _end(self, code: ErrorCodes) -> None:
        with suppress(ProtocolError):  # the peer was first
            self.connection.machine.reset_stream(self.number, code)
            self.connection.write_soon(0)

    def _close(self) -> None:
        connection = self.connection
        self.closed = True
        self._out.clear()
        connection.blocked.pop(self, None)
        connection.streams.pop(self.number, None)
        if not self.ended:  # what is still to come is not wanted
            self._end(ErrorCodes.NO_ERROR)
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
    """One connection of a client.

    Attributes
    ----------
    machine : what h2 knows of it.
    blocked : streams that have more to send than there is room for.
    paused : whether the transport takes no more.
    peer : its address.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner, self._frames = owner, Frames(server=True)
        self.machine = machine_of(
            self._frames, streams_max=owner.streams_max, header_bytes_max=owner.header_bytes_max
        )
        self._settled, self._heard, self._resets, self._taken = False, 0, 0, 0
        self._unsent, self._sending = 0, False
        self._frames_out: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._goes, self._said = False, False
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self.streams: dict[int, Stream] = {}
        self.blocked: dict[Stream, None] = {}
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
        self.machine.initiate_connection()
        self.machine.increment_flow_control_window(CONNECTION_ROOM - STREAM_ROOM)
        self.write()
        self._timer = self._loop.call_later(self._owner.read_s_max, self._watch, 0)

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

    def room_of(self, number: int) -> int:
        """Bytes that the next frame of a stream may have."""
        machine = self.machine
        return min(
            machine.local_flow_control_window(number),
            machine.max_outbound_frame_size,
            FRAME_BYTES_MAX,
        )

    def write_soon(self, count: int) -> None:
        """The machine has something to send, with `count` bytes of answers: all of a turn of the loop goes together."""
        self._unsent += count
        if self._unsent >= WRITE_BYTES:
            self.write()
        elif not self._sending:
            self._sending = True
            self._loop.call_soon(self.write)

    def answer(self, number: int, head: Fields, body: bytes, trailers: Fields) -> bool:
        """Send the whole answer to a stream, where that can go at once; else nothing is done."""
        if self.paused or self.blocked:
            return False
        machine = self.machine
        frames = machine.answer(number, head, body, trailers)
        if frames is None:
            return False
        if before := machine.data_to_send():
            self._frames_out.append(before)
        self._frames_out.append(frames)
        self.answered()
        self.write_soon(len(body))
        return True

    def answered(self) -> None:
        """A call was; see RESETS_MAX."""
        if self._resets:
            self._resets -= 1

    def leave(self) -> None:
        """Tell the peer to make its next call elsewhere; those that come before it knows are taken. The connection ends
        with the last of them."""
        if not self._said:
            self.write()
            # h2 says it only to end a connection.
            self._transport.write(GoAwayFrame(0, last_stream_id=NUMBER_MAX).serialize())
            self.machine.ping(LEAVING)
            self.write()

    def close(self) -> None:
        """End it; what was written still goes."""
        if self.streams:
            self.abort()
        else:
            self._fail(ErrorCodes.NO_ERROR)

    def abort(self) -> None:
        """End it at once."""
        self._said = True
        self._transport.abort()

    def rest(self) -> None:
        """A stream has ended; end with the last."""
        if not self.streams:
            if self._goes:
                self._fail(ErrorCodes.NO_ERROR)
            self._owner.rested()

    def data_received(self, data: bytes) -> None:
        """Take the frames that are whole."""
        if self._said:
            return
        if self._sending:
            self.write()  # h2 forgets what was not sent when the peer says that it goes
        machine = self.machine
        try:
            events = machine.take(data)
        except ProtocolError:  # h2 has it said why
            self._hang_up()
            return
        except Exception:
            _log.exception("a connection of %s ends by a fault of the server", self.peer)
            self.abort()
            return
        if machine.state_machine.state is ConnectionState.CLOSED:
            # A peer that goes still waits for its answers, and takes them; h2 sees no more in it.
            machine.state_machine.state = ConnectionState.SERVER_OPEN
        self._heard += len(events)
        for event in events:
            if isinstance(event, tuple):
                number, fields, body, ended = event
                if fields is not None:
                    self._begin(number, fields)
                elif body or ended:
                    self._data(number, body, len(body), ended)
                elif number:
                    self._room(number)
                else:
                    self._flush()
            else:
                self._event(event)
            if self._said:
                return
        if self._frames.block_bytes > self._owner.header_bytes_max:
            self._fail(ErrorCodes.ENHANCE_YOUR_CALM)
        elif self._frames.rest_bytes > FRAME_HEAD_BYTES + FRAME_BYTES_MAX:
            self._fail(ErrorCodes.FRAME_SIZE_ERROR)
        else:
            self.write()

    def _event(self, event: h2_events.Event) -> None:
        if isinstance(event, h2_events.RequestReceived):
            self._begin(event.stream_id, decoded(event))
        elif isinstance(event, h2_events.DataReceived):
            self._data(event.stream_id, event.data, event.flow_controlled_length, ended=False)
        elif isinstance(event, h2_events.StreamEnded):
            self._data(event.stream_id, b"", 0, ended=True)
        elif isinstance(event, h2_events.WindowUpdated):
            if not event.stream_id:
                self._flush()
            else:
                self._room(event.stream_id)
        elif isinstance(event, h2_events.StreamReset):
            self._resets += 1
            if (stream := self.streams.get(event.stream_id)) is not None:
                stream.lost()
            if self._resets > RESETS_MAX:
                self._fail(ErrorCodes.ENHANCE_YOUR_CALM)
        elif isinstance(event, h2_events.RemoteSettingsChanged):
            self._settled = True
            if len(self.machine.remote_settings) > SETTINGS_MAX:
                self._fail(ErrorCodes.ENHANCE_YOUR_CALM)
            else:
                self._flush()
        elif isinstance(event, h2_events.PingAckReceived):
            if event.ping_data == LEAVING:
                self._goes = True
                self.rest()
        elif isinstance(event, h2_events.ConnectionTerminated):
            if event.error_code:
                self.abort()
            else:
                self._goes = True
                self.rest()
        # The others say nothing that an answer depends on.

    def _begin(self, number: int, fields: list[Field]) -> None:
        if self._owner.begin(self, number, fields) is None:
            with suppress(ProtocolError):  # the peer was first
                self.machine.reset_stream(number, ErrorCodes.PROTOCOL_ERROR)

    def _data(self, number: int, data: bytes, size: int, ended: bool) -> None:
        """Bytes of a request, which took so much of the room that there was."""
        self._taken += size
        if self._taken >= CONNECTION_ROOM // 2:
            # At once, read or not: a stream that nobody reads now must not hold up the others.
            self.machine.increment_flow_control_window(self._taken)
            self._taken = 0
        stream = self.streams.get(number)
        if stream is None:  # it was ended, which the peer did not know
            return
        stream.room -= size
        if ended:
            stream.ended = True
        if data:
            stream.came(data)
        if ended:
            stream.over()

    def _room(self, number: int) -> None:
        stream = self.streams.get(number)
        if stream is not None and stream in self.blocked:
            stream.flush()

    def write(self) -> None:
        """Hand the transport what the machine has to send."""
        self._sending, self._unsent = False, 0
        data = self.machine.data_to_send()
        if self._frames_out:
            data = b"".join((*self._frames_out, data))
            self._frames_out.clear()
        if data and not self._said:
            self._transport.write(data)

    def _flush(self) -> None:
        for stream in list(self.blocked):
            stream.flush()

    def _fail(self, code: ErrorCodes) -> None:
        """Say why, and close."""
        if not self._said:
            self.machine.close_connection(code)
            self._hang_up()

    def _hang_up(self) -> None:
        self.write()
        self._said = True
        self._transport.close()

    def _watch(self, heard: int) -> None:
        """A frame or a header block that was begun a while ago and is not whole is cut off, as is a silent stranger."""
        begun = not self._settled or self._frames.begun
        if begun and heard == self._heard and not self.paused:
            self.abort()
            return
        seen = self._heard if begun else -1
        self._timer = self._loop.call_later(self._owner.read_s_max, self._watch, seen)
