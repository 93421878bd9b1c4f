"""Single building blocks of the core beside the plain way of doing the same, in nanoseconds.

Instruction sets (distances, quantisation), layout of rows (one block, off alignment, dimension-wise, an object each),
memory (a reserved buffer and lent working memory, or the allocator), selection of the smallest, counters shared by 1
to 32 threads (atomic, mutex), and the thread pool on 1 to 32 threads. `bench/micro.cpp` is compiled for this
processor against the library that `make setup` built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench import machine

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(__file__).with_suffix(".cpp")
LIBRARY = ROOT / "build" / "dev" / "libvicinal_native.a"
PARTS = ("simd", "layout", "memory", "selection", "counters", "threads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `micro`."""
    parser.add_argument("--part", choices=PARTS, help="only this; default: all six")
    parser.add_argument("--library", type=Path, default=LIBRARY, help="the core, built")
    machine.add_arguments(parser, passes=5, which="of which the best counts")


def main(options: argparse.Namespace) -> int:
    """Compile, measure, print and write."""
    if options.passes < 1:
        raise ValueError(f"--passes is {options.passes}; 1 or more")
    rows = measure(options.library, options.part, options.passes)
    print("ns: of one distance, row, search, addition or job, whichever the line is about")
    machine.table(
        ["part", "what", "#size, threads", "#ns"],
        [[r["part"], r["what"], str(r["size"]), f"{r['ns']:,.2f}"] for r in rows],
    )
    machine.write({"machine": machine.describe(), "rows": rows}, "micro", options.out)
    return 0


def measure(library: Path, part: str | None, passes: int) -> list[dict[str, Any]]:
    """Rows with part, what, size and ns; ValueError where it cannot be compiled."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise ValueError("there is no C++ compiler; install one or name it in CXX")
    if not library.is_file():
        raise ValueError(f"{library} does not exist; `make setup` builds it")
    with tempfile.TemporaryDirectory(prefix="vicinal-bench-") as folder:
        program = Path(folder) / "micro"
        command = [
            *(compiler, "-std=c++20", "-O3", "-march=native", f"-I{ROOT / 'native' / 'src'}"),
            *(str(SOURCE), str(library), "-pthread", "-o", str(program)),
        ]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            raise ValueError(f"{compiler}: {(built.stderr.strip() or 'failed').splitlines()[0]}")
        words = [str(program), str(passes), *([part] if part else [])]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{SOURCE.name} ended with {done.returncode}: {done.stderr[-500:]}")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return [{"part": p, "what": w, "size": int(n), "ns": float(t)} for p, w, n, t in lines]
