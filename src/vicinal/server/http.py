"""The HTTP server under the REST application: uvicorn with httptools, in the event loop that is already there.

A full server refuses most requests here, before they are parsed: what is refused must cost little beside what is
answered, or a server that gets twice as much as it can do spends its time on saying so.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Any, Protocol, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from vicinal.server.config import ServerConfig
from vicinal.server.listening import BACKLOG, Rush

KEEP_ALIVE_S = 75
"""Longer than a client keeps an idle connection, so that it is the client who closes."""

LOOK_S = 1.0
"""How often connections are looked at for having been silent too long. A timer for each request would be as exact as
nobody needs, and costs as much as refusing it."""

HEAD_BYTES_MAX = 64 * 1024
"""Bytes that come before a request's headers are whole. The parser knows no bound, and no key was seen by then."""


KNOWN_HEAD_BYTES_MAX = 2 * 1024
"""A longer head is parsed before its request is refused."""

REFUSABLE = b"POST /v1/"
"""How a request begins that may be refused unparsed: searches and bulk work, not health checks."""

SEARCH = b"/search HTTP/1.1"
"""How the first line of one ends that may be held unparsed: it goes with others in a batch."""


REFUSE_S = 0.005
"""How long a refusal waits for others, which go with it: what asks again at once, whatever `Retry-After` says, is
refused two hundred times a second then, and not as often as a full server can. That would leave it no time for more."""

REFUSED = b"\0"
"""In the place of a request that is refused and not told so yet."""

HELD_S = "vicinal.held_s"
"""Seconds that went by since a request was whole, before it was begun."""

HELD_BYTES_MAX = 64 * 1024
"""A longer request is not held, so that bodies that nothing counts yet stay few."""

Headers = list[tuple[bytes, bytes]]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]


class App(Protocol):
    """What requests are handed to."""

    async def respond(self, scope: Any, receive: Receive) -> tuple[int, Headers, bytes]:
        """(status, headers, body) of the answer to a request. scope and receive are those of ASGI; scope has HELD_S too
        where the request was held, and receive raises TimeoutError where no part of the body comes for `read_s_max`.
        The headers have its length, and no byte that would end a line."""
        ...


class HttpServer:
    """One listening socket.

    refusal : the whole response that a request, read just now, gets for want of room; None where there is room, which
        it takes.
    start : begins a search that found room, soon, in the order of its lane.
    ended : told the lane of each that was begun when it is over.
    rushed : told when several connections are made at once.
    """

    def __init__(
        self,
        app: App,
        listener: socket.socket,
        options: ServerConfig,
        refusal: Callable[[], bytes | None],
        start: Callable[[bytes, Callable[[], object]], None],
        ended: Callable[[bytes], None],
        rushed: Callable[[], None],
    ) -> None:
        class Connection(_Connection):
            read_s_max = options.read_s_max
            refusal_now = staticmethod(refusal)
            start_soon = staticmethod(start)
            search_ended = staticmethod(ended)
            made = staticmethod(self._made)
            refuse_soon = staticmethod(self._refuse_soon)

        self._connection = Connection
        config = uvicorn.Config(
            app.respond,  # called by `_Connection`, which hands it no `send`
            interface="asgi3",
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
            ssl_ca_certs=options.tls_client_ca,
            ssl_cert_reqs=ssl.CERT_NONE if options.tls_client_ca is None else ssl.CERT_REQUIRED,
        )
        self._server = _Quiet(config)
        self._listener, self._rushed = listener, rushed
        self._look_s = min(LOOK_S, options.read_s_max / 4)
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._rush: Rush | None = None
        self._refused: list[_Connection] = []

    async def start(self) -> None:
        """Return when requests are answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        self._watch = asyncio.create_task(self._end_silent())
        while not self._server.started:
            if self._task.done():
                self._task.result()
                return
            await asyncio.sleep(0.005)

    async def stop(self, grace_s: float) -> None:
        """Refuse new connections, wait for the requests under way, at most grace_s."""
        if self._task is None or self._watch is None:
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        await self._task
        self._watch.cancel()

    def _refuse_soon(self, connection: _Connection) -> None:
        if not self._refused:
            asyncio.get_running_loop().call_later(REFUSE_S, self._refuse)
        self._refused.append(connection)

    def _refuse(self) -> None:
        refused, self._refused = self._refused, []
        for connection in refused:
            connection.refuse()

    def _made(self) -> None:
        """A connection was."""
        server = self._server
        if server.should_exit:
            return
        if self._rush is None:
            config = server.config

            def make() -> asyncio.Protocol:
                return self._connection(
                    config=config,
                    server_state=server.server_state,
                    app_state=server.lifespan.state,
                )

            self._rush = Rush(self._listener, make, config.ssl, self._rushed)
        self._rush.take()

    async def _end_silent(self) -> None:
        """End the connections that have been silent for too long, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._look_s)
            now_s = loop.time()
            for connection in list(cast("set[_Connection]", self._server.server_state.connections)):
                connection.end_if_silent(now_s)


