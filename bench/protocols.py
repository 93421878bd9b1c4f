"""REST, gRPC and Flight side by side: single searches, batches, ingest; and Chroma's server under the same load.

Single searches in a closed loop (each connection sends its next search when the last is answered) at 1, 16, 64 and 256
connections; then in an open loop (searches come at random times, whether or not earlier ones are done) at the highest
of a falling row of rates whose 99th percentile, from the time a search was due, is 10 ms or less. The client of all of
them, Chroma included, is the same program (bench/load.py), which sends bytes that were made before, so that what
differs is the protocol's and the server's. What gRPC's own client in Python gets of the same server is told beside:
it takes a core, and most of its time is its own.

An answer is compared with what an embedded database finds, before the load, and with that answer under load.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import numpy as np
import uvloop

import vicinal
from bench.batches import batches_in_turns
from bench.load import Load, line_of
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.arrow import SERVICE as FLIGHT_SERVICE
from vicinal.wire.arrow import fields_of, flight
from vicinal.wire.codec import MSGPACK
from vicinal.wire.protobuf import PROTO, encode_request
from vicinal.wire.schema import PACKAGE, SERVICE, method_name

K = 10
P99_MS_MAX = 10.0
CONNECTIONS = (1, 16, 64, 256)
RATES = (0.9, 0.75, 0.6, 0.45, 0.3)
"""Of what the closed loop reached with 64 connections."""

ASKED = 200
"""Searches whose answers are looked at, and compared with those under load."""

PYTHON_CONNECTIONS = (1, 64)
SHARED_CONNECTIONS, STREAMS = 4, 16
"""64 requests under way over few connections, as clients of gRPC have them."""

CHROMA_FILL = """
import sys, time, numpy as np, chromadb
client = chromadb.HttpClient(port=int(sys.argv[1]))
base = np.load(sys.argv[2])
docs = client.get_or_create_collection("docs", metadata={"hnsw:space": sys.argv[3]})
began = time.perf_counter()
had = docs.count()
for i in range(had, len(base), 5_000):
    rows = base[i:i + 5_000].astype(np.float32)
    ids = range(i, i + len(rows))
    docs.add(ids=[str(n) for n in ids], embeddings=rows, metadatas=[{"n": n, "lang": "en"} for n in ids])
