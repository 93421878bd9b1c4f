"""What the result cache is worth where few queries make most of the traffic, while points are written.

    cached.py --data DIR [--seconds 4] [--connections 64] [--writes 0 1 10 100] [--out results.json]

One query in ten is hot, and the hot ones are 80 % of the searches; the others are drawn evenly from the rest. Beside
them one connection upserts a point so many times a second. The cache is never stale, so every write empties it for its
collection. Searches are JSON over REST, each connection sending its next one when the last is answered; server and load
are processes of one machine. `shared` has no cache of its own, and asks a redis-server that is started for it, where
there is one: what a second level costs and gives.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.bench_serving import ingest, search_requests, start

HOT_QUERIES, HOT_TRAFFIC = 0.1, 0.8
K = 10


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--writes", type=float, nargs="+", default=[0.0, 1.0, 10.0, 100.0])
    parser.add_argument("--out", type=Path, default=None)
    a = parser.parse_args()
    queries, truth = np.load(a.data / "query.npy"), np.load(a.data / "gt.npy")
    requests = search_requests(queries, "json")
    results: dict[str, Any] = {
        "data": a.data.name,
        "queries": len(queries),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "connections": a.connections,
    }
    redis, port = start_redis()
    cases: dict[str, dict[str, Any]] = {"none": {"cache_bytes_max": 0}, "cache": {}}
    if redis is not None:
        cases["shared"] = {"cache_bytes_max": 0, "cache_url": f"redis://127.0.0.1:{port}"}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "db"
            ingest(path, a.data)
            for writes in a.writes:
                for name, options in cases.items():  # each on points that nobody has written yet
                    copy = shutil.copytree(path, Path(folder) / "copy")
                    server, (url, *_) = start(copy, {**options, "recall_share": 0})
                    try:
                        found = asyncio.run(measure(url, a, requests, writes, queries, truth))
                    finally:
                        server.terminate()
                        server.wait()
                        shutil.rmtree(copy)
                    results[f"{name}, {writes:g} writes a second"] = found
    finally:
        if redis is not None:
            redis.kill()
            redis.wait()
    text = json.dumps(results, indent=2)
    print(text)
    if a.out is not None:
        a.out.write_text(text)


def start_redis() -> tuple[subprocess.Popen[bytes] | None, int]:
    """A server and its port; None where none is installed."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        return None, 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL), port


def outcomes(url: str) -> dict[str, float]:
    """Look-ups by outcome, of the server's own cache and of the shared one."""
    found = {"hit": 0.0, "miss": 0.0}
    connection = HTTPConnection(url.partition("://")[2])
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    for line in page.splitlines():
        for name in ("result", "shared"):
            if line.startswith(f"vicinal_{name}_cache_total"):
                outcome = line.partition('"')[2].partition('"')[0]
                key = outcome if name == "result" else f"shared {outcome}"
                found[key] = float(line.rpartition(" ")[2])
    return found


async def measure(
    url: str, a: argparse.Namespace, requests: list[bytes], writes: float, queries: Any, truth: Any
) -> dict[str, Any]:
    """Searches and writes for a second that is not counted, then for a.seconds."""
    port = int(url.rpartition(":")[2])
    rng = np.random.default_rng(7)
    hot = max(1, round(HOT_QUERIES * len(requests)))
    draws = np.where(
        rng.random(200_000) < HOT_TRAFFIC,
        rng.integers(0, hot, 200_000),
        rng.integers(hot, len(requests), 200_000),
    ).tolist()
    times: list[float] = []
    answers: dict[int, bytes] = {}
    written = 0

    async def exchange(reader: Any, writer: Any, request: bytes) -> bytes:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return await reader.readexactly(int(length))

    async def search(number: int, end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number * 3_001
        while time.perf_counter() < end:
            turn += 1
            which = draws[turn % len(draws)]
            began = time.perf_counter()
            answers[which] = await exchange(reader, writer, requests[which])
            times.append(time.perf_counter() - began)
        writer.close()

    async def write(end: float) -> None:
        nonlocal written
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        vector = (queries[0].astype(np.float32) + 1e6).tolist()  # far from every query
        body = json.dumps({"points": [{"id": "written", "vector": vector}]}).encode()
        head = (
            "POST /v1/collections/docs/points HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        due = time.perf_counter()
        while (due := due + 1 / writes) < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await exchange(reader, writer, head.encode() + body)
            written += 1
        writer.close()

    async def all_of_it(seconds: float) -> float:
        began = time.perf_counter()
        end = began + seconds
        tasks = [search(i, end) for i in range(a.connections)]
        await asyncio.gather(*tasks, *([write(end)] if writes else []))
        return time.perf_counter() - began

    await all_of_it(1.0)
    times.clear()
    written, before = 0, outcomes(url)
    elapsed = await all_of_it(a.seconds)
    counted = {name: n - before.get(name, 0.0) for name, n in outcomes(url).items()}
    name = "shared " if counted.get("shared hit") else ""
    hits, looked = counted[f"{name}hit"], len(times)
    right = sum(
        len({hit["id"] for hit in json.loads(raw)["hits"]} & set(truth[i, :K].tolist()))
        for i, raw in answers.items()
    )
    p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
    return {
        "searches_per_s": round(len(times) / elapsed),
        "writes_per_s": round(written / elapsed, 1),
        "hit_rate": round(hits / looked, 3),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "recall_at_10": round(right / (K * len(answers)), 4),
    }


if __name__ == "__main__":
    main()
