"""Searches that come at their own times, whether or not the server keeps up: an open loop, with Poisson arrivals.

A search is good when its answer came within DEADLINE_S of the time at which it was due, so that waiting before it could
even be sent counts too. What the server refuses (429, 503) is counted with the time that refusing took. The load sheds
nothing itself: a search that finds no connection free makes one, up to CONNECTIONS_MAX.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DEADLINE_S = 1.0
CONNECTIONS_MAX = 1_500
CALM_SHARE = 0.25
"""Of what the server can do: the load before and after."""

CALM_P99_FACTOR = 1.5
"""It is back when a second's p99 is no more than so many times that of before."""


@dataclass
class Tally:
    """What became of the searches of a time."""

    due: int = 0
    good: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0
    not_sent: int = 0
    good_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """One request at a time; tells the load when its answer is whole."""

    def __init__(self, load: _Load) -> None:
        self._load, self._head, self._missing = load, b"", 0
        self._status, self._due, self._sent, self._busy = 0, 0.0, 0.0, False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, due: float, request: bytes) -> None:
        self._due, self._sent, self._busy = due, time.perf_counter(), True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing == 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self._status = int(self._head[9:12])
            length = self._head[:end].lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            data, self._head = self._head[end + 4 :], b""
            self._missing = int(length)
        self._missing -= len(data)
        if self._missing <= 0:
            self._missing, self._busy = 0, False
            self._load.done(self, self._status, self._due, self._sent)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._load.lost(self, busy=self._busy)


class _Load:
    """Connections to one server, and the tally of the present phase."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self._port, self._requests = port, requests
        self._idle: deque[_Connection] = deque()
        self._made, self._turn = 0, 0
        self.tally = Tally()

    async def phase(self, per_s: float, seconds: float, seed: int) -> Tally:
        """Send searches due at random times, per_s of them a second, and wait for what is under way."""
        rng = np.random.default_rng(seed)
        gaps = rng.exponential(1 / per_s, int(per_s * seconds * 1.2) + 10)
        began = time.perf_counter()
        times = began + np.cumsum(gaps)
        times = times[times < began + seconds]
        tally = self.tally = Tally(due=len(times))
        place = 0
        while place < len(times):
            now = time.perf_counter()
            while place < len(times) and times[place] <= now:
                self._send(float(times[place]))
                place += 1
            await asyncio.sleep(0 if place < len(times) and times[place] - now < 0.001 else 0.001)
        end = time.perf_counter() + 2 * DEADLINE_S
        while self._answered(tally) < tally.due and time.perf_counter() < end:
            await asyncio.sleep(0.01)
        self.tally = Tally()  # what comes now belongs to nobody
        return tally

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()

    def done(self, connection: _Connection, status: int, due: float, sent: float) -> None:
        now, tally = time.perf_counter(), self.tally
        self._idle.append(connection)
        if status == 200:
            if now - due <= DEADLINE_S:
                tally.good += 1
                tally.good_s.append(now - due)
            else:
                tally.late += 1
        elif status in (429, 503):
            tally.refused += 1
            tally.refused_s.append(now - sent)
        else:
            tally.failed += 1

    def lost(self, connection: _Connection, *, busy: bool) -> None:
        self._made -= 1
        if busy:
            self.tally.failed += 1
        elif connection in self._idle:
            self._idle.remove(connection)

    @staticmethod
    def _answered(tally: Tally) -> int:
        return tally.good + tally.late + tally.refused + tally.failed + tally.not_sent

    def _send(self, due: float) -> None:
        self._turn += 1
        request = self._requests[self._turn % len(self._requests)]
        if self._idle:
            self._idle.popleft().send(due, request)
        elif self._made < CONNECTIONS_MAX:
            self._made += 1
            task = asyncio.ensure_future(self._connect(due, request))
            _TASKS.add(task)
            task.add_done_callback(_TASKS.discard)
        else:
            self.tally.not_sent += 1

    async def _connect(self, due: float, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            self._made -= 1
            self.tally.failed += 1
            return
        connection.send(due, request)


_TASKS: set[asyncio.Task[None]] = set()


async def overload(
    port: int, requests: list[bytes], saturation: float, factor: float, seconds: float
) -> dict[str, Any]:
    """Calm, then factor times what the server can do, then calm again until it is as quick as before."""
    load = _Load(port, requests)
    calm = saturation * CALM_SHARE
    await load.phase(calm, 2.0, 1)
    before = await load.phase(calm, 8.0, 2)
    limit = CALM_P99_FACTOR * _percentile(before.good_s, 99)
    over = await load.phase(saturation * factor, seconds, 3)
    back: int | None = None
    for second in range(1, 31):
        after = await load.phase(calm, 1.0, 3 + second)
        if after.good == after.due and _percentile(after.good_s, 99) <= limit:
            back = second
            break
    load.close()
    return {
        "saturation_per_s": round(saturation),
        "offered_per_s": round(over.due / seconds),
        "goodput_per_s": round(over.good / seconds),
        "late": over.late,
        "failed": over.failed,
        "not_sent": over.not_sent,
        "refused_share": round(over.refused / over.due, 3),
        "good_p50_ms": _ms(over.good_s, 50),
        "good_p99_ms": _ms(over.good_s, 99),
        "refused_p50_ms": _ms(over.refused_s, 50),
        "refused_p99_ms": _ms(over.refused_s, 99),
        "calm_p99_ms_before": _ms(before.good_s, 99),
        "seconds_until_calm_again": back,
    }


def _percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else float("nan")


def _ms(values: list[float], share: float) -> float | None:
    return round(_percentile(values, share) * 1e3, 1) if values else None
