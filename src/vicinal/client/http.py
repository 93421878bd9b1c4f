"""The HTTP channel: a pool of kept-alive connections."""

from __future__ import annotations

import http.client
import math
import select
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

from vicinal.client.channel import ChannelOptions, RetryingChannel
from vicinal.model.errors import InvalidArgumentError, UnavailableError, VicinalError
from vicinal.telemetry.trace import HEADER, current_traceparent
from vicinal.wire import messages as m
from vicinal.wire.codec import MSGPACK, codec_of
from vicinal.wire.compression import GZIP, PACK_BYTES_MIN, pack, unpack
from vicinal.wire.faults import from_fault
from vicinal.wire.messages import MSGPACK_TYPE
from vicinal.wire.operations import Operation

A = TypeVar("A", bound=m.Answer)

IDLE_CONNECTIONS_MAX = 32
"""Connections kept for later; a call that finds none makes one."""

IDLE_S_MAX = 55.0
"""A connection idle for longer is not used again, since the server or something between may have forgotten it."""

SECOND_S_MAX = 0.25
"""Seconds to connect for a second question, while the first may be answered."""

_Prepared: TypeAlias = tuple[str, bytes | None, dict[str, str]]
"""(path, body, headers)."""


class HttpChannel(RetryingChannel[_Prepared]):
    """A channel to one HTTP server. Thread-safe."""

    def __init__(self, address: str, options: ChannelOptions) -> None:
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            raise InvalidArgumentError(f"address {address!r} has no valid port") from None
        if not parts.hostname or parts.query or parts.fragment or parts.username:
            raise InvalidArgumentError(
                f"address {address!r} is not of the form http://host:port; keys go into api_key="
            )
        super().__init__(address, options)
        self._host, self._secure = parts.hostname, parts.scheme == "https"
        self._port = port or (443 if self._secure else 7333)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Content-Type": MSGPACK_TYPE, "Accept": MSGPACK_TYPE}
        self._compress = options.compression is not None
        if self._compress:
            self._headers["Accept-Encoding"] = GZIP
        if options.api_key is not None:
            self._headers["Authorization"] = f"Bearer {options.api_key}"
        self._context = options.context() if self._secure else None
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._closed = False

    def close(self) -> None:
        """Close the connections. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _prepare(
        self, operation: Operation, collection: str | None, request: m.Request
    ) -> _Prepared:
        path = self._path(operation, collection)
        if operation.request is m.Empty:
            return path, None, self._headers
        body = MSGPACK.encode(request)
        if self._compress and len(body) >= PACK_BYTES_MIN:
            return path, pack(body), {**self._headers, "Content-Encoding": GZIP}
        return path, body, self._headers

    def _path(self, operation: Operation, collection: str | None) -> str:
        parts = [self._prefix, "v1"]
        if collection is not None:
            name = quote(collection, safe="")
            # Dots alone would be taken for a step in the path.
            parts += ["collections", name.replace(".", "%2E") if set(name) == {"."} else name]
        return "/".join([*parts, *operation.path])

    def _send(self, operation: Operation, prepared: _Prepared, left_s: float, answer: type[A]) -> A:
        begun = self._begin(operation, prepared, left_s, second=False)
        return self._finish(operation, begun, None, answer)

    def _begin(
        self, operation: Operation, prepared: _Prepared, left_s: float, *, second: bool
    ) -> http.client.HTTPConnection:
        """A connection on which the request is. The second is another one, since the first is not given back."""
        path, body, headers = prepared
        connection = self._connection(left_s, min(left_s, SECOND_S_MAX) if second else left_s)
        headers = {**headers, "Vicinal-Timeout-Ms": str(max(1, int(left_s * 1000)))}
        trace = current_traceparent()
        if trace is not None:
            headers[HEADER] = trace
        with self._speaking(operation, connection):
            connection.request(operation.method, path, body, headers)
        return connection

    def _ready(
        self, begun: Sequence[http.client.HTTPConnection], timeout_s: float
    ) -> http.client.HTTPConnection | None:
        """The first on which something comes. (Over TLS that may be a ticket for later, on a connection's first
        request; it is waited for then, not asked twice.)"""
        by_fd = {connection.sock.fileno(): connection for connection in begun}
        poll = select.poll()
        for fd in by_fd:
            poll.register(fd, select.POLLIN | select.POLLHUP | select.POLLERR)
        events = poll.poll(math.ceil(timeout_s * 1000))
        return by_fd[events[0][0]] if events else None

    def _finish(
        self,
        operation: Operation,
        begun: http.client.HTTPConnection,
        left_s: float | None,
        answer: type[A],
    ) -> A:
        if left_s is not None:
            begun.sock.settimeout(left_s)
        with self._speaking(operation, begun):
            response = begun.getresponse()
            content = response.read()
        if response.headers.get("Content-Encoding") == GZIP:
            content = unpack(content)
        if response.will_close:
            begun.close()
        else:
            self._keep(begun)
        if response.status >= 400:
            raise self._error(response, content)
        return MSGPACK.decode(content, answer)

    def _cancel(self, begun: http.client.HTTPConnection) -> None:
        begun.close()

    @contextmanager
    def _speaking(
        self, operation: Operation, connection: http.client.HTTPConnection
    ) -> Generator[None]:
        """What goes wrong closes the connection, so that nothing of this answer meets the next request."""
        try:
            yield
        except TimeoutError:
            connection.close()
            raise self._late(operation) from None
        except (OSError, http.client.HTTPException) as fault:
            connection.close()
            raise self._broken(operation, f"{type(fault).__name__}: {fault}") from None
        except BaseException:  # such as Ctrl-C
            connection.close()
            raise

    def _connection(self, timeout_s: float, connect_s: float) -> http.client.HTTPConnection:
        """An idle connection, or a new one that is made within connect_s; timeout_s is for what comes then."""
        while True:
            with self._lock:
                since, connection = self._idle.pop() if self._idle else (0.0, None)
            if connection is None:
                break
            sock = connection.sock
            # A readable idle connection was closed by the other side.
            if time.monotonic() - since < IDLE_S_MAX and not _readable(sock):
                sock.settimeout(timeout_s)
                return connection
            connection.close()
        if self._secure:
            fresh = http.client.HTTPSConnection(
                self._host, self._port, timeout=connect_s, context=self._context
            )
        else:
            fresh = http.client.HTTPConnection(self._host, self._port, timeout=connect_s)
        try:
            fresh.connect()
        except OSError as fault:
            fresh.close()
            raise self._nobody(str(fault)) from None
        fresh.sock.settimeout(timeout_s)
        return fresh

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _error(self, response: http.client.HTTPResponse, content: bytes) -> VicinalError:
        try:
            codec = codec_of(response.headers.get("Content-Type"))
            return from_fault(codec.decode(content, m.Failed).error)
        except InvalidArgumentError:  # something between answered, such as a proxy
            text = content[:200].decode("utf-8", "replace")
            return UnavailableError(
                f"{self.address}: HTTP status {response.status}, which is not a Vicinal server's answer: {text!r}"
            )


def _readable(sock: object) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)  # pyright: ignore[reportArgumentType]
    return bool(poll.poll(0))
