"""The short way of a usual search answers as the long one does, and refuses what that refuses."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import engine_of

import vicinal
from vicinal.engine.reader import Reader
from vicinal.index import GraphIndex
from vicinal.model.errors import (
    DimensionError,
    InvalidArgumentError,
    LimitError,
    VectorValueError,
    VicinalError,
)
from vicinal.model.limits import BATCH_QUERIES_MAX

N, DIM, K = 2_000, 24, 7
RNG = np.random.default_rng(11)
VECTORS = RNG.standard_normal((N, DIM)).astype(np.float32)
QUERIES = RNG.standard_normal((20, DIM)).astype(np.float32)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Any]:
    with vicinal.open(tmp_path / "db") as opened:
        yield opened


def load(db: Any, name: str = "docs", ids: Any = None, **options: Any) -> Any:
    """A collection of one sealed segment with a graph."""
    docs = db.collection(name, **{"dim": DIM, "metric": "l2", **options})
    payload = [{"place": i, "text": "x" * (i % 50)} for i in range(N)]
    docs.upsert(ids=np.arange(N) * 3 if ids is None else ids, vectors=VECTORS, payload=payload)
    docs.optimize()
    return docs


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a search with the short way closed."""

    def run(search: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Reader, "walk", lambda *_: None)
            return search()

    return run


def walks(docs: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> bool:
    """Whether a search takes the short way to its end."""
    answers: list[bool] = []
    walk = Reader.walk

    def noted(self: Reader, *given: Any) -> Any:
        found = walk(self, *given)
        answers.append(found is not None)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "walk", noted)
        docs.search(QUERIES[0], k=K, **options)
    return answers == [True]


