"""The entry point of `vicinal`: the list of commands, and what an error looks like.

An error of ours is one line on stderr and exit code 2. Ctrl-C exits with 130. Everything else is a bug and shows
its trace.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vicinal.cli.commands.backup import backup
from vicinal.cli.commands.bench import bench
from vicinal.cli.commands.count import count
from vicinal.cli.commands.delete import delete
from vicinal.cli.commands.demo import demo
from vicinal.cli.commands.doctor import doctor
from vicinal.cli.commands.estimate import estimate
from vicinal.cli.commands.explain import explain
from vicinal.cli.commands.export import export
from vicinal.cli.commands.get import get
from vicinal.cli.commands.import_ import import_
from vicinal.cli.commands.info import info
from vicinal.cli.commands.keys import keys
from vicinal.cli.commands.ls import ls
from vicinal.cli.commands.optimize import optimize
from vicinal.cli.commands.query import query
from vicinal.cli.commands.restore import restore
from vicinal.cli.commands.serve import serve
from vicinal.cli.commands.top import top
from vicinal.model.errors import VicinalError
from vicinal.model.version import VERSION

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="vicinal",
    help="Vicinal, a vector database. DATABASE is a directory; start with `vicinal demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    demo, ls, info, estimate, query, explain, get, count, delete, export, optimize, backup, restore, doctor, bench,
    serve, top,
)  # fmt: skip

for command in COMMANDS:
    app.command()(command)
app.command(name="import")(import_)
app.add_typer(keys, name="keys")


def print_version(wanted: bool) -> None:
    """Print the version and exit, before a command is looked for."""
    if wanted:
        print(f"vicinal {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=print_version
        ),
    ] = False,
) -> None:
    """Vicinal, a vector database. DATABASE is a directory; start with `vicinal demo`."""
    del version


def run() -> None:
    """Run the command line and exit."""
    try:
        app(prog_name="vicinal")
    except KeyboardInterrupt:
        print("vicinal: interrupted; every acknowledged write is kept", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (VicinalError, PermissionError) as fault:
        print(f"vicinal: {fault}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
