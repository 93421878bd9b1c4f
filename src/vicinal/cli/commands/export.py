"""`vicinal export`: a collection, or what passes a filter, into a file that `import` reads back equal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vicinal.cli.options import CollectionOption, DatabaseArgument, JsonOption, WhereOption

if TYPE_CHECKING:
    import vicinal
    from vicinal.cli.formats import Rows, Shape

PAGE_POINTS = 5_000


def export(
    database: DatabaseArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its suffix says the format.")],
    collection: CollectionOption = None,
    where: WhereOption = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="parquet, arrow, jsonl or npy, whatever the suffix."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Export points with their vectors and payload. The file appears when it is complete."""
    from vicinal.cli.console import CliError, print_json, progress
    from vicinal.cli.formats import open_writer
    from vicinal.cli.opening import choose, opened

    if file.exists() and not force:
        raise CliError(f"{file}: exists; add --force to replace it")
    if not file.absolute().parent.is_dir():
        raise CliError(f"{file.parent}: there is no such directory")
    with opened(database) as db:
        chosen = choose(db, collection)
        shape = _survey(chosen, where)
        writer = open_writer(file, format, shape)
        done = 0
        try:
            with progress("exporting") as update:
                for rows in _rows(chosen, where, with_vectors=True):
                    writer.write(rows)
                    done += len(rows.ids)
                    update(done, shape.n_points)
            made = writer.finish()
        except BaseException:
            writer.abandon()
            raise
    command = _import_command(made, shape, chosen.name)
    if json:
        print_json(
            {"points": done, "files": [str(path) for path in made], "import_command": command}
        )
    else:
        print(f"{done:,} points into {', '.join(map(str, made))}")
        print(f"read it back with: {command}")


def _survey(chosen: vicinal.Collection, where: str | None) -> Shape:
    """A first reading, without vectors, of how many points there are and what their ids and fields are."""
    from vicinal.cli.formats import Shape
    from vicinal.cli.formats.fields import FieldKinds, id_kind

    kinds, id_kinds, n = FieldKinds(), set[str](), 0
    for rows in _rows(chosen, where, with_vectors=False):
        n += len(rows.ids)
        id_kinds.add(id_kind(rows.ids))
        for payload in rows.payloads:
            kinds.add(payload)
    kind = id_kinds.pop() if len(id_kinds) == 1 else "mixed"
    return Shape(chosen.dim, chosen.metric, chosen.dtype, n, kinds.columns(), kind)


def _rows(chosen: vicinal.Collection, where: str | None, *, with_vectors: bool) -> Iterator[Rows]:
    """All points in the order of writing. The database was opened read-only, so they stay as they were."""
    import numpy as np

    from vicinal.cli.formats import Rows

    cursor, start = None, 1
    while True:
        page = chosen.scroll(
            where=where, limit=PAGE_POINTS, cursor=cursor, with_vectors=with_vectors
        )
        if page:
            found: list[Any] = [point.vector for point in page]
            vectors = np.stack(found) if with_vectors else None
            yield Rows(
                start, [point.id for point in page], vectors, [point.payload for point in page]
            )
            start += len(page)
        cursor = page.cursor
        if cursor is None:
            return


def _import_command(made: list[Path], shape: Shape, name: str) -> str:
    words = [
        "vicinal",
        "import",
        "DATABASE",
        shlex.quote(str(made[0])),
        "--collection",
        shlex.quote(name),
        "--create",
    ]
    if made[0].suffix.lower() in (".jsonl", ".ndjson", ".npy"):
        words += ["--dim", str(shape.dim), "--metric", shape.metric, "--dtype", shape.dtype]
    if len(made) > 1:
        words += ["--ids", shlex.quote(str(made[1]))]
    return " ".join(words)