def told(hits: Any) -> list[tuple[Any, ...]]:
    """All that a search says of each hit."""
    return [
        (h.id, h.distance, h.payload, None if h.vector is None else h.vector.tolist()) for h in hits
    ]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"with_payload": False},
    {"with_payload": False, "ef_search": 20},
    {"with_payload": False, "recall": 0.9},
    {"recall": 0.99, "with_vectors": True},
    {"with_vectors": True, "with_payload": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine", "manhattan"])
def test_short_and_long_way_answer_alike_for_every_metric(
    db: Any, long_way: Any, monkeypatch: pytest.MonkeyPatch, metric: str, options: dict[str, Any]
) -> None:
    docs = load(db, metric=metric)
    assert walks(docs, monkeypatch, **options)
    for q in QUERIES:
        short = docs.search(q, k=K, **options)
        long = long_way(lambda q=q: docs.search(q, k=K, **options))
        assert told(short) == told(long)
        assert short.recall_estimate == long.recall_estimate
    short = docs.search(QUERIES, k=K, **options)
    long = long_way(lambda: docs.search(QUERIES, k=K, **options))
    assert [told(h) for h in short] == [told(h) for h in long]
    assert np.array_equal(short.ids, long.ids)
    assert short.ids.dtype == long.ids.dtype == np.int64
    assert np.array_equal(short.distances, long.distances)


@pytest.mark.parametrize("dtype", ["f16", "i8", "bit"])
def test_short_and_long_way_answer_alike_for_every_dtype(
    db: Any, long_way: Any, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    rng = np.random.default_rng(5)
    metric, dim = ("hamming", 8 * DIM) if dtype == "bit" else ("l2", DIM)
    kind = {"f16": np.float16, "i8": np.int8, "bit": np.uint8}[dtype]
    low, high = (0, 256) if dtype == "bit" else (-100, 100)
    docs = db.collection("typed", dim=dim, metric=metric, dtype=dtype)
    docs.upsert(ids=np.arange(N), vectors=rng.integers(low, high, (N, DIM)).astype(kind))
    docs.optimize()
    queries = rng.integers(low, high, (10, DIM)).astype(np.float32 if dtype == "f16" else kind)
    for q in queries:
        for query in (q, q.reshape(1, -1), q.tolist() if dtype != "bit" else q):
            short = docs.search(query, k=K, with_payload=False)
            long = long_way(lambda query=query: docs.search(query, k=K, with_payload=False))
            assert np.array_equal(short.ids, long.ids)
            assert np.array_equal(short.distances, long.distances)


@pytest.mark.parametrize("kind", ["str", "uuid", "mixed"])
def test_ids_that_are_no_ints_come_back_as_they_were_given(
    db: Any, long_way: Any, kind: str
) -> None:
    made = {
        "str": lambda i: f"id-{i}",
        "uuid": lambda i: uuid.UUID(int=i),
        "mixed": lambda i: i if i % 2 else f"id-{i}",
    }[kind]
    ids = [made(i) for i in range(N)]
    docs = load(db, ids=ids)
    for options in OPTIONS:
        hits = docs.search(QUERIES[0], k=K, **options)
        assert told(hits) == told(
            long_way(lambda options=options: docs.search(QUERIES[0], k=K, **options))
        )
        assert all(hit.id in ids for hit in hits)
    hits = docs.search(QUERIES[0], k=K)
    assert hits.ids.tolist() == [hit.id for hit in hits]
    assert hits.ids.dtype == object


def test_pending_points_deleted_ones_and_several_segments_are_answered_by_the_long_way(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = load(db)
    assert walks(docs, monkeypatch)
    docs.upsert(ids=[-1], vectors=QUERIES[:1])
    assert not walks(docs, monkeypatch)
    assert docs.search(QUERIES[0], k=K, with_payload=False).ids[0] == -1
    docs.delete(-1)
    assert docs.search(QUERIES[0], k=K, with_payload=False).ids[0] != -1
    docs.optimize()
    assert walks(docs, monkeypatch)
    near = docs.search(QUERIES[0], k=K, with_payload=False).ids
    docs.delete(near[:3].tolist())
    assert walks(docs, monkeypatch)
    assert (
        docs.search(QUERIES[0], k=K, with_payload=False).ids[: K - 3].tolist() == near[3:].tolist()
    )


def test_a_filter_exact_search_and_a_k_of_all_points_do_not_take_the_short_way(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = load(db)
    exact = docs.search(QUERIES[0], k=K, exact=True).ids
    seen: list[object] = []
    monkeypatch.setattr(GraphIndex, "walk", lambda *_: seen.append(1))
    assert docs.search(QUERIES[0], k=K, exact=True).ids.tolist() == exact.tolist()
    assert docs.search(QUERIES[0], k=K, recall=1.0).ids.tolist() == exact.tolist()
    assert len(docs.search(QUERIES[0], k=K, where="place < 100")) == K
    assert len(docs.search(QUERIES[0], k=N)) == N
    assert len(docs.search(QUERIES[0], k=N + 5)) == N
    assert not seen


def test_an_updated_payload_and_one_that_was_not_are_both_as_written(db: Any) -> None:
    docs = load(db)
    before = docs.search(QUERIES[0], k=K)
    docs.update(before[0].id, {"place": "changed"})
    after = docs.search(QUERIES[0], k=K)
    assert after[0].payload == {**before[0].payload, "place": "changed"}
    assert [h.payload for h in after][1:] == [h.payload for h in before][1:]


def test_points_that_expire_are_hidden_from_the_short_way(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = load(db)
    nearest = docs.search(QUERIES[0], k=1, with_payload=False)[0].id
    state = docs._transport.engine.state
    now = state.expiry.now_ms() / 1000
    docs.update(nearest, {}, expires_at=now + 1_000)
    assert walks(docs, monkeypatch)
    assert docs.search(QUERIES[0], k=1, with_payload=False)[0].id == nearest
    monkeypatch.setattr(state.expiry, "_clock", lambda: now + 1_001)
    assert docs.search(QUERIES[0], k=1, with_payload=False)[0].id != nearest


def test_a_batch_that_comes_while_the_graph_is_walked_starts_the_search_anew(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = load(db)
    nearest = docs.search(QUERIES[0], k=1, with_payload=False)[0].id
    walk = GraphIndex.walk
    deleted: list[int] = []

    def slow(self: Any, *given: Any) -> Any:
        found = walk(self, *given)
        if not deleted:
            deleted.append(docs.delete(nearest))
        return found

    monkeypatch.setattr(GraphIndex, "walk", slow)
    assert docs.search(QUERIES[0], k=1, with_payload=False)[0].id != nearest
    assert deleted == [1]


def test_a_closed_database_says_so_on_the_short_way(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db:
        docs = load(db)
    with pytest.raises(vicinal.ClosedError):
        docs.search(QUERIES[0], k=K)


def _with(value: float, place: int = 3) -> np.ndarray:
    q = QUERIES[0].copy()
    q[place] = value
    return q


BAD: list[tuple[Any, dict[str, Any], type[VicinalError], str]] = [
    (_with(np.nan), {}, VectorValueError, r"row 0 holds .*nan.* at position 3"),
    (_with(np.inf), {}, VectorValueError, r"row 0 holds .*inf.* at position 3"),
    (np.stack([QUERIES[0], _with(-np.inf)]), {}, VectorValueError, r"row 1 holds .*-inf"),
    (QUERIES[0][:-1], {}, DimensionError, "dimension is 23, the collection's is 24"),
    (QUERIES[:, :-1], {}, DimensionError, "dimension is 23, the collection's is 24"),
    (QUERIES[0].astype(np.complex64), {}, InvalidArgumentError, "dtype is complex64"),
    (["a"] * DIM, {}, InvalidArgumentError, "dtype is"),
    (QUERIES[:0], {}, InvalidArgumentError, "query batch is empty"),
    (QUERIES.reshape(2, 10, DIM), {}, InvalidArgumentError, "shape is"),
    (np.float32(1), {}, InvalidArgumentError, "shape is"),
    (QUERIES[0], {"k": 0}, LimitError, "k is 0"),
    (QUERIES[0], {"k": 10**9}, LimitError, "k is 1000000000"),
    (QUERIES[0], {"k": 2.0}, LimitError, "k is 2.0"),
    (QUERIES[0], {"ef_search": 3}, LimitError, "ef_search is 3"),
    (QUERIES[0], {"threads": 0}, LimitError, "threads is 0"),
    (QUERIES[0], {"recall": 1.5}, InvalidArgumentError, "recall is 1.5"),
    (QUERIES[0], {"recall": 0.9, "ef_search": 20}, InvalidArgumentError, "both say how wide"),
]


@pytest.mark.parametrize(
    ("query", "options", "error", "message"), BAD, ids=[f"{i}-{b[3]}" for i, b in enumerate(BAD)]
)
def test_a_bad_query_is_named_before_anything_is_searched(
    db: Any, query: Any, options: dict[str, Any], error: type[VicinalError], message: str
) -> None:
    docs = db.collection("empty", dim=DIM, metric="l2")
    with pytest.raises(error, match=message):
        docs.search(query, **{"k": K, **options})


def test_a_bad_query_is_named_where_the_short_way_would_be_open(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = load(db)
    assert walks(docs, monkeypatch)
    for query, options, error, message in BAD:
        with pytest.raises(error, match=message):
            docs.search(query, **{"k": K, **options})


def test_too_many_queries_are_refused_whatever_way_they_would_go(db: Any) -> None:
    docs = db.collection("one", dim=1, metric="l2")
    docs.upsert(ids=np.arange(N), vectors=np.arange(N, dtype=np.float32).reshape(-1, 1))
    docs.optimize()
    queries = np.zeros((BATCH_QUERIES_MAX + 1, 1), np.float32)
    with pytest.raises(LimitError, match="number of queries is 1000001"):
        docs.search(queries, k=1, ef_search=1)
    assert docs._transport.engine.state.view.sealed[0].index.walk(queries, 1, 1) is None


def test_queries_of_any_layout_and_type_are_answered_alike(db: Any) -> None:
    docs = load(db)
    wanted = docs.search(QUERIES, k=K, with_payload=False).ids
    spread = np.repeat(QUERIES, 2, axis=1)
    for many in (
        QUERIES.astype(np.float64),
        QUERIES.astype(">f4"),
        np.asfortranarray(QUERIES),
        spread[:, ::2],
        QUERIES.tolist(),
        list(QUERIES),
    ):
        assert np.array_equal(docs.search(many, k=K, with_payload=False).ids, wanted)
    for one in (QUERIES[0], spread[0, ::2], QUERIES[0].tolist(), np.asfortranarray(QUERIES)[0]):
        assert docs.search(one, k=K, with_payload=False).ids.tolist() == wanted[0].tolist()


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_vectors_too_short_or_long_for_a_direction_are_refused_by_cosine_alone(
    db: Any, size: float
) -> None:
    query = (QUERIES[0] * np.float32(size)).astype(np.float32)
    cosine = load(db, "cosine", metric="cosine")
    with pytest.raises(VectorValueError, match="no usable direction"):
        cosine.search(query, k=K)
    with pytest.raises(VectorValueError, match="the zero vector"):
        cosine.search(np.zeros(DIM, np.float32), k=K)
    l2 = load(db, "l2")
    assert len(l2.search(query, k=K)) == K
    assert len(l2.search(np.zeros(DIM, np.float32), k=K)) == K


def test_hits_are_the_same_however_they_are_looked_at(db: Any) -> None:
    docs = load(db)
    hits = docs.search(QUERIES[0], k=K)
    ids, distances = hits.ids, hits.distances
    assert ids.dtype == np.int64
    assert distances.dtype == np.float32
    assert [type(h.id) for h in hits] == [int] * K
    assert [type(h.distance) for h in hits] == [float] * K
    assert [h.id for h in hits] == ids.tolist() == hits.ids.tolist()
    assert [h.distance for h in hits] == distances.tolist() == hits.distances.tolist()
    assert hits[1:3].ids.tolist() == ids[1:3].tolist()
    assert len(hits) == len(ids) == K
    assert hits[-1].id == ids[-1]


def test_pieces_of_rows_that_are_not_there_are_refused() -> None:
    from vicinal.storage.pieces import take_pieces

    offsets = np.array([0, 2, 2, 5], np.uint64)
    blob = np.frombuffer(b"abcde", np.uint8)
    rows = np.array([[2, 0], [1, 2]], np.int64)
    assert take_pieces(offsets, blob, rows) == [[b"cde", b"ab"], [b"", b"cde"]]
    for wrong in (3, -1, 2**62):
        with pytest.raises(vicinal.VicinalError, match="has no piece"):
            take_pieces(offsets, blob, np.array([[wrong]], np.int64))
    with pytest.raises(vicinal.VicinalError, match="has no piece"):
        take_pieces(np.array([0, 9], np.uint64), blob, np.array([[0]], np.int64))


def test_a_walk_refuses_rows_without_a_label(db: Any) -> None:
    index = load(db)._transport.engine.state.view.sealed[0].index
    with pytest.raises(InvalidArgumentError, match="pass one for each row"):
        index.walk(QUERIES, K, 50, 1, np.arange(3))
    rows, distances, fewest, recall = index.walk(QUERIES, K, 50)
    doubled, _, _, _ = index.walk(QUERIES, K, 50, 1, np.arange(N) * 2)
    assert np.array_equal(doubled, rows * 2)
    assert fewest == K
    expected, near = index.search(QUERIES, k=K, ef_search=50)
    assert np.array_equal(rows, expected)
    assert np.array_equal(distances, near)
    assert recall == index.same_work(K, 50).recall


def test_a_walk_takes_one_query_or_a_matrix_and_no_other_array(db: Any) -> None:
    index = load(db)._transport.engine.state.view.sealed[0].index
    rows, distances, _, _ = index.walk(QUERIES[:1], K, 50)
    one_row, one_distance, fewest, _ = index.walk(QUERIES[0], K, 50)
    assert one_row.shape == one_distance.shape == (K,)
    assert fewest == K
    assert np.array_equal(one_row, rows[0])
    assert np.array_equal(one_distance, distances[0])
    for other in (
        QUERIES[0].tolist(),
        QUERIES[0].astype(np.float64),
        QUERIES.astype(">f4"),
        np.asfortranarray(QUERIES),
        QUERIES[:, :-1],
        QUERIES[:0],
        QUERIES.reshape(2, 10, DIM),
        np.float32(1),
        np.array(1, np.float32),
        _with(np.nan),
        np.stack([QUERIES[0], _with(np.inf)]),
        None,
    ):
        assert index.walk(other, K, 50) is None


def test_points_are_got_by_id_while_a_writer_is_at_work(db: Any) -> None:
    docs = load(db)
    with ThreadPoolExecutor(1) as other, engine_of(docs).state.lock:
        (point,) = other.submit(docs.get, [3], with_vectors=True).result(20)
    assert point.payload["place"] == 1
    assert point.vector.tolist() == VECTORS[1].tolist()
