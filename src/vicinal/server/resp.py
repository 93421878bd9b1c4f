"""The protocol of Redis and Valkey (RESP 2), as little of it as a cache needs, over one connection for everybody.

Commands go out at once and replies come in their order, so that many searches share the connection and none waits
for the reply of another. A caller who stops waiting leaves its place in the queue. A reply that is none ends the
connection: what follows it could be taken for that of somebody else.
https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote, urlsplit

from vicinal.model.errors import InvalidArgumentError

PORT = 6379
LINE_BYTES_MAX = 4_096
VALUE_BYTES_MAX = 8 * 2**20
WAITING_MAX = 1_024
"""Commands without a reply; more are refused, so that a server that hangs holds no memory here."""

UNSENT_BYTES_MAX = 16 * 2**20


class RespError(Exception):
    """The server refused a command, or there is no connection to send it over."""


@dataclass(frozen=True, slots=True)
class RespAddress:
    """Where the server is, and who asks."""

    host: str
    port: int
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0


def parse_address(url: str) -> RespAddress:
    """An address of the form redis://[[user]:password@]host[:port][/number], or rediss:// for TLS.

    Raises InvalidArgumentError, which does not repeat the password.
    """
    form = "redis://[[user]:password@]host[:port][/number], or rediss:// for TLS"
    try:
        parts = urlsplit(url)
        port, path = parts.port or PORT, parts.path.strip("/")
        number = int(path) if path else 0
    except ValueError:
        raise InvalidArgumentError(f"cache_url is not of the form {form}") from None
    if (
        parts.scheme not in ("redis", "rediss")
        or not parts.hostname
        or parts.query
        or parts.fragment
        or number < 0
    ):
        raise InvalidArgumentError(f"cache_url is not of the form {form}")
    return RespAddress(
        parts.hostname,
        port,
        parts.scheme == "rediss",
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        number,
    )


class RespConnection(asyncio.Protocol):
    """One connection; belongs to its event loop's thread. Make it with `connect`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._replies: deque[asyncio.Future[bytes | None]] = deque()
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended."""

    def call(self, *parts: bytes) -> asyncio.Future[bytes | None]:
        """Send a command; the reply, None where it is nil.

        Raises RespError where it cannot be sent. The future raises it where the server refuses, or goes away.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise RespError("there is no connection")
        size = transport.get_write_buffer_size()
        if len(self._replies) >= WAITING_MAX or size > UNSENT_BYTES_MAX:
            raise RespError(f"{len(self._replies)} commands and {size} bytes wait for the server")
        message = [b"*%d\r\n" % len(parts)]
        for part in parts:
            message += (b"$%d\r\n" % len(part), part, b"\r\n")
        transport.write(b"".join(message))
        reply: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        return reply

    def close(self) -> None:
        """End the connection. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody gets a reply any more."""
        self._end(str(exc or "the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are whole."""
        self._buffer += data
        try:
            while self._replies and self._take():
                pass
            if self._buffer and not self._replies:
                raise ValueError("a reply to nothing")
        except ValueError as fault:
            self._end(f"the server does not speak RESP: {fault}")
            self.close()

    def _take(self) -> bool:
        """Hand out one reply, if it is whole. Raises ValueError where it is none."""
        buffer = self._buffer
        end = buffer.find(b"\r\n", 0, LINE_BYTES_MAX)
        if end < 0:
            if len(buffer) >= LINE_BYTES_MAX:
                raise ValueError("a line without an end")
            if buffer and buffer[0] not in b"+-:$":
                raise ValueError(f"a reply begins with {bytes(buffer[:1])!r}")
            return False
        kind, line = bytes(buffer[:1]), bytes(buffer[1:end])
        value: bytes | None = line
        used = end + 2
        if kind == b"$":
            length = int(line)
            if not -1 <= length <= VALUE_BYTES_MAX:
                raise ValueError(f"a value of {length} bytes")
            value = None
            if length >= 0:
                if len(buffer) < used + length + 2:
                    return False
                value = bytes(buffer[used : used + length])
                used += length + 2
                if bytes(buffer[used - 2 : used]) != b"\r\n":
                    raise ValueError("a value without an end")
        elif kind not in (b"+", b"-", b":"):
            raise ValueError(f"a reply begins with {kind!r}")
        del buffer[:used]
        reply = self._replies.popleft()
        if not reply.done():  # else nobody waits for it any more
            if kind == b"-":
                reply.set_exception(RespError(line[:200].decode("utf-8", "replace")))
            else:
                reply.set_result(value)
        return True

    def _end(self, why: str) -> None:
        for reply in self._replies:
            if not reply.done():
                reply.set_exception(RespError(why))
        self._replies.clear()
        self._buffer.clear()
        if not self.lost.done():
            self.lost.set_result(None)


async def connect(address: RespAddress) -> RespConnection:
    """A connection that is ready for commands. Raises OSError or RespError."""
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context() if address.tls else None
    _, connection = await loop.create_connection(
        RespConnection, address.host, address.port, ssl=tls
    )
    try:
        if address.password is not None:
            who = [] if address.user is None else [address.user.encode()]
            await connection.call(b"AUTH", *who, address.password.encode())
        if address.database:
            await connection.call(b"SELECT", b"%d" % address.database)
        await connection.call(b"PING")
    except BaseException:
        connection.close()
        raise
    return connection
