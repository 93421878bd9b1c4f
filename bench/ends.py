"""Early ends against beams of one width for all queries, at equal recall, on one index.

`ef_search` does the work of a beam: a search ends when its results are settled and goes on where they are not (see
`GraphIndex.same_work`). `near_part=0` is the beam itself. Both search the same graph, in batches on one thread, in
turns; queries a second at a recall are interpolated along each curve, medians of the passes.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from bench import datasets, machine
from bench.report import at_recall
from vicinal.cli.measuring import recall_at_k
from vicinal.index import GraphIndex

EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 900)
RECALLS = (0.90, 0.95, 0.98, 0.99, 0.995)
WAYS = {"beam": 0.0, "early end": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `ends`."""
    datasets.add_arguments(parser)
    machine.add_arguments(parser, passes=5)


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    data = datasets.load(options)
    index = data.indexed()
    curves = measure(index, data, options.passes)
    rows: list[list[Any]] = []
    for recall in RECALLS:
        beam, end = (at_recall(curves[way], recall) for way in WAYS)
        if beam is not None and end is not None:
            ratio = np.median(end / beam)
            speeds = (f"{np.median(beam):.0f}", f"{np.median(end):.0f}")
            rows.append([f"{recall:.3f}", *speeds, f"{ratio:.2f}"])
    print(f"{data.name}, {index.format}: queries a second in batches on one thread")
    machine.table(["#recall", "#beam", "#early end", "#ratio"], rows)
    result = {"machine": machine.describe(), "dataset": data.describe(), "curves": curves}
    machine.write(result, "ends", options.out)
    return 0


def measure(index: GraphIndex, data: datasets.Dataset, passes: int) -> dict[str, dict[str, Any]]:
    """The curve of each way, as `at_recall` wants it."""
    curves: dict[str, dict[str, Any]] = {way: {"points": []} for way in WAYS}
    for ef in (ef for ef in EFS if ef >= data.k):
        points = {way: {"ef": ef, "recall": 0.0, "qps": []} for way in WAYS}
        for _ in range(passes):
            for way, near_part in WAYS.items():
                began = time.perf_counter()
                found = index.search(data.queries, k=data.k, ef_search=ef, near_part=near_part)[1]
                points[way]["qps"].append(len(data.queries) / (time.perf_counter() - began))
                points[way]["recall"] = recall_at_k(found, data.truth.distances)
        for way, point in points.items():
            curves[way]["points"].append(point)
    return curves
