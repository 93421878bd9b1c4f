"""The HTTP channel: a pool of kept-alive connections."""

from __future__ import annotations

import http.client
import select
import ssl
import threading
import time
from typing import TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

from vicinal.client.channel import RetryingChannel, check_key
from vicinal.model.errors import InvalidArgumentError, UnavailableError, VicinalError
from vicinal.wire import messages as m
from vicinal.wire.codec import MSGPACK, codec_of
from vicinal.wire.faults import from_fault
from vicinal.wire.messages import MSGPACK_TYPE
from vicinal.wire.operations import Operation

A = TypeVar("A", bound=m.Answer)

IDLE_CONNECTIONS_MAX = 32
"""Connections kept for later; a call that finds none makes one."""

IDLE_S_MAX = 55.0
"""A connection idle for longer is not used again, since the server or something between may have forgotten it."""

_Prepared: TypeAlias = tuple[str, bytes | None]
"""(path, body)."""


class HttpChannel(RetryingChannel[_Prepared]):
    """A channel to one HTTP server. Thread-safe."""

    def __init__(
        self, address: str, *, api_key: str | None, timeout_s: float, retries: int
    ) -> None:
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            raise InvalidArgumentError(f"address {address!r} has no valid port") from None
        if not parts.hostname or parts.query or parts.fragment or parts.username:
            raise InvalidArgumentError(
                f"address {address!r} is not of the form http://host:port; keys go into api_key="
            )
        super().__init__(address, timeout_s=timeout_s, retries=retries)
        self._host, self._secure = parts.hostname, parts.scheme == "https"
        self._port = port or (443 if self._secure else 7333)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Content-Type": MSGPACK_TYPE, "Accept": MSGPACK_TYPE}
        check_key(api_key)
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._context = ssl.create_default_context() if self._secure else None
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
        return path, None if operation.request is m.Empty else MSGPACK.encode(request)

    def _path(self, operation: Operation, collection: str | None) -> str:
        parts = [self._prefix, "v1"]
        if collection is not None:
            name = quote(collection, safe="")
            # Dots alone would be taken for a step in the path.
            parts += ["collections", name.replace(".", "%2E") if set(name) == {"."} else name]
        return "/".join([*parts, *operation.path])

    def _send(self, operation: Operation, prepared: _Prepared, left_s: float, answer: type[A]) -> A:
        path, body = prepared
        connection = self._connection(left_s)
        headers = {**self._headers, "Vicinal-Timeout-Ms": str(max(1, int(left_s * 1000)))}
        try:
            connection.request(operation.method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except TimeoutError:
            connection.close()
            raise self._late(operation) from None
        except (OSError, http.client.HTTPException) as fault:
            connection.close()
            raise self._broken(operation, f"{type(fault).__name__}: {fault}") from None
        except (
            BaseException
        ):  # such as Ctrl-C: what is left of this answer must not meet the next request
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        if response.status >= 400:
            raise self._error(response, content)
        return MSGPACK.decode(content, answer)

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
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
                self._host, self._port, timeout=timeout_s, context=self._context
            )
        else:
            fresh = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            fresh.connect()
        except OSError as fault:
            fresh.close()
            raise self._nobody(str(fault)) from None
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
