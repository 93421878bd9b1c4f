"""REST, gRPC and Flight side by side: single searches, batches, ingest; and Chroma's server under the same load.

Single searches in a closed loop (each connection sends its next search when the last is answered) at 1, 16, 64 and 256
connections; then in an open loop (searches come at random times, whether or not earlier ones are done) at the highest
of a falling row of rates whose 99th percentile, from the time a search was due, is 10 ms or less. Clients are as thin
as each protocol allows: bytes that were made before.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import numpy as np
import uvloop

import vicinal
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

NAP_S = 0.001
"""The least that an open loop sleeps until the next search is due, which counts as that search's time. Where the two
cores of a machine are threads of one, a load that spins takes a third of the server's speed."""

BATCH = 2_000
Caller = Callable[[int], Awaitable[bytes]]
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
) -> dict[str, Any]:
    """Everything, on a database made at path. start(path, options) is a server's process and addresses."""
    base, queries = np.load(data / "base.npy"), np.load(data / "query.npy").astype(np.float32)
    truth, metric = np.load(data / "gt.npy"), json.loads((data / "meta.json").read_text())["metric"]
    results = _Told(data=data.name)
    results["ingest"] = _ingest(path, base, metric, start)
    with vicinal.open(path) as db:
        docs = db.collection("docs")
        docs.optimize()
        results["embedded batch"] = _batches(docs, queries, threads=1)
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
                make = _callers(protocol, port, queries, with_payload)
                results[f"{protocol}, {name}"] = uvloop.run(
                    _single(make, protocol, connections, seconds, truth)
                )
            if not with_payload and not options:
                with vicinal.open(urls[2]) as db:
                    found = _batches(db.collection("docs"), queries, threads=None)
                results["flight batch"] = found
                results["flight batch, of embedded"] = round(
                    found["queries_per_s"] / results["embedded batch"]["queries_per_s"], 2
                )
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


def _batches(docs: Any, queries: Any, threads: int | None) -> dict[str, Any]:
    """Batches of many queries, without payload, through `vicinal`; the best of three."""
    many = np.resize(queries, (BATCH, queries.shape[1]))
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        docs.search(many, k=K, with_payload=False, **({} if threads is None else {"threads": 1}))
        best = min(best, time.perf_counter() - began)
    return {"queries_per_s": round(BATCH / best)}


def _callers(
    protocol: str, port: int, queries: Any, with_payload: bool
) -> Callable[[], Awaitable[Caller]]:
    """What makes a connection, as a function that sends the i-th query."""
    requests = [m.Search(vector=q.tobytes(), k=K, with_payload=with_payload) for q in queries]
    if protocol == "rest":
        bodies = [MSGPACK.encode(request) for request in requests]
        return _http(port, "/v1/collections/docs/search", "application/msgpack", bodies)
    if protocol == "grpc":
        path = f"/{PACKAGE}.{SERVICE}/{method_name(ops.SEARCH)}"
        return _rpc(port, path, [encode_request(ops.SEARCH, "docs", r) for r in requests])
    commands = [
        msgspec.msgpack.encode({"collection": "docs", "request": msgspec.Raw(MSGPACK.encode(r))})
        for r in requests
    ]
    path = f"/{FLIGHT_SERVICE}/DoAction"
    return _rpc(port, path, [fields_of(b"search", command) for command in commands])


def _rpc(port: int, path: str, messages: list[bytes]) -> Callable[[], Awaitable[Caller]]:
    async def make() -> Caller:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        call = channel.unary_unary(path)

        async def send(i: int) -> bytes:
            return await call(messages[i])

        return send

    return make


def _http(
    port: int, path: str, content: str, bodies: list[bytes]
) -> Callable[[], Awaitable[Caller]]:
    requests = [
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content}\r\nAccept: {content}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]

    async def make() -> Caller:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def send(i: int) -> bytes:
            writer.write(requests[i])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b" 200 " not in head[:16]:
                raise RuntimeError(head.decode())
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            return await reader.readexactly(int(length))

        return send

    return make


async def _single(
    make: Callable[[], Awaitable[Caller]],
    protocol: str,
    connections: tuple[int, ...],
    seconds: float,
    truth: Any,
) -> dict[str, Any]:
    callers = [await make() for _ in range(max(connections))]
    answers = [await callers[0](i) for i in range(min(200, len(truth)))]
    found: dict[str, Any] = {"recall_at_10": _recall(protocol, answers, truth)}
    for n in connections:
        for caller in callers[:n]:  # connects
            await caller(0)
        found[f"{n} connections"] = await _closed(callers[:n], len(truth), seconds)
    if 64 in connections:
        able = found["64 connections"]["per_s"]
        found["open loop, p99 within 10 ms"] = None
        for share in RATES:
            line = await _open(callers[:64], len(truth), able * share, seconds)
            if line["p99_ms"] <= P99_MS_MAX:
                found["open loop, p99 within 10 ms"] = line
                break
    return found


async def _closed(callers: list[Caller], n_queries: int, seconds: float) -> dict[str, float]:
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        turn = number * 1_009
        while (began := time.perf_counter()) < end:
            turn += 1
            await callers[number](turn % n_queries)
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*[client(i) for i in range(len(callers))])
    return _line(times, time.perf_counter() - began)


async def _open(
    callers: list[Caller], n_queries: int, per_s: float, seconds: float
) -> dict[str, float]:
    """Poisson arrivals; a search that finds no connection free waits for one, and that counts."""
    gaps = np.random.default_rng(5).exponential(1 / per_s, int(per_s * seconds))
    began = time.perf_counter() + 0.05
    due: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    times: list[float] = []

    async def client(caller: Caller) -> None:
        while True:
            i, at = await due.get()
            await caller(i % n_queries)
            times.append(time.perf_counter() - at)
            due.task_done()

    clients = [asyncio.ensure_future(client(caller)) for caller in callers]
    for i, at in enumerate(began + np.cumsum(gaps)):
        while (wait := at - time.perf_counter()) > 0:
            await asyncio.sleep(max(wait, NAP_S))
        due.put_nowait((i, float(at)))
    await due.join()
    elapsed = time.perf_counter() - began
    for task in clients:
        task.cancel()
    return _line(times, elapsed)


def _line(times: list[float], elapsed: float) -> dict[str, float]:
    p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
    return {
        "per_s": round(len(times) / elapsed),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
    }


def _recall(protocol: str, answers: list[bytes], truth: Any) -> float:
    found = 0
    for raw, expected in zip(answers, truth[:, :K].tolist(), strict=False):
        if protocol == "chroma":
            ids = [int(i) for i in json.loads(raw)["ids"][0]]
        elif protocol == "grpc":
            ids = [hit.id for hit in PROTO.decode(raw, m.HitsOut).hits]
        else:
            body = raw if protocol == "rest" else flight.Result.deserialize(raw).body
            ids = [hit.id for hit in MSGPACK.decode(body, m.HitsOut).hits]
        found += len(set(ids) & set(expected))
    return round(found / (K * len(answers)), 4)


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
            make = _http(port, path, "application/json", bodies)
            connections = CONNECTIONS if name == "no payload" else (1, 64)
            results[name] = uvloop.run(_single(make, "chroma", connections, seconds, truth))
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
