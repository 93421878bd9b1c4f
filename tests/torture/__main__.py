"""The repeatable proof: python tests/torture [part] [options].

Without a part, all of them run at the length of `make torture`, a few minutes. Each ends with a table
and the arguments that repeat it; the exit status is 1 where a promise was broken. What a failing
part worked on stays on the disk, and its place is printed.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fault"), str(HERE.parent / "property")]

from report import Result, say, show  # noqa: E402 (the path comes first)

PARTS = ("kills", "sweep", "power", "damage", "fuzz", "leaks", "mixed", "bugs")
SEED = 20


def main(arguments: list[str]) -> int:
    """Run one part or all; returns the exit status."""
    modules = {name: importlib.import_module(name) for name in PARTS}
    parser = argparse.ArgumentParser(prog="python tests/torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--keep", action="store_true", help="keep the directories of parts that passed"
    )
    parts = parser.add_subparsers(dest="part", metavar="part")
    for name, module in modules.items():
        own = parts.add_parser(name, help=module.PURPOSE)
        # Given before the part's name or behind it: a default here would undo the former.
        own.add_argument("--seed", type=int, default=argparse.SUPPRESS)
        own.add_argument("--keep", action="store_true", default=argparse.SUPPRESS)
        module.arguments(own)
    chosen = parser.parse_args(arguments)
    names = PARTS if chosen.part is None else (chosen.part,)
    failed = False
    for name in names:
        options = chosen if chosen.part else parser.parse_args([name, "--seed", str(chosen.seed)])
        failed |= run_part(modules[name], options, keep=chosen.keep).failed
    say("torture: " + ("FAILED" if failed else "every promise held"))
    return int(failed)


def run_part(module: object, options: argparse.Namespace, *, keep: bool) -> Result:
    """Run a part in a directory of its own."""
    folder = Path(tempfile.mkdtemp(prefix="vicinal-torture-"))
    began = time.monotonic()
    result: Result = module.run(options, folder)  # type: ignore[attr-defined]
    result.seconds = time.monotonic() - began
    show(result)
    if result.failed or keep:
        say(f"   kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
