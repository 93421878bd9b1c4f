"""`vicinal count`: how many points there are, or pass a filter."""

from __future__ import annotations

from vicinal.cli.options import CollectionOption, DatabaseArgument, JsonOption, WhereOption


def count(
    database: DatabaseArgument,
    collection: CollectionOption = None,
    where: WhereOption = None,
    json: JsonOption = False,
) -> None:
    """Count the points of a collection, or those that pass a filter; exact."""
    from vicinal.cli.console import print_json
    from vicinal.cli.opening import choose, opened

    with opened(database) as db:
        n = choose(db, collection).count(where)
    if json:
        print_json({"count": n})
    else:
        print(n)
