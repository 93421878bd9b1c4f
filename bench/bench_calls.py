"""What a call costs above the native search, how fast points are acknowledged, and how fast a database opens.

    bench_calls.py [--points 100000] [--dim 256] [--out results.json]

Vectors are clustered random ones (64 centres), so that a graph search does real work; recall is against exact search.
Times are medians of many calls; the ratio between lines of one run is what carries over to another machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import vicinal

K = 10


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=None)
    a = parser.parse_args()
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((64, a.dim), dtype=np.float32)
    X = centres[rng.integers(64, size=a.points)]
    X += 0.7 * rng.standard_normal(X.shape, dtype=np.float32)
    payload = [
        {"year": 2000 + i % 25, "lang": "en", "text": f"point {i} " * 8} for i in range(a.points)
    ]
    row: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "points": a.points,
        "dim": a.dim,
        "import_ms": 1e3 * median_s(import_once, 9),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "db"
        with vicinal.open(path) as db:
            docs = db.collection("bench", dim=a.dim)
            start = time.perf_counter()
            for i in range(0, a.points, a.batch):
                end = min(i + a.batch, a.points)
                docs.upsert(ids=range(i, end), vectors=X[i:end], payload=payload[i:end])
            row["ingest_sync_per_s"] = a.points / (time.perf_counter() - start)
            start = time.perf_counter()
            docs.optimize()
            row["optimize_s"] = time.perf_counter() - start
            row |= calls(docs, X[:200])
        row["open_s"] = median_s(lambda: open_once(path), 5)
    text = json.dumps(
        {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, indent=1
    )
    print(text)
    if a.out is not None:
        a.out.write_text(text)


def calls(docs: vicinal.Collection, queries: np.ndarray) -> dict[str, float]:
    """Single searches: the native call alone, with ids only, with payload, with a filter; and their recall."""
    exact = docs.search(queries, k=K, exact=True).ids
    found = docs.search(queries, k=K).ids
    hits = sum(len(set(e) & set(f)) for e, f in zip(exact.tolist(), found.tolist(), strict=True))
    index = docs._transport.engine.state.view.sealed[0].index
    from vicinal.index import default_ef

    ef = default_ef(K)
    native = per_call_us(
        lambda q: index.search(q.reshape(1, -1), k=K, ef_search=ef, strategy="gate"), queries
    )
    ids = per_call_us(lambda q: docs.search(q, k=K, with_payload=False), queries)
    with_payload = per_call_us(lambda q: [h.payload for h in docs.search(q, k=K)], queries)
    filtered = per_call_us(lambda q: docs.search(q, k=K, where="year = 2024"), queries)
    return {
        "recall_at_10": hits / exact.size,
        "native_us": native,
        "ids_above_native_us": ids - native,
        "payload_above_native_us": with_payload - native,
        "filtered_us": filtered,
    }


def per_call_us(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """Median microseconds of a call over all queries, after a warm-up."""
    times = []
    for turn in range(6):
        for q in queries:
            start = time.perf_counter()
            search(q)
            if turn:
                times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def median_s(action: Callable[[], float], times: int) -> float:
    """Median of what action returns."""
    return statistics.median(action() for _ in range(times))


def import_once() -> float:
    """Seconds that `import vicinal` takes in a fresh interpreter, its start not counted."""
    code = "import time; t = time.perf_counter(); import vicinal; print(time.perf_counter() - t)"
    return float(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


def open_once(path: Path) -> float:
    """Seconds to open the database and answer a first search."""
    start = time.perf_counter()
    with vicinal.open(path) as db:
        docs = db.collection("bench")
        docs.search(np.ones(docs.dim, np.float32), k=1)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
