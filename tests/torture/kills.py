"""Kill -9 at random moments, a fifth of them during recovery, the doctor's deep check after each."""

from __future__ import annotations

import argparse
from pathlib import Path

from nursery import Nursery, kill_and_check
from oracle import Violation
from report import Result

PURPOSE = "kill -9 while writing and while opening"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--kills", type=int, default=200, help="how many (1000 for a release)")


def run(options: argparse.Namespace, folder: Path) -> Result:
    """Kill and check."""
    result = Result("kills", f"kills --seed {options.seed} --kills {options.kills}")
    nursery = Nursery(folder / "errors")
    try:
        tally = kill_and_check(nursery, folder, options.kills, options.seed)
        result.figures.update(sorted(tally.items()))
    except Violation as fault:
        result.violations.append(str(fault))
    finally:
        nursery.close()
    return result
