"""Write rate with several writers: points a second and how long a batch takes, for vicinal and embedded rivals.

Every database gets the same batches of vectors and payloads through its own Python API, each database and number of
writers in a fresh process with an empty directory. Writers are threads that take the next batch when theirs is
acknowledged; nothing is indexed by hand, and the clock stops at the last acknowledgement. vicinal is measured under
each durability, the rivals under the one they have. Rivals may live in another environment:

    python -m bench ingest --data FOLDER [--only vicinal,chroma] [--rivals-python /path/to/python]
    pip install chromadb lancedb qdrant-client "pymilvus[milvus_lite]" pyarrow    # there

FOLDER holds base.npy and, if the points have a payload, texts.parquet.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DURABILITIES = ("sync", "interval", "none")


class Target(Protocol):
    """A database that takes batches from several threads."""

    def add(self, ids: list[int], vectors: np.ndarray, rows: list[dict[str, Any]]) -> None:
        """Write a batch; return when it is acknowledged."""

    def count(self) -> int:
        """Points that it has."""

    def close(self) -> None:
        """Close it."""


class _Vicinal:
    def __init__(self, path: str, dim: int, durability: str) -> None:
        import vicinal

        self._db = vicinal.open(path, durability=durability)
        self._docs = self._db.collection("docs", dim=dim)

    def add(self, ids: list[int], vectors: np.ndarray, rows: list[dict[str, Any]]) -> None:
        self._docs.upsert(ids=ids, vectors=vectors, payload=rows)

    def count(self) -> int:
        return self._docs.count()

    def close(self) -> None:
        self._db.close()


class _Chroma:
    def __init__(self, path: str, _dim: int, _durability: str) -> None:
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        self._docs = chromadb.PersistentClient(path, settings=settings).create_collection(
            "docs", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )

    def add(self, ids: list[int], vectors: np.ndarray, rows: list[dict[str, Any]]) -> None:
        payload: Any = rows if all(rows) else None  # it takes no empty one
        self._docs.upsert(ids=[str(i) for i in ids], embeddings=vectors, metadatas=payload)

    def count(self) -> int:
        return self._docs.count()

    def close(self) -> None:
        """It has no way to be closed."""


class _LanceDb:
    def __init__(self, path: str, dim: int, _durability: str) -> None:
        import lancedb

        self._db = lancedb.connect(path)
        self._table: Any = None
        self._lock = threading.Lock()
        self._dim = dim

    def add(self, ids: list[int], vectors: np.ndarray, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        columns = {name: [row[name] for row in rows] for name in rows[0]} if rows[0] else {}
        flat = pa.array(vectors.reshape(-1))
        listed = pa.FixedSizeListArray.from_arrays(flat, self._dim)
        batch = pa.table({"id": ids, "vector": listed, **columns})
        with self._lock:
            if self._table is None:
                self._table = self._db.create_table("docs", batch)
                return
        self._table.add(batch)

    def count(self) -> int:
        return self._table.count_rows()

    def close(self) -> None:
        """It has no way to be closed."""


class _MilvusLite:
    def __init__(self, path: str, dim: int, _durability: str) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(f"{path}/milvus.db")
        self._client.create_collection("docs", dimension=dim, metric_type="COSINE")

    def add(self, ids: list[int], vectors: np.ndarray, rows: list[dict[str, Any]]) -> None:
        data = [
            {"id": i, "vector": v, **row}
            for i, v, row in zip(ids, vectors.tolist(), rows, strict=True)
        ]
        self._client.upsert("docs", data)

    def count(self) -> int:
        return int(self._client.get_collection_stats("docs")["row_count"])

    def close(self) -> None:
        self._client.close()


class _QdrantLocal:
    def __init__(self, path: str, dim: int, _durability: str) -> None:
        from qdrant_client import QdrantClient, models

        self._client = QdrantClient(path=path, force_disable_check_same_thread=True)
        self._models = models
        self._lock = threading.Lock()  # its local mode is not made for threads
        parameters = models.VectorParams(size=dim, distance=models.Distance.COSINE)
        self._client.create_collection("docs", vectors_config=parameters)

    def add(self, ids: list[int], vectors: np.ndarray, rows: list[dict[str, Any]]) -> None:
        batch = self._models.Batch(ids=ids, vectors=vectors.tolist(), payloads=rows)
        with self._lock:
            self._client.upsert("docs", batch)

    def count(self) -> int:
        return self._client.count("docs").count

    def close(self) -> None:
        self._client.close()


TARGETS: dict[str, Callable[[str, int, str], Target]] = {
    "vicinal": _Vicinal,
    "chroma": _Chroma,
    "lancedb": _LanceDb,
    "milvus_lite": _MilvusLite,
    "qdrant_local": _QdrantLocal,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `ingest`."""
    parser.add_argument("--data", type=Path, required=True, help="a folder with base.npy")
    parser.add_argument("--only", default=",".join(TARGETS), help="some of the databases")
    parser.add_argument("--writers", default="1,4,16", help="numbers of threads that write")
    parser.add_argument("--durability", default=",".join(DURABILITIES), help="of vicinal")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rivals-python", help="an interpreter that has the rivals")
    parser.add_argument("--folder", type=Path, help="where the databases are made; a disk to ask")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def main(options: argparse.Namespace) -> int:
    """Measure each database with each number of writers, and print a table."""
    if options.one:
        name, writers, durability = options.one.split(":")
        print(json.dumps(measure(options, name, int(writers), durability)))
        return 0
    print(f"{options.points:,} points of {options.data.name} in batches of {options.batch}")
    print(f"{'database':<22}{'writers':>8}{'points/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'fsyncs':>8}")
    for name in options.only.split(","):
        for durability in options.durability.split(",") if name == "vicinal" else ["default"]:
            for writers in options.writers.split(","):
                found = _in_process(options, name, writers, durability)
                label = f"{name} ({durability})"
                if "error" in found:
                    print(f"{label:<22}{writers:>8}  {found['error']}")
                    continue
                print(
                    f"{label:<22}{writers:>8}{found['points_per_s']:>10,}{found['p50_ms']:>9.2f}"
                    f"{found['p99_ms']:>9.2f}{found['fsyncs']:>8}",
                    flush=True,
                )
    return 0


