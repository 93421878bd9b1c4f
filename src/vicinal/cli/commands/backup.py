"""`vicinal backup`: a copy of a database at another place."""

from __future__ import annotations

from typing import Annotated

import typer

from vicinal.cli.options import DatabaseArgument, JsonOption


def backup(
    database: DatabaseArgument,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="A folder, a .tar or .tar.gz file, or an address (s3://...)."
        ),
    ],
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", help="Only these; may be given several times."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Copy a database, with a SHA-256 of every file; `vicinal restore` makes a database of it."""
    from vicinal.cli.console import bytes_text, print_json, progress, remark
    from vicinal.cli.opening import opened, to_dict

    with opened(database, write=True) as db, progress("copying") as update:
        made = db.backup(target, collections=collection, progress=update)
    if json:
        print_json(to_dict(made))
        return
    print(f"{sum(made.collections.values()):,} points, {bytes_text(made.bytes)}: {made.path}")
    remark(f"to make a database of it: vicinal restore {target} NEW_DATABASE")
