"""The sockets of a server, one for each protocol."""

from __future__ import annotations

import socket

from vicinal.storage.files import storage_error

BACKLOG = 65_535
"""Connections that wait to be accepted; the system takes fewer (net.core.somaxconn). One that finds no room is told
nothing and tries again after a second."""

DOORS = 32
"""Connections that one turn of the event loop may accept. libuv, under uvloop, accepts one for each socket that it
listens on (since 1.45), which under load is a hundred a second: so it is given one socket under several numbers."""

KEEPALIVE_S = 60
"""Of silence, after which the system asks whether the other side is still there; accepted sockets inherit it."""


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


def doors(listener: socket.socket) -> list[socket.socket]:
    """A socket that listens, under DOORS numbers, to hand to the event loop, whose they are then."""
    return [listener, *(listener.dup() for _ in range(DOORS - 1))]
