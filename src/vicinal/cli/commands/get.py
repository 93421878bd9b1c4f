"""`vicinal get`: points by their ids."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vicinal.cli.options import CollectionOption, DatabaseArgument, JsonOption, VectorsOption

EXIT_NOT_FOUND = 1


def get(
    database: DatabaseArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="One id or several.")],
    collection: CollectionOption = None,
    id_type: Annotated[
        str | None,
        typer.Option("--id-type", help="str, int or uuid, where one id exists as two kinds."),
    ] = None,
    with_vectors: VectorsOption = False,
    json: JsonOption = False,
) -> None:
    """Show points by their ids. Exits with 1 where one of them does not exist."""
    from vicinal.cli.console import compact, print_json, print_table, remark
    from vicinal.cli.opening import choose, opened
    from vicinal.cli.queries import find_ids

    with opened(database) as db:
        chosen = choose(db, collection)
        found = find_ids(chosen, ids, id_type)
        keys = [id_ for id_ in found if id_ is not None]
        points = [p for p in chosen.get(keys, with_vectors=with_vectors) if p is not None]
    missing = [word for word, id_ in zip(ids, found, strict=True) if id_ is None]
    if json:
        records: list[dict[str, Any]] = []
        for point in points:
            record = {"id": point.id, "version": point.version, "payload": point.payload}
            records.append(record | ({"vector": point.vector} if with_vectors else {}))
        print_json({"points": records, "missing": missing})
    elif points:
        print_table(
            ["id", "#version", "payload", *(["vector"] if with_vectors else [])],
            [
                (
                    str(p.id),
                    str(p.version),
                    compact(p.payload),
                    *([p.vector] if with_vectors else []),
                )
                for p in points
            ],
        )
    if missing:
        if not json:
            remark(f"not found: {', '.join(missing)}")
        raise typer.Exit(EXIT_NOT_FOUND)
