"""Filtered search: recall and time of each strategy by how many points match and how they lie to the query.

random: which points match has nothing to do with the query. correlated: those nearest to the query match, the best case
of plain traversal. anti: those farthest from it match, the worst. Each query has its own matches, hence its own
filter. Time is of single calls, a filter made beforehand; `plain` is the same search without any filter.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from bench import datasets, machine
from vicinal import native
from vicinal.cli.measuring import recall_at_k
from vicinal.index import FlatIndex, GraphIndex
from vicinal.index.arrays import filter_words

SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)
KINDS = ("random", "correlated", "anti")
STRATEGIES = ("auto", "scan", "filter", "gate")
QUERIES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `filters`."""
    datasets.add_arguments(parser)
    parser.add_argument("--ef", type=int, default=100)
    machine.add_arguments(parser, passes=3, which="the fastest of each call counts")


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    options.queries = min(options.queries or QUERIES, QUERIES)
    data = datasets.load(options)
    index = data.indexed()
    flat = FlatIndex(dim=data.dim, metric=data.metric, dtype=data.dtype)
    flat.add(data.base)
    plain = _search(index, data, [None] * len(data.queries), "auto", options)
    plain["recall"] = recall_at_k(plain.pop("distances"), data.truth.distances)
    rng = np.random.default_rng(options.seed)
    order = [by_distance(data, q).astype(np.uint32) for q in range(len(data.queries))]
    rows: list[dict[str, Any]] = []
    for selectivity in SELECTIVITIES:
        for kind in KINDS:
            masks = [matches(near, kind, selectivity, rng) for near in order]
            truth = np.concatenate(
                [
                    flat.search(q, k=data.k, filter=mask)[1]
                    for q, mask in zip(data.queries, masks, strict=True)
                ]
            )
            packed = [filter_words(mask, len(mask)) for mask in masks]
            for strategy in STRATEGIES:
                row = _search(index, data, packed, strategy, options)
                recall = recall_at_k(row.pop("distances"), truth)
                rows.append(
                    {
                        "selectivity": selectivity,
                        "kind": kind,
                        "strategy": strategy,
                        "recall": recall,
                        **row,
                    }
                )
    print(
        f"{data.name}, ef {options.ef}; without a filter: recall {plain['recall']:.4f}, "
        f"p50 {plain['p50_us']:.0f} us"
    )
    for row in rows:
        scan = next(r for r in rows if r["strategy"] == "scan" and _cell(r) == _cell(row))
        row["time_of_plain"] = row["p50_us"] / plain["p50_us"]
        row["time_of_scan"] = row["p50_us"] / scan["p50_us"]
    machine.table(
        ["#matches", "which", "strategy", "#recall", "#p50 us", "#p99 us", "#x plain", "#x scan"],
        [
            [
                f"{r['selectivity']:.1%}",
                r["kind"],
                r["strategy"],
                f"{r['recall']:.4f}",
                f"{r['p50_us']:.1f}",
                f"{r['p99_us']:.1f}",
                f"{r['time_of_plain']:.2f}",
                f"{r['time_of_scan']:.2f}",
            ]
            for r in rows
        ],
    )
    result = {"machine": machine.describe(), "dataset": data.describe(), "ef": options.ef}
    machine.write(result | {"plain": plain, "rows": rows}, "filters", options.out)
    return 0


def matches(
    near: np.ndarray, kind: str, selectivity: float, rng: np.random.Generator
) -> np.ndarray:
    """A mask of n booleans for one query, round(selectivity n) of them true (at least one).

    near : every row, the query's nearest first.
    """
    n = len(near)
    count = max(1, round(selectivity * n))
    chosen = {
        "random": lambda: rng.choice(n, count, replace=False),
        "correlated": lambda: near[:count],
        "anti": lambda: near[n - count :],
    }[kind]()
    mask = np.zeros(n, np.bool_)
    mask[chosen] = True
    return mask


def by_distance(data: datasets.Dataset, q: int) -> np.ndarray:
    """Every row, nearest to query q first."""
    kernel = {"l2": "l2", "manhattan": "l1", "hamming": "hamming"}.get(data.metric, "dot")
    found = native.distances(data.queries[q], data.base, kernel)
    if kernel == "dot":
        found = -found
        if data.metric == "cosine":
            found *= native.inverse_norms(data.base)
    return np.argsort(found, kind="stable")


def _search(
    index: GraphIndex,
    data: datasets.Dataset,
    filters: list[Any],
    strategy: Any,
    options: argparse.Namespace,
) -> dict[str, Any]:
    times = np.full(len(filters), np.inf)
    found: list[np.ndarray] = []
    for turn in range(options.passes + 1):  # the first is a warm-up and gives the results
        for i, words in enumerate(filters):
            started = time.perf_counter()
            hits = index.search(
                data.queries[i : i + 1],
                k=data.k,
                ef_search=options.ef,
                filter=words,
                strategy=strategy,
            )
            if turn:
                times[i] = min(times[i], time.perf_counter() - started)
            else:
                found.append(hits[1])
    p50, p95, p99 = np.percentile(times * 1e6, [50, 95, 99]).tolist()
    return {
        "distances": np.concatenate(found),
        "mean_us": float(times.mean() * 1e6),
        "p50_us": p50,
        "p95_us": p95,
        "p99_us": p99,
    }


def _cell(row: dict[str, Any]) -> tuple[float, str]:
    return row["selectivity"], row["kind"]
