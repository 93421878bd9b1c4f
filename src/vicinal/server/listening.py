"""The sockets of a server, one for each protocol."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from vicinal.storage.files import storage_error
from vicinal.telemetry.log import get_logger

BACKLOG = 65_535
"""Connections that wait to be accepted; the system takes fewer (net.core.somaxconn). One that finds no room is told
nothing and tries again after a second."""

OTHERS_MAX = 16
"""Connections that are accepted beside one. The sooner those that are made are answered, the fewer more are made."""

KEEPALIVE_S = 60
"""Of silence, after which the system asks whether the other side is still there; accepted sockets inherit it."""

_log = get_logger("server")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises StorageError where the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, so that asyncio switches off Nagle's waiting on what it accepts.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as fault:
        listener.close()
        raise storage_error(f"listening on {host}:{port}", fault) from fault
    return listener


class Rush:
    """Accepts the connections that wait beside one that was made. Under uvloop the event loop accepts one in each of
    its turns (libuv does, since 1.45), which under load is a hundred a second.

    make : the protocol of a connection.
    tls : what it begins with, if anything.
    told : called when others were accepted.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        told: Callable[[], None],
    ) -> None:
        self._listener, self._make, self._tls, self._told = listener, make, tls, told
        self._coming: set[asyncio.Task[Any]] = set()

    def take(self) -> None:
        """A connection was made."""
        loop = asyncio.get_running_loop()
        for _ in range(OTHERS_MAX):
            try:
                accepted, _ = self._listener.accept()
            except (
                OSError
            ):  # none waits; or the event loop, which accepts too, meets the same fault
                return
            self._told()
            accepted.setblocking(False)
            task = loop.create_task(self._connect(accepted))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._make, accepted, ssl=self._tls)
        except OSError as fault:  # such as a handshake that failed
            accepted.close()
            _log.debug("a connection was not made: %s", fault)
