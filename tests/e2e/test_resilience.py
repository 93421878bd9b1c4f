"""What a client does about a server that is slow or away, over every protocol, synchronously and not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import vicinal
from vicinal.client.breaker import FAILURES_MAX
from vicinal.model.errors import UnavailableError
from vicinal.server.gateway import Call, Gateway
from vicinal.wire import operations as ops

PROTOCOLS = ("url", "grpc_url", "flight_url")


class Held:
    """Holds the first count that a server is asked for, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts, self.let_go = 0, threading.Event()
        real = Gateway.handle

        async def handle(gateway: Gateway, call: Call) -> bytes:
            if call.operation is ops.COUNT:
                self.counts += 1
                if self.counts == 1:
                    assert await asyncio.to_thread(self.let_go.wait, 30)
            return await real(gateway, call)

        monkeypatch.setattr(Gateway, "handle", handle)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(monkeypatch)
    yield held
    held.let_go.set()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_read_that_hangs_is_answered_by_its_second_question(
    local: vicinal.Database, held: Held, protocol: str
) -> None:
    with local.serve(http_port=0, grpc_port=0, flight_port=0) as server:
        try:
            with vicinal.open(getattr(server, protocol), hedge_ms=5) as db:
                assert db.collection("docs").count() == 20
                assert held.counts == 2
                assert not held.let_go.is_set(), "the first was not waited for"
                assert db.collection("docs").count() == 20, "what was cancelled left nothing behind"
        finally:
            held.let_go.set()


def test_the_asynchronous_client_asks_twice_too(local: vicinal.Database, held: Held) -> None:
    async def count(url: str) -> int:
        async with await vicinal.open_async(url, hedge_ms=5) as db:
            docs = await db.collection("docs")
            return await docs.count()

    with local.serve(http_port=0) as server:
        try:
            assert asyncio.run(count(server.url)) == 20
            assert held.counts == 2
        finally:
            held.let_go.set()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_is_away_is_left_alone_and_found_again(
    local: vicinal.Database, protocol: str
) -> None:
    ports: dict[str, Any] = {"http_port": 0, "grpc_port": 0, "flight_port": 0}
    with local.serve(**ports) as server:
        url = getattr(server, protocol)
        ports = {
            name: int(getattr(server, which).rpartition(":")[2])
            for name, which in zip(ports, PROTOCOLS, strict=True)
        }
        db = vicinal.open(url, retries=0)
        docs = db.collection("docs")
        assert docs.count() == 20
    with db:
        for _ in range(FAILURES_MAX):
            with pytest.raises(UnavailableError):
                docs.count()
        with pytest.raises(UnavailableError, match="nothing was sent; the next try is made"):
            docs.count()
        with local.serve(**ports):
            end = time.monotonic() + 30
            while True:
                try:
                    assert docs.count() == 20
                    break
                except UnavailableError:
                    assert time.monotonic() < end
                    time.sleep(0.05)
