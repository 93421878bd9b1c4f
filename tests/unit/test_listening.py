"""How connections come in."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from vicinal.server.listening import DOORS, doors, listen

uvloop: Any = pytest.importorskip("uvloop", reason="the loop that accepts one at a time")


def test_one_turn_of_the_loop_accepts_many_connections() -> None:
    made: list[asyncio.Transport] = []

    class Door(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            made.append(transport)

    async def come_together() -> int:
        loop = asyncio.get_running_loop()
        listener = listen("127.0.0.1", 0)
        address = listener.getsockname()
        servers = [await loop.create_server(Door, sock=door) for door in doors(listener)]
        callers = [socket.create_connection(address) for _ in range(DOORS)]
        for _ in range(DOORS // 2):
            await asyncio.sleep(0)
        here = len(made)
        for end in (*servers, *callers, *made):
            end.close()
        return here

    assert uvloop.run(come_together()) == DOORS
