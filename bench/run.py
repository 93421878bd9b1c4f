"""Recall, speed, latency, memory and insert rate of the index and of a collection, as one JSON file.

Each target is built and measured in several processes of its own, so that its memory is its own and so that what
differs from one build and one process to the next shows. Settings take turns in every pass, and between passes a
yardstick that is none of our code says how fast the machine was just then.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np

from bench import datasets, machine
from bench.targets import TARGETS
from vicinal.cli.measuring import recall_at_k, time_batch, time_singles

EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640)
RECALL_ENOUGH = 0.999
"""Wider beams than the first that reaches this are left out."""

SINGLE_QUERIES = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `run`."""
    datasets.add_arguments(parser)
    parser.add_argument("--targets", default="index,collection", help="default: index,collection")
    parser.add_argument("--threads", help="as in 1,2,4; default: 1 and every core")
    parser.add_argument("--ef", help="beam widths, as in 20,40,80; default: 13 from 10 to 640")
    parser.add_argument("--processes", type=int, default=3, help="of each target, in turns")
    parser.add_argument("--passes", type=int, default=3, help="of each process")
    parser.add_argument("--M", type=int, help="neighbours of a row, for the index")
    parser.add_argument("--ef-construction", type=int, help="for the index")
    parser.add_argument("--no-insert", action="store_true", help="leave the insert rate out")
    parser.add_argument("--no-single", action="store_true", help="leave single calls out")
    parser.add_argument("--label", help="what to call this run in reports")
    parser.add_argument("--out", type=Path, help="default: a new file in bench/results")


def main(options: argparse.Namespace) -> int:
    """Measure the targets and write the result."""
    names = options.targets.split(",")
    for name in names:
        if name not in TARGETS:
            raise ValueError(f"unknown target {name!r}; known are {', '.join(TARGETS)}")
    _numbers(options.ef, options.k)
    result: dict[str, Any] = {"label": options.label, "machine": machine.describe(), "targets": []}
    context = multiprocessing.get_context("spawn")
    if min(options.processes, options.passes) < 1:
        raise ValueError(f"{options.processes} processes, {options.passes} passes; 1 or more each")
    for name in names * options.processes:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_in_process, args=(name, options, send))
        process.start()
        send.close()
        try:
            answer = receive.recv()
        except EOFError:
            answer = f"{name}: its process ended without a result"
        process.join()
        if isinstance(answer, str):
            raise ValueError(answer)
        result["dataset"] = answer.pop("dataset")
        result["targets"].append(answer)
    path = machine.write(result, "run", options.out)
    from bench.report import show

    show([result], [path])
    return 0


def measure(name: str, data: datasets.Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one target; the process should have done nothing else before."""
    chosen = {"M": options.M, "ef_construction": options.ef_construction}
    before = machine.resident_bytes()
    target = TARGETS[name](data, {n: v for n, v in chosen.items() if v is not None})
    figures: dict[str, Any] = {"name": name, **target.build()}
    figures["resident_bytes_per_vector"] = (machine.resident_bytes() - before) / len(data.base)
    figures["accounted_bytes_per_vector"] = target.accounted_bytes() / len(data.base)
    cores = os.cpu_count() or 1
    threads = [int(t) for t in options.threads.split(",")] if options.threads else [1, cores]
    modes = ["batch"] if options.no_single else ["batch", "single"]
    efs = _enough(target, data, _numbers(options.ef, data.k))
    points = {
        (mode, t): [{"ef": ef, "recall": recall, "qps": [], "us": []} for ef, recall in efs]
        for mode in modes
        for t in dict.fromkeys(threads)
    }
    yardstick = machine.Yardstick()
    yardstick.seconds()
    figures["yardstick_s"] = []
    for _ in range(options.passes):
        figures["yardstick_s"].append(min(yardstick.seconds() for _ in range(3)))
        for (mode, t), curve in points.items():
            for point in curve:
                _one(target, data, mode, t, point)
    figures["curves"] = []
    for (mode, t), curve in points.items():
        for point in curve:
            times = np.concatenate([[], *point.pop("us")])
            if len(times):
                for q in (50, 95, 99):
                    point[f"p{q}_us"] = float(np.percentile(times, q))
        figures["curves"].append({"mode": mode, "threads": t, "points": curve})
    if not options.no_insert:  # last: what it leaves to the background would slow the searches
        figures |= target.insert()
    target.close()
    return figures


def _one(target: Any, data: datasets.Dataset, mode: str, t: int, point: dict[str, Any]) -> None:
    """One pass over one setting."""
    ef = point["ef"]
    if mode == "batch":
        seconds, _ = time_batch(lambda q: target.batch(q, ef, t), data.queries)
        point["qps"].append(len(data.queries) / seconds)
        return
    asked = data.queries[: SINGLE_QUERIES * t]
    seconds, each = time_singles(lambda q: target.single(q, ef), asked, threads=t)
    point["qps"].append(len(asked) / seconds)
    point["us"].append(each * 1e6)


def _enough(target: Any, data: datasets.Dataset, efs: list[int]) -> list[tuple[int, float]]:
    """Each beam width with its recall, up to the first that finds practically all; also the first touch."""
    found: list[tuple[int, float]] = []
    for ef in efs:
        recall = recall_at_k(target.batch(data.queries, ef, 1), data.truth.distances)
        found.append((ef, recall))
        if recall >= RECALL_ENOUGH:
            break
    return found


def _numbers(text: str | None, k: int) -> list[int]:
    if text is None:
        return sorted({max(ef, k) for ef in EFS})
    efs = sorted({int(word) for word in text.split(",")})
    if efs[0] < k:
        raise ValueError(f"--ef has {efs[0]}; each is at least k, {k}")
    return efs


def _in_process(name: str, options: argparse.Namespace, pipe: Any) -> None:
    try:
        data = datasets.load(options)
        pipe.send({"dataset": data.describe(), **measure(name, data, options)})
    except Exception as fault:  # told by the parent, which ends with it
        pipe.send(f"{name}: {type(fault).__name__}: {fault}")
