"""Filtered search: recall and time of each strategy by how many points match and how they lie to the query.

random: which points match has nothing to do with the query. correlated: those nearest to the query match, the best case
of plain traversal. anti: those farthest from it match, the worst. Each query has its own matches, hence its own
filter. Time is of single calls, a filter made beforehand; the median of the queries, each with its fastest pass.

`auto` is what a search does. It is judged by the others, all over the same matches: `scan` compares their codes,
and then the best exactly; `exact` compares them all exactly; `filter` walks over matches alone, `gate` over everything
and keeps matches; `more` is a search without the filter for twice as many results as that takes on average, at most
MORE_MAX, of which the matches are kept. `x best` is the time of auto to that of the fastest of those that reach a
recall of 0.95.

Recalls differ, so `--reach 0.95 0.98` compares `auto` with `more` where both find as much: the narrowest beam of EFS
with which each reaches the recall, and their times with it; `-` where none does.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import datasets, machine
from vicinal import native
from vicinal.cli.measuring import recall_at_k
from vicinal.index import FlatIndex, GraphIndex
from vicinal.index.arrays import filter_words

SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)
KINDS = ("random", "correlated", "anti")
STRATEGIES = ("auto", "scan", "exact", "filter", "gate", "more")
RECALL_MIN = 0.95
MORE_MAX = 1_000
EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640)
REACHING = ("auto", "more")
QUERIES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `filters`."""
    datasets.add_arguments(parser)
    parser.add_argument("--ef", type=int, default=100)
    parser.add_argument("--reach", type=float, nargs="*", default=[], help="recalls to compare at")
    machine.add_arguments(parser, passes=3, which="the fastest of each call counts")


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    options.queries = min(options.queries or QUERIES, QUERIES)
    data = datasets.load(options)
    index = data.indexed()
    flat = FlatIndex(dim=data.dim, metric=data.metric, dtype=data.dtype)
    flat.add(data.base)
    whole = [None] * len(data.queries)
    unfiltered = _search(index, data, whole, 1.0, ("auto",), options)["auto"]
    unfiltered["recall"] = recall_at_k(unfiltered.pop("distances"), data.truth.distances)
    rng = np.random.default_rng(options.seed)
    order = [by_distance(data, q).astype(np.uint32) for q in range(len(data.queries))]
    rows: list[dict[str, Any]] = []
    reached: list[dict[str, Any]] = []
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
            cell_of = {"selectivity": selectivity, "kind": kind}
            reached += [
                cell_of | row for row in _reach(index, data, packed, selectivity, truth, options)
            ]
            measured = _search(index, data, packed, selectivity, STRATEGIES, options)
            cell = {
                strategy: row | {"recall": recall_at_k(row.pop("distances"), truth)}
                for strategy, row in measured.items()
            }
            best = min(
                (row["p50_us"] for name, row in cell.items() if _rivals(name, row["recall"])),
                default=None,
            )
            rows += [
                cell_of
                | {"strategy": strategy}
                | row
                | {"time_of_best": row["p50_us"] / best if best else None}
                for strategy, row in cell.items()
            ]
    print(
        f"{data.name}, {index.format}, ef {options.ef}, {len(data.queries)} queries; without a filter: "
        f"recall {unfiltered['recall']:.4f}, p50 {unfiltered['p50_us']:.0f} us"
    )
    machine.table(
        ["#matches", "which", *(f"#{name}, us" for name in STRATEGIES), "#x best"],
        [_line(rows[i : i + len(STRATEGIES)]) for i in range(0, len(rows), len(STRATEGIES))],
    )
    if reached:
        machine.table(
            ["#matches", "which", "#recall", *(f"#{name}, ef, us" for name in REACHING), "#x more"],
            [_reached_line(row) for row in reached],
        )
    result = {"machine": machine.describe(), "dataset": data.describe(), "ef": options.ef}
    result |= {"plain": unfiltered, "rows": rows, "reached": reached}
    machine.write(result, "filters", options.out)
    return 0


