"""FlatIndex against NumPy, its errors, its file, and searches beside writes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from vicinal.index import FlatIndex
from vicinal.model.errors import (
    CorruptionError,
    DimensionError,
    InvalidArgumentError,
    LimitError,
    StorageError,
    VectorValueError,
)
from vicinal.model.limits import DIM_MAX, K_MAX, THREADS_MAX

PAIRS = [
    *((m, t) for m in ("l2", "ip", "cosine", "manhattan") for t in ("f32", "f16", "i8")),
    ("hamming", "bit"),
]
RELATIVE_ERROR_MAX = 1e-5  # of the largest distance: float32 sums, for ip of both signs


def vectors(dtype: str, n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bit":
        return rng.integers(0, 256, size=(n, dim // 8), dtype=np.uint8)
    if dtype == "i8":
        return rng.integers(-128, 128, size=(n, dim)).astype(np.int8)
    return rng.normal(size=(n, dim)).astype(np.float16 if dtype == "f16" else np.float32)


def queries(dtype: str, n: int, dim: int, seed: int = 99) -> np.ndarray:
    return vectors("f32" if dtype == "f16" else dtype, n, dim, seed)


def true_distances(Q: np.ndarray, X: np.ndarray, metric: str) -> np.ndarray:
    if metric == "hamming":
        q, x = np.unpackbits(Q, axis=1), np.unpackbits(X, axis=1)
        return (q[:, None] != x[None]).sum(2).astype(float)
    q, x = Q.astype(np.float64), X.astype(np.float64)
    if metric == "l2":
        return ((q[:, None] - x[None]) ** 2).sum(2)
    if metric == "manhattan":
        return np.abs(q[:, None] - x[None]).sum(2)
    if metric == "ip":
        return -(q @ x.T)
    return 1 - (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)


def check_results(
    rows: np.ndarray, distances: np.ndarray, truth: np.ndarray, allowed: np.ndarray, k: int
) -> None:
    """Compare with a full sort of truth (nq, n) over the allowed rows (n,), tolerating rounding."""
    assert rows.dtype == np.int64
    assert distances.dtype == np.float32
    assert rows.shape == distances.shape == (len(truth), k)
    found = min(k, int(allowed.sum()))
    assert np.all(rows[:, found:] == -1)
    assert np.all(np.isposinf(distances[:, found:]))
    for i, expected in enumerate(truth):
        got, near = rows[i, :found], distances[i, :found]
        assert len(set(got.tolist())) == found
        assert np.all(allowed[got])
        tolerance = RELATIVE_ERROR_MAX * np.abs(expected).max()
        assert np.allclose(near, expected[got], rtol=0, atol=tolerance)
        assert np.allclose(near, np.sort(expected[allowed])[:found], rtol=0, atol=tolerance)
        assert np.all(near[:-1] <= near[1:])
        ties = near[:-1] == near[1:]
        assert np.all(got[:-1][ties] < got[1:][ties])


@pytest.mark.parametrize("threads", [1, 0])
@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_search_agrees_with_numpy(metric: str, dtype: str, threads: int) -> None:
    X, Q = vectors(dtype, 1500, 72, 1), queries(dtype, 7, 72)
    index = FlatIndex(dim=72, metric=metric, dtype=dtype)
    assert np.array_equal(index.add(X[:1000]), np.arange(1000))
    assert np.array_equal(index.add(X[1000:]), np.arange(1000, 1500))
    rows, distances = index.search(Q, k=20, threads=threads)
    check_results(rows, distances, true_distances(Q, X, metric), np.ones(1500, bool), 20)


@pytest.mark.parametrize("nq", [1, 3, 200])
def test_parts_and_groups_give_the_same_answer_as_one_thread(nq: int) -> None:
    X, Q = vectors("f32", 30_000, 16, 2), queries("f32", nq, 16)
    index = FlatIndex(dim=16)
    index.add(X)
    one = index.search(Q, k=33, threads=1)
    all_ = index.search(Q, k=33, threads=0)
    assert np.array_equal(one[0], all_[0])
    assert np.array_equal(one[1], all_[1])
    sample = slice(0, 3)
    truth = true_distances(Q[sample], X, "l2")
    check_results(one[0][sample], one[1][sample], truth, np.ones(len(X), bool), 33)


@pytest.mark.parametrize("selectivity", [0.0, 0.001, 0.3, 1.0])
@pytest.mark.parametrize(("metric", "dtype"), [("cosine", "f32"), ("l2", "i8"), ("hamming", "bit")])
def test_only_live_rows_that_pass_the_filter_are_found(
    metric: str, dtype: str, selectivity: float
) -> None:
    X, Q = vectors(dtype, 5001, 64, 3), queries(dtype, 4, 64)
    rng = np.random.default_rng(4)
    index = FlatIndex(dim=64, metric=metric, dtype=dtype)
    index.add(X)
    removed = rng.choice(5001, 700, replace=False)
    assert index.remove(removed) == 700
    mask = rng.random(5001) < selectivity
    allowed = mask.copy()
    allowed[removed] = False
    truth = true_distances(Q, X, metric)
    for threads in (1, 0):
        rows, distances = index.search(Q, k=15, filter=mask, threads=threads)
        check_results(rows, distances, truth, allowed, 15)


def test_a_packed_filter_means_the_same_as_a_mask() -> None:
    X, Q = vectors("f32", 300, 8, 5), queries("f32", 2, 8)
    index = FlatIndex(dim=8)
    index.add(X)
    mask = np.arange(300) % 3 == 0
    words = np.zeros(3, np.uint64)  # speaks of rows 0 to 191 only: the others do not pass
    for r in np.flatnonzero(mask[:192]):
        words[r // 64] |= np.uint64(1) << np.uint64(r % 64)
    masked = mask & (np.arange(300) < 192)
    assert np.array_equal(
        index.search(Q, k=70, filter=words)[0], index.search(Q, k=70, filter=masked)[0]
    )


def test_search_pads_with_minus_one_when_k_exceeds_size() -> None:
    index = FlatIndex(dim=3)
    rows, distances = index.search(np.zeros((2, 3)), k=4)
    assert np.array_equal(rows, np.full((2, 4), -1))
    assert np.all(np.isposinf(distances))
    index.add(np.eye(3))
    rows, distances = index.search([0, 0, 1], k=5)
    assert rows.tolist() == [[2, 0, 1, -1, -1]]
    assert distances.tolist() == [[0, 2, 2, np.inf, np.inf]]


def test_ties_are_broken_by_row_whatever_k_and_threads() -> None:
    index = FlatIndex(dim=4)
    index.add(np.ones((20_000, 4)))
    for k in (1, 10, 1000):
        for threads in (1, 0):
            rows, _ = index.search(np.zeros(4), k=k, threads=threads)
            assert np.array_equal(rows[0], np.arange(k))


def test_the_largest_k_returns_every_row_in_order() -> None:
    X = vectors("f32", 12_000, 4, 6)
    index = FlatIndex(dim=4)
    index.add(X)
    rows, distances = index.search(X[:1], k=K_MAX)
    check_results(rows, distances, true_distances(X[:1], X, "l2"), np.ones(12_000, bool), K_MAX)


def test_overflowing_distances_are_infinite_and_still_found() -> None:
    index = FlatIndex(dim=2)
    index.add(np.array([[3e38, 3e38], [0, 0]], np.float32))
    rows, distances = index.search(np.zeros(2), k=2)
    assert rows.tolist() == [[1, 0]]
    assert distances.tolist() == [[0, np.inf]]


def test_cosine_ignores_length_at_any_magnitude() -> None:
    directions = np.eye(4)
    index = FlatIndex(dim=4, metric="cosine")
    index.add(directions * np.array([1e-30, 1e30, 1, 1e-20])[:, None])
    for scale in (1e-30, 1.0, 1e30):
        rows, distances = index.search(directions * scale, k=1)
        assert rows[:, 0].tolist() == [0, 1, 2, 3]
        assert np.all(distances <= 1e-6)


def test_removed_rows_never_come_back_and_are_counted_once() -> None:
    X = vectors("f32", 100, 8, 7)
    index = FlatIndex(dim=8)
    index.add(X)
    assert index.remove([3, 5, 3]) == 2
    assert index.remove(5) == 0
    assert (index.n, index.n_live, len(index)) == (100, 98, 98)
    assert index.search(X[3], k=1)[0][0, 0] != 3
    with pytest.raises(InvalidArgumentError, match="row 100 does not exist"):
        index.remove([1, 100])
    assert index.n_live == 98
    assert np.array_equal(index.vectors([3, 99]), X[[3, 99]])


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_a_saved_index_answers_as_before(metric: str, dtype: str, tmp_path: Path) -> None:
    X, Q = vectors(dtype, 700, 40, 8), queries(dtype, 3, 40)
    index = FlatIndex(dim=40, metric=metric, dtype=dtype)
    index.add(X)
    index.remove([0, 64, 699])
    index.save(tmp_path / "flat.bin")
    again = FlatIndex.load(tmp_path / "flat.bin")
    assert (again.n, again.n_live, again.dim) == (700, 697, 40)
    assert (again.metric, again.dtype) == (metric, dtype)
    assert np.array_equal(again.vectors(np.arange(700)), X)
    for mine, theirs in zip(index.search(Q, k=50), again.search(Q, k=50), strict=True):
        assert np.array_equal(mine, theirs)
    assert again.add(X[:2]).tolist() == [700, 701]


def test_a_file_of_several_blocks_and_an_empty_one_are_read_back(tmp_path: Path) -> None:
    X = vectors("f32", 9000, 100, 9)  # 3.6 MB: rows and tombstones share the last block
    index = FlatIndex(dim=100)
    index.save(tmp_path / "empty")
    assert FlatIndex.load(tmp_path / "empty").n == 0
    index.add(X)
    index.remove(np.arange(0, 9000, 7))
    index.save(tmp_path / "full")
    again = FlatIndex.load(tmp_path / "full")
    assert np.array_equal(again.vectors(np.arange(9000)), X)
    assert again.n_live == index.n_live
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["empty", "full"]


def test_every_damaged_byte_and_length_is_noticed(tmp_path: Path) -> None:
    index = FlatIndex(dim=8)
    index.add(vectors("f32", 20, 8, 10))
    path = tmp_path / "flat.bin"
    index.save(path)
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        with pytest.raises(CorruptionError, match=r"flat\.bin"):
            FlatIndex.load(path)
    for bad in (b"", good[:63], good[:-1], good + b"\0"):
        path.write_bytes(bad)
        with pytest.raises(CorruptionError, match=r"flat\.bin"):
            FlatIndex.load(path)


def test_file_errors_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing.*errno 2"):
        FlatIndex.load(tmp_path / "missing")
    with pytest.raises(StorageError, match="nowhere"):
        FlatIndex(dim=2).save(tmp_path / "nowhere" / "flat.bin")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim is 0; choose 1 to 65536"),
        ({"dim": DIM_MAX + 1}, "dim is 65537"),
        ({"dim": 8, "metric": "euclid"}, "unknown metric 'euclid'"),
        ({"dim": 8, "dtype": "f64"}, "unknown dtype 'f64'"),
        ({"dim": 8, "metric": "hamming"}, "does not apply"),
        ({"dim": 8, "dtype": "bit"}, "does not apply"),
        ({"dim": 12, "metric": "hamming", "dtype": "bit"}, "multiple of 8"),
    ],
)
def test_impossible_indexes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        FlatIndex(**options)


def test_bad_vectors_are_refused_whole() -> None:
    index = FlatIndex(dim=4, metric="cosine")
    index.add(np.ones((2, 4)))
    for bad, message in [(np.nan, "row 1 holds NaN"), (np.inf, "row 1 holds NaN or infinity")]:
        X = np.ones((3, 4))
        X[1, 2] = bad
        with pytest.raises(VectorValueError, match=message):
            index.add(X)
    with pytest.raises(VectorValueError, match="row 0 is zero"):
        index.add(np.zeros((1, 4)))
    with pytest.raises(VectorValueError, match="query 0 is zero"):
        index.search(np.zeros(4))
    with pytest.raises(VectorValueError, match="query 1 holds NaN"):
        index.search([[1, 1, 1, 1], [1, np.nan, 1, 1]])
    with pytest.raises(VectorValueError, match="row 0 holds NaN or infinity"):
        FlatIndex(dim=1, dtype="f16").add([[1e6]])
    assert index.n == 2


def test_wrong_shapes_and_types_say_what_to_pass() -> None:
    index = FlatIndex(dim=4)
    with pytest.raises(DimensionError, match="X has 5 columns, the index needs 4"):
        index.add(np.ones((2, 5)))
    with pytest.raises(InvalidArgumentError, match=r"1 dimensions; pass \(n, dim\)"):
        index.add(np.ones(4))
    with pytest.raises(InvalidArgumentError, match="pass real numbers"):
        index.add(np.ones((1, 4), complex))
    with pytest.raises(DimensionError, match="Q has 3 columns"):
        index.search(np.ones(3))
    bytes_index = FlatIndex(dim=2, dtype="i8")
    bytes_index.add([[-128, 127]])
    with pytest.raises(InvalidArgumentError, match="X holds 128; int8 rows hold -128 to 127"):
        bytes_index.add([[0, 128]])
    with pytest.raises(InvalidArgumentError, match="pass integers"):
        bytes_index.add([[0.5, 1.0]])
    bits = FlatIndex(dim=16, metric="hamming", dtype="bit")
    bits.add(np.ones((1, 16), bool))
    with pytest.raises(InvalidArgumentError, match="pass booleans, or uint8 packed"):
        bits.add(np.ones((1, 2)))
    assert bits.search(np.zeros(16, bool), k=1)[1].tolist() == [[16]]


def test_limits_of_a_search_are_enforced() -> None:
    index = FlatIndex(dim=2)
    index.add([[1, 2]])
    with pytest.raises(InvalidArgumentError, match="k is 0"):
        index.search([1, 2], k=0)
    with pytest.raises(LimitError, match="above the limit of 10000"):
        index.search([1, 2], k=K_MAX + 1)
    for threads in (-1, THREADS_MAX + 1):
        with pytest.raises(InvalidArgumentError, match=f"threads is {threads}"):
            index.search([1, 2], threads=threads)
    with pytest.raises(InvalidArgumentError, match="filter has 3 booleans, the index 1 rows"):
        index.search([1, 2], filter=np.ones(3, bool))
    with pytest.raises(InvalidArgumentError, match="uint64 bitset"):
        index.search([1, 2], filter=np.ones(1, np.int64))


def test_a_non_contiguous_or_read_only_array_is_taken() -> None:
    X = vectors("f32", 50, 16, 11)
    X.setflags(write=False)
    index = FlatIndex(dim=8)
    index.add(X[:, ::2])
    assert np.array_equal(index.vectors(np.arange(50)), X[:, ::2])


def test_searches_see_consistent_rows_while_others_are_added_and_removed() -> None:
    # Row r is the vector (r, 0), at distance r * r: a wrong row or torn vector shows.
    index = FlatIndex(dim=2)
    index.add([[0, 0]])
    failures: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            before = index.n
            rows, distances = index.search([0, 0], k=5, threads=2)
            found = rows[0][rows[0] >= 0]
            if not np.array_equal(distances[0][: len(found)], (found.astype(np.float64) ** 2)):
                failures.append(f"{rows} {distances}")
            if before > 5 and len(found) < 4:
                failures.append(f"{len(found)} found of {before}")

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for thread in searchers:
        thread.start()
    for r in range(1, 1500):
        index.add([[r, 0]])
        if r > 10 and r % 2:
            index.remove(r)
    done.set()
    for thread in searchers:
        thread.join()
    assert not failures, failures[:3]


def test_memory_is_reported_and_grows_with_rows() -> None:
    index = FlatIndex(dim=256)
    empty = index.memory_bytes
    index.add(np.ones((10_000, 256)))
    assert empty < 10_000 * 256 * 4 <= index.memory_bytes < 10_000 * 256 * 4 * 2
    assert repr(index) == "FlatIndex(dim=256, metric='l2', dtype='f32', n=10000, n_live=10000)"
