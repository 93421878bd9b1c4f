"""Filtered searches of a graph whose matches are not where the query is."""

from __future__ import annotations

import numpy as np
import pytest

from vicinal.index import FlatIndex, GraphIndex


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_matches_far_from_the_query_are_told_apart(metric: str) -> None:
    """The nearest of the farther half differ by less than their codes are rounded by."""
    rng = np.random.default_rng(1)
    X, queries = (rng.standard_normal((n, 32)).astype(np.float32) for n in (20_000, 20))
    X[:, :4] *= 6  # so that one step for all dimensions is a coarse one
    queries[:, :4] *= 6
    index = GraphIndex(32, metric, M=8, ef_construction=40, format="sq8")
    index.build(X, threads=1)
    flat = FlatIndex(dim=32, metric=metric)
    flat.add(X)
    found = 0
    for query in queries:
        far = np.ones(len(X), np.bool_)
        far[flat.search(query, k=len(X) // 2)[0].reshape(-1)] = False
        exact = flat.search(query, k=10, filter=far)[1].reshape(-1)
        _, got = index.search(query, k=10, ef_search=100, filter=far)
        found += int(np.sum(got.reshape(-1) <= exact[-1] * (1 + 1e-6) + 1e-6))
    assert found >= 0.98 * 10 * len(queries)
