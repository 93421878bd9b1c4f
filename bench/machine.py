"""The machine that a benchmark ran on: what it is, how fast it was just then, what memory the process holds."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import vicinal
from vicinal.native import best_isa

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """What results say about the machine and the software."""
    cpu = platform.processor() or platform.machine()
    memory_gb = None
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory_gb = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": memory_gb,
        "isa": best_isa(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "vicinal": vicinal.__version__,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
    }


class Yardstick:
    """Work that is always the same and none of ours: how fast the machine is just now.

    Sorting stands for arithmetic and branches, gathering from 64 MiB for memory.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._values = rng.random(100_000)
        self._memory = rng.random(2**23)
        self._places = rng.integers(2**23, size=500_000)

    def seconds(self) -> float:
        """Seconds of one round."""
        started = time.perf_counter()
        np.sort(self._values)
        self._memory[self._places].sum()
        return time.perf_counter() - started


def resident_bytes() -> int:
    """Memory of this process that is in RAM, after a collection of garbage."""
    gc.collect()
    if Path("/proc/self/statm").exists():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def add_arguments(
    parser: argparse.ArgumentParser, passes: int | None = None, which: str | None = None
) -> None:
    """The options of how a result is made: --passes, unless it has none (which: of them counts), and --out."""
    if passes is not None:
        parser.add_argument("--passes", type=int, default=passes, help=which)
    parser.add_argument("--out", type=Path, help="default: a new file in bench/results")


def write(result: dict[str, Any], kind: str, out: Path | None) -> Path:
    """Write a result under its own name in bench/results, or to `out`."""
    if out is None:
        RESULTS.mkdir(exist_ok=True)
        name = result["dataset"]["name"] if "dataset" in result else "machine"
        out = RESULTS / f"{kind}-{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    out.write_text(json.dumps({**result, "kind": kind}, indent=1) + "\n")
    print(f"written to {out}")
    return out


def table(columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table, numbers to the right."""
    from vicinal.cli.console import print_table

    print_table(columns, [[f"{v:.4g}" if isinstance(v, float) else v for v in row] for row in rows])
