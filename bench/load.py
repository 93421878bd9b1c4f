"""The client of the serving benchmarks: requests that were made before, in a closed or an open loop, over HTTP/1.1 or
gRPC's HTTP/2. It is a program of its own, load.cpp, which a C++ compiler makes when it is wanted, so that every
protocol and every rival is asked by a client of the same kind, which takes little of the machine.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from hpack import Encoder

DEADLINE_S = 1.0
"""An answer that comes later than so long after its request was due is late."""

SAME_SHARE = 0.5
"""Of the points that a search finds alone, the least that it finds under load; in a batch, distances differ in their
last bits, and now and then a point."""


def heads(authority: str, path: str) -> tuple[bytes, bytes]:
    """The header blocks of a gRPC client's first call of a connection and of all later ones, which are alike."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "vicinal-bench"),
        ("grpc-accept-encoding", "identity"),
    ]
    encoder = Encoder()
    first = encoder.encode(fields)
    return first, encoder.encode(fields)


class Load:
    """The client, with its connections to one server. Its phases say what became of the searches of a time."""

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        *,
        path: str | None = None,
        streams: int = 1,
        server: int | None = None,
        ids: Callable[[bytes], list[Any]] | None = None,
    ) -> None:
        """requests : of HTTP/1.1 whole; of gRPC, whose method is at `path`, messages.

        ids : what an answer found, by which it is compared with that of `ask` under load.
        streams : requests of a gRPC connection that are under way at the same time.
        server : its process, whose CPU is told.
        """
        parts = list(requests)
        if path is not None:
            parts = [b"\0" + struct.pack(">I", len(message)) + message for message in requests]
            parts[:0] = heads(f"localhost:{port}", path)
        self._folder, self._server, self._ids = tempfile.TemporaryDirectory(), server, ids
        self._asked: dict[int, set[Any]] = {}
        self._answers = Path(self._folder.name) / "answers"
        file = Path(self._folder.name) / "requests"
        file.write_bytes(b"".join(struct.pack("<I", len(part)) + part for part in parts))
        kind = "h1" if path is None else "h2"
        self._process = subprocess.Popen(
            [_program(), str(port), kind, file, str(DEADLINE_S), str(streams)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, count: int) -> list[bytes]:
        """The answers to the first requests, one by one; those under load are compared with them."""
        found = self._phase("ask", count)
        if found["good"] != found["due"]:
            raise RuntimeError("a search failed before there was any load")
        answers = list(self._told())
        if self._ids is not None:
            self._asked = {place: set(self._ids(raw)) for place, raw in answers}
        return [raw for _, raw in answers]

    def closed(self, connections: int, seconds: float) -> dict[str, Any]:
        """Each connection sends its next search when the last is answered."""
        return self._measured("closed", connections, seconds)

    def open(self, per_s: float, seconds: float, seed: int, connections: int) -> dict[str, Any]:
        """Searches due at random times, per_s of them a second; waits for what is under way."""
        return self._measured("open", per_s, seconds, seed, connections)

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

    def _measured(self, name: str, *numbers: float) -> dict[str, Any]:
        pids = (self._server, self._process.pid)
        began = [cpu_s(pid) for pid in pids]
        found = self._phase(name, *numbers)
        ended = [cpu_s(pid) for pid in pids]
        shares = [round((b - a) / found["seconds"], 2) for a, b in zip(began, ended, strict=True)]
        found["server_cpu"], found["load_cpu"] = shares
        found["per_s"] = round(found["good"] / found["seconds"])
        if found["server_cpu"]:
            found["server_us"] = round(1e6 * shares[0] * found["seconds"] / max(1, found["good"]))
        found["wrong"] = 0
        for place, raw in self._told():
            asked = self._asked.get(place)
            if asked is not None and self._ids is not None:
                found["wrong"] += len(asked.intersection(self._ids(raw))) < SAME_SHARE * len(asked)
        return found

    def _told(self) -> Iterator[tuple[int, bytes]]:
        """Answers of the phase: which request's, and its bytes."""
        raw, at = self._answers.read_bytes(), 0
        while at < len(raw):
            place, length = struct.unpack_from("<II", raw, at)
            yield place, raw[at + 8 : at + 8 + length]
            at += 8 + length

    def _phase(self, name: str, *numbers: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words = " ".join(str(word) for word in (name, self._answers, *numbers))
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load ended at {words!r}")
        return json.loads(line)


def line_of(found: dict[str, Any]) -> dict[str, float]:
    """What tables have of a phase. Raises RuntimeError where a search failed or had the answer of another."""
    wrong = {n: found[n] for n in ("failed", "wrong", "refused", "late") if found[n]}
    if "failed" in wrong or "wrong" in wrong:
        raise RuntimeError(f"searches went wrong: {wrong}")
    return {
        "per_s": found["per_s"],
        "p50_ms": round(found["good_p50_us"] / 1e3, 2),
        "p99_ms": round(found["good_p99_us"] / 1e3, 2),
        "server_us": found.get("server_us", 0),
        **wrong,
    }


def cpu_s(pid: int | None) -> float:
    """Seconds of CPU that a process has had, 0 where the system does not say."""
    stat = Path(f"/proc/{pid}/stat")
    if pid is None or not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@cache
def _program() -> Path:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise SystemExit("a C++ compiler is needed: the load is load.cpp")
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, source = Path(folder) / "load", Path(__file__).with_name("load.cpp")
    subprocess.run([compiler, "-std=c++20", "-O2", "-o", program, source], check=True)
    return program
