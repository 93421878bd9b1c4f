"""What the writing process means to do and what was acknowledged, and how the checker replays it.

A journal has one JSON line before each operation (the intent, with everything the operation holds
or a seed that it is made from) and one after it (the acknowledgement, with what the call returned).
Lines are written without a buffer, so a killed writer leaves all of them but perhaps a torn last.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from collection_strategies import make_vectors
from conditions import Compare, Contains
from model import Model

Operation = dict[str, Any]

POOL = 600
"""Ids of a run; few enough that replacing is common."""


def draw(rng: random.Random) -> Operation:
    """The next operation of a writer."""
    kind = rng.choices(
        [
            "upsert", "update", "delete", "delete_where", "optimize", "optimize_later", "look",
            "update_where", "expire",
        ],
        weights=[52, 12, 10, 6, 8, 5, 5, 6, 8],
    )[0]  # fmt: skip
    if kind == "upsert":
        n = rng.choice([1, 1, 3, 8, 20, 60, 200])
        payloads = [_payload(rng) for _ in range(n)]
        ids = rng.sample(range(POOL), n)
        return {"kind": kind, "ids": ids, "seed": rng.randrange(2**32), "payloads": payloads}
    if kind == "update":
        ids = rng.sample(range(POOL), rng.choice([1, 5, 30]))
        return {"kind": kind, "ids": ids, "change": {"year": rng.randrange(2000, 2030)}}
    if kind in ("delete", "expire"):
        return {"kind": kind, "ids": rng.sample(range(POOL), rng.choice([1, 5, 40]))}
    if kind == "update_where":
        return {"kind": kind, "year": rng.randrange(2000, 2030), "change": {"year": 1999}}
    if kind == "delete_where":
        return {"kind": kind, "year": rng.randrange(2000, 2030)}
    return {"kind": kind}


def _payload(rng: random.Random) -> dict[str, Any]:
    return {
        "year": rng.randrange(2000, 2030),
        "tags": rng.sample(["a", "b", "c"], rng.randrange(3)),
        "text": "x" * rng.choice([0, 10, 300]),
    }


def point_id(number: int) -> Any:
    """Ids of two kinds."""
    return number if number % 2 else f"k{number}"


def perform(collection: Any, operation: Operation, model: Model) -> int | None:
    """Do the operation on the product; model says which space the vectors are in."""
    kind = operation["kind"]
    if kind == "upsert":
        ids = [point_id(i) for i in operation["ids"]]
        vectors = rows(operation, model)
        return collection.upsert(ids=ids, vectors=vectors, payload=operation["payloads"])
    if kind == "update":
        return collection.update([point_id(i) for i in operation["ids"]], operation["change"])
    if kind == "delete":
        return collection.delete([point_id(i) for i in operation["ids"]])
    if kind == "expire":
        return collection.update([point_id(i) for i in operation["ids"]], expires_at=1.0)
    if kind == "update_where":
        where = year_is(operation["year"]).text()
        return collection.update(where=where, payload=operation["change"], delete_keys=["tags"])
    if kind == "delete_where":
        return collection.delete(where=year_is(operation["year"]).text())
    if kind == "look":
        query = make_vectors(1, 1, model.dim, model.metric, model.dtype)[0]
        collection.search(
            query.astype(np.float32) if model.dtype == "f16" else query, where="year > 9"
        )
        return None
    collection.optimize(wait=kind == "optimize")
    return None


def replay(model: Model, operation: Operation) -> int | None:
    """Do the operation on the model."""
    kind = operation["kind"]
    if kind == "upsert":
        ids = [point_id(i) for i in operation["ids"]]
        model.upsert(ids, rows(operation, model), operation["payloads"])
        return len(ids)
    if kind == "update":
        return model.update([point_id(i) for i in operation["ids"]], operation["change"])
    if kind == "update_where":
        ids = [p.id for p in model.matching(year_is(operation["year"]))]
        return model.update(ids, operation["change"], remove=["tags"])
    if kind in ("delete", "expire"):  # the time that an expired point was given has passed
        return model.delete([point_id(i) for i in operation["ids"]])
    if kind == "delete_where":
        return model.delete([p.id for p in model.matching(year_is(operation["year"]))])
    return None


def rows(operation: Operation, model: Model) -> np.ndarray:
    """The vectors of an upsert."""
    n = len(operation["ids"])
    return make_vectors(operation["seed"], n, model.dim, model.metric, model.dtype)


def year_is(year: int) -> Compare:
    """The filter that points are deleted by."""
    return Compare("year", "=", year)


def probes() -> list[Any]:
    """Filters that a checker counts with."""
    return [Compare("year", ">=", 2015), Contains("tags", "a"), Compare("text", "=", "")]


def read(path: Path) -> tuple[list[tuple[Operation, int | None]], Operation | None]:
    """The acknowledged operations with their answers, and the one that was under way, if any."""
    done: list[tuple[Operation, int | None]] = []
    pending: Operation | None = None
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the torn last line, or the empty end
        if "ack" in entry and pending is not None:
            done.append((pending, entry["ack"]))
            pending = None
        else:
            pending = entry
    return done, pending
