"""Searches that come at their own times, whether or not the server keeps up: an open loop, with Poisson arrivals.

A search is good when its answer came within DEADLINE_S of the time at which it was due, so that waiting before it could
even be sent counts too. What the server refuses (429, 503) is counted with the time that refusing took. The load sheds
nothing itself: a search that finds no connection free makes one, up to CONNECTIONS_MAX. It is a program of its own,
open_loop.cpp, which a C++ compiler makes when it is wanted.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

DEADLINE_S = 1.0
CONNECTIONS_MAX = 3_000
CALM_SHARE = 0.25
"""Of what the server can do: the load before and after."""

CALM_P99_FACTOR = 1.5
"""It is back when a second's p99 is no more than so many times that of before."""

PEAK_FROM, PEAK_STEP, PEAK_STEPS_MAX, KEPT_SHARE = 0.9, 1.15, 12, 0.95
"""The most that is answered in time is looked for in steps, from a share of what a closed loop got to the first rate of
which so much is not."""

TURN_S = 3.0
"""Of the phases at and below saturation."""


class Load:
    """The generator, with its connections to one server. Its phases say what became of the searches of a time."""

    def __init__(self, port: int, requests: list[bytes], server: int) -> None:
        """server : its process, whose CPU is told."""
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            raise SystemExit("a C++ compiler is needed: the load is open_loop.cpp")
        self._folder = tempfile.TemporaryDirectory()
        folder, self._server = Path(self._folder.name), server
        program, source = folder / "open_loop", Path(__file__).with_name("open_loop.cpp")
        subprocess.run([compiler, "-std=c++20", "-O2", "-o", program, source], check=True)
        file = folder / "requests"
        file.write_bytes(b"".join(struct.pack("<I", len(r)) + r for r in requests))
        words = [program, str(port), file, str(DEADLINE_S), str(CONNECTIONS_MAX)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def phase(self, per_s: float, seconds: float, seed: int) -> dict[str, Any]:
        """Send searches due at random times, per_s of them a second, and wait for what is under way."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began, began_s = [cpu_s(p) for p in (self._server, self._process.pid)], time.perf_counter()
        self._process.stdin.write(f"{per_s} {seconds} {seed}\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        elapsed = time.perf_counter() - began_s
        ended = [cpu_s(p) for p in (self._server, self._process.pid)]
        shares = [round((b - a) / elapsed, 2) for a, b in zip(began, ended, strict=True)]
        found["server_cpu"], found["load_cpu"] = shares
        return found

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has had, 0 where the system does not say."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def overload(
    port: int, server: int, requests: list[bytes], able: float, factor: float, seconds: float
) -> dict[str, Any]:
    """A burst that finds no connections, then calm, then the most that is answered, then factor times that, then calm
    again until it is as quick as before.

    able : what a closed loop got.
    """
    with Load(port, requests, server) as load:
        calm = able * CALM_SHARE
        first = load.phase(able * factor, TURN_S, 0)
        load.phase(calm, 2.0, 1)
        before = load.phase(calm, 5.0, 2)
        limit = CALM_P99_FACTOR * before["good_p99_us"]
        peak, per_s = 0.0, able * PEAK_FROM
        for place in range(PEAK_STEPS_MAX):
            found = load.phase(per_s, TURN_S, 100 + place)
            peak = max(peak, found["good"] / TURN_S)
            if found["good"] < KEPT_SHARE * found["due"]:
                break
            per_s *= PEAK_STEP
        over = load.phase(peak * factor, seconds, 10)
        back: int | None = None
        for second in range(1, 31):
            after = load.phase(calm, 1.0, 10 + second)
            if after["good"] == after["due"] and after["good_p99_us"] <= limit:
                back = second
                break
    goodput = over["good"] / seconds
    return {
        "closed_loop_per_s": round(able),
        "peak_per_s": round(peak),
        "offered_per_s": round(over["due"] / seconds),
        "goodput_per_s": round(goodput),
        "goodput_of_peak": round(goodput / peak, 3),
        "refused_share": round(over["refused"] / over["due"], 3),
        "over": over,
        "first_burst": first,
        "calm_p99_us_before": before["good_p99_us"],
        "seconds_until_calm_again": back,
    }
