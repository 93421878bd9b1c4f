"""What a served database answers a second, on one machine, with and without batching and cache.

    bench_serving.py --data DIR [--seconds 4] [--out results.json]
    bench_serving.py --data DIR --protocols [--seconds 1.5] [--chroma FOLDER]
    bench_serving.py --data DIR --open-loop [--seconds 60] [--factor 2] [--requests-max 128]

The second form measures REST, gRPC and Flight side by side (bench/protocols.py), and Chroma's server where FOLDER has
the programs of a virtual environment with chromadb. The third measures overload (bench/overload.py): searches that come
at their own times, factor times as many as the server can answer.

DIR holds base.npy, query.npy, gt.npy and meta.json. The server is a process of its own; the load (bench/load.py) is one
more, on keep-alive connections, each sending its next search when the last is answered. The server has core 0, the load
the others. Recall@10 is of the answers that came over the wire. Times are in milliseconds, at the client.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import vicinal
from bench.load import Load, line_of
from bench.overload import ASKED, overload
from bench.protocols import http_requests, protocols
from vicinal.server.config import ServerConfig
from vicinal.server.running import Running

K = 10
PINNED = shutil.which("taskset") is not None and (os.cpu_count() or 1) > 1
"""The server has core 0, the load the others."""

CASES: list[tuple[str, str, int, dict[str, Any]]] = [
    ("json, one at a time", "json", 1, {"cache_bytes_max": 0}),
    ("msgpack, one at a time", "msgpack", 1, {"cache_bytes_max": 0}),
    ("json, 64 connections, no batching", "json", 64, {"cache_bytes_max": 0, "batch_max": 1}),
    ("json, 64 connections", "json", 64, {"cache_bytes_max": 0}),
    ("msgpack, 64 connections", "msgpack", 64, {"cache_bytes_max": 0}),
    ("json, 64 connections, Zipf queries", "zipf", 64, {"cache_bytes_max": 0}),
    ("json, 64 connections, Zipf queries, cache", "zipf", 64, {}),
]


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--open-loop", action="store_true")
    parser.add_argument("--protocols", action="store_true")
    parser.add_argument("--chroma", type=Path, default=None)
    parser.add_argument(
        "--chroma-store", type=Path, default=None, help="a folder that keeps Chroma's points"
    )
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--requests-max", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--serve", default=None, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve is not None:
        serve(a.data, json.loads(a.serve))
        return
    if PINNED:
        os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)))
    queries, truth = np.load(a.data / "query.npy"), np.load(a.data / "gt.npy")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "db"
        if a.protocols:
            found = protocols(
                path, a.data, start, a.seconds or 1.5, a.chroma, a.chroma_store, pinned=PINNED
            )
            text = json.dumps(found, indent=2)
            print(text)
            if a.out is not None:
                a.out.write_text(text)
            return
        results: dict[str, Any] = {
            "data": a.data.name,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "ingest_points_per_s": ingest(path, a.data),
        }
        if a.open_loop:
            options = {"cache_bytes_max": 0, "requests_max": a.requests_max}
            server, (url, *_) = start(path, options)
            try:
                port = int(url.rpartition(":")[2])
                results["options"] = options
                requests = search_requests(queries, "json")
                results["overload"] = overload(
                    port, server.pid, requests, a.factor, a.seconds or 60.0
                )
                results["server_peak_bytes"] = peak_bytes(server.pid)
            finally:
                server.terminate()
                server.wait()
        for name, kind, connections, options in () if a.open_loop else CASES:
            server, (url, *_) = start(path, options)
            try:
                port = int(url.rpartition(":")[2])
                seconds = a.seconds or 4.0
                results[name] = load(port, kind, connections, seconds, queries, truth, server.pid)
            finally:
                server.terminate()
                server.wait()
    text = json.dumps(results, indent=2)
    print(text)
    if a.out is not None:
        a.out.write_text(text)


def serve(path: Path, options: dict[str, Any]) -> None:
    """The server's process."""
    with vicinal.open(path) as db:
        running = Running(db.engine, ServerConfig(http_port=0, **options))
        running.run(
            lambda: print(running.url, running.grpc_url or "", running.flight_url or "", flush=True)
        )


def start(path: Path, options: dict[str, Any]) -> tuple[subprocess.Popen[str], list[str]]:
    """Start it and wait for its addresses: of HTTP, and of what else it serves."""
    words = [sys.executable, __file__, "--data", str(path), "--serve", json.dumps(options)]
    if PINNED:
        words = ["taskset", "-c", "0", *words]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()


def ingest(path: Path, data: Path) -> float:
    """Points a second through `vicinal.open("http://...")`, in calls of 1,000, synced; then one graph."""
    base, metric = (
        np.load(data / "base.npy"),
        json.loads((data / "meta.json").read_text())["metric"],
    )
    server, (url, *_) = start(path, {})
    try:
        with vicinal.open(url, timeout_s=300) as db:
            docs = db.collection("docs", dim=base.shape[1], metric=metric)
            began = time.perf_counter()
            for i in range(0, len(base), 1_000):
                rows = base[i : i + 1_000].astype(np.float32)
                ids = range(i, i + len(rows))
                docs.upsert(ids=ids, vectors=rows, payload=[{"n": n, "lang": "en"} for n in ids])
            seconds = time.perf_counter() - began
            docs.optimize()
    finally:
        server.terminate()
        server.wait()
    return round(len(base) / seconds)


def peak_bytes(pid: int) -> int | None:
    """The most memory that a process has had; None where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024


def search_requests(queries: Any, kind: str) -> list[bytes]:
    """One HTTP request for each query."""
    codec = msgspec.msgpack if kind == "msgpack" else msgspec.json
    bodies = [
        codec.encode({"vector": query.tobytes() if kind == "msgpack" else query.tolist(), "k": K})
        for query in queries.astype(np.float32)
    ]
    content = "application/msgpack" if kind == "msgpack" else "application/json"
    return http_requests("/v1/collections/docs/search", content, bodies)


def load(
    port: int, kind: str, connections: int, seconds: float, queries: Any, truth: Any, server: int
) -> dict[str, float]:
    """Searches of `connections` clients in a closed loop; few of Zipf's queries make most of them."""
    requests = search_requests(queries, kind)
    codec = msgspec.msgpack if kind == "msgpack" else msgspec.json
    drawn = np.arange(len(requests))
    if kind == "zipf":
        drawn = np.random.default_rng(7).zipf(1.2, 200_000) % len(requests)

    def ids(raw: bytes) -> list[Any]:
        return [hit["id"] for hit in codec.decode(raw)["hits"]]

    with Load(port, [requests[i] for i in drawn], server=server, ids=ids) as client:
        answers = client.ask(ASKED)
        found = sum(
            len({*ids(raw)} & set(truth[i, :K].tolist()))
            for i, raw in zip(drawn.tolist(), answers, strict=False)
        )
        client.closed(connections, 1.0)
        line = line_of(client.closed(connections, seconds))
    return {**line, "recall_at_10": round(found / (K * len(answers)), 4)}


if __name__ == "__main__":
    main()
