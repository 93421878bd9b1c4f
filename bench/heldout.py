"""What stands in for unseen queries: recall at each beam width for points held out in three ways, and for real queries.

unlinked: the graph was built without the points, which is what a query is. repaired: built with them, then removed and
repaired. removed: built with them, then removed. A way whose recall lies above that of real queries would calibrate a
beam that is too narrow.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from bench import datasets, machine
from vicinal.cli.measuring import recall_at_k
from vicinal.index import GraphIndex

EFS = (10, 16, 24, 32, 48, 64, 100, 200, 400, 800)
HELD_OUT = 400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `heldout`."""
    datasets.add_arguments(parser)
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="points to hold out")
    machine.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    data = datasets.load(options)
    n = len(data.base)
    if not 1 <= options.held_out < n:
        raise ValueError(f"--held-out is {options.held_out}; choose 1 to {n - 1}")
    rng = np.random.default_rng(options.seed)
    rows = np.sort(rng.choice(n, options.held_out, replace=False))
    held = data.base[rows]
    efs = [ef for ef in EFS if ef >= data.k]
    without = replace(data, base=np.delete(data.base, rows, axis=0)).indexed()
    whole = data.indexed()
    ways = {"queries": recalls(whole, data.queries, data.k, efs)}
    ways["unlinked"] = recalls(without, held, data.k, efs)
    whole.remove(rows)
    ways["removed"] = recalls(whole, held, data.k, efs)
    whole.repair(threads=0)
    ways["repaired"] = recalls(whole, held, data.k, efs)
    print(f"{data.name}, {whole.format}, recall@{data.k}, {options.held_out} points held out")
    table: list[list[Any]] = [
        [ef, *(f"{ways[way][i]:.4f}" for way in ways)] for i, ef in enumerate(efs)
    ]
    machine.table(["#ef", *(f"#{way}" for way in ways)], table)
    result = {"machine": machine.describe(), "dataset": data.describe(), "efs": efs}
    machine.write(result | {"recall": ways}, "heldout", options.out)
    return 0


def recalls(index: GraphIndex, queries: np.ndarray, k: int, efs: list[int]) -> list[float]:
    """Recall@k of the queries at each beam width, against exact search of the same index."""
    truth = index.search(queries, k=k, exact=True, threads=0)[1]
    return [
        recall_at_k(index.search(queries, k=k, ef_search=ef, threads=0, near_part=0.0)[1], truth)
        for ef in efs
    ]
