"""The commands of the harness: `python -m bench COMMAND --help` has the options of one."""

from __future__ import annotations

import argparse
import sys

from bench import (
    churn,
    duel,
    ends,
    filters,
    heldout,
    ingest,
    kernels,
    limit,
    micro,
    opening,
    pace,
    recall,
    report,
    run,
    stages,
    steady,
    workload,
)

COMMANDS = {
    "run": run,
    "stages": stages,
    "report": report,
    "steady": steady,
    "duel": duel,
    "kernels": kernels,
    "workload": workload,
    "churn": churn,
    "ends": ends,
    "filters": filters,
    "heldout": heldout,
    "ingest": ingest,
    "recall": recall,
    "limit": limit,
    "micro": micro,
    "opening": opening,
    "pace": pace,
}


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        text = (module.__doc__ or "").strip()
        sub = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
    options = parser.parse_args(words)
    try:
        return COMMANDS[options.command].main(options)
    except (ValueError, OSError) as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
