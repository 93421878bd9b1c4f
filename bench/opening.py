"""How long opening takes: a sealed collection by its points, a log that was not sealed by its records.

Each opening is a process of its own and ends with its first search. For `cold` the files were thrown out of the page
cache, so that the disk has to give them again. The log is what a process leaves that died: it holds a record for each
upsert of one point, and is opened as it is, and once with replay one record at a time.

    python -m bench opening [--points 1000000] [--dim 32] [--records 1000000] [--passes 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--points", type=int, default=1_000_000, help="of the sealed collection")
    parser.add_argument("--records", type=int, default=1_000_000, help="of the log; 0 is no log")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument(
        "--M",
        type=int,
        default=16,
        help="links of a node of the graph, which takes the time of making",
    )
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the databases are made and kept")


def _rest(_: object) -> None:
    """In the place of the background thread, which would seal the log meanwhile."""


def make_sealed(path: Path, points: int, dim: int, links: int, breadth: int) -> None:
    """A collection in one segment; the time of making it is no part of the figures."""
    import vicinal

    rng = np.random.default_rng(1)
    with vicinal.open(path, durability="none") as db:
        docs = db.collection("c", dim=dim, M=links, ef_construction=breadth)
        for start in range(0, points, BATCH):
            rows = rng.standard_normal((min(BATCH, points - start), dim), dtype=np.float32)
            years = [{"year": 2000 + i % 30} for i in range(len(rows))]
            docs.upsert(ids=range(start, start + len(rows)), vectors=rows, payload=years)
        docs.optimize()


def make_log(path: Path, records: int, dim: int) -> None:
    """A collection that is all log, since its process never sealed and died."""
    import vicinal
    from vicinal.engine import background, maintenance

    background.Background._run = _rest  # pyright: ignore[reportPrivateUsage]
    maintenance.SEAL_ROWS_HARD = 2 * records
    rng = np.random.default_rng(2)
    db = vicinal.open(path, durability="none")
    docs = db.collection("c", dim=dim)
    for start in range(0, records, BATCH):
        rows = rng.standard_normal((min(BATCH, records - start), dim), dtype=np.float32)
        for i, row in enumerate(rows, start):
            docs.upsert(ids=[i], vectors=row[None])
    os._exit(0)


def open_once(path: Path, dim: int, group: int | None) -> dict[str, float]:
    """Open, search once; seconds and bytes."""
    import vicinal
    from vicinal.engine import background, replay

    background.Background._run = _rest  # pyright: ignore[reportPrivateUsage]
    if group is not None:
        replay.GROUP_RECORDS = group
    query = np.random.default_rng(3).standard_normal(dim, dtype=np.float32)
    began = time.perf_counter()
    db = vicinal.open(path)
    docs = db.collection("c")
    opened = time.perf_counter()
    hits = docs.search(query, k=10)
    searched = time.perf_counter()
    if len(hits) != 10:
        raise ValueError(f"{path}: {len(hits)} hits, not 10")
    second = time.perf_counter()
    docs.search(query, k=10)
    found = {
        "open_s": opened - began,
        "first_search_ms": 1000 * (searched - opened),
        "second_search_ms": 1000 * (time.perf_counter() - second),
        "processor_s": time.process_time(),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # as it died before, so that the next one finds the same


def main(options: argparse.Namespace) -> int:
    """Make both, open both."""
    folder = Path(tempfile.mkdtemp(prefix="vicinal-bench-", dir=options.folder))
    try:
        sealed, log = folder / "sealed", folder / "log"
        build = (options.M, options.ef_construction)
        _child("sealed", sealed, options.points, options.dim, *build)
        for name in ("warm", "cold"):
            passes = [
                _opened(sealed, options.dim, cold=name == "cold") for _ in range(options.passes)
            ]
            _say(f"{options.points} points of {options.dim} dimensions, sealed, {name}", passes)
        if options.records:
            _child("log", log, options.records, options.dim)
            passes = [_opened(log, options.dim) for _ in range(options.passes)]
            _say(f"{options.records} records in the log, warm", passes)
            _say("the same, one record at a time", [_opened(log, options.dim, group=1)])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _opened(
    path: Path, dim: int, *, cold: bool = False, group: int | None = None
) -> dict[str, Any]:
    copy = path.with_name("opened")  # an opening may change a database
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    if cold:
        for file in (f for f in copy.rglob("*") if f.is_file()):
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    return json.loads(_child("open", copy, dim, *([] if group is None else [group])))


def _child(*words: object) -> str:
    command = [sys.executable, "-m", "bench.opening", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


def _say(what: str, passes: list[dict[str, Any]]) -> None:
    middle = {name: statistics.median(p[name] for p in passes) for name in passes[0]}
    print(f"{what}: " + ", ".join(f"{name} {value:.3g}" for name, value in middle.items()))


if __name__ == "__main__":
    job, where, *numbers = sys.argv[1:]
    if job == "open":
        open_once(Path(where), int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else None)
    elif job == "sealed":
        make_sealed(Path(where), *map(int, numbers))
    else:
        make_log(Path(where), *map(int, numbers))
