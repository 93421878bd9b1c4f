"""The oracle: what a collection must hold and answer, in NumPy and a dict, too plain to be wrong.

It shares no code with the engine. Distances are computed in float64 and compared with a tolerance
that covers float32 sums; points whose distances lie within it of one another are ties, and a search
may prefer any of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from conditions import Condition, sort_key

TOLERANCE = 2e-5
"""Relative to the sum of the magnitudes that a distance adds up."""

NUMPY = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "bit": np.uint8}


@dataclass
class Stored:
    """A point as it must come back."""

    id: Any
    vector: np.ndarray
    payload: dict[str, Any]
    version: int
    expires: float | None = None


@dataclass
class Recall:
    """Results found of results there were, summed over searches."""

    found: int = 0
    wanted: int = 0

    def add(self, found: int, wanted: int) -> None:
        """Count one search."""
        self.found += found
        self.wanted += wanted

    @property
    def value(self) -> float:
        """The share found; 1 where nothing was asked."""
        return self.found / self.wanted if self.wanted else 1.0


@dataclass
class Model:
    """A collection. `points` is in the order of writing: replacing a point moves it to the end."""

    dim: int
    metric: str
    dtype: str
    points: dict[Any, Stored] = field(default_factory=dict)

    def upsert(
        self,
        ids: Sequence[Any],
        vectors: np.ndarray,
        payloads: Sequence[Any],
        expires: Sequence[float | None] | None = None,
    ) -> None:
        """Insert or replace."""
        for i, (id_, vector, payload) in enumerate(zip(ids, vectors, payloads, strict=True)):
            old = self.points.pop(id_, None)
            version = 1 if old is None else old.version + 1
            time = None if expires is None else expires[i]
            self.points[id_] = Stored(id_, np.array(vector), as_json(payload), version, time)

    def touch(self, ids: Iterable[Any], time: float) -> int:
        """Set when points expire; returns how many of the ids there are."""
        found = [self.points[i] for i in dict.fromkeys(ids) if i in self.points]
        for point in found:
            point.expires = None if time == float("inf") else time
            point.version += 1
        return len(found)

    def expire(self, now: float) -> None:
        """Forget the points whose time has come."""
        for point in list(self.points.values()):
            if point.expires is not None and point.expires <= now:
                del self.points[point.id]

    def version(self, id_: Any) -> int:
        """A point's version, 0 where there is none."""
        point = self.points.get(id_)
        return 0 if point is None else point.version

    def update(
        self,
        ids: Iterable[Any],
        change: Mapping[str, Any],
        *,
        replace: bool = False,
        remove: Iterable[str] = (),
    ) -> int:
        """Set and remove fields, or replace them all; returns how many of the ids there are."""
        found = [self.points[i] for i in dict.fromkeys(ids) if i in self.points]
        for point in found:
            old = {} if replace else point.payload
            kept = {name: value for name, value in old.items() if name not in remove}
            point.payload = kept | as_json(change)
            point.version += 1
        return len(found)

    def delete(self, ids: Iterable[Any]) -> int:
        """Delete; returns how many of the ids there were."""
        return sum(self.points.pop(i, None) is not None for i in dict.fromkeys(ids))

    def matching(self, where: Condition | None) -> list[Stored]:
        """The points that pass, in the order of writing."""
        points = self.points.values()
        return [p for p in points if where is None or where.holds(p.payload, p.id)]

    def scroll(
        self, where: Condition | None, order_by: str | None, *, descending: bool
    ) -> list[Stored]:
        """The points that pass, in the order asked for; ties in the order of writing."""
        points = self.matching(where)
        if order_by is None:
            return points
        keyed = [(sort_key(p.payload, p.id, order_by), p) for p in points]
        there = [(k, p) for k, p in keyed if k is not None]
        # A stable sort: ties stay in the order of writing, also when the order is turned round.
        there.sort(key=lambda item: item[0], reverse=descending)
        return [p for _, p in there] + [p for k, p in keyed if k is None]

    def distances(
        self, query: np.ndarray, points: Sequence[Stored]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distances of points in float64, and how far each answer may be off."""
        return distances(self.metric, query, np.array([p.vector for p in points]))

    def check_hits(
        self, hits: Any, query: np.ndarray, k: int, where: Condition | None, *, exact: bool
    ) -> Recall:
        """Assert that hits answer the query; returns the recall of this one search."""
        points = self.matching(where)
        wanted = min(k, len(points))
        ids = [hit.id for hit in hits]
        assert len(ids) == wanted, f"{len(ids)} results where {wanted} match"
        if not wanted:
            return Recall()
        assert len(set(ids)) == len(ids), f"an id stands twice: {ids}"
        places = {p.id: i for i, p in enumerate(points)}
        strangers = [i for i in ids if i not in places]
        assert not strangers, f"results that do not match, or do not exist: {strangers}"
        for hit in hits:
            assert type(hit.id) is type(points[places[hit.id]].id), (
                f"id {hit.id!r} changed its type"
            )
        truth, slack = self.distances(query, points)
        mine = np.array([places[i] for i in ids])
        given = np.array([hit.distance for hit in hits])
        wrong = np.flatnonzero(np.abs(given - truth[mine]) > slack[mine])
        assert not len(wrong), (
            f"distance of {ids[wrong[0]]!r} is {given[wrong[0]]}, not {truth[mine][wrong[0]]}"
        )
        assert (np.diff(given) >= 0).all(), f"distances do not ascend: {given}"
        order = np.argsort(truth, kind="stable")
        bound = truth[order[wanted - 1]]
        good = truth[mine] <= bound + 2 * slack[mine] + 2 * slack[order[wanted - 1]]
        if exact:
            assert good.all(), (
                f"{[ids[i] for i in np.flatnonzero(~good)]} are not among the {wanted} nearest"
            )
            must = np.flatnonzero(truth < bound - 2 * slack - 2 * slack[order[wanted - 1]])
            missing = set(must.tolist()) - set(mine.tolist())
            assert not missing, f"nearer points are missing: {[points[i].id for i in missing]}"
        return Recall(int(good.sum()), wanted)


def distances(metric: str, query: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) distances of rows from a query, and the error that float32 arithmetic may make in each."""
    if metric == "hamming":
        bits = (
            np.unpackbits(np.bitwise_xor(rows, query[None, :]), axis=1)
            .sum(axis=1)
            .astype(np.float64)
        )
        return bits, np.zeros(len(rows))
    x, q = rows.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        squares = (x - q) ** 2
        # The slack covers kernels that expand |x - q|^2 into |x|^2 - 2 x.q + |q|^2.
        return squares.sum(axis=1), TOLERANCE * ((x**2).sum(axis=1) + (q**2).sum() + 1e-30)
    if metric == "manhattan":
        sums = np.abs(x - q).sum(axis=1)
        return sums, TOLERANCE * (np.abs(x).sum(axis=1) + np.abs(q).sum() + 1e-30)
    dots = x @ q
    norms = np.sqrt((x**2).sum(axis=1) * (q**2).sum())
    if metric == "ip":
        return -dots, TOLERANCE * (norms + 1e-30)
    return 1.0 - dots / norms, np.full(len(x), TOLERANCE)


def as_json(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a JSON store gives back."""
    return json.loads(json.dumps(dict(payload or {})))


def same_json(a: object, b: object) -> bool:
    """Equality that tells 1 from 1.0 and from true."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def read_all(collection: Any, *, page: int = 1000, **options: Any) -> list[Any]:
    """Every point of a scroll, page by page."""
    points: list[Any] = []
    cursor = None
    while True:
        got = collection.scroll(limit=page, cursor=cursor, **options)
        points.extend(got)
        cursor = got.cursor
        if cursor is None:
            return points


def state_hash(collection: Any) -> str:
    """A hash of everything a user can read: order, ids, versions, payloads, exact vector bytes."""
    digest = hashlib.sha256()
    for point in read_all(collection, with_vectors=True):
        head = [repr(point.id), point.version, point.payload]
        digest.update(json.dumps(head, sort_keys=True).encode())
        digest.update(point.vector.tobytes())
    return digest.hexdigest()
