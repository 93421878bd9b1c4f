"""Latency of single searches after each stage of optimisation: p50, p95, p99 at the first recall that is enough.

Stages: every vector compared; the graph over one-byte codes with scalar code, then with each instruction set that
this processor has; the packed format; the packed format with work by query. Each is a process of its own over the same
two graphs. A query counts with the best of some passes, so that the figures are of queries and not of other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import datasets, machine
from vicinal.cli.measuring import recall_at_k
from vicinal.index import GraphIndex
from vicinal.native import best_isa, supported_isas

EFS = (10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 56, 68, 80, 96, 112, 140, 160, 200, 280, 400, 640)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `stages`."""
    datasets.add_arguments(parser)
    parser.add_argument("--recall", type=float, default=0.95, help="that each stage reaches")
    parser.add_argument("--threads", type=int, default=0, help="of building; default: all")
    parser.add_argument("--last", action="store_true", help="only the last stage, what a user gets")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    machine.add_arguments(parser, passes=5, which="of which each query's best counts")


def main(options: argparse.Namespace) -> int:
    """Build both graphs, measure each stage, print and write."""
    if options.passes < 1:
        raise ValueError(f"--passes is {options.passes}; 1 or more")
    if options.stage is not None:  # a child
        sys.stdout.write(json.dumps(measure(options)) + "\n")
        return 0
    data = datasets.load(options)
    stages = [("exact", best_isa())]
    stages += [("sq8", isa) for isa in supported_isas()]
    stages += [("rabitq", best_isa()), ("rabitq, by query", best_isa())]
    if options.last:
        stages = stages[-1:]
    with tempfile.TemporaryDirectory(prefix="vicinal-bench-") as name:
        folder = Path(name)
        for form in ("rabitq",) if options.last else ("sq8", "rabitq"):
            data.indexed(options.threads, format=form).save(folder / form)
        rows = [_child(stage, isa, folder, options) for stage, isa in stages]
    machine.table(
        ["stage", "instructions", "#ef", f"#recall@{data.k}", "#p50 us", "#p95 us", "#p99 us"],
        [
            [
                *(row["stage"], row["isa"], str(row["ef"] or ""), f"{row['recall']:.4f}"),
                *(f"{row[p]:.0f}" for p in ("p50_us", "p95_us", "p99_us")),
            ]
            for row in rows
        ],
    )
    result = {"machine": machine.describe(), "dataset": data.describe(), "rows": rows}
    machine.write(result, "stages", options.out)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One stage, over the graphs in the folder."""
    data = datasets.load(options)
    queries, truth = data.queries, data.truth.distances
    form = options.stage.partition(",")[0]
    index = GraphIndex.load(options.folder / ("sq8" if form == "exact" else form))
    how: dict[str, Any] = {"k": data.k}
    ef, recall = None, 1.0
    if form == "exact":
        how["exact"] = True
    else:
        if options.stage == form:
            how["near_part"] = 0.0  # one beam for all
        for width in (ef for ef in EFS if ef >= data.k):
            ef, recall = width, recall_at_k(index.search(queries, ef_search=width, **how)[1], truth)
            if recall >= options.recall:
                break
        how["ef_search"] = ef
    best = np.full(len(queries), np.inf)
    for _ in range(options.passes):
        for i in range(len(queries)):
            query = queries[i : i + 1]
            started = time.perf_counter()
            index.search(query, **how)
            best[i] = min(best[i], time.perf_counter() - started)
    spread = {f"p{q}_us": 1e6 * float(np.percentile(best, q)) for q in (50, 95, 99)}
    return {"stage": options.stage, "isa": best_isa(), "ef": ef, "recall": recall, **spread}


def _child(stage: str, isa: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    words = ["--stage", stage, "--folder", folder, "--passes", options.passes]
    words += ["--recall", options.recall, "-k", options.k, "--seed", options.seed]
    for name in ("data", "points", "queries"):
        if getattr(options, name) is not None:
            words += [f"--{name}", getattr(options, name)]
    command = [sys.executable, "-m", "bench", "stages", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"VICINAL_ISA": isa}
    )
    if done.returncode:
        raise ValueError(f"stage {stage}: {done.stderr.strip()[-500:] or done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
