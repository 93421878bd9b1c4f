"""Batches over Arrow Flight beside those of an embedded database, in turns; for bench/protocols.py.

Both read the same files at the same time and have the same core, so that neither has the better pages nor the better
minute: measured one after the other, the ratio was 0.72 on one day and 0.94 on another. As a program it is the embedded
one: each line on stdin is answered with the seconds of one batch.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import vicinal

K = 10
BATCH = 2_000
TURNS = 15
OUTSIDE = 3
"""Of TURNS ratios, so many at either end are outside of the interval, which has the median with 96 %."""

WARM_UPS = 2


def batches_in_turns(path: Path, url: str, queries: Any, *, pinned: bool) -> dict[str, Any]:
    """Queries a second of both, and the median of the ratios with its interval. url : a server of the files at path.

    pinned : the server has core 0, and so has the embedded database then.
    """
    many = np.resize(queries, (BATCH, queries.shape[1]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "queries.npy"
        np.save(file, many)
        words = [sys.executable, __file__, str(path), str(file)]
        if pinned and shutil.which("taskset"):
            words = ["taskset", "-c", "0", *words]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            with vicinal.open(url) as db:
                docs = db.collection("docs")

                def served() -> float:
                    began = time.perf_counter()
                    docs.search(many, k=K, with_payload=False)
                    return time.perf_counter() - began

                for _ in range(WARM_UPS):
                    served()
                    _embedded(process)
                pairs = list[tuple[float, float]]()
                for turn in range(TURNS):
                    if turn % 2:
                        first = served()
                        pairs.append((first, _embedded(process)))
                    else:
                        other = _embedded(process)
                        pairs.append((served(), other))
        finally:
            process.terminate()
            process.wait()
    ratios = sorted(embedded / served for served, embedded in pairs)
    return {
        "flight_queries_per_s": round(BATCH / median(served for served, _ in pairs)),
        "embedded_queries_per_s": round(BATCH / median(embedded for _, embedded in pairs)),
        "of_embedded": round(median(ratios), 3),
        "of_embedded_interval": [round(ratios[OUTSIDE], 3), round(ratios[-1 - OUTSIDE], 3)],
        "turns": TURNS,
    }


def _embedded(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("batch\n")
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the embedded database ended")
    return float(line)


def main() -> None:
    """The embedded database."""
    many = np.load(sys.argv[2])
    with vicinal.open(sys.argv[1], read_only=True) as db:
        docs = db.collection("docs")
        for _ in sys.stdin:
            began = time.perf_counter()
            docs.search(many, k=K, with_payload=False, threads=1)
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