def _reach(
    index: GraphIndex,
    data: datasets.Dataset,
    filters: list[Any],
    share: float,
    truth: np.ndarray,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """For each recall asked for the narrowest beam of each strategy that reaches it, and its time."""
    found: dict[tuple[str, float], tuple[int, float]] = {}
    for ef in (ef for ef in EFS if ef >= data.k):
        left = [s for s in REACHING if any((s, asked) not in found for asked in options.reach)]
        if not left:
            break
        at = argparse.Namespace(**vars(options) | {"ef": ef})
        for name, row in _search(index, data, filters, share, left, at).items():
            recall = recall_at_k(row["distances"], truth)
            for asked in options.reach:
                if recall >= asked:
                    found.setdefault((name, asked), (ef, row["p50_us"]))
    return [
        {"recall": asked} | {name: found.get((name, asked)) for name in REACHING}
        for asked in options.reach
    ]


def _reached_line(row: dict[str, Any]) -> list[str]:
    ours, theirs = (row[name] for name in REACHING)
    return [
        f"{row['selectivity']:.1%}",
        row["kind"],
        f"{row['recall']:.2f}",
        *("-" if way is None else f"{way[0]}, {way[1]:.0f}" for way in (ours, theirs)),
        "" if ours is None or theirs is None else f"{ours[1] / theirs[1]:.2f}",
    ]


def _rivals(strategy: str, recall: float) -> bool:
    """Whether it is one of those that `auto` must not be slower than."""
    return strategy != "auto" and recall >= RECALL_MIN


def _line(cell: list[dict[str, Any]]) -> list[str]:
    ratio = cell[STRATEGIES.index("auto")]["time_of_best"]
    return [
        f"{cell[0]['selectivity']:.1%}",
        cell[0]["kind"],
        *(f"{row['recall']:.3f}, {row['p50_us']:.0f}" for row in cell),
        "" if ratio is None else f"{ratio:.2f}",
    ]


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
    share: float,
    strategies: Sequence[Any],
    options: argparse.Namespace,
) -> dict[str, dict[str, Any]]:
    """Distances and times of each strategy; passes take turns."""
    times = {name: np.full(len(filters), np.inf) for name in strategies}
    found: dict[str, list[np.ndarray]] = {name: [] for name in strategies}
    for turn in range(options.passes + 1):  # the first is a warm-up and gives the results
        # In turns both ways, so that none always comes after one that left its rows in the cache, or threw them out.
        for name in strategies if turn % 2 else reversed(strategies):
            for i, words in enumerate(filters):
                started = time.perf_counter()
                query = data.queries[i : i + 1]
                if name == "more":
                    distances = _more(index, query, data.k, words, share, options.ef)
                elif name == "exact":
                    distances = index.search(query, k=data.k, filter=words, exact=True)[1]
                else:
                    distances = index.search(
                        query, k=data.k, ef_search=options.ef, filter=words, strategy=name
                    )[1]
                took = time.perf_counter() - started
                if turn:
                    times[name][i] = min(times[name][i], took)
                else:
                    found[name].append(distances)
    measured: dict[str, dict[str, Any]] = {}
    for name in strategies:
        p50, p95, p99 = np.percentile(times[name] * 1e6, [50, 95, 99]).tolist()
        mean = float(times[name].mean() * 1e6)
        measured[name] = {"distances": np.concatenate(found[name]), "mean_us": mean}
        measured[name] |= {"p50_us": p50, "p95_us": p95, "p99_us": p99}
    return measured


def _more(
    index: GraphIndex, query: np.ndarray, k: int, words: np.ndarray, share: float, ef: int
) -> np.ndarray:
    """The matches among the results of a search without the filter."""
    wanted = min(math.ceil(2 * k / share), index.n, MORE_MAX)
    rows, distances = index.search(query, k=wanted, ef_search=max(ef, wanted))
    kept = (words[rows[0] >> 6] >> (rows[0] & 63).astype(np.uint64)) & np.uint64(1)
    near = distances[0][kept.astype(np.bool_)][:k]
    return np.pad(near, (0, k - len(near)), constant_values=np.inf)[None]
