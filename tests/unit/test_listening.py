"""How connections come in."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from vicinal.server.listening import Rush, listen

uvloop: Any = pytest.importorskip("uvloop", reason="the loop that accepts one at a time")


def test_connections_that_come_together_are_accepted_together() -> None:
    made: list[asyncio.Transport] = []
    told: list[bool] = []

    async def come_together() -> int:
        loop = asyncio.get_running_loop()
        listener = listen("127.0.0.1", 0)
        rush = Rush(listener, lambda: Door(), None, lambda: told.append(True))

        class Door(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                made.append(transport)
                rush.take()

        address = listener.getsockname()
        server = await loop.create_server(Door, sock=listener)
        callers = [socket.create_connection(address) for _ in range(40)]
        for _ in range(20):
            await asyncio.sleep(0)
        here = len(made)
        for end in (server, *callers, *made):
            end.close()
        return here

    assert uvloop.run(come_together()) == 40
    assert told
