"""gRPC over HTTP/2, on the event loop: calls as messages, deadlines and statuses, and the server that takes them.

The library of gRPC has a loop and threads of its own, whose way to Python's costs more than all that a search needs
(docs/decisions/0007-grpc-without-generated-code.md).
"""

from __future__ import annotations

import asyncio
import binascii
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpack import HeaderTuple, NeverIndexedHeaderTuple

from vicinal.model.errors import InvalidArgumentError, RequestTooLargeError, VicinalError
from vicinal.server.http2 import READ_ROOM, Connection, Field, Owner, Stream
from vicinal.server.http2_machine import Fields
from vicinal.server.listening import BACKLOG
from vicinal.telemetry.log import get_logger
from vicinal.wire.compression import GZIP, PACK_BYTES_MIN, Unpacker, pack

_NAMES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED"
)
STATUSES: list[str] = [*_NAMES.split()]
"""By their numbers."""

PREFIX_BYTES = 5
"""Before each message: whether it is packed, and its length."""

INLINE_BYTES_MAX = 4 * 1024
"""A longer packed message is unpacked in a thread."""

TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_HEAD: Fields = (
    HeaderTuple(b":status", b"200"),
    HeaderTuple(b"content-type", b"application/grpc"),
)
_PACKED_HEAD: Fields = (*_HEAD, HeaderTuple(b"grpc-encoding", b"gzip"))
_ACCEPTS: Fields = (HeaderTuple(b"grpc-accept-encoding", b"identity,gzip"),)
_OK: Fields = (HeaderTuple(b"grpc-status", b"0"),)
_NOT_GRPC: Fields = (HeaderTuple(b":status", b"415"),)
_MUCH = 2**14
"""A call that waits for so much, or has room for no more, lets more than usual come."""

ROOM_LOW = READ_ROOM // 2
"""Where so little more may come, and more than that is wanted, it is time to say so."""

_log = get_logger("server")


@dataclass(frozen=True, slots=True)
class Method:
    """What carries out the calls of one name.

    Attributes
    ----------
    run : answers or fails the call. It is cancelled when nobody wants the answer any more, unless it has `begun`.
    refusal : the trailers that a call gets at once, while there is no room for it; None where there is.
    """

    run: Callable[[GrpcCall], Awaitable[None]]
    refusal: Callable[[], Fields | None] | None = None