class _Connection(HttpToolsProtocol):
    """A connection whose request headers are bounded in size and time, so that strangers cannot hold memory or
    sockets, and whose answers are written in one piece."""

    # With these in its dictionary too, which then has more than 30 names, each connection would have keys of its own.
    __slots__ = (
        "_came_s",
        "_head_bytes",
        "_held",
        "_in_head",
        "_lane",
        "_refusal",
        "_stopping",
        "_until_s",
    )

    read_s_max = 20.0

    @staticmethod
    def refusal_now() -> bytes | None:
        """See HttpServer."""
        return None

    @staticmethod
    def start_soon(_: bytes, begin: Callable[[], object], /) -> None:
        """See HttpServer."""
        begin()

    @staticmethod
    def search_ended(lane: bytes, /) -> None:
        """See HttpServer."""

    @staticmethod
    def made() -> None:
        """Told of each connection."""

    @staticmethod
    def refuse_soon(connection: _Connection, /) -> None:
        """`refuse` it, with others."""
        connection.refuse()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._in_head = True
        self._held, self._came_s = b"", 0.0
        """A search that is whole and not begun, with what came behind it; and when it came."""
        self._refusal = b""
        self._lane: bytes | None = None
        """Of the search that is being begun."""
        self._stopping = False
        self._until_s = self.loop.time() + self.read_s_max
        """When it is ended for its silence, by the loop's clock; the first request's headers have from now on."""

    def connection_made(self, transport: Any) -> None:
        """It is; others may wait for the same."""
        super().connection_made(transport)
        self.made()

    def data_received(self, data: bytes) -> None:
        """Refuse, hold or parse, and end a connection whose headers grow beyond their bound."""
        if self._held:
            self._held += data
            self.flow.pause_reading()
            return
        if (
            self._head_bytes == 0
            and data.startswith(REFUSABLE)
            and self._between_requests
            and is_whole_request(data)
        ):
            if (refusal := self.refusal_now()) is not None:
                self._held, self._refusal = REFUSED, refusal
                self._in_head, self._until_s = False, float("inf")
                self.refuse_soon(self)
                return
            lane = data[: data.index(b"\r")]
            if lane.endswith(SEARCH) and len(data) <= HELD_BYTES_MAX:
                self._held, self._came_s = data, time.perf_counter()
                self._in_head, self._until_s = False, float("inf")
                self.start_soon(lane, partial(self._begin_held, lane))
                return
        self._parse(data)

    def refuse(self) -> None:
        """Tell it what was refused, and go on with what came behind."""
        more, self._held = self._held[len(REFUSED) :], b""
        if self.parser is None:
            return  # the connection is gone
        self.transport.write(self._refusal)
        self._until_s = self.loop.time() + KEEP_ALIVE_S
        if self._stopping:
            super().shutdown()
        elif more:
            self.flow.resume_reading()
            self.data_received(more)

    def _begin_held(self, lane: bytes) -> None:
        """The search that was held, and what came behind it."""
        data, self._held = self._held, b""
        if self.parser is not None and data:  # else the connection is gone
            self._lane = lane
            self.flow.resume_reading()
            self._parse(data)
            if self._lane is not lane:
                return  # it is under way
            self._lane = None
        self.search_ended(lane)

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: what is held is told so in its turn, before the connection is closed."""
        self._stopping = True
        if not self._held:
            super().shutdown()

    def end_if_silent(self, now_s: float) -> None:
        """End it where it was silent for too long: at once in the middle of headers, else in order."""
        if now_s < self._until_s:
            return
        if self._in_head:
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        if not self._in_head:  # else it is the connection's first
            self._in_head, self._until_s = True, self.loop.time() + self.read_s_max
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """From here on the application sets the bounds, but for pauses of the body."""
        self._in_head, self._head_bytes, self._until_s = False, 0, float("inf")
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The next request is begun where it came already, or waited for."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._in_head:
            self._until_s = self.loop.time() + KEEP_ALIVE_S

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        lane, self._lane = self._lane, None
        if self._stopping:
            cycle.keep_alive = False
        if lane is None:
            super()._start_asgi_task(cycle, partial(self._answer, app, cycle))
            return
        cycle.scope[HELD_S] = time.perf_counter() - self._came_s
        super()._start_asgi_task(cycle, partial(self._search, lane, app, cycle))

    async def _search(self, lane: bytes, respond: Any, cycle: Any, *asgi: Any) -> None:
        try:
            await self._answer(respond, cycle, *asgi)
        finally:
            self.search_ended(lane)

    async def _answer(self, respond: Any, cycle: Any, scope: Any, *_: Any) -> None:
        """One request, in the place of an ASGI application's messages."""
        status, headers, body = await respond(scope, partial(self._receive, cycle))
        if self.flow.write_paused:
            await self.flow.drain()
        if cycle.disconnected:
            return
        parts: list[bytes] = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
        self.transport.write(b"".join(parts))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    async def _receive(self, cycle: Any) -> Message:
        """The next part of a body; TimeoutError where none comes in time."""
        if cycle.message_event.is_set():  # most bodies come with their head
            return await cycle.receive()
        async with asyncio.timeout(self.read_s_max):
            return await cycle.receive()

    @property
    def _between_requests(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever its declaration says
        return cycle is None or (cycle.response_complete and not cycle.more_body)


def is_whole_request(data: bytes) -> bool:
    """Whether data is one request with its body, of a length that its head says once, and nothing else."""
    end = data.find(b"\r\n\r\n", 0, KNOWN_HEAD_BYTES_MAX)
    return end >= 0 and len(data) == end + 4 + _body_bytes(data[:end])


@lru_cache(maxsize=1024)  # of KNOWN_HEAD_BYTES_MAX each; a client's heads are mostly alike
def _body_bytes(head: bytes) -> int:
    """The length of the body that follows a head, as the head says it; less than 0 where it is not said once."""
    head = head.lower()
    if b"\r\ntransfer-encoding" in head:
        return -1
    _, found, rest = head.partition(b"\r\ncontent-length:")
    length, _, more = rest.partition(b"\r\n")
    length = length.strip()
    if not found or not length.isdigit() or b"content-length" in more:
        return -1
    return int(length)


class _Quiet(uvicorn.Server):
    """Signals are the owner's business."""

    def capture_signals(self) -> Any:
        """No handler is installed."""
        from contextlib import nullcontext

        return nullcontext()
