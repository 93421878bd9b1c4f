"""Plants each known bug and lets the part that must notice it run; a bug that gets through is the failure.

This is the proof that the other parts can fail.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import damage
import leaks
from nursery import Nursery, kill_and_check
from oracle import Violation
from planted import BUGS, CAUGHT_BY
from power import Unavailable, cut_and_check
from report import Result
from sweep import Script

import vicinal

PURPOSE = "planted bugs: which part catches each"
ROOT = Path(__file__).resolve().parents[2]
CUTS, KILLS = 60, 200
DAMAGED = {
    "checksums_are_not_checked": ["vectors.bin", "rows.bin"],
    "mark_is_not_read": ["log", "MANIFEST"],
    "sums_of_a_snapshot_are_not_checked": [
        "snapshot segment.1.vectors.bin",
        "snapshot segment.1.rows.bin",
    ],
}
DAMAGE_CASES = 42


class Slipped(Exception):
    """A bug was not noticed."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--bug", action="append", choices=sorted(BUGS), help="only this one")
    parser.add_argument("--shard", default="1/1", help="the n-th of m shares of the bugs")


def catch(bug: str, part: str, seed: int, folder: Path) -> str:
    """Run the part that must notice; returns what it said. Slipped where it said nothing."""
    if part == "kills":
        return _violation(lambda n: kill_and_check(n, folder, KILLS, seed, bug), folder)
    if part == "power":
        mode = "interval" if bug == "sources_go_before_the_manifest_is_safe" else "sync"
        return _violation(lambda n: cut_and_check(n, folder, CUTS, seed, mode, "disk", bug), folder)
    if part == "damage":
        options = Namespace(
            seed=seed, cases=DAMAGE_CASES, kind=DAMAGED[bug], case=None, seconds=None
        )
        return _first(damage.run(options, folder, bug))
    if part == "leaks":
        return _first(leaks.run(Namespace(rounds=25), folder, bug))
    if part == "sweep":
        script = Script(folder, seed, 50, "sync", bug)
        try:
            script.check(script.run(fault="short"))
        except Violation as fault:
            return str(fault)
        finally:
            script.close()
        raise Slipped
    return _tests(bug, part)


def _violation(loop: object, folder: Path) -> str:
    nursery = Nursery(folder / "errors")
    try:
        loop(nursery)  # type: ignore[operator]
    except Violation as fault:
        return str(fault)
    finally:
        nursery.close()
    raise Slipped


def _first(result: Result) -> str:
    if result.violations:
        return result.violations[0]
    raise Slipped


def _tests(bug: str, file: str) -> str:
    paths = [ROOT / "tests" / "fault", ROOT / "tests" / "property"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "planting", "-m", "not long", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"VICINAL_BUG": bug, "PYTHONPATH": os.pathsep.join(map(str, paths))},
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode == 1 and failed:
        return failed[0]
    if done.returncode == 0:
        raise Slipped
    raise RuntimeError(f"{file} did not run: {done.stdout[-1000:]} {done.stderr[-1000:]}")


def run(options: argparse.Namespace, folder: Path) -> Result:
    """Each bug."""
    result = Result("bugs", f"bugs --seed {options.seed} --shard {options.shard}")
    share, shares = map(int, options.shard.split("/"))
    chosen = [bug for bug in CAUGHT_BY if not options.bug or bug.__name__ in options.bug]
    caught = 0
    for bug in chosen[share - 1 :: shares]:
        name, part = bug.__name__, CAUGHT_BY[bug]
        began = time.monotonic()
        place = folder / name
        place.mkdir()
        random.seed(options.seed)
        try:
            said = catch(name, part, options.seed, place)
        except Slipped:
            result.violations.append(f"{name}: {part} did not notice it")
            continue
        except Unavailable as reason:
            result.figures[name] = f"not here: {reason}"
            continue
        except vicinal.VicinalError as fault:
            said = str(fault)
        caught += 1
        kind = said.split("Violation: ")[-1].replace(str(place), "").replace("\n", " ")
        result.figures[name] = f"{part}, {time.monotonic() - began:.0f} s: {kind[:70]}"
    result.figures["caught"] = f"{caught} of {len(chosen[share - 1 :: shares])}"
    return result
