"""`recall=` asked for against recall reached by real queries, and its time against the best fixed beam.

The index calibrates itself on its own points while it is built (`own`), or on half of the queries (`given`); the
other half judges both. `part` is how near the found points must be for a walk to end early, `best` the narrowest fixed
ef_search that reaches the same recall on the judging queries, which no caller could know beforehand. Searches are
batches on one thread, in turns; times are medians of the passes. The last lines are walks with random filters, whose
calibration is their own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

from bench import datasets, machine
from vicinal.cli.measuring import recall_at_k
from vicinal.index import FlatIndex, GraphIndex
from vicinal.index.graph import Strategy
from vicinal.model.limits import CALIBRATION_QUERIES_MAX

FILTERED: tuple[tuple[float, Strategy], ...] = ((0.5, "gate"), (0.1, "filter"))
FILTERS = 10
KS = (10, 1, 100)
ASKED = (0.90, 0.95, 0.99)
EF_SEARCHED_MAX = 4_096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recall`."""
    datasets.add_arguments(parser)
    machine.add_arguments(parser, passes=7)


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    data = datasets.load(options)
    began = time.perf_counter()
    index = data.indexed()
    build_s = time.perf_counter() - began
    giving = np.ascontiguousarray(data.queries[0::2][:CALIBRATION_QUERIES_MAX])
    queries = np.ascontiguousarray(data.queries[1::2])
    flat = FlatIndex(dim=data.dim, metric=data.metric, dtype=data.dtype)
    flat.add(data.base)
    truth = flat.search(queries, k=min(max(KS), len(data.base)))[1]
    table = index.calibration
    if table is None:
        raise ValueError(f"{len(data.base)} points are too few to calibrate; use more")
    rows = measure(index, queries, truth, "own", options.passes)
    print(
        f"{data.name}, {index.format}, built in {build_s:.1f} s, {table.n_queries} points held back, "
        f"{len(queries)} judging queries"
    )
    began = time.perf_counter()
    index.calibrate(giving, threads=1)
    print(
        f"calibrated with {len(giving)} queries in {time.perf_counter() - began:.1f} s on one thread"
    )
    rows += measure(index, queries, truth, "given", options.passes)
    rows += measure_filtered(index, flat, queries, np.random.default_rng(options.seed))
    machine.table(
        [
            "by",
            "#k",
            "#asked",
            "#expected",
            "#reached",
            "#off",
            "#ef",
            "#part",
            "#us",
            "#best ef",
            "#us",
            "#ratio",
        ],
        [
            [
                row["by"],
                row["k"],
                f"{row['asked']:.2f}",
                f"{row['expected']:.4f}",
                f"{row['reached']:.4f}",
                f"{row['reached'] - row['asked']:+.4f}",
                row["ef"] or "scan",
                f"{row['near_part']:.2f}",
                *_times(row),
            ]
            for row in rows
        ],
    )
    result = {"machine": machine.describe(), "dataset": data.describe(), "build_s": build_s}
    machine.write(result | {"rows": rows}, "recall", options.out)
    return 0


def measure(
    index: GraphIndex, queries: np.ndarray, truth: np.ndarray, by: str, passes: int
) -> list[dict[str, Any]]:
    """A row for each k and recall asked for; truth holds the distances of the nearest max(KS) points."""
    rows: list[dict[str, Any]] = []
    for k in KS:
        near = truth[:, :k]
        for asked in ASKED:
            beam = index.choose_beam(k, asked)
            reached = recall_at_k(index.search(queries, k=k, recall=asked)[1], near)
            best = best_fixed(index, queries, near, reached)
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(passes):
                ours.append(_seconds(index, queries, k=k, recall=asked))
                theirs.append(_seconds(index, queries, k=k, ef_search=best, near_part=0.0))
            rows.append(
                {
                    "by": by,
                    "k": k,
                    "asked": asked,
                    "expected": 1.0 if beam.recall is None else beam.recall,
                    "reached": reached,
                    "ef": beam.ef_search,
                    "near_part": beam.near_part,
                    "us": statistics.median(ours) / len(queries) * 1e6,
                    "best_ef": best,
                    "best_us": statistics.median(theirs) / len(queries) * 1e6,
                }
            )
    return rows


def measure_filtered(
    index: GraphIndex, flat: FlatIndex, queries: np.ndarray, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Rows for walks with random filters, which a planner would replace by a scan where that is faster."""
    rows: list[dict[str, Any]] = []
    for share, strategy in FILTERED:
        masks = [rng.random(index.n) < share for _ in range(FILTERS)]
        parts = np.array_split(queries, FILTERS)
        for k in KS:
            truth = [flat.search(q, k=k, filter=m)[1] for q, m in zip(parts, masks, strict=True)]
            for asked in ASKED:
                beam = index.choose_beam(k, asked, share)
                if beam.recall is None or beam.ef_search == 0:
                    continue
                found = [
                    index.search(q, k=k, recall=asked, filter=m, strategy=strategy)[1]
                    for q, m in zip(parts, masks, strict=True)
                ]
                rows.append(
                    {
                        "by": f"{share:.0%} match",
                        "k": k,
                        "asked": asked,
                        "expected": beam.recall,
                        "reached": recall_at_k(np.concatenate(found), np.concatenate(truth)),
                        "ef": beam.ef_search,
                        "near_part": beam.near_part,
                    }
                )
    return rows


def best_fixed(index: GraphIndex, queries: np.ndarray, truth: np.ndarray, recall: float) -> int:
    """The narrowest beam whose recall on these queries is at least the one given; EF_SEARCHED_MAX where none is."""
    k = truth.shape[1]
    low, high = k - 1, EF_SEARCHED_MAX
    while high - low > 1:
        middle = (low + high) // 2
        if (
            recall_at_k(index.search(queries, k=k, ef_search=middle, near_part=0.0)[1], truth)
            >= recall
        ):
            high = middle
        else:
            low = middle
    return high


def _times(row: dict[str, Any]) -> list[str]:
    if "us" not in row:
        return ["", "", "", ""]
    ratio = row["us"] / row["best_us"]
    return [f"{row['us']:.1f}", str(row["best_ef"]), f"{row['best_us']:.1f}", f"{ratio:.2f}"]


def _seconds(index: GraphIndex, queries: np.ndarray, **options: Any) -> float:
    began = time.perf_counter()
    index.search(queries, **options)
    return time.perf_counter() - began
