"""The HTTP server under the REST application: uvicorn with httptools, in the event loop that is already there.

A full server refuses most requests here, before they are parsed: what is refused must cost little beside what is
answered, or a server that gets twice as much as it can do spends its time on saying so.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vicinal.server.config import ServerConfig

KEEP_ALIVE_S = 75
"""Longer than a client keeps an idle connection, so that it is the client who closes."""

HEAD_BYTES_MAX = 64 * 1024
"""Bytes that come before a request's headers are whole. The parser knows no bound, and no key was seen by then."""


REFUSABLE = b"POST /v1/"
"""How a request begins that may be refused unparsed: searches and bulk work, not health checks."""


class HttpServer:
    """One listening socket.

    refusal : the whole response that a request gets for want of room; None where there is room.
    """

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        options: ServerConfig,
        refusal: Callable[[], bytes | None],
    ) -> None:
        class Protocol(_BoundedProtocol):
            head_s_max = options.read_s_max
            refusal_now = staticmethod(refusal)

        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            proxy_headers=False,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
            ssl_ca_certs=options.tls_client_ca,
            ssl_cert_reqs=ssl.CERT_NONE if options.tls_client_ca is None else ssl.CERT_REQUIRED,
        )
        self._server = _Quiet(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when requests are answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                return
            await asyncio.sleep(0.005)

    async def stop(self, grace_s: float) -> None:
        """Refuse new connections, wait for the requests under way, at most grace_s."""
        if self._task is None:
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        await self._task


class _BoundedProtocol(HttpToolsProtocol):
    """A connection whose request headers are bounded in size and time, so that strangers cannot hold memory or
    sockets."""

    head_s_max = 20.0

    @staticmethod
    def refusal_now() -> bytes | None:
        """See HttpServer."""
        return None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The first request's headers have from now on."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is waited for."""
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse or parse, and end a connection whose headers grow beyond their bound."""
        if (
            self._head_bytes == 0
            and data.startswith(REFUSABLE)
            and (refusal := self.refusal_now()) is not None
            and self._between_requests
            and is_whole_request(data)
        ):
            self.transport.write(refusal)
            self._forget_timer()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """From here on the application sets the bounds."""
        self._in_head, self._head_bytes = False, 0
        self._forget_timer()
        super().on_headers_complete()

    @property
    def _between_requests(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever its declaration says
        return cycle is None or (cycle.response_complete and not cycle.more_body)

    def _expect_head(self) -> None:
        self._in_head = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                self.head_s_max, self.transport.abort
            )

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def is_whole_request(data: bytes) -> bool:
    """Whether data is one request with its body, of a length that its head says once, and nothing else."""
    end = data.find(b"\r\n\r\n")
    head = data[:end].lower()
    if end < 0 or b"\r\ntransfer-encoding" in head:
        return False
    _, found, rest = head.partition(b"\r\ncontent-length:")
    length, _, more = rest.partition(b"\r\n")
    length = length.strip()
    if not found or not length.isdigit() or b"content-length" in more:
        return False
    return len(data) == end + 4 + int(length)


class _Quiet(uvicorn.Server):
    """Signals are the owner's business."""

    def capture_signals(self) -> Any:
        """No handler is installed."""
        from contextlib import nullcontext

        return nullcontext()
