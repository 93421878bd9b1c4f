"""A picture of a collection: a bounded sample of its points on a plane, by their two principal components.

The components of a large sample come from randomized subspace iteration (Halko, Martinsson, Tropp 2011,
arXiv:0909.4061), which costs a few passes over the sample whatever its dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vicinal.client.arguments import compile_where
from vicinal.engine.collection import Collection
from vicinal.engine.sample import sample_points
from vicinal.model.config import CollectionConfig
from vicinal.model.filter import split_path
from vicinal.model.filter.path import ID_PATH, getter
from vicinal.model.filter.predicate import id_value
from vicinal.model.hits import Point
from vicinal.model.metric import Metric, VectorType
from vicinal.wire import messages as m
from vicinal.wire.codec import to_wire_id

Matrix = npt.NDArray[np.float32]

EXACT_SIDE_MAX = 512
"""Up to so many rows or columns the decomposition is a full one, of some 50 ms."""

COMPONENTS_TRIED, ITERATIONS = 10, 6
"""Eight more directions than are wanted, and passes over the data: by then the two are right to the eye."""

FIELDS_MAX = 100
TEXT_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Plane:
    """Places (n, 2) f32 on the plane, and the share of the variance along each of its axes."""

    places: Matrix
    explained: tuple[float, float]


def project(collection: Collection, request: m.Project) -> m.Projected:
    """Draw a sample and place it on the plane.

    Raises LimitError, FilterError, UnknownFieldError.
    """
    where = None if request.where is None else compile_where(request.where)
    path = None if request.color_by is None else split_path(request.color_by)
    points, matches = sample_points(
        collection, where=where, limit=request.sample, seed=request.seed
    )
    plane = principal_plane(_matrix(points, collection.config))
    values: list[Any] = [None] * len(points)
    if path == ID_PATH:
        values = [_scalar(id_value(point.id)) for point in points]
    elif path is not None:
        get = getter(path)
        values = [_scalar(get(point.payload)) for point in points]
    return m.Projected(
        matches=matches,
        ids=[to_wire_id(point.id) for point in points],
        x=plane.places[:, 0].tolist(),
        y=plane.places[:, 1].tolist(),
        values=values,
        explained=list(plane.explained),
        fields=_fields(points),
    )


def principal_plane(rows: Matrix) -> Plane:
    """The two directions of greatest variance of (n, d) rows, and the rows in them; each direction is turned so that
    its largest coefficient is positive. Fewer than two rows or columns leave zeros."""
    n, d = rows.shape
    places = np.zeros((n, 2), np.float32)
    if n < 2:
        return Plane(places, (0.0, 0.0))
    centred = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = float(np.abs(centred).max())
    if scale == 0.0:
        return Plane(places, (0.0, 0.0))
    centred /= scale  # so that no square leaves the range of f32
    count = min(2, n, d)
    directions = _directions(centred)[:, :count]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(count)]
    flat = centred @ (directions * np.where(largest < 0, -1, 1).astype(np.float32))
    total = float(np.square(centred, dtype=np.float64).sum())
    shares = [*(np.square(flat, dtype=np.float64).sum(axis=0) / total).tolist(), 0.0]
    places[:, :count] = flat * scale
    return Plane(places, (min(1.0, shares[0]), min(1.0, shares[1])))


def _directions(centred: Matrix) -> Matrix:
    """(d, at least 1) unit directions of the greatest variance, greatest first."""
    n, d = centred.shape
    if d <= min(n, EXACT_SIDE_MAX):
        return np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    if n <= EXACT_SIDE_MAX:
        turned = centred.T @ np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, : min(2, n)]
        return turned / np.maximum(np.linalg.norm(turned, axis=0), np.float32(1e-30))
    basis = np.random.default_rng(0).standard_normal((d, COMPONENTS_TRIED)).astype(np.float32)
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    return basis @ np.linalg.svd(centred @ basis, full_matrices=False)[2].T


def _matrix(points: list[Point], config: CollectionConfig) -> Matrix:
    """The vectors as (n, dim) f32: bits as 0 and 1, cosine's as directions."""
    if not points:
        return np.empty((0, config.dim), np.float32)
    rows = np.stack([np.asarray(point.vector) for point in points])
    if config.dtype is VectorType.BIT:
        return np.unpackbits(rows, axis=1)[:, : config.dim].astype(np.float32)
    wide = rows.astype(np.float32)
    if config.metric is Metric.COSINE:
        wide /= np.maximum(np.abs(wide).max(axis=1, keepdims=True), np.float32(1e-30))
        wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-30))
    return wide


def _scalar(value: object) -> m.Scalar:
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float) else None


def _fields(points: list[Point]) -> list[m.FieldFound]:
    """Top-level fields with scalar values, the most frequent first."""
    seen: dict[str, list[Any]] = {}
    for point in points:
        for name, value in point.payload.items():
            scalar = _scalar(value)
            if scalar is not None and (name in seen or len(seen) < FIELDS_MAX):
                seen.setdefault(name, []).append(scalar)
    return [
        m.FieldFound(
            name=name,
            distinct=len(set(values)),
            numeric=all(type(v) in (int, float) for v in values),
        )
        for name, values in sorted(seen.items(), key=lambda item: -len(item[1]))
    ]
