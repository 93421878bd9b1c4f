"""Writers, searchers and maintenance together for a while: memory, descriptors, disk and tail latency must not creep.

Points are replaced, changed and deleted at a steady number of live points, so whatever grows is a leak.
Memory is judged by the slope of its lowest points behind the first fifth, descriptors and threads by the most of each
half, latency by the best tenth of each half. What a short run shows is the filling of caches, so a bound is only held
where the run is ten minutes or longer.
What the load itself notes takes the same memory from begin to end.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from pathlib import Path

import numpy as np
from leaks import descriptors, resident_bytes, slope, threads
from report import Result, say

import vicinal
from vicinal.engine.doctor import examine
from vicinal.storage import rocks
from vicinal.storage.files import tree_bytes

PURPOSE = "mixed load over time: slopes of memory, descriptors, disk and latency"
LIVE, DIM, BATCH = 4_000, 32, 100
JUDGED_FROM_S = 600.0
MEMORY_BYTES_A_HOUR_MAX = 2 * 2**20
DISK_FACTOR_MAX = 2.5
SPARE = 4
"""Descriptors and threads that the second half may have more: the first compaction makes tables of the last level."""

DRIFT_MAX = 0.1
"""Of processor time: that of the wall is the neighbours' too on a machine that others use."""

ROW_BYTES = DIM * 4 + 60
SEARCHES_A_ROUND = 8
CACHE_BYTES = 2**20
"""Of RocksDB's blocks: what fills for hours would hide what leaks."""

