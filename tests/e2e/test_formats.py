"""Tables in and out: NumPy, Arrow, pandas and polars."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from model import same_json

import vicinal

N, DIM = 6, 4
VECTORS = np.arange(N * DIM, dtype=np.float32).reshape(N, DIM)
ROWS = [{"name": f"n{i}", "year": 2000 + i, "tags": ["a"] * (i % 3)} for i in range(N)]


@pytest.fixture
def docs() -> Iterator[Any]:
    with vicinal.open(":memory:") as db:
        yield db.collection("docs", dim=DIM, metric="l2")


ID_COLUMNS = {
    "list": [f"p{i}" for i in range(N)],
    "tuple": tuple(range(N)),
    "range": range(N),
    "generator": (f"p{i}" for i in range(N)),
    "numpy ints": np.arange(N, dtype=np.int32),
    "numpy unsigned": np.arange(N, dtype=np.uint64),
    "numpy texts": np.array([f"p{i}" for i in range(N)]),
    "numpy objects": np.array([uuid.UUID(int=i) for i in range(N)], dtype=object),
    "arrow ints": pa.array(range(N)),
    "arrow texts": pa.chunked_array([[f"p{i}" for i in range(3)], [f"p{i}" for i in range(3, N)]]),
    "pandas ints": pd.Series(range(N)),
    "pandas texts": pd.Series([f"p{i}" for i in range(N)]),
    "pandas index": pd.Index([f"p{i}" for i in range(N)]),
    "polars ints": pl.Series(range(N)),
    "polars texts": pl.Series([f"p{i}" for i in range(N)]),
}


@pytest.mark.parametrize("kind", ID_COLUMNS)
def test_ids_come_in_any_column(docs: Any, kind: str) -> None:
    ids = ID_COLUMNS[kind]
    assert docs.upsert(ids=ids, vectors=VECTORS) == N
    found = [p.id for p in docs.scroll()]
    assert all(type(i) in (int, str, uuid.UUID) for i in found)
    assert [str(i).removeprefix("p") for i in found][1].endswith("1")
    assert docs.get(found, with_vectors=True)[3].vector.tolist() == VECTORS[3].tolist()


VECTOR_COLUMNS = {
    "float32": VECTORS,
    "float64": VECTORS.astype(np.float64),
    "ints": VECTORS.astype(np.int64),
    "float16": VECTORS.astype(np.float16),
    "fortran order": np.asfortranarray(VECTORS),
    "strided": np.repeat(VECTORS, 2, axis=1)[:, ::2],
    "read-only": np.frombuffer(VECTORS.tobytes(), np.float32).reshape(N, DIM),
    "lists": VECTORS.tolist(),
    "list of arrays": list(VECTORS),
    "arrow list": pa.array(VECTORS.tolist(), pa.list_(pa.float32())),
    "arrow fixed list": pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), DIM),
    "arrow sliced": pa.array([[9.0] * DIM, *VECTORS.tolist()], pa.list_(pa.float32()))[1:],
    "arrow chunks": pa.chunked_array(
        [
            pa.array(VECTORS[:2].tolist(), pa.list_(pa.float32(), DIM)),
            pa.array(VECTORS[2:].tolist(), pa.list_(pa.float32(), DIM)),
        ]
    ),
    "arrow fixed sliced": pa.FixedSizeListArray.from_arrays(
        pa.array(np.vstack([VECTORS[:1] + 9, VECTORS]).ravel()), DIM
    )[1:],
    "pandas series": pd.Series(list(VECTORS)),
    "pandas frame": pd.DataFrame(VECTORS),
    "polars arrays": pl.Series(VECTORS.tolist(), dtype=pl.Array(pl.Float32, DIM)),
    "polars lists": pl.Series(VECTORS.tolist()),
}


@pytest.mark.parametrize("kind", VECTOR_COLUMNS)
def test_vectors_come_in_any_matrix(docs: Any, kind: str) -> None:
    docs.upsert(ids=range(N), vectors=VECTOR_COLUMNS[kind])
    got = np.array([p.vector for p in docs.get(range(N), with_vectors=True)])
    assert got.dtype == np.float32
    assert got.tobytes() == VECTORS.tobytes()


def test_what_the_caller_does_with_its_array_afterwards_does_not_matter(docs: Any) -> None:
    mine = VECTORS.copy()
    docs.upsert(ids=range(N), vectors=mine)
    mine[:] = 0
    assert docs.search(VECTORS[3], k=1)[0].id == 3
    assert docs.get(3, with_vectors=True)[0].vector.tolist() == VECTORS[3].tolist()


def test_what_comes_back_is_the_callers_own(docs: Any) -> None:
    docs.upsert(ids=range(N), vectors=VECTORS, payload=ROWS)
    for vector in (
        docs.get(3, with_vectors=True)[0].vector,
        docs.search(VECTORS[3], k=1, with_vectors=True)[0].vector,
    ):
        if vector.flags.writeable:
            vector[:] = 0
    hit = docs.search(VECTORS[3], k=1)[0]
    hit.payload["name"] = "changed"
    assert docs.search(VECTORS[3], k=1)[0].payload["name"] == "n3"
    assert docs.get(3, with_vectors=True)[0].vector.tolist() == VECTORS[3].tolist()
    assert docs.search(VECTORS[3], k=1)[0].distance == 0


PAYLOADS = {
    "dicts": ROWS,
    "arrow table": pa.Table.from_pylist(ROWS),
    "arrow batch": pa.RecordBatch.from_pylist(ROWS),
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "generator": (row for row in ROWS),
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_payload_comes_in_any_table(docs: Any, kind: str) -> None:
    docs.upsert(ids=range(N), vectors=VECTORS, payload=PAYLOADS[kind])
    assert all(same_json(p.payload, row) for p, row in zip(docs.get(range(N)), ROWS, strict=True))
    assert docs.count(where="year >= 2003 and tags contains 'a'") == 2


def test_missing_values_of_a_frame_are_null(docs: Any) -> None:
    frame = pd.DataFrame(
        {"n": [1.5, None], "s": ["x", None], "t": [pd.Timestamp("2024-01-02"), pd.NaT]}
    )
    docs.upsert(ids=[1, 2], vectors=VECTORS[:2], payload=frame)
    one, two = docs.get([1, 2])
    assert two.payload == {"n": None, "s": None, "t": None}
    assert one.payload["n"] == 1.5
    assert one.payload["t"].startswith("2024-01-02")
    assert docs.count(where="n is null and s is null and t is null") == 1
    assert docs.count(where="t < timestamp '2024-06-01'") == 1


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (pa.Table.from_pylist(ROWS[:-1]), ("5", "6")),
        (pd.DataFrame(ROWS[:-1]), ("5", "6")),
        (pl.DataFrame(ROWS[:-1]), ("5", "6")),
        ({"name": ["x"] * N}, ("dict",)),
        (5, ("int",)),
    ],
)
def test_a_payload_table_that_does_not_fit_is_refused(
    docs: Any, payload: Any, words: tuple[str, ...]
) -> None:
    with pytest.raises(vicinal.InvalidArgumentError) as caught:
        docs.upsert(ids=range(N), vectors=VECTORS, payload=payload)
    assert all(word in str(caught.value) for word in words)
    assert docs.count() == 0


def test_vectors_with_nulls_are_refused(docs: Any) -> None:
    for vectors in (
        pa.array([[1.0] * DIM, None], pa.list_(pa.float32())),
        pa.array([[1.0] * DIM, [1.0, None, 1.0, 1.0]], pa.list_(pa.float32())),
        pl.Series([[1.0] * DIM, None]),
        pd.Series([np.ones(DIM), None]),
    ):
        with pytest.raises(vicinal.InvalidArgumentError):
            docs.upsert(ids=[1, 2], vectors=vectors)
    assert docs.count() == 0


def test_hits_become_tables(docs: Any) -> None:
    docs.upsert(ids=[f"p{i}" for i in range(N)], vectors=VECTORS, payload=ROWS)
    hits = docs.search(VECTORS[2], k=3)
    expected = [{"id": h.id, "distance": h.distance, **h.payload} for h in hits]
    assert hits.to_dicts() == expected
    assert hits.to_arrow().to_pylist() == expected
    assert hits.to_pandas().to_dict(orient="records") == expected
    assert hits.to_polars().to_dicts() == expected
    assert hits[:2].to_arrow().num_rows == 2
    nothing = docs.search(VECTORS[2], where="year = 0")
    assert nothing.to_arrow().num_rows == len(nothing.to_pandas()) == len(nothing.to_polars()) == 0


def test_hits_with_vectors_uneven_payloads_and_mixed_ids_become_tables(docs: Any) -> None:
    docs.upsert(
        [
            {"id": 1, "vector": [0, 0, 0, 0], "x": 1, "distance": "far"},
            {"id": "two", "vector": [0, 0, 0, 1], "y": None},
            {"id": uuid.UUID(int=3), "vector": [0, 0, 0, 2], "x": 2.5},
        ]
    )
    hits = docs.search([0, 0, 0, 0], k=3, with_vectors=True)
    for table in (hits.to_arrow().to_pylist(), hits.to_polars().to_dicts()):
        assert [row["id"] for row in table] == ["1", "two", str(uuid.UUID(int=3))]
        assert [list(row["vector"]) for row in table] == [[0, 0, 0, i] for i in range(3)]
        assert table[0]["payload.distance"] == "far"
        assert [row["x"] for row in table] == [1, None, 2.5]
    frame = hits.to_pandas()
    assert frame["id"].tolist() == [1, "two", uuid.UUID(int=3)]
    assert frame["distance"].tolist() == [0, 1, 4]


def test_hits_behave_like_a_sequence(docs: Any) -> None:
    docs.upsert(ids=range(N), vectors=VECTORS, payload=ROWS)
    hits = docs.search(VECTORS[0], k=4)
    assert len(hits) == 4
    assert [h.id for h in hits] == [0, 1, 2, 3]
    assert hits[-1].id == 3
    assert [h.id for h in hits[1:3]] == [1, 2]
    assert list(reversed([h.id for h in hits])) == [3, 2, 1, 0]
    with pytest.raises(IndexError):
        hits[4]
    batch = docs.search(VECTORS[:3], k=2)
    assert [h[0].id for h in batch] == [0, 1, 2]
    assert len(batch[1:]) == 2
    with pytest.raises(IndexError):
        batch[3]
    assert "id=0" in repr(hits)
    assert "3 queries" in repr(batch)
