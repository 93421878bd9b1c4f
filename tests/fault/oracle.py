"""What a database directory must hold and answer: the journal's state, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import journal
import numpy as np
from collection_strategies import make_vectors
from model import Model, read_all, same_json, state_hash

import vicinal
from vicinal.engine.doctor import examine


class Violation(AssertionError):
    """The database lied."""


class NoBackground:
    """The checker looks at what recovery left, before any repair."""

    last_error = None

    def __init__(self, step: Any) -> None:
        """Runs nothing."""

    def wake(self) -> None:
        """Nothing waits."""

    def stop(self) -> None:
        """Nothing runs."""


def verify(directory: Path, candidates: list[Model]) -> Model:
    """Return the candidate that the directory holds; raise Violation where it holds neither."""
    with mock.patch("vicinal.engine.database.Background", NoBackground):
        with vicinal.open(directory) as db:
            if "c" not in db.collections() or not _was_made(db):
                empty = [model for model in candidates if not model.points]
                if empty:
                    return empty[0]
                raise Violation("the collection is gone")
            collection = db.collection("c")
            model = _fitting(collection, candidates)
            _check_answers(collection, model)
            first = state_hash(collection)
        with vicinal.open(directory, read_only=True) as db:
            if state_hash(db.collection("c")) != first:
                raise Violation("a read-only open finds another state")
        with vicinal.open(directory) as db:
            if state_hash(db.collection("c")) != first:
                raise Violation("the second reopen finds another state than the first")
    report = examine(directory)
    if not report.healthy:
        raise Violation(f"the doctor finds {report.findings}")
    return model


def _was_made(db: Any) -> bool:
    """Whether the collection's making came to its end before the kill."""
    try:
        db.collection("c")
    except vicinal.NotFoundError:
        return False
    return True


def _fitting(collection: Any, candidates: list[Model]) -> Model:
    points = read_all(collection, with_vectors=True)
    complaints: list[str] = []
    for model in candidates:
        complaint = _difference(points, model)
        if complaint is None:
            return model
        complaints.append(complaint)
    raise Violation(" | or, with the batch under way: ".join(complaints))


def _difference(points: list[Any], model: Model) -> str | None:
    """What a full scroll shows that the model does not say, or the other way round."""
    ids = [p.id for p in points]
    if len(set(ids)) != len(ids):
        return "an id stands twice"
    lost = [i for i in model.points if i not in set(ids)]
    phantoms = [i for i in ids if i not in model.points]
    if lost or phantoms:
        return f"{len(lost)} points lost {lost[:5]}, {len(phantoms)} phantoms {phantoms[:5]}"
    if ids != list(model.points):
        return "the points are in another order"
    for point in points:
        stored = model.points[point.id]
        if point.vector.tobytes() != stored.vector.tobytes():
            return f"the vector of {point.id!r} has other bytes"
        if not same_json(point.payload, stored.payload):
            return f"the payload of {point.id!r} is {point.payload}, not {stored.payload}"
        if point.version != stored.version:
            return f"the version of {point.id!r} is {point.version}, not {stored.version}"
    return None


def _check_answers(collection: Any, model: Model) -> None:
    """get, count, filters and searches agree with the scroll."""
    everyone = [journal.point_id(i) for i in range(journal.POOL)]
    for id_, point in zip(everyone, collection.get(everyone, with_vectors=True), strict=True):
        stored = model.points.get(id_)
        if (point is None) != (stored is None):
            raise Violation(f"get of {id_!r} answers {point!r}")
        if stored is not None and point.vector.tobytes() != stored.vector.tobytes():
            raise Violation(f"get of {id_!r} has another vector")
    if collection.count() != len(model.points):
        raise Violation(f"count is {collection.count()}, not {len(model.points)}")
    query = make_vectors(7, 1, model.dim, model.metric, model.dtype)[0]
    query = query.astype(np.float32) if model.dtype == "f16" else query
    for where in [None, *journal.probes()]:
        text = None if where is None else where.text()
        if collection.count(where=text) != len(model.matching(where)):
            raise Violation(f"count of {text} is {collection.count(where=text)}")
        for k, exact in ((10, True), (10, False), (journal.POOL, False)):
            hits = collection.search(query, k=k, where=text, exact=exact)
            try:
                model.check_hits(hits, query, k, where, exact=exact)
            except AssertionError as fault:
                raise Violation(f"search k={k} where={text} exact={exact}: {fault}") from None
            for hit in hits:
                if not same_json(hit.payload, model.points[hit.id].payload):
                    raise Violation(f"a hit of {hit.id!r} has payload {hit.payload}")
