"""How results look: JSON for programs, tables for people at a terminal, tab-separated lines for pipes."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from vicinal.model.errors import VicinalError

CELL_CHARS_MAX = 320
LAST_COLUMN_CHARS_MIN = 24
GAP = 2


class CliError(VicinalError):
    """A command cannot do what it was asked; says what to do instead."""


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, one_line: bool = False
) -> None:
    """Print a table: drawn at a terminal, header and tab-separated lines elsewhere.

    A column whose name begins with `#` holds numbers and is aligned to the right; the sign is not shown.
    At a terminal long cells are folded; with one_line those of the last column are cut instead.
    """
    names = [name.removeprefix("#") for name in columns]
    if not sys.stdout.isatty():
        print("\t".join(names))
        for row in rows:
            print("\t".join(_line(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    cells = [[_cell(value) for value in row] for row in rows]
    if one_line and cells:
        others = (
            sum(max(map(len, column)) + GAP for column in zip(names, *cells, strict=True)) - GAP
        )
        last = max(len(row[-1]) for row in cells)
        room = max(LAST_COLUMN_CHARS_MIN, console.width - (others - last))
        cells = [[*row[:-1], _cut(row[-1], room)] for row in cells]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    for column, name in zip(columns, names, strict=True):
        if column.startswith("#"):
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def remark(message: str) -> None:
    """Say something to the person, on stderr."""
    print(message, file=sys.stderr)


def heading(message: str) -> None:
    """Print a line that stands out at a terminal."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(highlight=False).print(Text(message, style="bold cyan"))
    else:
        print(message)


@contextmanager
def progress(label: str) -> Generator[Callable[[int, int | None], None]]:
    """A progress bar on stderr, where that is a terminal; yields `update(done, total)`."""
    if not sys.stderr.isatty():
        yield _no_progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def bytes_text(n: int) -> str:
    """`12.3 MB`: decimal units."""
    if n < 1000:
        return f"{n} B"
    value = float(n)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def compact(value: Any) -> str:
    """A payload value in one line, JSON but for plain strings."""
    if isinstance(value, str):
        return " ".join(value.split())
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _no_progress(done: int, total: int | None) -> None:
    """Nobody is looking."""
    del done, total


def _cell(value: Any) -> str:
    return _cut(compact(value), CELL_CHARS_MAX)


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def _line(value: Any) -> str:
    """A value in a tab-separated line, whole, with no tab or line break of its own."""
    return compact(value).replace("\t", " ")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return cast("Any", value).tolist()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
