"""The same batch of searches for seconds on end, on one thread: whether a search keeps its pace.

A time far above the others' that stays for many batches, on a machine with nothing else to do, is a state of the
machine that the memory accesses of the searches bring about; the best of some passes would not show it.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from bench import datasets, machine

QUERIES = 1000
PARTS = (1, 10, 50, 90, 99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `pace`."""
    datasets.add_arguments(parser)
    parser.add_argument("--ef", type=int, nargs="+", default=[28, 56, 112], help="beams, in turns")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each beam in each pass")
    machine.add_arguments(parser, passes=2)


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    data = datasets.load(options)
    index = data.indexed(format="rabitq")
    queries = data.queries[:QUERIES]
    rows: list[dict[str, Any]] = []
    for _ in range(options.passes):
        for ef in options.ef:
            nodes = index.replay(queries, data.k, ef)[0]
            times: list[float] = []
            ends = time.perf_counter() + options.seconds
            while time.perf_counter() < ends:
                began = time.perf_counter()
                index.search(queries, k=data.k, ef_search=ef, threads=1)
                times.append((time.perf_counter() - began) * 1e9 / nodes)
            rows.append({"ef": ef, "batches": len(times), "ns": list(np.percentile(times, PARTS))})
    print(f"{data.name}: nanoseconds a node, by parts of the batches in hundredths")
    machine.table(
        ["#ef", "#batches", *(f"#{part}" for part in PARTS)],
        [[r["ef"], r["batches"], *(f"{ns:.0f}" for ns in r["ns"])] for r in rows],
    )
    result = {"machine": machine.describe(), "dataset": data.describe(), "pace": rows}
    machine.write(result, "pace", options.out)
    return 0
