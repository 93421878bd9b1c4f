"""Update churn: delete and re-insert half of the points at random, round after round, and see what is left.

After each round: recall at one beam width, findability (the share of points that a search for their own vector finds
first, or one just as near), memory and time. The index numbers re-inserted rows anew and never gives rows back, so that
its memory grows with every round; a collection compacts in the background, and with --optimize after each round.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import vicinal
from bench import datasets, machine
from bench.targets import fill
from vicinal.cli.measuring import TIE_TOLERANCE, recall_at_k
from vicinal.model.memory import index_bytes

OWN = 5_000
"""Points whose findability is tested; all, where there are fewer."""


class Points(Protocol):
    """What is churned."""

    def replace(self, chosen: np.ndarray) -> None:
        """Delete the points of these places in the data set, then insert them again."""
        ...

    def distances(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        """Distances (n, k) of what a search finds."""
        ...

    def memory_bytes(self) -> int:
        """Memory that it says it holds."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class IndexPoints:
    """`GraphIndex`: rows are removed, the rest compacted, and the vectors added as new rows."""

    def __init__(self, data: datasets.Dataset, *, optimize: bool) -> None:
        if optimize:
            raise ValueError("--optimize goes with --target collection")
        self._data = data
        self._index = data.indexed()
        self._row = np.arange(len(data.base))

    def replace(self, chosen: np.ndarray) -> None:
        self._index.remove(self._row[chosen])
        compacted, kept = self._index.compact(threads=0)
        place = np.full(self._index.n, -1)
        place[kept] = np.arange(len(kept))
        self._index.close()
        self._index, self._row = compacted, place[self._row]
        self._row[chosen] = self._index.add(self._data.base[chosen])

    def distances(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        return self._index.search(queries, k=k, ef_search=ef, threads=0)[1]

    def memory_bytes(self) -> int:
        return self._index.memory_bytes

    def close(self) -> None:
        self._index.close()


class CollectionPoints:
    """A collection on disk."""

    def __init__(self, data: datasets.Dataset, *, optimize: bool) -> None:
        self._data, self._optimize = data, optimize
        self._folder = Path(tempfile.mkdtemp(prefix="vicinal-bench-"))
        self._db = vicinal.open(self._folder / "db")
        self._docs = self._db.collection(
            "churn", dim=data.dim, metric=data.metric, dtype=data.dtype
        )
        fill(self._docs, data.base)
        self._docs.optimize()

    def replace(self, chosen: np.ndarray) -> None:
        self._docs.delete(chosen.tolist())
        for i in range(0, len(chosen), 1_000):
            part = chosen[i : i + 1_000]
            self._docs.upsert(ids=part, vectors=self._data.base[part])
        if self._optimize:
            self._docs.optimize()

    def distances(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        found: Any = self._docs.search(queries, k=k, ef_search=ef, with_payload=False)
        return found.distances

    def memory_bytes(self) -> int:
        return index_bytes(self._docs.stats())

    def close(self) -> None:
        self._db.close()
        shutil.rmtree(self._folder)


TARGETS = {"index": IndexPoints, "collection": CollectionPoints}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `churn`."""
    datasets.add_arguments(parser)
    parser.add_argument("--target", choices=TARGETS, default="index")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.5, help="of the points, each round")
    parser.add_argument("--ef", type=int, default=100)
    parser.add_argument("--optimize", action="store_true", help="a collection, after each round")
    machine.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Churn, measure, print and write."""
    if not 0 < options.share <= 1:
        raise ValueError(f"--share is {options.share}; it is above 0 and at most 1")
    data = datasets.load(options)
    points = TARGETS[options.target](data, optimize=options.optimize)
    rng = np.random.default_rng(options.seed)
    rounds = [_state(points, data, options.ef, rng) | {"round": 0, "seconds": 0.0}]
    for turn in range(1, options.rounds + 1):
        chosen = rng.choice(len(data.base), round(options.share * len(data.base)), replace=False)
        started = time.perf_counter()
        points.replace(chosen)
        seconds = time.perf_counter() - started
        state = _state(points, data, options.ef, rng)
        rounds.append(
            state | {"round": turn, "seconds": seconds, "updates_per_s": 2 * len(chosen) / seconds}
        )
    points.close()
    print(
        f"{data.name}, {options.target}, ef {options.ef}; {options.share:.0%} replaced each round"
    )
    columns = ["#round", f"#recall@{data.k}", "#found by own vector", "#bytes/vector", "#seconds"]
    machine.table(
        columns,
        [
            [
                str(r["round"]),
                f"{r['recall']:.4f}",
                f"{r['findability']:.5f}",
                f"{r['bytes_per_vector']:.0f}",
                f"{r['seconds']:.2f}",
            ]
            for r in rounds
        ],
    )
    result = {"machine": machine.describe(), "dataset": data.describe(), "target": options.target}
    machine.write(result | {"ef": options.ef, "rounds": rounds}, "churn", options.out)
    return 0


def _state(
    points: Points, data: datasets.Dataset, ef: int, rng: np.random.Generator
) -> dict[str, Any]:
    """The same points are there after each round, so that truth stays what it was."""
    found = points.distances(data.queries, data.k, ef)
    n = len(data.base)
    own = data.base if n <= OWN else data.base[rng.choice(n, OWN, replace=False)]
    nearest = points.distances(own, 1, ef)[:, 0]
    # How far a vector is from itself: -|x|^2 under ip, 0 elsewhere, and never less by any other but under ip.
    itself = -np.einsum("ij,ij->i", own, own) if data.metric == "ip" else np.zeros(len(own))
    tolerance = TIE_TOLERANCE * np.maximum(1.0, np.abs(itself))
    return {
        "recall": recall_at_k(found, data.truth.distances),
        "findability": float((nearest <= itself + tolerance).mean()),
        "bytes_per_vector": points.memory_bytes() / n,
        "resident_bytes": machine.resident_bytes(),
    }
