"""Mixed searches and writes on a collection at a given rate, and whether searches stayed right meanwhile.

Operations arrive at random times (Poisson) whether or not earlier ones are done, and latency counts from the arrival:
a stall is felt by everyone who comes during it. Recall of a sample of searches is judged afterwards against exact
search over the points that were there for the whole of the search; a point that came or went during it counts neither
way. `stale` are hits that had been deleted before the search began: there must be none.

Mixes: 95/5 (search/insert), 70/20/10 (search/insert/delete), 30/70 (search/insert); or as in --mix 50/40/10.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import vicinal
from bench import datasets, machine
from bench.targets import fill
from vicinal.cli.measuring import recall_at_k
from vicinal.index import FlatIndex

MIXES = ("95/5", "70/20/10", "30/70")
OPERATIONS = ("search", "insert", "delete")
CALIBRATION_S = 2.0
LOAD_SHARE = 0.6
"""Of the rate that the same mix reaches unthrottled: what --rate is if not said."""

JUDGED_MAX = 500
RESERVE = 0.4
"""Of the points, what is kept for inserting."""

SATURATED_S = 0.5
"""An operation begun so late at the end of a run: more arrived than was done."""


@dataclass
class Log:
    """What happened, as needed to judge the searches afterwards.

    Attributes
    ----------
    born, dead : for each point of the data set (begin, end) of the write that made or removed it; NaN where none did.
    judged : (place of query, begin, end, ids) of the searches in the sample.
    """

    born: np.ndarray
    dead: np.ndarray
    latency: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in OPERATIONS}
    )
    judged: list[tuple[int, float, float, list[int]]] = field(default_factory=list)
    lag: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `workload`."""
    datasets.add_arguments(parser)
    parser.add_argument("--mix", default=",".join(MIXES), help="default: all three")
    parser.add_argument(
        "--rate", type=float, help="operations a second; default: 60 %% of the most"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each mix")
    parser.add_argument("--workers", type=int, default=4, help="threads that carry out operations")
    parser.add_argument("--durability", choices=("sync", "interval", "none"), default="sync")
    parser.add_argument("--ef", type=int, help="default: the collection's own")
    machine.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Run the mixes one after the other, each on a new collection; print and write."""
    mixes = [_mix(text) for text in options.mix.split(",")]
    data = datasets.load(options)
    rows: list[dict[str, Any]] = []
    for mix in mixes:
        rate = options.rate
        if rate is None:
            rate = LOAD_SHARE * _run(data, mix, None, CALIBRATION_S, options)["done_per_s"]
        rows.append(_run(data, mix, rate, options.seconds, options))
    print(f"{data.name}, {options.workers} workers, durability {options.durability}")
    table: list[list[Any]] = []
    for row in rows:
        for name, of in row["operations"].items():
            first = name == "search"
            table.append(
                [
                    row["mix"],
                    f"{row['offered_per_s']:,.0f}",
                    f"{row['done_per_s']:,.0f}" + (" (saturated)" if row["saturated"] else ""),
                    name,
                    f"{of['n']:,}",
                    *(f"{of[p]:.2f}" for p in ("p50_ms", "p95_ms", "p99_ms", "max_ms")),
                    f"{row['recall']:.4f}" if first and row["recall"] is not None else "",
                    str(row["stale"]) if first else "",
                ]
            )
    columns = ["mix", "#offered/s", "#done/s", "operation", "#n", "#p50 ms", "#p95 ms", "#p99 ms"]
    machine.table([*columns, "#max ms", f"#recall@{data.k}", "#stale"], table)
    result = {"machine": machine.describe(), "dataset": data.describe(), "rows": rows}
    settings = {"workers": options.workers, "durability": options.durability, "ef": options.ef}
    machine.write(result | settings, "workload", options.out)
    return 1 if any(row["stale"] for row in rows) else 0


def _run(
    data: datasets.Dataset,
    mix: dict[str, float],
    rate: float | None,
    seconds: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One mix on a new collection; unthrottled where there is no rate."""
    rng = np.random.default_rng(options.seed)
    n = len(data.base)
    present = n - int(n * RESERVE)
    folder = Path(tempfile.mkdtemp(prefix="vicinal-bench-"))
    try:
        with vicinal.open(folder / "db", durability=options.durability) as db:
            docs = db.collection("load", dim=data.dim, metric=data.metric, dtype=data.dtype)
            fill(docs, data.base[:present])
            docs.optimize()
            plan = _plan(n, present, mix, rate, seconds, rng, len(data.queries))
            log, took = _carry_out(docs, data, plan, rate, seconds, options)
            n_after = docs.count()
    finally:
        shutil.rmtree(folder)
    done = sum(map(len, log.latency.values()))
    log.born[:present] = -np.inf
    recall, stale = judge(data, log)
    return {
        "mix": "/".join(f"{100 * share:g}" for share in mix.values() if share),
        "offered_per_s": rate or done / took,
        "done_per_s": done / took,
        "saturated": rate is not None and log.lag > SATURATED_S,
        "seconds": took,
        "points_before": present,
        "points_after": n_after,
        "judged": len(log.judged),
        "recall": recall,
        "stale": stale,
        "operations": {
            name: _spread(np.asarray(times) * 1e3) for name, times in log.latency.items() if times
        },
    }


def _plan(
    n: int,
    present: int,
    mix: dict[str, float],
    rate: float | None,
    seconds: float,
    rng: np.random.Generator,
    n_queries: int,
) -> list[tuple[float, str, int]]:
    """(arrival, operation, place of the query or point), in order of arrival.

    Each point is inserted at most once and deleted at most once, so that what is there at any time is plain.
    """
    count = int((rate or 200_000) * seconds)
    arrival = np.zeros(count) if rate is None else np.cumsum(rng.exponential(1 / rate, count))
    names = rng.choice(OPERATIONS, count, p=list(mix.values()))
    fresh = iter(range(present, n))
    doomed = iter(rng.permutation(present).tolist())
    asked = rng.integers(n_queries, size=count)
    plan: list[tuple[float, str, int]] = []
    for at, name, query in zip(arrival.tolist(), names.tolist(), asked.tolist(), strict=True):
        place = query if name == "search" else next(fresh if name == "insert" else doomed, None)
        if place is None:
            if rate is None:
                break  # enough to know the rate
            raise ValueError(
                f"{n:,} points are too few for {name}s at {rate:,.0f} operations a second for {seconds:g} s; "
                "give more points, or a lower --rate or --seconds"
            )
        plan.append((at, name, place))
    return plan


def _carry_out(
    docs: vicinal.Collection,
    data: datasets.Dataset,
    plan: list[tuple[float, str, int]],
    rate: float | None,
    seconds: float,
    options: argparse.Namespace,
) -> tuple[Log, float]:
    """Let workers do the operations as they arrive; return the log and the seconds it took."""
    n = len(data.base)
    log = Log(np.full((n, 2), np.nan), np.full((n, 2), np.nan))
    n_searches = sum(name == "search" for _, name, _ in plan)
    every = max(1, n_searches // JUDGED_MAX)
    next_one, searches = iter(enumerate(plan)), 0
    lock = threading.Lock()
    faults: list[BaseException] = []
    zero = time.perf_counter()

    def work() -> None:
        nonlocal searches
        while not faults:
            with lock:
                _, (at, name, place) = next(next_one, (-1, (0.0, "", -1)))
                judged = name == "search" and searches % every == 0
                searches += name == "search"
            if not name or (rate is None and time.perf_counter() - zero > seconds):
                return
            wait = zero + at - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            begun = time.perf_counter()
            ids = _do(docs, data, name, place, options)
            end = time.perf_counter()
            if name == "insert":
                log.born[place] = begun - zero, end - zero
            elif name == "delete":
                log.dead[place] = begun - zero, end - zero
            log.latency[name].append(end - (begun if rate is None else zero + at))
            log.lag = begun - zero - at
            if judged and ids is not None:
                log.judged.append((place, begun - zero, end - zero, ids))

    def guarded() -> None:
        try:
            work()
        except BaseException as fault:  # raised again below
            faults.append(fault)

    workers = [threading.Thread(target=guarded) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if faults:
        raise faults[0]
    return log, time.perf_counter() - zero


def _do(
    docs: vicinal.Collection,
    data: datasets.Dataset,
    name: str,
    place: int,
    options: argparse.Namespace,
) -> list[int] | None:
    if name == "insert":
        docs.upsert(ids=[place], vectors=data.base[place : place + 1])
        return None
    if name == "delete":
        docs.delete(place)
        return None
    found: Any = docs.search(
        data.queries[place], k=data.k, ef_search=options.ef, with_payload=False
    )
    return [int(i) for i in found.ids]


def judge(data: datasets.Dataset, log: Log) -> tuple[float | None, int]:
    """Recall of the sampled searches, None where there are none, and the number of stale hits.

    A point was there for certain if its insert had ended when the search began and its delete began after it ended.
    """
    flat = FlatIndex(dim=data.dim, metric=data.metric, dtype=data.dtype)
    flat.add(data.base)
    shares: list[float] = []
    stale = 0
    for query, begun, end, ids in log.judged:
        there = (log.born[:, 1] <= begun) & ~(log.dead[:, 0] <= end)
        gone = log.dead[:, 1] <= begun
        stale += int(gone[ids].sum())
        certain = [i for i in ids if there[i]]
        moving = len(ids) - len(certain) - int(gone[ids].sum())
        k = min(data.k - moving, int(there.sum()))
        if k < 1:
            continue
        truth = flat.search(data.queries[query], k=k, filter=there)[1]
        mask = np.zeros(len(data.base), np.bool_)
        mask[certain] = True
        found = flat.search(data.queries[query], k=k, filter=mask)[1]
        shares.append(recall_at_k(found, truth))
    return (float(np.mean(shares)) if shares else None), stale


def _spread(ms: np.ndarray) -> dict[str, float]:
    p50, p95, p99 = np.percentile(ms, [50, 95, 99]).tolist()
    return {"n": len(ms), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": float(ms.max())}


def _mix(text: str) -> dict[str, float]:
    try:
        shares = [float(word) for word in text.split("/")]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= 3 or abs(sum(shares) - 100) > 1e-6 or min(shares) < 0:
        raise ValueError(
            f"mix {text!r}; give percentages of search, insert and delete that add up to 100"
        )
    return dict(zip(OPERATIONS, [s / 100 for s in [*shares, 0.0, 0.0][:3]], strict=True))
