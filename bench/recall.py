"""`recall=` asked for against recall reached by real queries, and its time against the best fixed beam.

The index calibrates itself on its own points while it is built (`own`; all queries judge), or on one half of the
queries while the other judges, both ways (`given`). Other rows are walks with random filters, of `own`.

One build's cell is off by chance, the more the smaller k is. So there may be several builds, each of another seed:
`off` is the mean of reached less asked, `builds` how far builds scatter about it (a standard deviation: what a user's
build may be off besides), `judges` the standard error that is left in the mean since queries are few. `off` is marked
where it lies outside the band by more than twice the standard error of both: what neither builds nor queries explain.
One build alone cannot tell.

`best` is the narrowest fixed ef_search that reaches the same recall on the judging queries, which no caller could know
beforehand. Searches are batches on one thread, in turns; times are medians of the passes, ratios of the builds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import datasets, machine
from vicinal.cli.measuring import hits_at_k, recall_at_k
from vicinal.index import FlatIndex, GraphIndex
from vicinal.index.calibration import Beam
from vicinal.model.limits import CALIBRATION_QUERIES_MAX, CALIBRATION_QUERIES_MIN

FILTERED = (0.5, 0.1)
FILTERS = 10
KS = (10, 1, 100)
ASKED = (0.90, 0.95, 0.99)
EF_SEARCHED_MAX = 4_096
BAND = (-0.005, 0.020)
"""How far the recall reached may be from the one asked for."""


@dataclass
class Cell:
    """One recall asked for, over the builds.

    Attributes
    ----------
    shares : for each build the recall of each judging query.
    times : for each build microseconds a query of ours and of the best fixed beam.
    """

    beams: list[Beam] = field(default_factory=list[Beam])
    shares: list[np.ndarray] = field(default_factory=list[np.ndarray])
    best: list[int] = field(default_factory=list[int])
    times: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def describe(self, asked: float) -> dict[str, Any]:
        """What the table says of it."""
        reached = [float(s.mean()) for s in self.shares]
        off = statistics.mean(reached) - asked
        n = len(reached)
        spread = statistics.stdev(reached) if n > 1 else None
        per_query = np.mean(self.shares, axis=0)
        judges = float(per_query.std()) / len(per_query) ** 0.5
        error = (judges**2 + (spread or 0.0) ** 2 / n) ** 0.5
        outside = max(BAND[0] - off, off - BAND[1])
        row: dict[str, Any] = {
            "expected": statistics.mean(1.0 if b.recall is None else b.recall for b in self.beams),
            "off": off,
            "builds": spread,
            "judges": judges,
            "systematic": n > 1 and outside > 2 * error,
            "outside": outside > 0,
            "ef": statistics.median_low([b.ef_search for b in self.beams]),
            "near_part": statistics.median_low([b.near_part for b in self.beams]),
            "reached": reached,
        }
        if self.times:
            row |= {
                "us": statistics.median(ours for ours, _ in self.times),
                "best_ef": statistics.median_low(self.best),
                "best_us": statistics.median(theirs for _, theirs in self.times),
                "ratio": statistics.median(ours / theirs for ours, theirs in self.times),
                "ratios": [ours / theirs for ours, theirs in self.times],
            }
        return row


Cells = defaultdict[tuple[str, int, float], Cell]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recall`."""
    datasets.add_arguments(parser)
    parser.add_argument("--builds", type=int, default=1, help="each of another seed")
    machine.add_arguments(parser, passes=7, which="of times; 0: recall alone")


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    if options.builds < 1 or options.passes < 0:
        raise ValueError(
            f"--builds is {options.builds} and --passes {options.passes}; choose 1 or more and 0 or more"
        )
    data = datasets.load(options)
    if len(data.queries) < 2 * CALIBRATION_QUERIES_MIN:
        raise ValueError(
            f"{len(data.queries)} queries are too few, as half of them calibrate; "
            f"use {2 * CALIBRATION_QUERIES_MIN} or more"
        )
    flat = FlatIndex(dim=data.dim, metric=data.metric, dtype=data.dtype)
    flat.add(data.base)
    truth = flat.search(data.queries, k=min(max(KS), len(data.base)))[1]
    rng = np.random.default_rng(options.seed)
    filtered = [Filtered(flat, data.queries, share, rng) for share in FILTERED]
    halves = [np.arange(half, len(data.queries), 2) for half in (0, 1)]
    cells: Cells = defaultdict(Cell)
    builds_s: list[float] = []
    for build in range(options.builds):
        began = time.perf_counter()
        index = data.indexed(seed=build)
        builds_s.append(time.perf_counter() - began)
        table = index.calibration
        if table is None:
            raise ValueError(f"{len(data.base)} points are too few to calibrate; use more")
        if build == 0:
            print(f"{data.name}, {index.format}, {table.n_queries} points held back")
        measure(index, data.queries, truth, "own", options.passes, cells)
        for filters in filtered:
            filters.measure(index, cells)
        given: Cells = defaultdict(Cell)
        for half in (0, 1):
            index.calibrate(data.queries[halves[half]][:CALIBRATION_QUERIES_MAX], threads=1)
            other = halves[1 - half]
            measure(index, data.queries[other], truth[other], "given", options.passes, given)
        _join_halves(given, cells)
    print(
        f"built in {', '.join(f'{s:.1f}' for s in builds_s)} s; {len(data.queries)} queries judge"
    )
    rows = [
        {"by": by, "k": k, "asked": asked} | cell.describe(asked)
        for (by, k, asked), cell in cells.items()
    ]
    _print(rows)
    result = {"machine": machine.describe(), "dataset": data.describe(), "build_s": builds_s}
    machine.write(result | {"rows": rows}, "recall", options.out)
    return 0


