"""From what was typed to a query vector: JSON, a .npy file, or text where the collection has an embedder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import vicinal
from vicinal.cli.console import CliError
from vicinal.cli.opening import read_note
from vicinal.model.ids import PointId


def query_vector(
    db: vicinal.Database, collection: vicinal.Collection, query: str | None, text: str | None
) -> npt.NDArray[Any]:
    """The vector (or matrix, from a .npy file with several) that was asked for."""
    if (query is None) == (text is None):
        raise CliError("give one query: a vector as JSON, a .npy file, or text")
    if text is not None:
        return _embed(db, collection, text)
    query = query or ""
    if query.lstrip().startswith("["):
        return _from_json(query, collection)
    if query.endswith(".npy"):
        return _from_npy(Path(query))
    return _embed(db, collection, query)


def candidates(text: str, id_type: str | None) -> list[PointId]:
    """The ids that a typed word may mean: an int, a UUID, or a str; only one where the type is given."""
    import uuid

    found: list[PointId] = []
    if id_type not in (None, "str", "int", "uuid"):
        raise CliError(f"unknown --id-type {id_type!r}; known are str, int, uuid")
    if id_type in (None, "int"):
        try:
            found.append(int(text))
        except ValueError:
            if id_type is not None:
                raise CliError(f"id {text!r} is no integer") from None
    if id_type in (None, "uuid"):
        try:
            found.append(uuid.UUID(text))
        except ValueError:
            if id_type is not None:
                raise CliError(f"id {text!r} is no UUID") from None
    if id_type in (None, "str"):
        found.append(text)
    return found


def find_ids(
    collection: vicinal.Collection, words: list[str], id_type: str | None
) -> list[PointId | None]:
    """The existing id that each typed word means, None where there is none; CliError where there are two."""
    found: list[PointId | None] = []
    for word in words:
        choices = candidates(word, id_type)
        points = [point for point in collection.get(choices) if point is not None]
        if len(points) > 1:
            kinds = " and ".join(type(point.id).__name__.lower() for point in points)
            raise CliError(f"id {word!r} exists as {kinds}; say which with --id-type")
        found.append(points[0].id if points else None)
    return found


def _from_json(text: str, collection: vicinal.Collection) -> npt.NDArray[Any]:
    try:
        values = json.loads(text)
        vector = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as fault:
        raise CliError(f"the query vector is not a JSON list of numbers: {fault}") from None
    if collection.dtype in ("i8", "bit"):
        return np.asarray(values)
    return vector.astype(np.float32)


def _from_npy(path: Path) -> npt.NDArray[Any]:
    if not path.is_file():
        raise CliError(
            f"{path}: there is no such file; --text takes a text that looks like a file's name"
        )
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as fault:
        raise CliError(f"{path}: not a readable .npy file: {fault}") from None


def _embed(db: vicinal.Database, collection: vicinal.Collection, text: str) -> npt.NDArray[Any]:
    from vicinal.cli.demo.embedder import DIM, NAME, Embedder

    note = read_note(db.path, collection.name)
    if note.embedder is None:
        raise CliError(
            f"collection {collection.name!r} does not say how its texts were embedded; give the query as a vector: "
            "JSON such as '[0.1, ...]', or a .npy file"
        )
    if note.embedder != NAME or collection.dim != DIM:
        raise CliError(
            f"collection {collection.name!r} was embedded by {note.embedder!r} with {collection.dim} dimensions; "
            f"this version knows {NAME!r} with {DIM}; give the query as a vector"
        )
    return Embedder().embed([text])[0]
