"""`vicinal restore`: a database out of a backup or snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vicinal.cli.options import JsonOption


def restore(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="What `vicinal backup` wrote, or a snapshot's folder."
        ),
    ],
    database: Annotated[
        Path, typer.Argument(metavar="DATABASE", help="The new directory; nothing may be there.")
    ],
    json: JsonOption = False,
) -> None:
    """Make a database of a backup, checking every byte against its SHA-256 on the way."""
    import vicinal
    from vicinal.cli.console import bytes_text, print_json, progress
    from vicinal.cli.opening import to_dict

    with progress("restoring") as update:
        made = vicinal.restore(source, database, progress=update)
    if json:
        print_json(to_dict(made))
        return
    for name, points in made.collections.items():
        print(f"{name}\t{points:,} points")
    print(f"{bytes_text(made.bytes)}, taken {made.created}: {made.path}")
