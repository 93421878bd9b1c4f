"""A query alone, in batches of any size and on any number of threads: which answers are the same, and which as good."""

from __future__ import annotations

import numpy as np
import pytest

from vicinal.index import FlatIndex, GraphIndex

N, N_QUERIES, DIM = 3000, 60, 48


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).normal(size=(30, dim)) * 2
    return (centers[rng.integers(0, 30, n)] + rng.normal(size=(n, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def l2() -> tuple[GraphIndex, np.ndarray]:
    index = GraphIndex(DIM)
    index.build(clustered(N, DIM, 2), threads=1)
    return index, clustered(N_QUERIES, DIM, 3)


@pytest.mark.parametrize("n_queries", [2, 31, 33, 60])
@pytest.mark.parametrize("threads", [0, 2])
def test_batches_and_threads_give_the_same_answers(l2, n_queries: int, threads: int) -> None:
    index, Q = l2
    together = index.search(Q[:n_queries], threads=threads)
    for i in range(n_queries - 1):
        rows, found = index.search(Q[i : i + 2])
        assert (rows == together[0][i : i + 2]).all()
        assert (found == together[1][i : i + 2]).all()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_query_alone_finds_as_much_as_among_others(metric: str) -> None:
    """It walks in another order, so that a few answers may differ, and it is reproducible."""
    X, Q = clustered(N, DIM, 2), clustered(N_QUERIES, DIM, 3)
    index = GraphIndex(DIM, metric, format="rabitq")
    index.build(X, threads=1)
    flat = FlatIndex(dim=DIM, metric=metric)
    flat.add(X)
    exact, _ = flat.search(Q, k=10)

    def recall(rows: np.ndarray) -> float:
        return float(np.mean([np.isin(a, b).mean() for a, b in zip(rows, exact, strict=True)]))

    for ef in (10, 20, 60):
        alone = [index.search(q, ef_search=ef) for q in Q]
        rows = np.concatenate([rows for rows, _ in alone])
        assert recall(rows) >= recall(index.search(Q, ef_search=ef)[0]) - 0.01
        for q, (first, found) in zip(Q, alone, strict=True):
            again = index.search(q[None], ef_search=ef, threads=2)
            assert (again[0] == first).all()
            assert (again[1] == found).all()


def test_a_large_batch_of_long_rows_gets_the_answers_of_small_ones() -> None:
    """It is answered region by region, on each number of threads."""
    dim, n_queries = 832, 300
    index = GraphIndex(dim, format="rabitq", ef_construction=48)
    index.build(clustered(1500, dim, 2), threads=0)
    Q = clustered(n_queries, dim, 3)
    small = [index.search(Q[i : i + 50], ef_search=20) for i in range(0, n_queries, 50)]
    rows, found = (np.concatenate(part) for part in zip(*small, strict=True))
    for threads in (1, 2):
        whole = index.search(Q, ef_search=20, threads=threads)
        assert (whole[0] == rows).all()
        assert (whole[1] == found).all()


def test_without_near_part_a_search_does_the_work_that_same_work_names(l2) -> None:
    index, Q = l2
    beam = index.same_work(10, 20)
    by_hand = index.search(Q, ef_search=beam.ef_search, near_part=beam.near_part)
    for again in range(2):  # the second time from memory
        assert (index.search(Q, ef_search=20)[0] == by_hand[0]).all(), again
    other = index.same_work(10, 40)
    by_hand = index.search(Q, ef_search=other.ef_search, near_part=other.near_part)
    assert (index.search(Q, ef_search=40)[0] == by_hand[0]).all()
