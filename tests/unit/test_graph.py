"""GraphIndex against NumPy: recall, guarantees, persistence, and what it refuses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vicinal.index import GraphIndex
from vicinal.model.errors import (
    CancelledError,
    ClosedError,
    CorruptionError,
    DimensionError,
    FormatVersionError,
    InvalidArgumentError,
    LimitError,
    StorageError,
    VectorValueError,
)

RECALL_FLOOR = 0.95  # the documented default settings on small clustered data
N, N_QUERIES, DIM = 3000, 60, 48
PAIRS = [
    (metric, dtype)
    for metric in ("l2", "ip", "cosine", "manhattan")
    for dtype in ("f32", "f16", "i8")
] + [("hamming", "bit")]


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).normal(size=(30, dim)) * 2
    return (centers[rng.integers(0, 30, n)] + rng.normal(size=(n, dim))).astype(np.float32)


def data(dtype: str, n: int, seed: int, queries: bool = False, dim: int = DIM) -> np.ndarray:
    X = clustered(n, dim, seed)
    if dtype == "f32" or (dtype == "f16" and queries):
        return X
    if dtype == "f16":
        return X.astype(np.float16)
    if dtype == "i8":
        return np.clip(np.round(X * 15), -128, 127).astype(np.int8)
    wide = clustered(n, 4 * dim, seed)
    return np.packbits(wide > 0, axis=1)


def dim_of(dtype: str, dim: int = DIM) -> int:
    return 4 * dim if dtype == "bit" else dim


def distances(Q: np.ndarray, X: np.ndarray, metric: str) -> np.ndarray:
    if metric == "hamming":
        return np.bitwise_count(Q[:, None, :] ^ X[None, :, :]).sum(axis=2).astype(np.float64)
    q, x = Q.astype(np.float64), X.astype(np.float64)
    if metric == "ip":
        return -(q @ x.T)
    if metric == "cosine":
        return 1 - (q @ x.T) / np.outer(np.linalg.norm(q, axis=1), np.linalg.norm(x, axis=1))
    if metric == "manhattan":
        return np.abs(q[:, None, :] - x[None, :, :]).sum(axis=2)
    return ((q[:, None, :] - x[None, :, :]) ** 2).sum(axis=2)


def recall(rows: np.ndarray, D: np.ndarray, k: int) -> float:
    """Share of results no farther than the k-th nearest: ties count for whichever row was returned."""
    kth = np.sort(D, axis=1)[:, k - 1]
    found = np.take_along_axis(D, np.maximum(rows, 0), axis=1)
    good = (found <= (kth + 1e-6 * (1 + np.abs(kth)))[:, None]) & (rows >= 0)
    return float(good.sum() / good.size)


def built(
    metric: str = "l2", dtype: str = "f32", n: int = N, **options: Any
) -> tuple[GraphIndex, np.ndarray]:
    X = data(dtype, n, 2)
    index = GraphIndex(dim_of(dtype), metric, dtype, **options)
    index.build(X, threads=1)
    return index, X


@pytest.fixture(scope="module")
def l2() -> tuple[GraphIndex, np.ndarray, np.ndarray]:
    index, X = built()
    return index, X, data("f32", N_QUERIES, 3)


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_recall_and_distances_agree_with_numpy(metric: str, dtype: str) -> None:
    index, X = built(metric, dtype)
    Q = data(dtype, N_QUERIES, 3, queries=True)
    assert index.n_linked == N
    D = distances(Q, X, metric)
    rows, found = index.search(Q, k=10, ef_search=100)
    assert recall(rows, D, 10) >= RECALL_FLOOR
    scale = max(1.0, float(np.abs(D).max()))
    assert np.allclose(found, np.take_along_axis(D, rows, axis=1), atol=2e-5 * scale)
    assert (np.diff(found, axis=1) >= 0).all()


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_exact_search_is_exact(metric: str, dtype: str) -> None:
    index, X = built(metric, dtype, n=1500)
    Q = data(dtype, 20, 3, queries=True)
    D = distances(Q, X, metric)
    rows, _found = index.search(Q, k=10, exact=True)
    assert recall(rows, D, 10) == 1.0
    assert all(len(set(row)) == 10 for row in rows.tolist())


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_incremental_linking_reaches_the_recall_of_a_bulk_build(metric: str, dtype: str) -> None:
    X = data(dtype, N, 2)
    index = GraphIndex(dim_of(dtype), metric, dtype)
    for start in range(0, N, 700):
        index.append(X[start : start + 700])
        index.link()
    Q = data(dtype, N_QUERIES, 3, queries=True)
    rows, _ = index.search(Q, k=10, ef_search=100)
    assert index.n_linked == N
    assert recall(rows, distances(Q, X, metric), 10) >= RECALL_FLOOR


def test_pending_rows_are_found_at_once(l2) -> None:
    index, _ = built(n=1200)
    extra = data("f32", 5, 9)
    first = index.append(extra)
    assert first == 1200
    assert index.n_linked == 1200
    rows, found = index.search(extra, k=1)
    assert rows[:, 0].tolist() == [1200, 1201, 1202, 1203, 1204]
    assert (found == 0).all()


def test_small_indexes_stay_pending_until_linked_explicitly() -> None:
    index, X = built(n=300)
    assert index.n_linked == 0
    assert index.search(X[:1], k=1)[0][0, 0] == 0
    assert index.link() == 300
    assert index.n_linked == 300
    assert index.search(X[7], k=1)[0][0, 0] == 7


def test_add_returns_the_rows_and_links_large_indexes() -> None:
    X = data("f32", 2000, 2)
    index = GraphIndex(DIM)
    assert index.add(X[:500]).tolist() == list(range(500))
    assert index.n_linked == 0
    assert index.add(X[500:])[0] == 500
    assert index.n_linked == 2000


def test_link_moves_at_most_max_rows() -> None:
    index = GraphIndex(DIM)
    index.append(data("f32", 100, 2))
    assert index.link(max_rows=30) == 30
    assert index.n_linked == 30
    assert index.link(max_rows=0) == 0
    assert index.link() == 70
    assert index.link() == 0


@pytest.mark.parametrize("strategy", ["auto", "scan", "filter", "gate"])
@pytest.mark.parametrize("share", [0.0003, 0.003, 0.05, 0.3, 0.9])
def test_filters_hold_and_k_results_come_back(l2, strategy: str, share: float) -> None:
    index, X, Q = l2
    mask = np.random.default_rng(4).random(N) < share
    D = np.where(mask[None, :], distances(Q, X, "l2"), np.inf)
    rows, found = index.search(Q, k=10, ef_search=100, filter=mask, strategy=strategy)
    wanted = min(10, int(mask.sum()))
    assert ((rows >= 0).sum(axis=1) == wanted).all()
    assert (rows[:, wanted:] == -1).all()
    assert np.isinf(found[:, wanted:]).all()
    assert mask[rows[:, :wanted]].all()
    if wanted == 10:
        floor = 0.9 if strategy == "filter" else RECALL_FLOOR
        assert recall(rows, D, 10) >= floor


def test_a_filter_far_from_the_query_still_finds_its_rows(l2) -> None:
    index, X, Q = l2
    D = distances(Q, X, "l2")
    for i in range(10):
        mask = np.zeros(N, dtype=bool)
        mask[np.argsort(D[i])[-600:]] = True
        for strategy in ("auto", "filter", "gate"):
            rows, _ = index.search(Q[i], k=10, filter=mask, strategy=strategy)
            assert (rows >= 0).all()
            assert mask[rows].all()


def test_packed_filters_equal_masks(l2) -> None:
    index, _, Q = l2
    mask = np.random.default_rng(4).random(N) < 0.2
    packed = np.packbits(mask, bitorder="little")
    packed = np.pad(packed, (0, -len(packed) % 8)).view(np.uint64)
    a = index.search(Q, filter=mask)
    b = index.search(Q, filter=packed)
    assert (a[0] == b[0]).all()
    short = index.search(Q, filter=packed[:1])
    assert (short[0] < 64).all()


def test_removed_rows_never_return_and_k_holds() -> None:
    index, _X = built()
    Q = data("f32", N_QUERIES, 3)
    gone = np.random.default_rng(5).permutation(N)[: N - 25]
    assert index.remove(gone[:1000]) == 1000
    assert index.remove(gone[:1000]) == 0
    assert index.n_live == N - 1000
    for strategy in ("auto", "gate"):
        rows, _ = index.search(Q, k=10, ef_search=100, strategy=strategy)
        assert not np.isin(rows, gone[:1000]).any()
        assert (rows >= 0).all()
    index.remove(gone)
    rows, _ = index.search(Q, k=40, ef_search=64)
    assert ((rows >= 0).sum(axis=1) == 25).all()
    assert not np.isin(rows, gone).any()


def test_repair_keeps_recall_and_leaves_no_edge_to_removed_rows() -> None:
    index, X = built()
    Q = data("f32", N_QUERIES, 3)
    gone = np.random.default_rng(5).permutation(N)[: N // 2]
    index.remove(gone)
    assert index.repair() > 0
    assert index.repair() == 0
    alive = np.setdiff1d(np.arange(N), gone)
    D = distances(Q, X, "l2")
    D[:, gone] = np.inf
    rows, _ = index.search(Q, k=10, ef_search=100)
    assert recall(rows, D, 10) >= RECALL_FLOOR
    edges = index.edges()[alive]
    assert not np.isin(edges, gone).any()


def test_the_graph_stays_navigable_when_whole_clusters_and_entry_points_die() -> None:
    index, X = built()
    Q = data("f32", N_QUERIES, 3)
    index.remove(np.arange(0, N - 400))
    for _ in range(2):
        rows, _ = index.search(Q, k=10, ef_search=100)
        assert (rows >= N - 400).all()
        D = distances(Q, X, "l2")
        D[:, : N - 400] = np.inf
        assert recall(rows, D, 10) >= RECALL_FLOOR
        index.repair()


def test_every_row_of_well_separated_clusters_is_reachable() -> None:
    rng = np.random.default_rng(6)
    X = (
        np.repeat(rng.normal(size=(20, 16)) * 1000, 200, axis=0) + rng.normal(size=(4000, 16))
    ).astype(np.float32)
    index = GraphIndex(16)
    index.build(X, threads=1)
    rows, _ = index.search(X, k=1, ef_search=32)
    assert (rows[:, 0] == np.arange(4000)).mean() >= 0.99


def test_duplicates_are_all_returned() -> None:
    X = np.repeat(data("f32", 100, 2), 30, axis=0)
    index = GraphIndex(DIM)
    index.build(X)
    _rows, found = index.search(X[::30].copy(), k=30, ef_search=128)
    assert (found == 0).mean() >= RECALL_FLOOR


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    ("metric", "dtype"), [("l2", "f32"), ("cosine", "f16"), ("ip", "i8"), ("hamming", "bit")]
)
def test_a_loaded_index_answers_as_the_saved_one(
    tmp_path: Path, metric: str, dtype: str, mmap: bool
) -> None:
    index, _X = built(metric, dtype, n=1500)
    index.append(data(dtype, 70, 8))
    index.remove([3, 1510])
    index.save(tmp_path / "g.bin")
    loaded = GraphIndex.load(tmp_path / "g.bin", mmap=mmap)
    Q = data(dtype, 20, 3, queries=True)
    for a, b in zip(index.search(Q), loaded.search(Q), strict=True):
        assert (a == b).all()
    assert (loaded.n, loaded.n_linked, loaded.n_live, loaded.metric, loaded.dtype) == (
        1570,
        1500,
        1568,
        metric,
        dtype,
    )
    assert (loaded.vectors(np.arange(1570)) == index.vectors(np.arange(1570))).all()
    # It goes on growing and healing without touching the file.
    before = (tmp_path / "g.bin").read_bytes()
    loaded.add(data(dtype, 500, 11))
    loaded.remove(np.arange(100))
    loaded.repair()
    assert loaded.n_linked == 2070
    assert (loaded.search(Q)[0] >= 100).all()
    assert (tmp_path / "g.bin").read_bytes() == before


@pytest.mark.parametrize("mmap", [True, False])
def test_vectors_may_be_kept_outside(tmp_path: Path, mmap: bool) -> None:
    X = data("f32", 1500, 2)
    np.save(tmp_path / "v.npy", X)
    outside = np.load(tmp_path / "v.npy", mmap_mode="r")
    index = GraphIndex(DIM, "cosine")
    index.build(outside, copy=False)
    index.save(tmp_path / "g.bin", vectors=False)
    index.save(tmp_path / "whole.bin", vectors=True)
    saved = (tmp_path / "whole.bin").stat().st_size - (tmp_path / "g.bin").stat().st_size
    assert abs(saved - X.nbytes) < 8192
    loaded = GraphIndex.load(tmp_path / "g.bin", mmap=mmap, vectors=outside)
    Q = data("f32", 20, 3)
    assert (loaded.search(Q)[0] == index.search(Q)[0]).all()
    loaded.add(data("f32", 10, 5))
    assert (loaded.vectors([1499, 1509])[0] == X[1499]).all()
    assert (loaded.search(Q, exact=True)[0] >= 0).all()
    with pytest.raises(InvalidArgumentError, match="1500 vectors"):
        GraphIndex.load(tmp_path / "g.bin")
    with pytest.raises(InvalidArgumentError, match="1500 vectors"):
        GraphIndex.load(tmp_path / "g.bin", vectors=outside[:-1])
    with pytest.raises(DimensionError):
        GraphIndex.load(tmp_path / "g.bin", vectors=np.ones((1500, 7), np.float32))


def test_every_flipped_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    index, _ = built("cosine", n=1100)
    path = tmp_path / "g.bin"
    index.save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(7)
    places = [*range(0, 400, 7), *rng.integers(0, len(good), 150).tolist(), len(good) - 1]
    missed = 0
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 0x40
        path.write_bytes(bad)
        try:
            GraphIndex.load(path)
        except (CorruptionError, FormatVersionError):
            continue
        missed += 1
        # Only padding between sections may change unnoticed.
        assert good[place] == 0, place
    assert missed < 30


@pytest.mark.parametrize("size", [0, 10, 500, 4096, 100_000])
def test_truncated_files_are_refused(tmp_path: Path, size: int) -> None:
    index, _ = built(n=1100)
    path = tmp_path / "g.bin"
    index.save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptionError, match=r"g\.bin"):
        GraphIndex.load(path)


def test_a_missing_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        GraphIndex.load(tmp_path / "none")


def test_an_empty_index_saves_loads_and_finds_nothing(tmp_path: Path) -> None:
    index = GraphIndex(4)
    index.save(tmp_path / "g.bin")
    loaded = GraphIndex.load(tmp_path / "g.bin")
    rows, found = loaded.search(np.zeros((2, 4), np.float32), k=3)
    assert (rows == -1).all()
    assert np.isinf(found).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(l2, bad: float) -> None:
    _, X, _Q = l2
    rows = X[:5].copy()
    rows[3, 7] = bad
    index = GraphIndex(DIM)
    with pytest.raises(VectorValueError, match="3"):
        index.append(rows)
    assert index.n == 0
    with pytest.raises(VectorValueError):
        l2[0].search(rows)


def test_zero_vectors_are_refused_under_cosine_only() -> None:
    zeros = np.zeros((1, DIM), np.float32)
    assert GraphIndex(DIM, "l2").append(zeros) == 0
    with pytest.raises(VectorValueError):
        GraphIndex(DIM, "cosine").append(zeros)


def test_wrong_shapes_and_types_are_refused(l2) -> None:
    index, X, Q = l2
    with pytest.raises(DimensionError):
        index.search(Q[:, :-1].copy())
    with pytest.raises(InvalidArgumentError, match="float32"):
        index.search(Q.astype(np.float64))
    with pytest.raises(InvalidArgumentError, match="contiguous"):
        index.search(np.asfortranarray(Q))
    with pytest.raises(DimensionError):
        index.append(X[:, :3].copy())
    with pytest.raises(DimensionError):
        index.append(X[0])
    with pytest.raises(InvalidArgumentError, match="int64"):
        GraphIndex(DIM).append(np.ones((2, DIM), np.int64))
    with pytest.raises(InvalidArgumentError, match="copy=False"):
        GraphIndex(DIM).build(X.astype(np.float64), copy=False)
    with pytest.raises(DimensionError, match="mask"):
        index.search(Q, filter=np.ones(5, dtype=bool))
    with pytest.raises(InvalidArgumentError, match="uint64"):
        index.search(Q, filter=np.ones(5, dtype=np.int32))


def test_search_parameters_out_of_range_are_refused(l2) -> None:
    index, _, Q = l2
    with pytest.raises(InvalidArgumentError, match="k is 0"):
        index.search(Q, k=0)
    with pytest.raises(InvalidArgumentError, match="ef_search is 5, below k = 10"):
        index.search(Q, k=10, ef_search=5)
    with pytest.raises(LimitError):
        index.search(Q, k=10_001, ef_search=20_000)
    with pytest.raises(LimitError):
        index.search(Q, ef_search=100_001)
    with pytest.raises(LimitError):
        index.search(Q, threads=257)
    with pytest.raises(InvalidArgumentError, match="strategy"):
        index.search(Q, strategy="magic")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"dim": 65_537},
        {"dim": 8, "M": 3},
        {"dim": 8, "M": 129},
        {"dim": 8, "ef_construction": 7},
        {"dim": 8, "seed": -1},
        {"dim": 8, "metric": "hamming"},
        {"dim": 12, "metric": "hamming", "dtype": "bit"},
        {"dim": 8, "metric": "euclid"},
    ],
)
def test_configurations_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(InvalidArgumentError):
        GraphIndex(**options)


def test_rows_that_do_not_exist_are_refused(l2) -> None:
    index, X, _ = l2
    for rows in ([N], [-1], [0, N]):
        with pytest.raises(InvalidArgumentError, match="does not exist"):
            index.remove(rows)
        with pytest.raises(InvalidArgumentError, match="does not exist"):
            index.vectors(rows)
    assert index.n_live == N
    assert (index.vectors([5, 2]) == X[[5, 2]]).all()


def test_build_refuses_an_index_with_rows(l2) -> None:
    with pytest.raises(InvalidArgumentError, match="empty"):
        l2[0].build(l2[1])


def test_progress_is_told_and_may_cancel() -> None:
    X = data("f32", 20_000, 2)
    seen: list[tuple[int, int]] = []
    index = GraphIndex(DIM)
    with pytest.raises(CancelledError):
        index.build(X, threads=1, progress=lambda done, total: bool(seen.append((done, total))))
    assert seen[0][1] == 20_000
    assert index.n == 0
    index.build(X[:3000])
    assert index.n_linked == 3000


def test_an_error_in_the_progress_callback_is_raised() -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GraphIndex(DIM).build(data("f32", 20_000, 2), threads=1, progress=fail)


def test_single_threaded_builds_are_reproducible() -> None:
    a, _ = built(seed=3)
    b, _ = built(seed=3)
    c, _ = built(seed=4)
    assert (a.edges() == b.edges()).all()
    assert (a.edges() != c.edges()).any()


def test_a_closed_index_says_so(l2) -> None:
    index, X = built(n=1200)
    index.close()
    index.close()
    assert repr(index) == "GraphIndex(closed)"
    for call in (
        lambda: index.search(X),
        lambda: index.append(X),
        lambda: index.n,
        lambda: index.remove([0]),
    ):
        with pytest.raises(ClosedError):
            call()


def test_ip_with_norms_of_all_sizes_finds_the_largest_products() -> None:
    X = data("f32", N, 2) * np.random.default_rng(1).lognormal(sigma=0.7, size=(N, 1)).astype(
        np.float32
    )
    index = GraphIndex(DIM, "ip")
    index.build(X[:2000])
    index.add(X[2000:])
    Q = data("f32", N_QUERIES, 3)
    rows, _ = index.search(Q, k=10, ef_search=100)
    assert recall(rows, distances(Q, X, "ip"), 10) >= RECALL_FLOOR


def test_a_replay_reads_what_the_searches_read_and_nothing_else() -> None:
    X, queries = data("f32", N, 2), data("f32", N_QUERIES, 3, queries=True)
    index = GraphIndex(DIM, format="rabitq")
    index.build(X, threads=1)
    nodes, compared, seconds = index.replay(queries, k=10, ef_search=64, passes=2)
    # Among so few rows a walk may run out of candidates before its beam is full: the same row was one several times.
    assert 32 * N_QUERIES <= nodes <= 5 * 64 * N_QUERIES
    assert 10 * N_QUERIES <= compared <= 20 * N_QUERIES
    assert 0 < seconds < 10
    wide, _, _ = index.replay(queries, k=10, ef_search=200, passes=1)
    assert wide > nodes
    codes = GraphIndex(DIM, format="sq8")
    codes.build(X, threads=1)
    with pytest.raises(InvalidArgumentError, match="rabitq"):
        codes.replay(queries)
    with pytest.raises(InvalidArgumentError, match="passes"):
        index.replay(queries, passes=0)
    with pytest.raises(DimensionError):
        index.replay(queries[:, :-1].copy())


@pytest.mark.parametrize("format", ["sq8", "rabitq"])
def test_results_that_a_caller_holds_are_never_written_again(format: Any) -> None:
    X = clustered(2_000, DIM, 1)
    index = GraphIndex(DIM, "l2", format=format)
    index.build(X)
    held = [index.search(X[i : i + 5], k=10) for i in range(20)]
    copies = [(rows.copy(), near.copy()) for rows, near in held]
    for i in range(20, 60):
        index.search(X[i : i + 7], k=10, threads=2)
    for (rows, near), (rows_then, near_then) in zip(held, copies, strict=True):
        np.testing.assert_array_equal(rows, rows_then)
        np.testing.assert_array_equal(near, near_then)
    arrays = [array for pair in held for array in pair]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))


def test_lengths_are_taken_into_account_once_and_no_row_is_rewritten() -> None:
    X = clustered(3_000, DIM, 2)
    scaled = (X * np.geomspace(1e-3, 1e3, len(X), dtype=np.float32)[:, None]).astype(np.float32)
    index = GraphIndex(DIM, "cosine")
    index.build(scaled[:2_000])  # a bulk load
    for first in range(2_000, 3_000, 100):  # and what comes later
        index.add(scaled[first : first + 100])
    np.testing.assert_array_equal(index.vectors(np.arange(len(X))), scaled)
    Q = X[:50]
    unit = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    for factor in (
        1e-3,
        1.0,
        1e3,
    ):  # normalising a normalised query, or not at all, would show here
        _, near = index.search(Q * np.float32(factor), k=1, exact=True)
        np.testing.assert_allclose(near[:, 0], 0.0, atol=1e-5)
        _, far = index.search(Q[:3] * np.float32(factor), k=100, exact=True)
        expected = np.sort(1 - unit[:3] @ unit.T, axis=1)[:, :100]
        np.testing.assert_allclose(far, expected, atol=1e-5)