class GrpcCall(Stream):
    """One call: messages in, messages out.

    Attributes
    ----------
    metadata : as the caller sent them.
    deadline : on the monotonic clock; None where the caller gave none.
    source : the address that it comes from.
    begun : whether what it asked for is under way, and goes on when its caller is gone.
    """

    __slots__ = (
        "_encoding",
        "_got",
        "_headed",
        "_message_bytes_max",
        "_server",
        "_waiter",
        "_wanted",
        "begun",
        "deadline",
        "metadata",
        "packs",
        "path",
        "source",
        "task",
    )

    def __init__(
        self,
        connection: Connection,
        number: int,
        server: GrpcServer,
        metadata: list[Field],
        path: str,
    ) -> None:
        super().__init__(connection, number)
        self._server, self.metadata, self.path = server, metadata, path
        self._message_bytes_max = server.message_bytes_max
        self.source = connection.peer
        self.deadline: float | None = None
        self.begun, self.packs = False, False
        self.task: asyncio.Task[None] | None = None
        self._encoding: str | None = None
        self._got: bytes | bytearray = b""
        self._wanted = PREFIX_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._headed = False

    def came(self, data: bytes) -> None:
        """See Stream."""
        if not self._got:
            self._got = data
        else:
            if isinstance(self._got, bytes):
                self._got = bytearray(self._got)
            self._got += data
        waiter = self._waiter
        if waiter is None:
            return
        if len(self._got) >= self._wanted:
            if not waiter.done():
                waiter.set_result(None)
        elif self.room < min(self._wanted - len(self._got), ROOM_LOW):
            self.grant()

    def over(self) -> None:
        """See Stream."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def broken(self) -> None:
        """See Stream."""
        if not self.begun and self.task is not None:
            self.task.cancel()

    @property
    def ready(self) -> bool:
        """Whether `read` has what it needs."""
        got = self._got
        return self.ended or (
            len(got) >= PREFIX_BYTES
            and len(got) >= PREFIX_BYTES + int.from_bytes(got[1:PREFIX_BYTES], "big")
        )

    async def read(self) -> bytes | None:
        """The next message; None where there is no more. Raises RequestTooLargeError when its first bytes say so."""
        while True:
            got = self._got
            if len(got) >= PREFIX_BYTES:
                length = int.from_bytes(got[1:PREFIX_BYTES], "big")
                if length > self._message_bytes_max:
                    raise self._too_large(length)
                end = self._wanted = PREFIX_BYTES + length
                if len(got) >= end:
                    break
            elif self.ended and not got:
                return None
            if self.ended:
                raise InvalidArgumentError("the last message of the call ends in its middle")
            if self._wanted - len(got) > min(self.room, _MUCH) or self.room < _MUCH:
                self.grant()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, packed = bytes(memoryview(got)[PREFIX_BYTES:end]), got[0]
        if end == len(got):
            self._got = b""
        else:
            rest = bytearray(got) if isinstance(got, bytes) else got
            del rest[:end]
            self._got = rest
        self._wanted = PREFIX_BYTES
        return await self._unpacked(message) if packed else message

    async def reply(self, message: bytes, trailers: Fields) -> None:
        """Answer with one message. `trailers` is made by `trailers_of`."""
        if self.packs and len(message) >= PACK_BYTES_MIN:
            message = await asyncio.to_thread(pack, message)
            self.answer(_PACKED_HEAD, _prefixed(message, 1), _OK + trailers)
        else:
            self.answer(_HEAD, _prefixed(message, 0), _OK + trailers)

    async def write(self, message: bytes) -> None:
        """Answer with one message of several; waits until it has gone."""
        if not self._headed:
            self._headed = True
            self.head(_PACKED_HEAD if self.packs else _HEAD)
        packed = self.packs and len(message) >= PACK_BYTES_MIN
        if packed:
            message = await asyncio.to_thread(pack, message)
        self.put(_prefixed(message, int(packed)))
        await self.drained()

    def end(self, trailers: Fields) -> None:
        """All messages are written."""
        if not self._headed:
            self.head(_PACKED_HEAD if self.packs else _HEAD)
        self.finish(_OK + trailers)

    def fail(self, status: str, message: str, trailers: Fields = ()) -> None:
        """End it with a status that is not OK."""
        block = status_of(status, message) + trailers
        self.finish(block if self._headed else _HEAD + block)

    def begin(self, method: Method) -> None:
        """Have it carried out."""
        self.task = asyncio.get_running_loop().create_task(self._run(method))
        self.task.add_done_callback(
            self._done
        )  # which also one is that was cancelled before it ran

    def look(self) -> None:
        """Take what the metadata say of the call itself. Raises InvalidArgumentError."""
        for name, value in self.metadata:
            if name == "grpc-timeout":
                self.deadline = time.monotonic() + _timeout_s(value)
            elif name == "grpc-encoding":
                if value not in ("identity", GZIP):
                    raise InvalidArgumentError(
                        f"grpc-encoding is {value[:40]!r}; it is gzip or identity"
                    )
                self._encoding = value

    async def _run(self, method: Method) -> None:
        try:
            await method.run(self)
        except asyncio.CancelledError:
            self.fail("CANCELLED", "the call was cancelled")
        except Exception:
            _log.exception("%s failed", self.path)
            self.fail("INTERNAL", "the call failed by a fault of the server; its log has it")

    def _done(self, task: asyncio.Task[None]) -> None:
        del task
        self._server.calls.discard(self)
        self._server.rested()

    async def _unpacked(self, packed: bytes) -> bytes:
        if self._encoding != GZIP:
            raise InvalidArgumentError("a message is packed, and grpc-encoding does not say how")
        unpacker, parts, total = Unpacker(packed), list[bytes](), 0
        inline = len(packed) < INLINE_BYTES_MAX
        while part := unpacker.step() if inline else await asyncio.to_thread(unpacker.step):
            total += len(part)
            if total > self._message_bytes_max:
                raise self._too_large(total)
            parts.append(part)
        return b"".join(parts)

    def _too_large(self, length: int) -> RequestTooLargeError:
        return RequestTooLargeError(
            f"message has {length} bytes or more, the limit is {self._message_bytes_max}; "
            "send fewer points at a time"
        )


class GrpcServer(Owner):
    """What listens on one port.

    methods : of each path.
    message_bytes_max : of a caller's message, unpacked.
    calls_max : under way on all connections; more are refused.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        message_bytes_max: int,
        header_bytes_max: int,
        streams_max: int,
        calls_max: int,
        read_s_max: float,
    ) -> None:
        self._methods, self.message_bytes_max = methods, message_bytes_max
        self.header_bytes_max, self.streams_max = header_bytes_max, streams_max
        self.read_s_max, self._calls_max = read_s_max, calls_max
        self.connections: set[Connection] = set()
        self.calls: set[GrpcCall] = set()
        self._idle: asyncio.Event | None = None
        self._listening: Any = None

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Answer on a socket that listens."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if tls is not None:
            options = {"ssl": tls, "ssl_handshake_timeout": self.read_s_max}
        self._listening = await loop.create_server(
            lambda: Connection(self), sock=listener, backlog=BACKLOG, **options
        )

    async def stop(self, grace_s: float) -> None:
        """Take no connection more, wait for the calls under way, at most grace_s, and end them."""
        if self._listening is None:
            return
        self._listening.close()
        self._idle = asyncio.Event()
        for connection in list(self.connections):
            connection.leave()
        self.rested()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            _log.info("%d calls were not done in time", len(self.calls))
        tasks = [call.task for call in self.calls if call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self.connections):
            connection.close()

    def rested(self) -> None:
        """See Owner."""
        idle = self._idle
        if idle is not None and not self.calls and not any(c.streams for c in self.connections):
            idle.set()

    def begin(self, connection: Connection, number: int, fields: list[Field]) -> Stream | None:
        """See Owner."""
        path = method = kind = ""
        for name, value in fields:
            if name == ":path":
                path = value
            elif name == ":method":
                method = value
            elif name == "content-type":
                kind = value
        if not path or not method:
            return None
        call = GrpcCall(connection, number, self, fields, path)
        connection.streams[number] = call
        if method != "POST" or not kind.startswith("application/grpc"):
            call.finish(_NOT_GRPC)
            return call
        found = self._methods.get(path)
        if found is None:
            call.fail("UNIMPLEMENTED", f"there is no {path[:200]}")
            return call
        refusal = None if found.refusal is None else found.refusal()
        if refusal is not None:
            call.finish(_HEAD + refusal)
            return call
        if len(self.calls) >= self._calls_max:
            call.fail("RESOURCE_EXHAUSTED", "too many calls are under way; try again later")
            return call
        try:
            call.look()
        except VicinalError as fault:
            call.fail("UNIMPLEMENTED", str(fault), _ACCEPTS)
            return call
        self.calls.add(call)
        call.begin(found)
        return call


def trailers_of(*fields: tuple[bytes, bytes]) -> Fields:
    """Trailers of one call. A name that ends with -bin has any bytes as its value."""
    return tuple(
        NeverIndexedHeaderTuple(
            name,
            binascii.b2a_base64(value, newline=False).rstrip(b"=")
            if name.endswith(b"-bin")
            else value,
        )
        for name, value in fields
    )


def status_of(status: str, message: str) -> Fields:
    """What trailers begin with that refuse a call."""
    number = b"%d" % STATUSES.index(status)
    return (
        HeaderTuple(b"grpc-status", number),
        NeverIndexedHeaderTuple(b"grpc-message", _percent(message)),
    )


def _prefixed(message: bytes, packed: int) -> bytes:
    return bytes((packed,)) + len(message).to_bytes(4, "big") + message


def _percent(message: str) -> bytes:
    """A status message as a header takes it."""
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in message.encode()
    )


def _timeout_s(value: str) -> float:
    count, unit = value[:-1], TIMEOUT_UNITS.get(value[-1:])
    if unit is None or not (count.isascii() and count.isdigit()) or len(count) > 8:
        raise InvalidArgumentError(f"grpc-timeout is {value[:20]!r}; it is a number and a unit")
    return int(count) * unit