seconds = time.perf_counter() - began
print(docs.id, round((len(base) - had) / seconds))
"""


def protocols(
    path: Path,
    data: Path,
    start: Callable[..., Any],
    seconds: float,
    chroma: Path | None,
    chroma_store: Path | None,
    *,
    pinned: bool,
) -> dict[str, Any]:
    """Everything, on a database made at path. start(path, options) is a server's process and addresses.

    pinned : the server has core 0, and so have those that are measured beside it.
    """
    base, queries = np.load(data / "base.npy"), np.load(data / "query.npy").astype(np.float32)
    truth, metric = np.load(data / "gt.npy"), json.loads((data / "meta.json").read_text())["metric"]
    results = _Told(data=data.name)
    results["ingest"] = _ingest(path, base, metric, start)
    with vicinal.open(path) as db:
        docs = db.collection("docs")
        docs.optimize()
        expected = [[hit.id for hit in docs.search(query, k=K)] for query in queries[:ASKED]]
    for name, options, with_payload, connections in (
        ("batching, no payload", {}, False, CONNECTIONS),
        ("batching, payload", {}, True, (1, 64)),
        ("no batching, no payload", {"batch_max": 1}, False, (64,)),
    ):
        ports = {"grpc_port": 0, "flight_port": 0}
        server, urls = start(path, {"cache_bytes_max": 0, **ports, **options})
        try:
            for protocol, url in zip(("rest", "grpc", "flight"), urls, strict=True):
                port = int(url.rpartition(":")[2])
                path_of, requests = _requests(protocol, queries, with_payload)
                ids = partial(_ids, protocol)
                with Load(port, requests, path=path_of, server=server.pid, ids=ids) as load:
                    answers = [ids(raw) for raw in load.ask(ASKED)]
                    if answers != expected:
                        raise RuntimeError(
                            f"{protocol} finds other points than an embedded database"
                        )
                    results[f"{protocol}, {name}"] = {
                        "recall_at_10": _recall(answers, truth),
                        **_single(load, connections, seconds),
                    }
                if path_of is not None and not with_payload and not options:
                    results[f"{protocol}, {name}, {STREAMS} streams a connection"] = _shared(
                        partial(Load, port, requests, path=path_of, server=server.pid, ids=ids),
                        seconds,
                    )
                    results[f"{protocol}, {name}, gRPC's client in Python"] = {
                        f"{n} connections": uvloop.run(
                            _by_python(port, path_of, requests, n, seconds)
                        )
                        for n in PYTHON_CONNECTIONS
                    }
            if not with_payload and not options:
                results["flight batch"] = batches_in_turns(path, urls[2], queries, pinned=pinned)
        finally:
            server.terminate()
            server.wait()
    if chroma is not None:
        store = chroma_store or path.parent / "chroma"
        results["chroma"] = _chroma(chroma, store, data, metric, queries, truth, seconds)
    return dict(results)


class _Told(dict[str, Any]):
    """Results that are shown when they come, so that an end before the time loses only what is missing."""

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        print(name, json.dumps(value), file=sys.stderr, flush=True)


def _ingest(path: Path, base: Any, metric: str, start: Callable[..., Any]) -> dict[str, Any]:
    """One upsert of everything by each protocol, with a small payload; MB are of vectors."""
    found: dict[str, Any] = {}
    server, urls = start(path, {"grpc_port": 0, "flight_port": 0})
    rows = base.astype(np.float32)
    try:
        for protocol, url in zip(("rest", "grpc stream", "DoPut"), urls, strict=True):
            with vicinal.open(url, timeout_s=300) as db:
                name = "docs" if protocol == "DoPut" else "other"
                docs = db.collection(name, dim=rows.shape[1], metric=metric)
                payload = [{"n": n, "lang": "en"} for n in range(len(rows))]
                began = time.perf_counter()
                docs.upsert(ids=range(len(rows)), vectors=rows, payload=payload)
                seconds = time.perf_counter() - began
                if name == "other":
                    db.drop(name)
                found[protocol] = {
                    "points_per_s": round(len(rows) / seconds),
                    "mb_per_s": round(rows.nbytes / seconds / 1e6, 1),
                }
    finally:
        server.terminate()
        server.wait()
    return found


def _requests(protocol: str, queries: Any, with_payload: bool) -> tuple[str | None, list[bytes]]:
    """A request for each query, and the method's path where they are messages of gRPC."""
    requests = [m.Search(vector=q.tobytes(), k=K, with_payload=with_payload) for q in queries]
    if protocol == "rest":
        bodies = [MSGPACK.encode(request) for request in requests]
        return None, http_requests("/v1/collections/docs/search", "application/msgpack", bodies)
    if protocol == "grpc":
        path = f"/{PACKAGE}.{SERVICE}/{method_name(ops.SEARCH)}"
        return path, [encode_request(ops.SEARCH, "docs", r) for r in requests]
    commands = [
        msgspec.msgpack.encode({"collection": "docs", "request": msgspec.Raw(MSGPACK.encode(r))})
        for r in requests
    ]
    return f"/{FLIGHT_SERVICE}/DoAction", [fields_of(b"search", command) for command in commands]


def http_requests(path: str, content: str, bodies: list[bytes]) -> list[bytes]:
    """Requests of HTTP/1.1."""
    return [
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content}\r\nAccept: {content}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]