def measure(
    index: GraphIndex,
    queries: np.ndarray,
    truth: np.ndarray,
    by: str,
    passes: int,
    cells: Cells,
) -> None:
    """Add to the cell of each k and recall asked for; truth holds the distances of the nearest max(KS) points."""
    queries = np.ascontiguousarray(queries)
    for k in KS:
        near = truth[:, :k]
        for asked in ASKED:
            cell = cells[by, k, asked]
            cell.beams.append(index.choose_beam(k, asked))
            hits, wanted = hits_at_k(index.search(queries, k=k, recall=asked)[1], near)
            cell.shares.append(hits / wanted)
            if passes == 0:
                continue
            best = best_fixed(index, queries, near, float(cell.shares[-1].mean()))
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(passes):
                ours.append(_us(index, queries, k=k, recall=asked))
                theirs.append(_us(index, queries, k=k, ef_search=best, near_part=0.0))
            cell.best.append(best)
            cell.times.append((statistics.median(ours), statistics.median(theirs)))


class Filtered:
    """Random filters of one share with the truth of all queries, which are divided among them."""

    def __init__(
        self,
        flat: FlatIndex,
        queries: np.ndarray,
        share: float,
        rng: np.random.Generator,
    ) -> None:
        n = len(flat)
        self.share = share
        self.masks = [rng.random(n) < share for _ in range(FILTERS)]
        self.parts = [p for p in np.array_split(queries, FILTERS) if len(p)]
        self.truth = np.concatenate(
            [
                flat.search(q, k=max(KS), filter=m)[1]
                for q, m in zip(self.parts, self.masks, strict=False)
            ]
        )

    def measure(self, index: GraphIndex, cells: Cells) -> None:
        """Add walks with the filters, which a planner would replace by a scan where that is faster."""
        for k in KS:
            for asked in ASKED:
                beam = index.choose_beam(k, asked, self.share)
                if beam.recall is None or beam.ef_search == 0:
                    continue
                walk = index.filtered_walk(k, beam.ef_search, self.share)
                found = [
                    index.search(q, k=k, recall=asked, filter=m, strategy=walk)[1]
                    for q, m in zip(self.parts, self.masks, strict=False)
                ]
                hits, wanted = hits_at_k(np.concatenate(found), self.truth[:, :k])
                cell = cells[f"{self.share:.0%} match", k, asked]
                cell.beams.append(beam)
                cell.shares.append(hits / wanted)


def best_fixed(index: GraphIndex, queries: np.ndarray, truth: np.ndarray, recall: float) -> int:
    """The narrowest beam whose recall on these queries is at least the one given; EF_SEARCHED_MAX where none is."""
    k = truth.shape[1]
    low, high = k - 1, EF_SEARCHED_MAX
    while high - low > 1:
        middle = (low + high) // 2
        found = index.search(queries, k=k, ef_search=middle, near_part=0.0)[1]
        if recall_at_k(found, truth) >= recall:
            high = middle
        else:
            low = middle
    return high


def _join_halves(given: Cells, cells: Cells) -> None:
    # Both halves of the queries make one build's judgement.
    for key, halves in given.items():
        cell = cells[key]
        cell.beams.append(halves.beams[0])
        cell.shares.append(np.concatenate(halves.shares))
        if halves.times:
            cell.best.append(halves.best[0])
            ours, theirs = np.mean(halves.times, axis=0)
            cell.times.append((float(ours), float(theirs)))


def _print(rows: list[dict[str, Any]]) -> None:
    def mark(row: dict[str, Any]) -> str:
        return "!" if row["systematic"] else "?" if row["outside"] else ""

    machine.table(
        [
            "by",
            "#k",
            "#asked",
            "#expected",
            "#off",
            "",
            "#builds",
            "#judges",
            "#ef",
            "#part",
            "#us",
            "#best ef",
            "#ratio",
        ],
        [
            [
                row["by"],
                row["k"],
                f"{row['asked']:.2f}",
                f"{row['expected']:.4f}",
                f"{row['off']:+.4f}",
                mark(row),
                "" if row["builds"] is None else f"{row['builds']:.4f}",
                f"{row['judges']:.4f}",
                row["ef"] or "scan",
                f"{row['near_part']:.2f}",
                *(
                    [f"{row['us']:.1f}", row["best_ef"], f"{row['ratio']:.2f}"]
                    if "us" in row
                    else ["", "", ""]
                ),
            ]
            for row in rows
        ],
    )
    print(f"! outside {BAND[0]:+.3f} to {BAND[1]:+.3f} by more than chance, ? outside by no more")


def _us(index: GraphIndex, queries: np.ndarray, **options: Any) -> float:
    began = time.perf_counter()
    index.search(queries, **options)
    return (time.perf_counter() - began) / len(queries) * 1e6
