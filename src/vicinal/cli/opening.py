"""Opening a database and choosing a collection, with errors that say what to type next; and the notes of a collection.

A note says how texts of a collection were embedded and which fields are worth showing. Notes stand in `cli.json` in the
database's directory, are of use to the command line only, and may be lost without harm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import vicinal
from vicinal.cli.console import CliError
from vicinal.cli.formats import Shape

NOTES_FILE = "cli.json"


@dataclass(frozen=True, slots=True)
class Note:
    """What the command line remembers of a collection.

    Attributes
    ----------
    embedder : name of what turned texts into its vectors, None where they came from elsewhere.
    show : payload fields that `query` shows at a terminal; none means all.
    demo : made by `vicinal demo`, which may therefore drop it.
    """

    embedder: str | None = None
    show: list[str] = field(default_factory=list[str])
    demo: bool = False


@contextmanager
def opened(
    path: Path, *, write: bool = False, create: bool = False, durability: str = "sync"
) -> Generator[vicinal.Database]:
    """Open a database that exists (or may be made), read-only unless write."""
    if not create and not path.is_dir():
        raise CliError(
            f"{path}: there is no database; `vicinal import {path} FILE --create` or `vicinal demo` makes one"
        )
    with vicinal.open(path, read_only=not write, durability=durability) as db:
        yield db


def to_dict(made: vicinal.Snapshot) -> dict[str, Any]:
    """A snapshot or backup as JSON has it."""
    return msgspec.structs.asdict(made)


def choose(db: vicinal.Database, name: str | None) -> vicinal.Collection:
    """The collection of that name, or the only one."""
    names = db.collections()
    if name is None:
        if len(names) != 1:
            known = (
                f"it has {', '.join(names)}; choose one with --collection"
                if names
                else "it has none"
            )
            raise CliError(f"{db.path}: which collection? {known}")
        name = names[0]
    elif name not in names:
        known = ", ".join(names) or "none"
        raise CliError(f"{db.path}: there is no collection {name!r}; there are: {known}")
    return db.collection(name)


def shape_of(collection: vicinal.Collection) -> Shape:
    """What a collection holds."""
    return Shape(collection.dim, collection.metric, collection.dtype)


def read_note(path: Path, collection: str) -> Note:
    """The note of a collection; an empty one where there is none."""
    found: dict[str, Any] = _notes(path).get(collection, {})
    return Note(**{name: found[name] for name in Note.__slots__ if name in found})


def write_note(path: Path, collection: str, note: Note) -> None:
    """Write the note of a collection; it replaces the file as a whole."""
    notes = _notes(path) | {collection: asdict(note)}
    temporary = path / f".{NOTES_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(notes, indent=2), encoding="utf-8")
    temporary.replace(path / NOTES_FILE)


def _notes(path: Path) -> dict[str, dict[str, Any]]:
    try:
        notes: dict[str, dict[str, Any]] = json.loads(
            (path / NOTES_FILE).read_text(encoding="utf-8")
        )
    except (FileNotFoundError, ValueError):
        return {}
    return notes
