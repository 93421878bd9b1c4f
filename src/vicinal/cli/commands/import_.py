"""`vicinal import`: points from a file into a collection.

Points are upserted by id, batch by batch, each batch whole or absent: an import that was interrupted is resumed by
running it again, from its start or with the --skip that the message names.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vicinal.cli.options import DatabaseArgument, JsonOption

if TYPE_CHECKING:
    import vicinal
    from vicinal.cli.formats import Reader, Rows, Shape

EXIT_INTERRUPTED = 130


@dataclass(slots=True)
class _Tally:
    """What was done so far."""

    rows: int = 0
    replaced: int = 0
    interrupted: bool = False


def import_(
    database: DatabaseArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Parquet, Arrow/Feather, JSONL or .npy.")
    ],
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection", "-c", help="Default: the only one, or the file's name with --create."
        ),
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the collection where there is none.")
    ] = False,
    dim: Annotated[int | None, typer.Option(help="Dimensions; default: the file's.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="l2, ip, cosine (default), hamming or manhattan, for --create."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="f32, f16, i8 or bit, for --create; default: the file's.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids; default: id.")] = None,
    vector_column: Annotated[
        str | None, typer.Option(help="Column of the vectors; default: vector.")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            help="For .npy: ids from a .npy, .txt or .jsonl file (the last brings payload); default: row numbers."
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="parquet, arrow, jsonl or npy, whatever the suffix."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=20_000, help="Points committed together.")
    ] = 10_000,
    skip: Annotated[
        int, typer.Option(min=0, help="Pass over the first rows, to go on after an interruption.")
    ] = 0,
    durability: Annotated[
        str, typer.Option(help="sync, interval or none; see docs/durability.md.")
    ] = "sync",
    optimize: Annotated[
        bool, typer.Option("--optimize/--no-optimize", help="Build the graph at the end.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Import points from a file. Upserts by id, so that it can be run again."""
    from vicinal.cli.console import print_json, progress, remark
    from vicinal.cli.formats import ReadOptions, open_reader
    from vicinal.cli.opening import opened

    reader = open_reader(file, format, ReadOptions(id_column, vector_column, ids, batch_size, skip))
    started = time.perf_counter()
    tally, batches = _Tally(), reader.batches()
    first = next(batches, None)  # a file that is bad from the start makes no database
    with (
        opened(database, write=True, create=create, durability=durability) as db,
        _between_batches(tally),
    ):
        name = _name(db, collection, file, create)
        target = _target(db, name, create, first, reader, dim=dim, metric=metric, dtype=dtype)
        if first is not None:
            with progress("importing") as update:
                _load(
                    target,
                    first,
                    batches,
                    reader,
                    file,
                    tally,
                    lambda done: update(done + skip, reader.n_rows),
                )
        seconds = time.perf_counter() - started
        if optimize and tally.rows and not tally.interrupted:
            with progress("building the graph") as update:
                target.optimize(
                    wait=True,
                    progress=lambda done, total: update(done, total) or not tally.interrupted,
                )
        total_seconds, n = time.perf_counter() - started, target.count()
    if json:
        print_json(
            {
                "collection": name,
                "imported": tally.rows,
                "replaced_in_file": tally.replaced,
                "points": n,
                "interrupted": tally.interrupted,
                "next_skip": skip + tally.rows + tally.replaced,
                "import_seconds": seconds,
                "total_seconds": total_seconds,
            }
        )
    else:
        rate = tally.rows / seconds if seconds else 0.0
        print(
            f"{tally.rows:,} points into {name!r} in {seconds:.1f} s ({rate:,.0f}/s); it has {n:,} now"
        )
        if tally.replaced:
            remark(f"{tally.replaced:,} rows were replaced by a later row of the same id")
    if tally.interrupted:
        remark(
            f"interrupted; what is counted above is written. Go on with --skip {skip + tally.rows + tally.replaced}"
        )
        raise typer.Exit(EXIT_INTERRUPTED)


def _load(
    target: vicinal.Collection,
    first: Rows,
    batches: Iterator[Rows],
    reader: Reader,
    file: Path,
    tally: _Tally,
    update: Callable[[int], None],
) -> None:
    from vicinal.cli.formats.rows import blame, check_batch, last_of_each
    from vicinal.cli.opening import shape_of
    from vicinal.model.errors import InvalidArgumentError

    shape, rows = shape_of(target), first
    while True:
        check_batch(rows, reader, file, shape)
        kept, replaced = last_of_each(rows)
        try:
            target.upsert(ids=kept.ids, vectors=kept.vectors, payload=kept.payloads)
        except InvalidArgumentError as fault:
            raise blame(fault, rows, reader, file) from None
        tally.rows += len(kept.ids)
        tally.replaced += replaced
        update(tally.rows + tally.replaced)
        following = None if tally.interrupted else next(batches, None)
        if following is None:
            return
        rows = following


def _name(db: vicinal.Database, asked: str | None, file: Path, create: bool) -> str:
    from vicinal.cli.opening import choose

    if asked is None and create and not db.collections():
        return file.stem
    if asked is not None and (create or asked in db.collections()):
        return asked
    return choose(db, asked).name


def _target(
    db: vicinal.Database,
    name: str,
    create: bool,
    first: Rows | None,
    reader: Reader,
    *,
    dim: int | None,
    metric: str | None,
    dtype: str | None,
) -> vicinal.Collection:
    """The collection, which must agree with the options given; made from them and the file where there is none."""
    from vicinal.cli.console import CliError

    if name in db.collections():
        return db.collection(name, dim=dim, metric=metric, dtype=dtype)
    if not create:
        raise CliError(f"{db.path}: there is no collection {name!r}; add --create to make it")
    said: Shape | None = reader.shape
    dtype = dtype or (said.dtype if said else None) or _dtype_of(first)
    metric = (
        metric or (said.metric if said else None) or ("hamming" if dtype == "bit" else "cosine")
    )
    if dim is None and said is not None:
        dim = said.dim
    if dim is None:
        if first is None or first.vectors is None:
            raise CliError("the file has no rows to tell the number of dimensions; give --dim")
        dim = first.vectors.shape[1] * (8 if dtype == "bit" else 1)
    return db.collection(name, dim=dim, metric=metric, dtype=dtype)


def _dtype_of(first: Rows | None) -> str:
    """float16 and int8 stay what they are; everything else becomes f32, since uint8 may be numbers or packed bits."""
    if first is None or first.vectors is None:
        return "f32"
    return {"float16": "f16", "int8": "i8"}.get(first.vectors.dtype.name, "f32")


@contextmanager
def _between_batches(tally: _Tally) -> Generator[None]:
    """The first Ctrl-C ends the import after the batch under way; a second one ends it at once."""

    def interrupt(*_signal: object) -> None:
        if tally.interrupted:
            raise KeyboardInterrupt
        tally.interrupted = True

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
