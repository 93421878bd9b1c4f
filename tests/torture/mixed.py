"""Writers, searchers and maintenance together for a while: memory, descriptors, disk and tail latency must not creep.

Points are replaced, changed and deleted at a steady number of live points, so whatever grows is a leak.
The figures are slopes over the second half; what a short run shows of memory is the filling of caches, so a bound is
only held where the run is ten minutes or longer.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from pathlib import Path

import numpy as np
from leaks import descriptors, resident_bytes, slope, threads
from report import Result

import vicinal
from vicinal.engine.doctor import examine
from vicinal.storage.files import tree_bytes

PURPOSE = "mixed load over time: slopes of memory, descriptors, disk and latency"
LIVE, DIM, BATCH = 4_000, 32, 100
JUDGED_FROM_S = 600.0
MEMORY_BYTES_A_HOUR_MAX = 2 * 2**20
DISK_FACTOR_MAX = 2.5
DRIFT_MAX = 0.1
ROW_BYTES = DIM * 4 + 60


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--minutes", type=float, default=0.25, help="how long (150)")


class Searcher(threading.Thread):
    """Searches without a pause; notes how long each took."""

    def __init__(self, docs: object, seed: int) -> None:
        super().__init__(daemon=True)
        self.docs, self.rng = docs, np.random.default_rng(seed)
        self.taken: list[tuple[float, float]] = []
        self.fault: BaseException | None = None
        self.over = False

    def run(self) -> None:
        """Until told to end."""
        try:
            while not self.over:
                query = self.rng.standard_normal(DIM).astype(np.float32)
                began = time.monotonic()
                where = "year > 2010" if len(self.taken) % 2 else None
                hits = self.docs.search(query, k=10, where=where)  # type: ignore[attr-defined]
                self.taken.append((began, time.monotonic() - began))
                if len({hit.id for hit in hits}) != 10:
                    raise RuntimeError(f"a search found {len(hits)} different points, not 10")
                time.sleep(0.002)
        except BaseException as fault:
            self.fault = fault


def run(options: argparse.Namespace, folder: Path) -> Result:
    """The load, then the slopes."""
    result = Result("mixed", f"mixed --seed {options.seed} --minutes {options.minutes}")
    rng, noise = random.Random(options.seed), np.random.default_rng(options.seed)
    seconds = 60 * options.minutes
    samples: list[tuple[float, int, int, int, int]] = []
    batches = 0
    with vicinal.open(folder / "db") as db:
        docs = db.collection("c", dim=DIM, M=8, ef_construction=40)
        for start in range(0, LIVE, BATCH):
            _write(docs, list(range(start, start + BATCH)), noise)
        searcher = Searcher(docs, options.seed)
        searcher.start()
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds and searcher.fault is None:
            _write(docs, rng.sample(range(LIVE), BATCH), noise)
            docs.update(rng.sample(range(LIVE), 10), {"year": rng.randrange(2000, 2030)})
            gone = rng.sample(range(LIVE), 20)
            docs.delete(gone)
            _write(docs, gone, noise)
            batches += 1
            if batches % 150 == 0:
                docs.optimize()
            if len(samples) < now / max(0.5, seconds / 200):
                samples.append(
                    (now, resident_bytes(), descriptors(), threads(), tree_bytes(folder / "db"))
                )
            time.sleep(0.01)
        searcher.over = True
        searcher.join()
        if searcher.fault is not None:
            result.violations.append(f"a search failed: {searcher.fault}")
        if docs.count() != LIVE:
            result.violations.append(f"{docs.count()} points are alive, not {LIVE}")
        docs.optimize()
    _judge(result, samples, searcher.taken, seconds)
    result.figures["rounds of writes"] = batches
    if not examine(folder / "db").healthy:
        result.violations.append(f"the doctor finds {examine(folder / 'db').findings}")
    return result


def _write(docs: object, ids: list[int], noise: np.random.Generator) -> None:
    rows = noise.standard_normal((len(ids), DIM)).astype(np.float32)
    payload = [{"year": 2000 + i % 30, "text": "x" * 20} for i in ids]
    docs.upsert(ids=ids, vectors=rows, payload=payload)  # type: ignore[attr-defined]


def _judge(
    result: Result,
    samples: list[tuple[float, int, int, int, int]],
    taken: list[tuple[float, float]],
    seconds: float,
) -> None:
    later = samples[len(samples) // 2 :]
    times = [s[0] for s in later]
    hourly = 3600 * slope([s[1] for s in later], times)
    open_files = 3600 * slope([s[2] for s in later], times)
    running = 3600 * slope([s[3] for s in later], times)
    disk = max(s[4] for s in later) - 8 * 2**20  # less the reserve
    half = len(taken) // 2
    first, second = (
        float(np.quantile([t for _, t in part], 0.99)) for part in (taken[:half], taken[half:])
    )
    result.figures |= {
        "searches": len(taken),
        "memory, MiB an hour": hourly / 2**20,
        "descriptors an hour": open_files,
        "threads an hour": running,
        "disk at most, live data": f"{disk / 2**20:.1f} MiB, {LIVE * ROW_BYTES / 2**20:.1f} MiB",
        "p99 of a search, first and second half": f"{1000 * first:.1f} ms, {1000 * second:.1f} ms",
    }
    if seconds < JUDGED_FROM_S:
        result.figures["bounds"] = "not held against a run this short"
        return
    if hourly > MEMORY_BYTES_A_HOUR_MAX:
        result.violations.append(f"memory grows by {hourly / 2**20:.1f} MiB an hour")
    if open_files > 0 or running > 0:
        result.violations.append(f"{open_files:.1f} descriptors, {running:.1f} threads an hour")
    if disk > DISK_FACTOR_MAX * LIVE * ROW_BYTES + 64 * 2**20:
        result.violations.append(f"{disk} bytes of disk for {LIVE * ROW_BYTES} bytes of data")
    if second > (1 + DRIFT_MAX) * first:
        result.figures["p99 drift"] = second / first - 1