def _single(load: Load, connections: tuple[int, ...], seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"{n} connections": line_of(load.closed(n, seconds)) for n in connections
    }
    if 64 in connections:
        able = found["64 connections"]["per_s"]
        found["open loop, p99 within 10 ms"] = None
        for share in RATES:
            line = line_of(load.open(able * share, seconds, 5, 64))
            if line["p99_ms"] <= P99_MS_MAX and not line.get("late"):
                found["open loop, p99 within 10 ms"] = line
                break
    return found


def _shared(make: Callable[..., Load], seconds: float) -> dict[str, Any]:
    """A closed loop of requests that share connections."""
    with make(streams=STREAMS) as load:
        load.ask(ASKED)
        load.closed(SHARED_CONNECTIONS, seconds)
        line = line_of(load.closed(SHARED_CONNECTIONS, seconds))
    return {f"{SHARED_CONNECTIONS * STREAMS} over {SHARED_CONNECTIONS} connections": line}


async def _by_python(
    port: int, path: str, messages: list[bytes], connections: int, seconds: float
) -> dict[str, float]:
    """What grpc.aio gets in a closed loop, a channel for each connection."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    calls: list[Any] = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options).unary_unary(path)
        for _ in range(connections)
    ]
    for call in calls:  # connects
        await call(messages[0])
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        turn = number * 1_009
        while (began := time.perf_counter()) < end:
            turn += 1
            await calls[number](messages[turn % len(messages)])
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*[client(i) for i in range(connections)])
    elapsed = time.perf_counter() - began
    p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
    return {
        "per_s": round(len(times) / elapsed),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
    }


def _ids(protocol: str, raw: bytes) -> list[Any]:
    if protocol == "chroma":
        return [int(i) for i in json.loads(raw)["ids"][0]]
    if protocol == "grpc":
        return [hit.id for hit in PROTO.decode(raw, m.HitsOut).hits]
    body = raw if protocol == "rest" else flight.Result.deserialize(raw).body
    return [hit.id for hit in MSGPACK.decode(body, m.HitsOut).hits]


def _recall(answers: list[list[Any]], truth: Any) -> float:
    pairs = zip(answers, truth[:, :K].tolist(), strict=False)
    return round(sum(len({*ids} & {*near}) for ids, near in pairs) / (K * len(answers)), 4)


def _chroma(
    programs: Path,
    store: Path,
    data: Path,
    metric: str,
    queries: Any,
    truth: Any,
    seconds: float,
) -> dict[str, Any]:
    """Chroma's server with the same points and searches, on the core that ours had."""
    port = 18_417
    words = [str(programs / "chroma"), "run", "--path", str(store), "--port", str(port)]
    if shutil.which("taskset"):
        words = ["taskset", "-c", "0", *words]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until_connected(port)
        fill = [
            str(programs / "python"),
            "-c",
            CHROMA_FILL,
            str(port),
            str(data / "base.npy"),
            metric,
        ]
        made = subprocess.run(fill, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        path = (
            f"/api/v2/tenants/default_tenant/databases/default_database/collections/{made[0]}/query"
        )
        results: dict[str, Any] = {"ingest_points_per_s": int(made[1])}
        for name, include in (
            ("no payload", ["distances"]),
            ("payload", ["distances", "metadatas"]),
        ):
            bodies = [
                msgspec.json.encode(
                    {"query_embeddings": [q.tolist()], "n_results": K, "include": include}
                )
                for q in queries
            ]
            connections = CONNECTIONS if name == "no payload" else (1, 64)
            requests = http_requests(path, "application/json", bodies)
            ids = partial(_ids, "chroma")
            with Load(port, requests, server=server.pid, ids=ids) as load:
                answers = [ids(raw) for raw in load.ask(ASKED)]
                results[name] = {
                    "recall_at_10": _recall(answers, truth),
                    **_single(load, connections, seconds),
                }
        return results
    finally:
        server.terminate()
        server.wait()


def _until_connected(port: int) -> None:
    end = time.perf_counter() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if time.perf_counter() > end:
                raise
            time.sleep(0.1)
