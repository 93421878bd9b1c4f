"""Two builds of Vicinal against each other: their processes take turns, so that a machine that changes changes both.

Each side is a Python interpreter with its own Vicinal installed (another worktree's .venv/bin/python); this harness
measures both. The ratio is taken within each pair of neighbouring processes, and its interval from how pairs differ:
the way to prove a difference of some percent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import machine, report

ROOT = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `duel`; what else is given goes to `run`."""
    parser.add_argument("--old", type=Path, required=True, help="interpreter with the old build")
    parser.add_argument(
        "--new", type=Path, default=Path(sys.executable), help="with the new one; default: this"
    )
    parser.add_argument("--pairs", type=int, default=5, help="of processes")
    parser.add_argument("--out-old", type=Path)
    parser.add_argument("--out-new", type=Path)
    parser.add_argument("--png", type=Path, help="draw recall against QPS into this file")
    parser.add_argument(
        "run_options", nargs=argparse.REMAINDER, help="after --, options of `run` such as --data"
    )


def main(options: argparse.Namespace) -> int:
    """Measure both sides in turns, write a result of each, and compare."""
    if options.pairs < 2:
        raise ValueError(f"--pairs is {options.pairs}; chance shows from 2 on")
    words = [w for w in options.run_options if w != "--"]
    for word in words:
        if word.partition("=")[0] in ("--processes", "--out", "--label"):
            raise ValueError(f"{word} is not for `run` here; duel chooses it")
    sides = {"old": options.old, "new": options.new}
    results: dict[str, dict[str, Any]] = {}
    for pair in range(options.pairs):
        # The order turns over from pair to pair, so that a steady drift favours neither side.
        for name in ("old", "new") if pair % 2 == 0 else ("new", "old"):
            found = _measure(sides[name], [*words, "--label", name])
            if name in results:
                results[name]["targets"] += found["targets"]
            else:
                results[name] = found | {"paired": True}
    outs = {"old": options.out_old, "new": options.out_new}
    paths = [machine.write(results[n], f"duel-{n}", outs[n]) for n in ("old", "new")]
    report.show([results["old"], results["new"]], paths)
    report.compare(results["old"], results["new"])
    if options.png is not None:
        report.draw([results["old"], results["new"]], paths, options.png)
    return 0


def _measure(python: Path, words: list[str]) -> dict[str, Any]:
    """One process of each target with that interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        command = [python, "-m", "bench", "run", *words, "--processes", "1", "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise ValueError(f"{python}: {done.stderr.strip() or done.returncode}")
        return json.loads(out.read_text())