TENTHS = 10
FINEST_S, STEP, BUCKETS = 1e-5, 1.02, 800
"""Latencies are counted in buckets 2 % wide, from 10 us to 76 s."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--minutes", type=float, default=0.25, help="how long (150)")
    parser.add_argument(
        "--rate",
        type=float,
        help=f"rounds of writes a second, and {SEARCHES_A_ROUND} searches for each; without: as fast as it goes",
    )


class Latencies:
    """Counts of latencies in buckets, for each tenth of the run."""

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds
        self.counts = np.zeros((TENTHS, BUCKETS), np.int64)

    def note(self, taken_s: float) -> None:
        """Count one."""
        tenth = int(TENTHS * (time.monotonic() - self.began) / self.seconds)
        bucket = int(np.log(max(taken_s, FINEST_S) / FINEST_S) / np.log(STEP))
        self.counts[min(tenth, TENTHS - 1), min(bucket, BUCKETS - 1)] += 1

    def p99(self, first: int = 0, end: int = TENTHS) -> float:
        """Seconds: the upper edge of the bucket of the 99th hundredth; 0.0 where nothing was counted."""
        summed = np.cumsum(self.counts[first:end].sum(axis=0))
        bucket = int(np.searchsorted(summed, 0.99 * summed[-1]))
        return FINEST_S * STEP ** (bucket + 1) if summed[-1] else 0.0


class Searcher(threading.Thread):
    """Searches without a pause, or at a rate; notes how long each took."""

    def __init__(self, docs: object, seed: int, seconds: float, rate: float | None) -> None:
        super().__init__(daemon=True)
        self.docs, self.rng = docs, np.random.default_rng(seed)
        self.wall, self.processor = Latencies(seconds), Latencies(seconds)
        self.pause_s = 0.002 if rate is None else 1 / (rate * SEARCHES_A_ROUND)
        self.done = 0
        self.fault: BaseException | None = None
        self.over = False

    def run(self) -> None:
        """Until told to end."""
        try:
            while not self.over:
                query = self.rng.standard_normal(DIM).astype(np.float32)
                began, processor = time.monotonic(), time.thread_time()
                where = "year > 2010" if self.done % 2 else None
                hits = self.docs.search(query, k=10, where=where)  # type: ignore[attr-defined]
                self.wall.note(time.monotonic() - began)
                self.processor.note(time.thread_time() - processor)
                self.done += 1
                if len({hit.id for hit in hits}) != 10:
                    raise RuntimeError(f"a search found {len(hits)} different points, not 10")
                time.sleep(self.pause_s)
        except BaseException as fault:
            self.fault = fault


def run(options: argparse.Namespace, folder: Path) -> Result:
    """The load, then the slopes."""
    rate = "" if options.rate is None else f" --rate {options.rate:g}"
    result = Result("mixed", f"mixed --seed {options.seed} --minutes {options.minutes}{rate}")
    rng, noise = random.Random(options.seed), np.random.default_rng(options.seed)
    seconds = 60 * options.minutes
    samples: list[Sample] = []
    batches = 0
    rocks.BLOCK_CACHE_BYTES = CACHE_BYTES
    with vicinal.open(folder / "db") as db:
        docs = db.collection("c", dim=DIM, M=8, ef_construction=40)
        for start in range(0, LIVE, BATCH):
            _write(docs, list(range(start, start + BATCH)), noise)
        searcher = Searcher(docs, options.seed, seconds, options.rate)
        searcher.start()
        began, processor = time.monotonic(), time.process_time()
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
                if seconds >= JUDGED_FROM_S and len(samples) % 10 == 0:
                    say(
                        "   {:.0f} s: {} bytes, {} fds, {} threads, {} of disk".format(*samples[-1])
                    )
            spent = time.monotonic() - began - now
            time.sleep(0.01 if options.rate is None else max(0.0, 1 / options.rate - spent))
        took = time.monotonic() - began
        result.figures["processor time"] = (
            f"{(time.process_time() - processor) / took:.1%} of a core"
        )
        searcher.over = True
        searcher.join()
        if searcher.fault is not None:
            result.violations.append(f"a search failed: {searcher.fault}")
        if docs.count() != LIVE:
            result.violations.append(f"{docs.count()} points are alive, not {LIVE}")
        docs.optimize()
    _judge(result, samples, searcher, seconds)
    result.figures["rounds of writes"] = batches
    report = examine(folder / "db")
    if not report.healthy:
        result.violations.append(f"the doctor finds {report.findings}")
    return result


def _write(docs: object, ids: list[int], noise: np.random.Generator) -> None:
    rows = noise.standard_normal((len(ids), DIM)).astype(np.float32)
    payload = [{"year": 2000 + i % 30, "text": "x" * 20} for i in ids]
    docs.upsert(ids=ids, vectors=rows, payload=payload)  # type: ignore[attr-defined]


Sample = tuple[float, int, int, int, int]
"""Seconds, resident bytes, descriptors, threads, bytes of the directory."""


def _judge(result: Result, samples: list[Sample], searcher: Searcher, seconds: float) -> None:
    later = samples[len(samples) // 2 :]
    # Write buffers fill and are emptied, tables gather and are merged: what stays is at the bottom and at the top.
    floors = [
        min(samples[n * len(samples) // TENTHS : (n + 1) * len(samples) // TENTHS] or samples,
            key=lambda s: s[1])
        for n in range(2, TENTHS)
    ]  # fmt: skip
    hourly = 3600 * slope([s[1] for s in floors], [s[0] + 1e-3 * i for i, s in enumerate(floors)])
    tops = [[max(s[column] for s in half) for half in _halves(samples)] for column in (2, 3, 4)]
    disk = max(s[4] for s in later) - 8 * 2**20  # less the reserve
    # Neighbours of a core make a search dearer and never cheaper, and what creeps is in the best tenth of the end too.
    tenths = [searcher.processor.p99(n, n + 1) for n in range(TENTHS)]
    first, second = min(tenths[2 : TENTHS // 2]), min(tenths[TENTHS // 2 :])
    drift = second / first - 1 if first else 0.0
    result.figures |= {
        "searches": searcher.done,
        "memory, MiB an hour": hourly / 2**20,
        "memory, first and last": f"{samples[0][1] / 2**20:.1f} MiB, {samples[-1][1] / 2**20:.1f} MiB",
        "descriptors at most, first and second half": f"{tops[0][0]}, {tops[0][1]}",
        "threads at most, first and second half": f"{tops[1][0]}, {tops[1][1]}",
        "disk at most, first and second half": " ".join(f"{t / 2**20:.1f} MiB" for t in tops[2]),
        "disk at most, live data": f"{disk / 2**20:.1f} MiB, {LIVE * ROW_BYTES / 2**20:.1f} MiB",
        "p99 of a search, each tenth": _tenths(searcher.wall),
        "p99 of its processor time, each tenth": _tenths(searcher.processor),
        "p99 drift of processor time, best tenths of both halves": drift,
    }
    if seconds < JUDGED_FROM_S:
        result.figures["bounds"] = "not held against a run this short"
        return
    if hourly > MEMORY_BYTES_A_HOUR_MAX:
        result.violations.append(f"memory grows by {hourly / 2**20:.1f} MiB an hour")
    for what, (early, late) in zip(("descriptors", "threads"), tops, strict=False):
        if late > early + SPARE:
            result.violations.append(f"{what} grow: {early} at most, then {late}")
    if disk > DISK_FACTOR_MAX * LIVE * ROW_BYTES + 64 * 2**20:
        result.violations.append(f"{disk} bytes of disk for {LIVE * ROW_BYTES} bytes of data")
    if drift > DRIFT_MAX:
        result.violations.append(f"the p99 of a search grew by {drift:.0%}")


def _halves(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    middle = max(1, len(samples) // 2)
    return samples[:middle], samples[middle:] or samples


def _tenths(latencies: Latencies) -> str:
    return " ".join(f"{1000 * latencies.p99(i, i + 1):.2g}" for i in range(TENTHS)) + " ms"
