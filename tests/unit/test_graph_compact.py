"""GraphIndex.compact: a copy without removed rows that answers as before; and every row's own vector finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vicinal.index import GraphIndex
from vicinal.model.errors import ClosedError, DimensionError, InvalidArgumentError, LimitError

N, DIM = 3_000, 32
SPACES = [
    ("l2", "f32"),
    ("ip", "f32"),
    ("cosine", "f16"),
    ("manhattan", "i8"),
    ("hamming", "bit"),
]


def rows_of(dtype: str, n: int = N, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(40, DIM)) * 2)[rng.integers(0, 40, n)] + rng.normal(size=(n, DIM))
    if dtype == "bit":
        return np.packbits(X > 0, axis=1)
    return (
        (X * 15)
        .clip(-128, 127)
        .astype({"f32": np.float32, "f16": np.float16, "i8": np.int8}[dtype])
    )


def queries_of(dtype: str) -> np.ndarray:
    found = rows_of(dtype, 50, seed=4)
    return found.astype(np.float32) if dtype == "f16" else found


def churned(
    metric: str = "l2", dtype: str = "f32", *, format: Any = "auto", copy: bool = True
) -> tuple[GraphIndex, np.ndarray]:
    """An index of which a third is removed, with a few rows pending."""
    X = rows_of(dtype)
    index = GraphIndex(DIM, metric, dtype, M=16, ef_construction=80, format=format)
    index.build(X[: N - 100], threads=1, copy=copy)
    index.append(X[N - 100 :])
    index.remove(np.arange(0, N, 3))
    return index, X


@pytest.mark.parametrize("format", ["sq8", "auto"])
@pytest.mark.parametrize(("metric", "dtype"), SPACES)
def test_a_compacted_copy_holds_the_live_rows_and_answers_as_before(
    metric: str, dtype: str, format: str
) -> None:
    index, X = churned(metric, dtype, format=format)
    copy, kept = index.compact()
    alive = np.setdiff1d(np.arange(N), np.arange(0, N, 3))
    assert np.array_equal(kept, alive)
    assert (copy.n, copy.n_live, copy.n_linked) == (len(alive), len(alive), index.n_linked * 2 // 3)
    assert copy.vectors(np.arange(copy.n)).tobytes() == X[alive].tobytes()
    queries = queries_of(dtype)
    before, near = index.search(queries, k=10, exact=True)
    after, near_after = copy.search(queries, k=10, exact=True)
    assert np.array_equal(kept[after], before)
    assert np.array_equal(near_after, near)
    found, _ = copy.search(queries, k=10, ef_search=100)
    assert np.mean([np.isin(kept[f], b).mean() for f, b in zip(found, before, strict=True)]) > 0.9


def test_a_compacted_copy_has_no_dead_edges_and_less_memory() -> None:
    index, _ = churned()
    copy, _ = index.compact(threads=2)
    edges = copy.edges()
    assert edges.max() < copy.n_linked
    assert copy.memory_bytes < index.memory_bytes
    assert index.n == N  # the original stays as it is
    index.close()
    assert copy.search(queries_of("f32"), k=3)[0].shape == (50, 3)


def test_a_copy_of_borrowed_rows_owns_its_rows() -> None:
    index, X = churned(copy=False)
    copy, kept = index.compact()
    expected = X[kept].copy()
    index.close()
    X[:] = 0
    assert np.array_equal(copy.vectors(np.arange(copy.n)), expected)


def test_updates_in_turn_with_compaction_keep_recall_memory_and_every_row_findable() -> None:
    X = rows_of("f32")
    index = GraphIndex(DIM, "l2", M=16, ef_construction=80)
    index.build(X, threads=1)
    memory = index.memory_bytes
    row = np.arange(N)
    rng = np.random.default_rng(5)
    for _ in range(6):
        chosen = rng.permutation(N)[: N // 2]
        index.remove(row[chosen])
        copy, kept = index.compact()
        place = np.full(index.n, -1)
        place[kept] = np.arange(len(kept))
        index.close()
        index, row = copy, place[row]
        row[chosen] = index.add(X[chosen], threads=1)
    assert index.memory_bytes <= 1.1 * memory
    _, near = index.search(X, k=1)
    assert not near.any(), np.flatnonzero(near[:, 0])


def test_new_rows_do_not_cut_off_old_ones() -> None:
    """Rows of all lengths: those of some small clusters have few ways in, and new edges push these out."""
    rng = np.random.default_rng(1)
    n, dim = 4_000, 64
    directions = rng.standard_normal((n, dim)) * np.arange(1, dim + 1) ** -0.5
    X = (directions * np.exp(rng.normal(0, 0.8, (n, 1)))).astype(np.float32)
    index = GraphIndex(dim=dim, metric="l2", format="sq8", seed=0)
    index.build(X, threads=1)
    row = np.arange(n)
    for _ in range(2):
        chosen = rng.choice(n, n // 2, replace=False)
        index.remove(row[chosen])
        compacted, kept = index.compact(threads=1)
        place = np.full(n + n // 2, -1)
        place[kept] = np.arange(len(kept))
        index.close()
        index, row = compacted, place[row]
        row[chosen] = index.add(X[chosen], threads=1)
        found = index.search(X, k=1, ef_search=48)[1][:, 0]
        assert (found > 1e-4).sum() <= 2


def test_a_copy_can_be_saved_loaded_and_grown(tmp_path: Path) -> None:
    index, X = churned()
    copy, _ = index.compact()
    copy.save(tmp_path / "copy")
    loaded = GraphIndex.load(tmp_path / "copy")
    loaded.add(X[::3], threads=1)
    assert loaded.n_live == N
    _, near = loaded.search(X, k=1)
    assert not near.any()


def test_compacting_what_has_no_live_rows_gives_an_empty_index() -> None:
    index, X = churned()
    index.remove(np.arange(N))
    copy, kept = index.compact()
    assert (copy.n, len(kept)) == (0, 0)
    assert (copy.search(X[:2], k=3)[0] == -1).all()
    copy.add(X, threads=1)
    assert copy.search(X[:2], k=1)[0].ravel().tolist() == [0, 1]
    empty, kept = GraphIndex(DIM).compact()
    assert (empty.n, len(kept)) == (0, 0)


def test_a_copy_takes_the_rows_that_are_named_and_its_vectors_from_elsewhere() -> None:
    index, X = churned()
    keep = np.arange(1, N, 2)  # among them removed rows, which stay removed
    new = rows_of("f32", 20, seed=9)
    vectors = np.concatenate([X[keep], new])
    copy, kept = index.compact(keep=keep, vectors=vectors)
    assert np.array_equal(kept, keep)
    assert (copy.n, copy.n_live) == (len(keep) + 20, int((keep % 3 != 0).sum()) + 20)
    assert copy.n_linked < len(keep)  # the rows that were pending, and the new ones, are pending
    copy.link(threads=1)
    found, near = copy.search(vectors, k=1, ef_search=100)
    dead = np.flatnonzero(keep % 3 == 0)
    assert not np.isin(found, dead).any()
    assert not near[np.setdiff1d(np.arange(copy.n), dead)].any()
    before = index.n_live
    copy.remove([1])
    assert index.n_live == before


@pytest.mark.parametrize("keep", [[3, 2], [2, 2], [-1], [N], [0, N + 5]])
def test_rows_to_keep_must_ascend_and_exist(keep: list[int]) -> None:
    index, _ = churned()
    with pytest.raises(InvalidArgumentError, match="ascending"):
        index.compact(keep=np.array(keep))


def test_bad_calls_of_compact_are_refused() -> None:
    index, X = churned()
    with pytest.raises(LimitError, match="threads"):
        index.compact(threads=10_000)
    with pytest.raises(InvalidArgumentError, match="10 rows"):
        index.compact(vectors=X[:10])
    with pytest.raises(DimensionError):
        index.compact(vectors=np.zeros((N, DIM + 1), np.float32))
    with pytest.raises(InvalidArgumentError, match="float32"):
        index.compact(vectors=X.astype(np.float16))
    index.close()
    with pytest.raises(ClosedError):
        index.compact()


@pytest.mark.parametrize("dim", [16, 64])
def test_each_of_many_independent_gaussian_rows_is_found_by_its_own_vector(dim: int) -> None:
    """High local dimension makes rows that no walk passes by; linking gives those an edge of their own."""
    X = np.random.default_rng(6).normal(size=(5_000, dim)).astype(np.float32)
    for format in ("sq8", "rabitq"):
        index = GraphIndex(dim, format=format)
        index.build(X[:2_500], threads=1)
        index.add(X[2_500:], threads=1)
        _, near = index.search(X, k=1, ef_search=200)
        assert not near.any(), (format, np.flatnonzero(near[:, 0]))
