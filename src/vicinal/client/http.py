"""The HTTP channel: a pool of kept-alive connections, deadlines, and retries where they are harmless.

A request is tried again after a random pause when nothing can have happened (no connection was made, or the server
says that it did not begin) and, for operations that are repeatable, when the connection broke. A write whose connection
broke is never sent twice: the error says that it may have happened.
"""

from __future__ import annotations

import http.client
import random
import select
import ssl
import threading
import time
from typing import TypeVar
from urllib.parse import quote, urlsplit

from vicinal.model.errors import (
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
    VicinalError,
)
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

PAUSE_S, PAUSE_S_MAX = 0.05, 2.0
"""The pause before the n-th try is random, up to PAUSE_S * 2**n and PAUSE_S_MAX (full jitter)."""


class _NotSentError(UnavailableError):
    """No connection was made, so nothing happened."""


class HttpChannel:
    """A channel to one HTTP server; see `vicinal.client.remote.Channel`. Thread-safe."""

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
        self.address = address
        self._host, self._secure = parts.hostname, parts.scheme == "https"
        self._port = port or (443 if self._secure else 7333)
        self._prefix = parts.path.rstrip("/")
        self._timeout_s, self._retries = timeout_s, retries
        self._headers = {"Content-Type": MSGPACK_TYPE, "Accept": MSGPACK_TYPE}
        if api_key is not None:
            if not api_key.isascii() or not api_key.isprintable():
                raise InvalidArgumentError("api_key holds characters that no key has")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._context = ssl.create_default_context() if self._secure else None
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._closed = False

    def call(
        self, operation: Operation, collection: str | None, request: m.Request, answer: type[A]
    ) -> A:
        """Send a request and return its answer."""
        path = self._path(operation, collection)
        body = None if operation.request is m.Empty else MSGPACK.encode(request)
        deadline = time.monotonic() + self._timeout_s
        tries = 0
        while True:
            try:
                return MSGPACK.decode(self._try(operation, path, body, deadline), answer)
            except (UnavailableError, OverloadedError) as fault:
                harmless = operation.repeatable or isinstance(
                    fault, _NotSentError | OverloadedError
                )
                pause = random.uniform(0, min(PAUSE_S_MAX, PAUSE_S * 2**tries))
                if isinstance(fault, OverloadedError):
                    pause += fault.retry_after_s
                tries += 1
                if not harmless or tries > self._retries or time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _path(self, operation: Operation, collection: str | None) -> str:
        parts = [self._prefix, "v1"]
        if collection is not None:
            name = quote(collection, safe="")
            # Dots alone would be taken for a step in the path.
            parts += ["collections", name.replace(".", "%2E") if set(name) == {"."} else name]
        return "/".join([*parts, *operation.path])

    def _try(self, operation: Operation, path: str, body: bytes | None, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise self._late(operation)
        connection = self._connection(remaining)
        headers = {**self._headers, "Vicinal-Timeout-Ms": str(max(1, int(remaining * 1000)))}
        try:
            connection.request(operation.method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except TimeoutError:
            connection.close()
            raise self._late(operation) from None
        except (OSError, http.client.HTTPException) as fault:
            connection.close()
            unsure = "" if operation.repeatable else "; the write may or may not have happened"
            raise UnavailableError(
                f"{self.address}: the connection broke ({type(fault).__name__}: {fault}){unsure}"
            ) from None
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
        return content

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
            raise _NotSentError(
                f"{self.address}: no connection ({fault}); is `vicinal serve` running there?"
            ) from None
        return fresh

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _late(self, operation: Operation) -> DeadlineError:
        unsure = "" if operation.repeatable else " The write may or may not have happened."
        return DeadlineError(
            f"{self.address}: no answer to {operation.name} within {self._timeout_s:g} s; "
            f"give vicinal.open a larger timeout_s.{unsure}"
        )

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
