"""How far batch searches are from what the machine allows: their memory accesses and their arithmetic, each by itself.

memory: the bytes that the searches read, read again in the same order with the same prefetches, and no arithmetic.
arithmetic: the same searches with everything they read in the cache, as each query comes many times in a row.
A search that hid one behind the other perfectly would take the larger of the two.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from bench import datasets, machine
from vicinal.cli.measuring import recall_at_k
from vicinal.index import GraphIndex

EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 900)
RECALLS = (0.90, 0.95, 0.99)
COPIES = 64
CACHED_QUERIES = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `limit`."""
    datasets.add_arguments(parser)
    machine.add_arguments(parser, passes=5, which="the best one counts")


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    data = datasets.load(options)
    index = data.indexed(format="rabitq")
    efs = {wanted: _beam(index, data, wanted) for wanted in RECALLS}
    rows = [
        _measure(index, data, wanted, ef, options.passes)
        for wanted, ef in efs.items()
        if ef is not None
    ]
    print(f"{data.name}: microseconds of a query in a batch on one thread")
    machine.table(
        ["#recall", "#ef", "#nodes", "#search", "#memory", "#arithmetic", "#search / larger"],
        [
            [
                f"{r['recall']:.3f}",
                r["ef"],
                f"{r['nodes']:.0f}",
                *(f"{r[name]:.2f}" for name in ("search", "memory", "arithmetic")),
                f"{r['search'] / max(r['memory'], r['arithmetic']):.2f}",
            ]
            for r in rows
        ],
    )
    result = {"machine": machine.describe(), "dataset": data.describe(), "limit": rows}
    machine.write(result, "limit", options.out)
    return 0


def _beam(index: GraphIndex, data: datasets.Dataset, wanted: float) -> int | None:
    """The narrowest beam of EFS that reaches a recall."""
    for ef in EFS:
        if ef >= data.k and _recall(index, data, ef) >= wanted:
            return ef
    return None


def _recall(index: GraphIndex, data: datasets.Dataset, ef: int) -> float:
    found = index.search(data.queries, k=data.k, ef_search=ef, threads=0)[1]
    return recall_at_k(found, data.truth.distances)


def _measure(
    index: GraphIndex, data: datasets.Dataset, wanted: float, ef: int, passes: int
) -> dict[str, Any]:
    n = len(data.queries)
    search = min(_seconds(index, data.queries, data.k, ef) for _ in range(passes)) / n
    nodes, compared, memory = index.replay(data.queries, data.k, ef, passes=passes)
    chosen = np.linspace(0, n - 1, min(n, CACHED_QUERIES)).astype(int)
    cached = [
        min(
            _seconds(index, np.repeat(data.queries[i : i + 1], COPIES, axis=0), data.k, ef)
            for _ in range(passes)
        )
        for i in chosen
    ]
    return {
        "wanted": wanted,
        "recall": _recall(index, data, ef),
        "ef": ef,
        "nodes": nodes / n,
        "compared": compared / n,
        "search": search * 1e6,
        "memory": memory / n * 1e6,
        "arithmetic": float(np.mean(cached)) / COPIES * 1e6,
    }


def _seconds(index: GraphIndex, queries: np.ndarray, k: int, ef: int) -> float:
    start = time.perf_counter()
    index.search(queries, k=k, ef_search=ef)
    return time.perf_counter() - start
