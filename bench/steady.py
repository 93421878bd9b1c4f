"""One kind of work for so many seconds: what a profiler looks at (`tools/profile.sh`), and how fast it is without one.

`build` makes the index of the points again and again; `search` sends batches of queries to the index; `calls` sends
single searches with payload to a collection; `write` upserts batches into a durable collection. What `search` and
`calls` need beforehand is made first, and with `--keep` only once, so that a second run has nothing else in it.
Beside the rate it says how busy the processor was meanwhile, and how long Python's collections of garbage held it up.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import vicinal
from bench import datasets
from bench.targets import BATCH, fill
from vicinal.cli.measuring import recall_at_k
from vicinal.index import GraphIndex

KINDS = ("build", "search", "calls", "write")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `steady`."""
    datasets.add_arguments(parser)
    parser.add_argument("--kind", choices=KINDS, default="search")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1, help="of building and of batches")
    parser.add_argument("--ef", type=int, default=64)
    parser.add_argument(
        "--keep", type=Path, help="a folder for what is made beforehand, and to find it in"
    )


def main(options: argparse.Namespace) -> int:
    """Do it and say how often."""
    if options.seconds <= 0:
        raise ValueError(f"--seconds is {options.seconds:g}; choose more than 0")
    data = datasets.load(options)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        print(RUNS[options.kind](data, options, options.keep))
        return 0
    with tempfile.TemporaryDirectory(prefix="vicinal-bench-") as folder:
        print(RUNS[options.kind](data, options, Path(folder)))
    return 0


def _build(data: datasets.Dataset, options: argparse.Namespace, _: Path) -> str:
    def once() -> None:
        data.indexed(options.threads).close()

    each = _repeat(once, options.seconds)
    return f"build: {len(data.base) / np.median(each):,.0f} points/s, {len(each)} builds"


def _search(data: datasets.Dataset, options: argparse.Namespace, folder: Path) -> str:
    file = folder / f"{data.name}-{len(data.base)}.index"
    if file.exists():
        index = GraphIndex.load(file)
    else:
        index = data.indexed()
        index.save(file)

    def once() -> np.ndarray:
        wide = {"k": data.k, "ef_search": options.ef, "threads": options.threads}
        return index.search(data.queries, **wide)[1]

    recall = recall_at_k(once(), data.truth.distances)
    each = _repeat(once, options.seconds)
    rate = len(data.queries) / np.median(each)
    return f"search: {rate:,.0f} queries/s in batches, recall@{data.k} {recall:.4f}"


def _calls(data: datasets.Dataset, options: argparse.Namespace, folder: Path) -> str:
    with vicinal.open(folder / f"{data.name}-{len(data.base)}.db") as db:
        docs = db.collection("c", dim=data.dim, metric=data.metric, dtype=data.dtype)
        if docs.count() != len(data.base):
            for first in range(0, len(data.base), BATCH):
                rows = data.base[first : first + BATCH]
                ids = range(first, first + len(rows))
                docs.upsert(ids=ids, vectors=rows, payload=[{"n": i % 100} for i in ids])
            docs.optimize()
        truth = data.truth.distances
        found = np.full_like(truth[:, : data.k], np.inf)
        asked = itertools.count()

        def once() -> None:
            place = next(asked) % len(data.queries)
            hits = docs.search(data.queries[place], k=data.k, ef_search=options.ef)
            found[place, : len(hits)] = [hit["distance"] for hit in hits.to_dicts()]

        each = np.array(_repeat(once, options.seconds))
    n = min(len(each), len(found))
    recall = recall_at_k(found[:n], truth[:n])
    spread = ", ".join(f"p{q} {1e6 * np.percentile(each, q):.0f} us" for q in (50, 95, 99))
    rate = f"{1 / each.mean():,.0f} searches/s with payload"
    return f"calls: {rate}, {spread}, recall@{data.k} {recall:.4f}"


def _write(data: datasets.Dataset, options: argparse.Namespace, folder: Path) -> str:
    with vicinal.open(folder / f"{data.name}-write.db") as db:

        def once() -> None:
            docs = db.collection("w", dim=data.dim, metric=data.metric, dtype=data.dtype)
            fill(docs, data.base)
            db.drop("w")

        each = _repeat(once, options.seconds)
    return f"write: {len(data.base) / np.median(each):,.0f} points/s, durable, {len(each)} loads"


def _repeat(once: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each round; at least one."""
    each: list[float] = []
    pauses = Pauses()
    gc.callbacks.append(pauses)
    try:
        started, worked = time.perf_counter(), time.process_time()
        while not each or time.perf_counter() < started + seconds:
            before = time.perf_counter()
            once()
            each.append(time.perf_counter() - before)
        busy = (time.process_time() - worked) / (time.perf_counter() - started)
    finally:
        gc.callbacks.remove(pauses)
    print(f"processor: {100 * busy:.0f} % of one core, of {os.cpu_count()}; {pauses}")
    return each


class Pauses:
    """How long collections of garbage take; a callback of `gc`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def __call__(self, phase: str, _: dict[str, int]) -> None:
        """Told by the collector that it starts or stops."""
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds.append(time.perf_counter() - self._began)

    def __str__(self) -> str:
        longest = 1e3 * max(self.seconds, default=0.0)
        return f"{len(self.seconds)} collections of garbage, the longest {longest:.2f} ms"


RUNS = {"build": _build, "search": _search, "calls": _calls, "write": _write}
