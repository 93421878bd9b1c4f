"""Does close give everything back, and drop: descriptors and the budget exactly, memory by the slope over many rounds.

The slope is the Theil-Sen estimate (the median of the slopes between all pairs of points), which a garbage
collection here or an allocator's block there does not move. It runs in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from report import Result

import vicinal
from vicinal.storage import rocks

PURPOSE = "descriptors and memory that close() and drop() give back"
ROWS, DIM = 400, 16
WARM_UP = 6
SLOPE_BYTES_MAX = 20_000
"""For each round, of many; a round makes segments, indexes and tables of about 600 kB."""

NOISE_BYTES = 2_000_000
"""What the allocator may keep over a whole run: it settles, but ten rounds are too few to see it."""

CACHE_BYTES = 2**20
BUDGET_BYTES = 256 * 2**20

VECTORS = np.random.default_rng(1).standard_normal((ROWS, DIM)).astype(np.float32)
PAYLOAD = [{"year": 2000 + i % 9, "text": "x" * 100} for i in range(ROWS)]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--rounds", type=int, default=40, help="of each kind (400)")


def slope(values: list[float], times: list[float] | None = None) -> float:
    """Theil-Sen: the median slope between any two points; x is 0, 1, 2, ... or times."""
    x = list(range(len(values))) if times is None else times
    pairs = combinations(range(len(values)), 2)
    return median((values[j] - values[i]) / (x[j] - x[i]) for i, j in pairs) if len(x) > 1 else 0.0


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    """Threads of this process."""
    return len(os.listdir("/proc/self/task"))


def use(docs: Any) -> None:
    """Write, seal, filter, search, change, merge."""
    docs.upsert(ids=range(ROWS), vectors=VECTORS, payload=PAYLOAD)
    docs.optimize()
    docs.search(VECTORS[:5], k=5, where="year > 2003")
    docs.update(range(20), {"year": 1})
    docs.delete(range(20, 40))
    docs.search(VECTORS[0], k=5, where="year > 2003")


def accounted(db: Any) -> int:
    """What the budget still counts of its collections."""
    stats = db.engine.budget.stats()
    return stats["used"] - stats["block_cache"]


def _open_and_close(folder: Path) -> int:
    with vicinal.open(folder / "db", memory_budget=BUDGET_BYTES) as db:
        use(db.collection("c", dim=DIM, M=8, ef_construction=40))
    with vicinal.open(folder / "db", read_only=True, memory_budget=BUDGET_BYTES) as reader:
        reader.collection("c").search(VECTORS[0], k=5, where="year > 2003")
    return accounted(db) + accounted(reader)


def _drop(db: Any) -> int:
    use(db.collection("c", dim=DIM, M=8, ef_construction=40))
    db.drop("c")
    return accounted(db)


def measure(kind: str, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Memory, descriptors and threads after each round behind the warm-up."""
    names = ("memory", "descriptors", "threads", "accounted")
    kept: dict[str, list[float]] = {name: [] for name in names}
    folder.mkdir(parents=True)
    # The cache of blocks is shared and bounded, and keeps those of closed stores: it must be full at once.
    rocks.BLOCK_CACHE_BYTES = CACHE_BYTES
    db = vicinal.open(folder / "one", memory_budget=BUDGET_BYTES) if kind == "drop" else None
    for number in range(WARM_UP + rounds):
        if db is None:
            left = _open_and_close(folder)
            shutil.rmtree(folder / "db")
        else:
            left = _drop(db)
        gc.collect()
        if number >= WARM_UP:
            kept["memory"].append(resident_bytes())
            kept["descriptors"].append(descriptors())
            kept["threads"].append(threads())
            kept["accounted"].append(left)
    if db is not None:
        db.close()
    return kept


def run(options: argparse.Namespace, folder: Path, bug: str | None = None) -> Result:
    """Both kinds."""
    result = Result("leaks", f"leaks --rounds {options.rounds}")
    for kind in ("close", "drop"):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, __file__, kind, str(options.rounds), str(folder / kind), bug or ""],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        if done.returncode:
            result.violations.append(f"{kind}: {done.stderr[-2000:]}")
            continue
        kept = json.loads(done.stdout)
        grown = slope(kept["memory"])
        result.figures[f"{kind}: memory, bytes a round"] = round(grown)
        for what in ("descriptors", "threads"):
            values = kept[what]
            result.figures[f"{kind}: {what}, first and last"] = f"{values[0]}, {values[-1]}"
            if slope(values) > 0 or values[-1] > values[0]:
                result.violations.append(f"{kind}: {what} grow: {values[0]} to {values[-1]}")
        left = max(kept["accounted"])
        result.figures[f"{kind}: bytes that the budget still counts"] = left
        if left:
            result.violations.append(f"{kind}: the budget still counts {left} bytes")
        allowed = SLOPE_BYTES_MAX + NOISE_BYTES / options.rounds
        if grown > allowed:
            result.violations.append(
                f"{kind}: memory grows by {grown:.0f} bytes a round, more than {allowed:.0f}"
            )
        result.figures[f"{kind}: ms a round"] = round(
            1000 * (time.monotonic() - began) / (WARM_UP + options.rounds)
        )
    return result


if __name__ == "__main__":
    if sys.argv[4]:
        import planted

        planted.BUGS[sys.argv[4]]()
    sys.stdout.write(json.dumps(measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