def measure(
    options: argparse.Namespace, name: str, writers: int, durability: str
) -> dict[str, Any]:
    """One database with one number of writers, in this process."""
    vectors = np.load(options.data / "base.npy", mmap_mode="r")[: options.points]
    vectors = np.ascontiguousarray(vectors, np.float32)
    rows = _payloads(options.data / "texts.parquet", len(vectors))
    batches: queue.SimpleQueue[int] = queue.SimpleQueue()
    for start in range(0, len(vectors), options.batch):
        batches.put(start)
    folder = tempfile.mkdtemp(prefix="ingest-", dir=options.folder)
    took: list[float] = []
    faults: list[str] = []
    try:
        target = TARGETS[name](folder, vectors.shape[1], durability)

        def write() -> None:
            try:
                while True:
                    start = batches.get_nowait()
                    end = min(start + options.batch, len(vectors))
                    began = time.perf_counter()
                    target.add(list(range(start, end)), vectors[start:end], rows[start:end])
                    took.append(time.perf_counter() - began)
            except queue.Empty:
                return
            except Exception as fault:
                faults.append(f"{type(fault).__name__}: {fault}"[:200])

        threads = [threading.Thread(target=write) for _ in range(writers)]
        before = _fsyncs(target)
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        fsyncs = _fsyncs(target) - before
        if faults:
            return {"error": faults[0]}
        if target.count() != len(vectors):
            return {"error": f"has {target.count()} points of {len(vectors)}"}
        target.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "points_per_s": round(len(vectors) / seconds),
        "p50_ms": float(np.percentile(took, 50) * 1e3),
        "p99_ms": float(np.percentile(took, 99) * 1e3),
        "fsyncs": fsyncs if name == "vicinal" else "-",
    }


def _fsyncs(target: Target) -> int:
    docs = getattr(target, "_docs", None)
    return docs._transport.engine.state.store.fsyncs if isinstance(target, _Vicinal) and docs else 0


def _payloads(file: Path, n: int) -> list[dict[str, Any]]:
    if not file.exists():
        return [{} for _ in range(n)]
    import pyarrow.parquet as pq

    return pq.read_table(file).slice(0, n).to_pylist()


def _in_process(
    options: argparse.Namespace, name: str, writers: str, durability: str
) -> dict[str, Any]:
    other = name != "vicinal" and options.rivals_python
    command = [
        options.rivals_python if other else sys.executable,
        str(Path(__file__).resolve()),
        f"--data={options.data}",
        f"--points={options.points}",
        f"--batch={options.batch}",
        f"--one={name}:{writers}:{durability}",
        *([f"--folder={options.folder}"] if options.folder else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=900)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["ended without a word"])[-1][:200]}
    return json.loads(lines[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    sys.exit(main(parser.parse_args()))
