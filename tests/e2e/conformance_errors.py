"""What every transport must refuse, and how: the message helps, and the collection is as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conformance_points import POINTS, refused

import vicinal
from vicinal.model import limits

NAN, INF = float("nan"), float("inf")


class Errors:
    """Every mistake has its error, says what to do, and leaves the collection as it was."""

    @pytest.mark.parametrize("vector", [[1, 2, 3], [1, 2, 3, 4, 5], []])
    def test_a_vector_of_another_dimension(self, docs: Any, vector: list[float]):
        with refused(docs, vicinal.DimensionError, len(vector), 4):
            docs.upsert([{"id": "new", "vector": vector}])
        with refused(docs, vicinal.DimensionError, len(vector), 4):
            docs.upsert(ids=["new"], vectors=np.zeros((1, len(vector)), np.float32))
        with refused(docs, vicinal.DimensionError, len(vector), 4):
            docs.search(vector)
        if vector:
            with refused(docs, vicinal.DimensionError, len(vector), 4):
                docs.search([vector, vector])

    def test_vectors_of_different_lengths_in_one_batch(self, docs: Any):
        with refused(docs, vicinal.DimensionError):
            docs.upsert(ids=[1, 2], vectors=[[1, 2, 3, 4], [1, 2, 3]])
        with refused(docs, vicinal.DimensionError):
            docs.upsert(ids=[1, 2], vectors=[np.ones(4), np.ones(3)])

    @pytest.mark.parametrize("value", [NAN, INF, -INF, 1e39])
    def test_a_vector_that_is_not_finite(self, docs: Any, value: float):
        rows = np.ones((3, 4))
        rows[1, 2] = value
        with refused(docs, vicinal.VectorValueError, "row 1", "position 2"):
            docs.upsert(ids=["a1", "x", "y"], vectors=rows)
        with refused(docs, vicinal.VectorValueError):
            docs.upsert([{"id": "a1", "vector": rows[1].tolist()}])
        with refused(docs, vicinal.VectorValueError):
            docs.search(rows[1])
        with np.errstate(over="ignore"):
            query = rows[1].astype(np.float32)
        with refused(docs, vicinal.VectorValueError):
            docs.search(query)

    def test_a_value_too_large_for_f16(self, db: Any):
        halves = db.collection("halves", dim=2, dtype="f16", metric="l2")
        halves.upsert([{"id": 1, "vector": [1, 2]}])
        with refused(halves, vicinal.VectorValueError, "70000"):
            halves.upsert([{"id": 2, "vector": [1, 70000]}])

    @pytest.mark.parametrize("vector", [[0, 0], [1e-20, 0], [1e25, 1e25]])
    def test_a_vector_without_direction_under_cosine(self, db: Any, vector: list[float]):
        angles = db.collection("angles", dim=2)
        angles.upsert([{"id": 1, "vector": [1, 2]}])
        with refused(angles, vicinal.VectorValueError, "row 0", "cosine"):
            angles.upsert([{"id": 2, "vector": vector}])
        with refused(angles, vicinal.VectorValueError, "cosine"):
            angles.search(vector)
        with refused(angles, vicinal.VectorValueError, "cosine"):
            angles.search(np.array(vector, np.float32))
        with refused(angles, vicinal.VectorValueError, "row 1", "cosine"):
            angles.search([[1, 1], vector])

    @pytest.mark.parametrize("value", [128, -129, 0.5])
    def test_a_value_that_i8_does_not_hold(self, db: Any, value: float):
        bytes_ = db.collection("bytes", dim=2, dtype="i8", metric="l2")
        bytes_.upsert([{"id": 1, "vector": [1, 2]}])
        with refused(bytes_, vicinal.InvalidArgumentError, "int8", -128, 127):
            bytes_.upsert([{"id": 2, "vector": [1, value]}])

    @pytest.mark.parametrize("vectors", [[["a", "b", "c", "d"]], [[None] * 4], [["1", 2, 3, 4]]])
    def test_vectors_that_are_not_numbers(self, docs: Any, vectors: Any):
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert(ids=["x"], vectors=vectors)

    def test_an_empty_batch(self, docs: Any):
        with refused(docs, vicinal.InvalidArgumentError, "empty"):
            docs.upsert([])
        with refused(docs, vicinal.InvalidArgumentError, "empty"):
            docs.upsert(ids=[], vectors=np.zeros((0, 4), np.float32))
        with refused(docs, vicinal.InvalidArgumentError, "empty"):
            docs.search(np.zeros((0, 4), np.float32))

    def test_one_id_twice_in_a_batch(self, docs: Any):
        with refused(docs, vicinal.DuplicateIdError, "'new'"):
            docs.upsert([{"id": "new", "vector": [1, 0, 0, 0]}] * 2)
        with refused(docs, vicinal.DuplicateIdError, "5"):
            docs.upsert(ids=[5, np.int64(5)], vectors=np.ones((2, 4)))
        with refused(docs, vicinal.DuplicateIdError, "5"):
            docs.upsert(ids=np.array([5, 4, 5]), vectors=np.ones((3, 4)))
        docs.upsert(ids=[5, "5"], vectors=np.ones((2, 4)))

    @pytest.mark.parametrize(
        "id_", [None, 1.5, True, b"x", (1,), 2**63, -(2**63) - 1, "", "x" * 1025, "\ud800"]
    )
    def test_an_id_that_is_none(self, docs: Any, id_: Any):
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert([{"id": id_, "vector": [1, 0, 0, 0]}])
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert(ids=["ok", id_], vectors=np.ones((2, 4)))
        with refused(docs, vicinal.InvalidArgumentError):
            docs.get([id_])
        with refused(docs, vicinal.InvalidArgumentError):
            docs.delete(["a1", id_])

    def test_columns_of_different_lengths(self, docs: Any):
        with refused(docs, vicinal.InvalidArgumentError, 2, 3):
            docs.upsert(ids=[1, 2], vectors=np.ones((3, 4)))
        with refused(docs, vicinal.InvalidArgumentError, 2, 1):
            docs.upsert(ids=[1, 2], vectors=np.ones((2, 4)), payload=[{}])

    def test_points_that_lack_something(self, docs: Any):
        with refused(docs, vicinal.InvalidArgumentError, "vector"):
            docs.upsert([{"id": 1}])
        with refused(docs, vicinal.InvalidArgumentError, "id"):
            docs.upsert([{"vector": [1, 0, 0, 0]}])
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert(ids=[1])
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert([{"id": 1, "vector": [1, 0, 0, 0]}], ids=[1])
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert({"id": 1, "vector": [1, 0, 0, 0]})
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert(["a1"])

    @pytest.mark.parametrize(
        "payload",
        [
            {"x": object()},
            {"x": {1, 2}},
            {"x": b"bytes"},
            {"x": 2**64},
            {"x": "\ud800"},
            {1: "x"},
            {"x": {1: "x"}},
            {"x": [{1: "x"}]},
            ["x"],
            "x",
        ],
    )
    def test_a_payload_that_is_not_json(self, docs: Any, payload: Any):
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert(ids=["new", "new2"], vectors=np.ones((2, 4)), payload=[{}, payload])
        if isinstance(payload, dict):
            with refused(docs, vicinal.InvalidArgumentError):
                docs.update(["a1"], payload)

    def test_a_payload_nested_too_deep(self, docs: Any):
        deep: Any = 1
        for _ in range(5_000):
            deep = [deep]
        with refused(docs, vicinal.InvalidArgumentError):
            docs.upsert(ids=["new"], vectors=np.ones((1, 4)), payload=[{"x": deep}])

    def test_a_payload_that_is_too_large(self, docs: Any, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("vicinal.model.payload.PAYLOAD_BYTES_MAX", 100)
        with refused(docs, vicinal.LimitError, 100):
            docs.upsert(ids=["new"], vectors=np.ones((1, 4)), payload=[{"x": "y" * 100}])
        with refused(docs, vicinal.LimitError, 100):
            docs.update(["a1", 7], {"x": "y" * 80})

    @pytest.mark.parametrize("k", [0, -1, limits.K_MAX + 1, 2.0, True, None, "3"])
    def test_a_k_out_of_range(self, docs: Any, k: Any):
        with refused(docs, vicinal.LimitError, repr(k), 1, limits.K_MAX):
            docs.search([1, 0, 0, 0], k=k)
        assert len(docs.search([1, 0, 0, 0], k=limits.K_MAX)) == len(POINTS)

    @pytest.mark.parametrize("ef", [0, 9, limits.EF_MAX + 1, 50.0])
    def test_an_ef_search_out_of_range(self, docs: Any, ef: Any):
        with refused(docs, vicinal.LimitError, repr(ef), limits.EF_MAX):
            docs.search([1, 0, 0, 0], k=10, ef_search=ef)

    def test_options_that_do_not_apply(self, docs: Any):
        with refused(docs, vicinal.InvalidArgumentError, "exact"):
            docs.search([1, 0, 0, 0], exact=True, ef_search=100)
        with refused(docs, vicinal.InvalidArgumentError, "order_by"):
            docs.scroll(descending=True)
        with refused(docs, vicinal.InvalidArgumentError, "wait"):
            docs.optimize(wait=False, threads=1)
        with refused(docs, vicinal.InvalidArgumentError):
            docs.explain([[1, 0, 0, 0]])
        for threads in (0, -1, limits.THREADS_MAX + 1, 1.5):
            with refused(docs, vicinal.LimitError, threads, limits.THREADS_MAX):
                docs.search([1, 0, 0, 0], threads=threads)

    def test_deletes_that_say_nothing_or_too_much(self, docs: Any):
        with refused(docs, vicinal.InvalidArgumentError):
            docs.delete()
        with refused(docs, vicinal.InvalidArgumentError):
            docs.delete(["a1"], where="year = 1")
        with refused(docs, vicinal.InvalidArgumentError):
            docs.delete(where="year = 1", all=True)
        with refused(docs, vicinal.InvalidArgumentError):
            docs.update(["a1"], "year")

    @pytest.mark.parametrize("limit", [0, -1, limits.SCROLL_LIMIT_MAX + 1, 1.0])
    def test_a_scroll_limit_out_of_range(self, docs: Any, limit: Any):
        with refused(docs, vicinal.LimitError, repr(limit), limits.SCROLL_LIMIT_MAX):
            docs.scroll(limit=limit)

    def test_a_cursor_of_another_scroll(self, docs: Any):
        plain = docs.scroll(limit=1).cursor
        ordered = docs.scroll(limit=1, order_by="year").cursor
        with refused(docs, vicinal.InvalidArgumentError, "year"):
            docs.scroll(limit=1, cursor=ordered)
        with refused(docs, vicinal.InvalidArgumentError, "year"):
            docs.scroll(limit=1, cursor=plain, order_by="year")
        with refused(docs, vicinal.InvalidArgumentError, "descending"):
            docs.scroll(limit=1, cursor=ordered, order_by="year", descending=True)
        for cursor in ("", "x", "AAAA", "é", plain[:-4], ordered[1:]):
            with refused(docs, vicinal.InvalidArgumentError, "cursor"):
                docs.scroll(limit=1, cursor=cursor)

    @pytest.mark.parametrize(
        ("where", "column"),
        [("year >=", 8), ("year = = 3", 8), ("lang = 'en", 8), ("(year = 1", 10), ("", 1)],
    )
    def test_a_filter_that_does_not_parse_names_the_column(
        self, docs: Any, where: str, column: int
    ):
        for call in (
            lambda: docs.search([1, 0, 0, 0], where=where),
            lambda: docs.count(where=where),
            lambda: docs.delete(where=where),
        ):
            with refused(docs, vicinal.FilterError):
                call()
        with pytest.raises(vicinal.FilterError) as caught:
            docs.count(where=where)
        assert caught.value.column == column

    @pytest.mark.parametrize("where", [{"year": {"$near": 3}}, {"$xor": []}, 5, ["year"]])
    def test_a_filter_of_no_known_form(self, docs: Any, where: Any):
        with refused(docs, vicinal.InvalidArgumentError):
            docs.search([1, 0, 0, 0], where=where)

    def test_a_field_that_a_strict_collection_does_not_know(self, db: Any):
        strict = db.collection("strict", dim=4, metric="l2", strict=True)
        strict.upsert(POINTS)
        for call in (
            lambda where: strict.search([1, 0, 0, 0], where=where),
            lambda where: strict.count(where=where),
            lambda where: strict.scroll(where=where),
            lambda where: strict.delete(where=where),
            lambda where: strict.delete(where=where, dry_run=True),
        ):
            with refused(strict, vicinal.UnknownFieldError, "yaer", "year", "strict"):
                call("yaer > 2000")
            with refused(strict, vicinal.UnknownFieldError, "meta.authro"):
                call({"meta.authro": 3})
        assert strict.count(where="year > 2000 and id != 'a1' and meta.author.n = 1") == 1
        lax = db.collection("lax", dim=4, metric="l2")
        lax.upsert(POINTS)
        assert lax.count(where="yaer > 2000") == 0

    def test_a_closed_database_refuses_everything(self, docs: Any, db: Any):
        db.close()
        db.close()
        calls = [
            lambda: docs.search([1, 0, 0, 0]),
            lambda: docs.upsert([{"id": 1, "vector": [1, 0, 0, 0]}]),
            lambda: docs.get(["a1"]),
            lambda: docs.update(["a1"], {}),
            lambda: docs.delete(["a1"]),
            lambda: docs.delete(where="year = 1"),
            lambda: docs.count(),
            lambda: docs.count(where="year = 1"),
            lambda: docs.scroll(),
            lambda: docs.explain([1, 0, 0, 0]),
            lambda: docs.stats(),
            lambda: docs.optimize(),
            lambda: docs.optimize(wait=False),
            lambda: len(docs),
            lambda: db.collection("docs"),
            lambda: db.collections(),
            lambda: db.drop("docs"),
        ]
        for call in calls:
            with pytest.raises(vicinal.ClosedError, match="open"):
                call()

    def test_leaving_the_context_closes(self, docs: Any, db: Any):
        with db as same:
            assert same is db
        with pytest.raises(vicinal.ClosedError):
            docs.count()
        assert "closed" in repr(db)
