"""Filtered searches of a graph: matches everywhere, around the query, and where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vicinal.index import FlatIndex, GraphIndex


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip", "manhattan"])
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
        found += int(np.sum(got.reshape(-1) <= exact[-1] + 1e-6 * (abs(exact[-1]) + 1)))
    assert found >= 0.97 * 10 * len(queries)


N, DIM = 12_000, 24


@pytest.fixture(scope="module")
def packed() -> tuple[GraphIndex, np.ndarray, np.ndarray]:
    """An index of packed rows, queries, and every row by its distance from each query."""
    X = np.random.default_rng(2).standard_normal((N, DIM)).astype(np.float32)
    X[::2] *= 0.3  # so that some queries are done sooner than others
    queries = np.random.default_rng(3).standard_normal((60, DIM)).astype(np.float32)
    queries[::2] *= 0.3
    index = GraphIndex(DIM, format="rabitq")
    index.build(X, threads=1)
    return index, queries, index.search(queries, k=N // 2, exact=True)[0]


@pytest.mark.parametrize("strategy", ["auto", "gate"])
@pytest.mark.parametrize("lie", ["everywhere", "near", "far"])
def test_half_of_the_rows_are_found_wherever_they_lie(packed, lie: str, strategy: Any) -> None:
    index, queries, order = packed
    chance = np.random.default_rng(4).random((len(queries), N)) < 0.5
    found = 0
    for query, near, match in zip(queries, order, chance, strict=True):
        if lie != "everywhere":
            match = np.full(N, lie == "far")
            match[near] = lie == "near"
        exact = index.search(query, k=10, exact=True, filter=match)[0].reshape(-1)
        got = index.search(query, k=10, ef_search=150, filter=match, strategy=strategy)[0]
        assert match[got.reshape(-1)].all()
        found += len(np.intersect1d(exact, got))
    assert found >= 0.95 * 10 * len(queries)


def test_a_filtered_walk_does_the_work_of_a_beam(packed) -> None:
    index, queries, _ = packed
    match = np.random.default_rng(5).random(N) < 0.5
    share = float(match.mean())
    exact = index.search(queries, k=10, exact=True, filter=match)[0]
    for ef in (12, 20, 40):
        beam = index.same_work(10, ef, share)
        found = index.search(queries, k=10, ef_search=ef, filter=match, strategy="gate")[0]
        same = index.search(
            queries,
            k=10,
            ef_search=beam.ef_search,
            near_part=beam.near_part,
            filter=match,
            strategy="gate",
        )[0]
        assert np.array_equal(found, same)
        assert beam.recall is not None
        shared = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)])
        assert shared / 10 == pytest.approx(beam.recall, abs=0.06)


def test_fewer_matches_are_compared_where_a_walk_is_cheap(packed) -> None:
    index, codes = packed[0], GraphIndex(8, format="sq8")
    assert index.scan_matches_max(10, 20, 0.5) < index.scan_matches_max(10, 40, 0.5)
    assert index.scan_matches_max(10, 40, 0.9) < index.scan_matches_max(10, 40, 0.5)
    assert index.scan_matches_max(10, 400, 0.9) == index.scan_matches_max(10, 400, 0.5)
    # Where a walk over all rows would be longer, it is one of codes, over matches alone.
    assert index.scan_matches_max(10, 40, 0.5) < index.scan_matches_max(10, 40, 0.02)
    assert codes.scan_matches_max(10, 40, 0.5) == index.scan_matches_max(10, 40, 0.02)
    assert index.filtered_walk(10, 40, 0.1) == codes.filtered_walk(10, 40, 0.5) == "gate"
    assert index.filtered_walk(10, 40, 0.02) == codes.filtered_walk(10, 40, 0.1) == "filter"


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("lie", ["everywhere", "near", "far"])
def test_recall_holds_for_few_and_many_matches(packed, lie: str, share: float) -> None:
    index, queries, _ = packed
    count = int(share * N)
    found = {"auto": 0, "gate": 0} if share >= 0.1 else {"auto": 0}
    for i, query in enumerate(queries):
        match = np.zeros(N, np.bool_)
        if lie == "everywhere":
            match[np.random.default_rng(i).permutation(N)[:count]] = True
        else:
            order = index.search(query, k=10_000, exact=True)[0].reshape(-1)
            match[order[:count] if lie == "near" else order[-count:]] = True
        exact = index.search(query, k=10, exact=True, filter=match)[0].reshape(-1)
        for strategy in found:
            got = index.search(query, k=10, ef_search=128, filter=match, strategy=strategy)[0]
            assert match[got.reshape(-1)].all()  # and none is missing
            found[strategy] += len(np.intersect1d(exact, got))
    assert min(found.values()) >= 0.95 * 10 * len(queries), found


@pytest.mark.parametrize("format", ["rabitq", "sq8"])
def test_more_results_than_a_beam_of_rows_holds_are_all_found(packed, format: Any) -> None:
    """A beam of 100 rows holds 50 matches where half of them match."""
    index, queries, _ = packed
    if format == "sq8":
        X, index = index.vectors(np.arange(N)), GraphIndex(DIM, format="sq8")
        index.build(X, threads=1)
    match = np.random.default_rng(6).random(N) < 0.5
    exact = index.search(queries, k=100, exact=True, filter=match)[0]
    got = index.search(queries, k=100, ef_search=100, filter=match, strategy="gate")[0]
    shared = np.mean([len(np.intersect1d(a, b)) for a, b in zip(got, exact, strict=True)])
    assert match[got].all()
    assert shared >= 0.85 * 100
