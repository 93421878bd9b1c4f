"""The HTTP server under the REST application: uvicorn with httptools, in the event loop that is already there."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

KEEP_ALIVE_S = 75
"""Longer than a client keeps an idle connection, so that it is the client who closes."""

HEADERS_BYTES_MAX = 32 * 1024


class HttpServer:
    """One listening socket."""

    def __init__(self, app: Any, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            proxy_headers=False,
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


class _Quiet(uvicorn.Server):
    """Signals are the owner's business."""

    def capture_signals(self) -> Any:
        """No handler is installed."""
        from contextlib import nullcontext

        return nullcontext()
