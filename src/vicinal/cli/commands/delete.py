"""`vicinal delete`: points by their ids, by a filter, or all."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vicinal.cli.options import (
    CollectionOption,
    DatabaseArgument,
    JsonOption,
    WhereOption,
    YesOption,
)


def delete(
    database: DatabaseArgument,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="One id or several.")
    ] = None,
    collection: CollectionOption = None,
    where: WhereOption = None,
    all_points: Annotated[bool, typer.Option("--all", help="Delete every point.")] = False,
    id_type: Annotated[
        str | None,
        typer.Option("--id-type", help="str, int or uuid, where one id exists as two kinds."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and delete nothing.")] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete points. By filter or all asks first, at a terminal; elsewhere it needs --yes."""
    from vicinal.cli.console import CliError, print_json
    from vicinal.cli.opening import choose, opened
    from vicinal.cli.queries import find_ids

    if bool(ids) + (where is not None) + all_points != 1:
        raise CliError("give exactly one of: ids, --where, --all")
    with opened(database, write=not dry_run) as db:
        chosen = choose(db, collection)
        if ids:
            keys = [id_ for id_ in find_ids(chosen, ids, id_type) if id_ is not None]
            n = chosen.delete(keys, dry_run=dry_run) if keys else 0
        else:
            n = chosen.count(where)
            if not dry_run and n:
                _confirm(n, chosen.name, yes)
                n = chosen.delete(all=True) if all_points else chosen.delete(where=where)
    if json:
        print_json({"deleted": 0 if dry_run else n, "matching": n, "dry_run": dry_run})
    else:
        print(f"{'would delete' if dry_run else 'deleted'} {n:,} points")


def _confirm(n: int, name: str, yes: bool) -> None:
    from vicinal.cli.console import CliError

    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(
            f"this deletes {n:,} points of {name!r}; add --yes to do it, or --dry-run to look first"
        )
    typer.confirm(f"Delete {n:,} points of {name!r}?", abort=True, err=True)
