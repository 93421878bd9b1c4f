"""A random sample of a collection's points, each with the same chance, for pictures and estimates."""

from __future__ import annotations

import numpy as np

from vicinal.engine.collection import Collection
from vicinal.engine.segment import Rows
from vicinal.model.errors import LimitError
from vicinal.model.filter import Filter
from vicinal.model.hits import Point
from vicinal.model.limits import SAMPLE_BYTES_MAX, SAMPLE_POINTS_MAX


def sample_points(
    collection: Collection, *, where: Filter | None, limit: int, seed: int
) -> tuple[list[Point], int]:
    """Draw up to limit points that pass the filter, with their vectors, without repetition, and up to
    SAMPLE_BYTES_MAX of vectors.

    Returns
    -------
    (the points in the order of writing, how many pass the filter). The same seed draws the same points of a
    collection that stays as it is.

    Raises LimitError where limit is not 1 to SAMPLE_POINTS_MAX, or seed is negative.
    """
    if not 1 <= limit <= SAMPLE_POINTS_MAX:
        raise LimitError(f"sample is {limit}; it is an int of 1 to {SAMPLE_POINTS_MAX}")
    if not 0 <= seed < 2**63:
        raise LimitError(f"seed is {seed}; it is an int of 0 to 2**63 - 1")
    config, reader, state = collection.config, collection.reader, collection.state
    limit = min(limit, max(1, SAMPLE_BYTES_MAX // (config.columns * config.dtype.numpy.itemsize)))

    def attempt() -> tuple[list[Point], int]:
        segments = [s for s in state.view.segments if s.n]
        rows = [s.live() if where is None else s.match(where).bitmap for s in segments]
        total = sum(map(len, rows))
        drawn = np.random.default_rng(seed).choice(total, min(limit, total), replace=False)
        drawn.sort()
        points: list[Point] = []
        first = 0
        for segment, bitmap in zip(segments, rows, strict=True):
            end = first + len(bitmap)
            places = drawn[np.searchsorted(drawn, first) : np.searchsorted(drawn, end)] - first
            if len(places):
                local: Rows = np.asarray(bitmap.to_array(), np.int64)[places]
                points += reader.points(segment, local.tolist(), with_vectors=True)
            first = end
        return points, total

    if where is not None:
        reader.check_fields(where)
    return reader.consistent(attempt, with_store=True)
