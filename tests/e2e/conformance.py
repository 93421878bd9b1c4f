"""What every transport must do: each operation of the public API, its answers and its errors.

A transport joins by subclassing `Conformance` in a test file and giving it a `db` fixture. After
each error the collection is as it was, and the message names what was given, the limit and the way
out.
"""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from conformance_errors import Errors
from conformance_expiry import Expiring
from conformance_many import SearchingMany
from conformance_points import ALL_IDS, POINTS, UUID, refused
from conformance_recall import Recalling
from conformance_snapshots import Snapshotting
from conformance_updates import Updates
from model import read_all, same_json, state_hash

import vicinal
from vicinal import F
from vicinal.model import limits


class Reading:
    """Searches, look-ups, counts and scrolls."""

    def test_a_search_returns_the_nearest_first_with_id_distance_and_payload(self, docs: Any):
        hits = docs.search([1, 0, 0, 0], k=3)
        assert [h.id for h in hits] == ["a1", UUID, "a2"] or [h.id for h in hits][:2] == [
            "a1",
            UUID,
        ]
        assert hits[0].distance == pytest.approx(0, abs=1e-6)
        assert hits[1].distance == pytest.approx(0.5)
        assert hits[0].payload == {"lang": "en", "year": 2020, "tags": ["x", "y"]}
        assert hits[0].vector is None
        assert len(hits) == 3
        assert hits.distances.dtype == np.float32

    def test_a_search_returns_every_match_where_k_is_larger(self, docs: Any):
        assert len(docs.search([1, 0, 0, 0], k=100)) == len(POINTS)
        assert len(docs.search([1, 0, 0, 0], k=100, where="lang = 'en'")) == 2
        assert len(docs.search([1, 0, 0, 0], k=100, where="lang = 'de'")) == 0
        assert len(docs.search([1, 0, 0, 0], k=100, exact=True)) == len(POINTS)

    def test_an_empty_collection_answers_with_nothing(self, db: Any):
        empty = db.collection("empty", dim=4)
        assert len(empty.search([1, 0, 0, 0])) == 0
        assert empty.search(np.eye(4, dtype=np.float32)).ids.shape == (4, 0)
        assert empty.count() == 0
        assert empty.scroll() == []
        assert empty.get(["a"]) == [None]
        assert empty.delete(all=True) == 0

    def test_vectors_come_back_with_their_exact_bytes(self, docs: Any):
        hit = docs.search([0.5, 0.5, 0, 0], k=1, with_vectors=True)[0]
        assert hit.vector.dtype == np.float32
        assert hit.vector.tobytes() == np.array([0.5, 0.5, 0, 0], np.float32).tobytes()

    def test_without_payload_there_is_none(self, docs: Any):
        assert docs.search([1, 0, 0, 0], k=1, with_payload=False)[0].payload is None

    def test_a_batch_answers_each_query_like_a_single_search(self, docs: Any):
        queries = np.eye(4, dtype=np.float32)
        batch = docs.search(queries, k=2, threads=2)
        assert len(batch) == 4
        assert batch.ids.shape == (4, 2)
        assert batch.distances.shape == (4, 2)
        for query, hits in zip(queries, batch, strict=True):
            single = docs.search(query, k=2)
            assert [h.id for h in hits] == [h.id for h in single]
            assert np.array_equal(hits.distances, single.distances)
            assert [h.payload for h in hits] == [h.payload for h in single]

    def test_ids_of_a_collection_of_ints_are_an_int_array(self, db: Any):
        ints = db.collection("ints", dim=2, metric="l2")
        ints.upsert(ids=np.arange(5), vectors=np.arange(10).reshape(5, 2))
        assert ints.search([0, 1], k=3).ids.dtype == np.int64
        assert ints.search([[0, 1]], k=3).ids.dtype == np.int64
        assert ints.search([0, 1], k=3).ids.tolist() == [0, 1, 2]

    @pytest.mark.parametrize(
        ("text", "document", "expression", "expected"),
        [
            ("year >= 2020", {"year": {"$gte": 2020}}, F.year >= 2020, {"a1", "a2", 7}),
            ("lang = 'en'", {"lang": "en"}, F.lang == "en", {"a1", 7}),
            ("lang != 'en'", {"lang": {"$ne": "en"}}, F.lang != "en", set(ALL_IDS) - {"a1", 7}),
            (
                "year < 2021 and lang = 'en'",
                {"year": {"$lt": 2021}, "lang": "en"},
                (F.year < 2021) & (F.lang == "en"),
                {"a1"},
            ),
            (
                "lang in ('fr', 'en') or flag = true",
                {"$or": [{"lang": {"$in": ["fr", "en"]}}, {"flag": True}]},
                F.lang.in_(["fr", "en"]) | (F.flag == True),  # noqa: E712
                {"a1", "a2", 7, UUID},
            ),
            (
                "lang is null",
                {"lang": None},
                F.lang.is_null(),
                set(ALL_IDS) - {"a1", "a2", 7},
            ),
            ("tags contains 'y'", {"tags": {"$contains": "y"}}, F.tags.contains("y"), {"a1"}),
            ("meta.author.n = 1", {"meta.author.n": 1}, F.meta.author.n == 1, {"a2"}),
            (
                "year between 2019 and 2020",
                {"year": {"$between": [2019, 2020]}},
                F.year.between(2019, 2020),
                {"a1", -(2**63)},
            ),
            ("id = 'a1'", {"id": "a1"}, F.id == "a1", {"a1"}),
            ("id = 7", {"id": 7}, F.id == 7, {7}),
            (f"id = '{UUID}'", {"id": str(UUID)}, F.id == UUID, {UUID}),
            ("lang like 'e_'", {"lang": {"$like": "e_"}}, F.lang.like("e_"), {"a1", 7}),
            ("not (year > 0)", {"$not": {"year": {"$gt": 0}}}, ~(F.year > 0), {UUID, ALL_IDS[5]}),
        ],
    )
    def test_the_three_forms_of_a_filter_select_the_same_points(
        self, docs: Any, text: str, document: Any, expression: Any, expected: set[Any]
    ):
        for where in (text, document, expression):
            assert {h.id for h in docs.search([1, 0, 0, 0], k=50, where=where)} == expected
            assert {p.id for p in docs.scroll(where=where)} == expected
            assert docs.count(where=where) == len(expected)
            assert docs.delete(where=where, dry_run=True) == len(expected)

    def test_get_answers_in_the_order_of_the_ids(self, docs: Any):
        points = docs.get([UUID, "nobody", "a1", "a1", 7], with_vectors=True)
        assert [p and p.id for p in points] == [UUID, None, "a1", "a1", 7]
        assert points[4].vector.tolist() == [0, 0, 1, 0]
        assert points[0].payload == {"year": "2020", "flag": True}
        assert points[0].version == 1
        assert docs.get("a1")[0].id == "a1"
        assert docs.get([]) == []

    def test_ids_keep_their_type(self, docs: Any):
        assert docs.get(["7"]) == [None]
        assert type(docs.get([7])[0].id) is int
        assert type(docs.get([UUID])[0].id) is uuid.UUID
        assert docs.get([str(UUID)]) == [None]
        assert {type(h.id) for h in docs.search([1, 0, 0, 0], k=10)} == {str, int, uuid.UUID}

    def test_a_scroll_gives_each_point_once_in_the_order_of_writing(self, docs: Any):
        for page in (1, 2, 5, 100):
            assert [p.id for p in read_all(docs, page=page)] == ALL_IDS
        assert docs.scroll(limit=100).cursor is None
        assert docs.scroll(limit=2).cursor is not None

    def test_a_scroll_is_ordered_by_a_field_with_missing_values_last(self, docs: Any):
        rising = [p.id for p in read_all(docs, page=2, order_by="year")]
        assert rising == [-(2**63), "a1", "a2", 7, UUID, ALL_IDS[5]]
        falling = [p.id for p in read_all(docs, page=2, order_by="year", descending=True)]
        assert falling == [UUID, 7, "a2", "a1", -(2**63), ALL_IDS[5]]
        nested = [p.id for p in read_all(docs, page=1, order_by="meta.author.n", where="year > 0")]
        assert nested == ["a2", "a1", 7, -(2**63)]

    def test_count_and_len_are_exact(self, docs: Any):
        assert docs.count() == len(docs) == len(POINTS)
        assert docs.count(where="year > 2020") == 2

    def test_explain_says_how_a_search_was_done(self, docs: Any):
        explained = docs.explain([1, 0, 0, 0], k=2, where="lang = 'en'")
        assert explained.matches == 2
        assert explained.points == len(POINTS)
        assert "lang" in explained.where
        assert explained.segments[0]["strategy"] == "scan"
        assert explained.segments[0]["reason"] in str(explained)
        assert explained.to_dict()["matches"] == 2

    def test_stats_count_points_and_bytes(self, docs: Any):
        stats = docs.stats()
        assert stats["points"] == len(POINTS)
        assert (stats["dim"], stats["metric"], stats["dtype"]) == (4, "l2", "f32")

    def test_healthy_collections_say_that_they_serve(self, docs: Any, db: Any):
        assert (docs.stats()["status"], docs.stats()["reason"]) == ("serving", None)
        db.collection("other", dim=2)
        healthy = vicinal.Status(vicinal.Health.SERVING)
        assert db.status() == {"docs": healthy, "other": healthy}

    @pytest.mark.parametrize(
        ("metric", "expected"),
        [("l2", 8.0), ("ip", -4.0), ("cosine", 1 - 4 / (5**0.5 * 20**0.5)), ("manhattan", 4.0)],
    )
    def test_distances_are_what_the_metric_says(self, db: Any, metric: str, expected: float):
        one = db.collection(metric, dim=2, metric=metric)
        one.upsert([{"id": 1, "vector": [4, 2]}])
        hit = one.search([2, 4] if metric == "l2" else [2, -2] if metric == "ip" else [1, 2], k=1)[
            0
        ]
        expected = {"manhattan": 3.0, "cosine": 1 - 8 / 10}.get(metric, expected)
        assert hit.distance == pytest.approx(expected, abs=1e-5)

    def test_hamming_counts_the_bits_that_differ(self, db: Any):
        bits = db.collection("bits", dim=16, dtype="bit", metric="hamming")
        rows = np.packbits(np.array([[0] * 16, [1] * 16, [0, 1] * 8], bool), axis=1)
        bits.upsert(ids=[0, 1, 2], vectors=rows)
        hits = bits.search(np.packbits([1] * 4 + [0] * 12), k=3)
        assert dict(zip(hits.ids.tolist(), hits.distances.tolist(), strict=True)) == {
            0: 4,
            1: 12,
            2: 8,
        }


class Writing:
    """Upserts, updates and deletes."""

    def test_an_upsert_replaces_vector_and_payload_and_counts_the_version(self, docs: Any):
        assert docs.upsert([{"id": "a1", "vector": [9, 9, 9, 9], "new": 1}]) == 1
        point = docs.get(["a1"], with_vectors=True)[0]
        assert point.version == 2
        assert point.payload == {"new": 1}
        assert point.vector.tolist() == [9, 9, 9, 9]
        assert docs.count() == len(POINTS)
        assert docs.count(where="lang = 'en'") == 1
        assert docs.search([9, 9, 9, 9], k=1)[0].id == "a1"
        assert docs.search([1, 0, 0, 0], k=1)[0].id != "a1"

    def test_an_update_merges_fields_and_counts_the_version(self, docs: Any):
        assert docs.update(["a1", "nobody", "a1", 7], {"year": 1999, "lang": None}) == 2
        point = docs.get("a1")[0]
        assert point.payload == {"lang": None, "year": 1999, "tags": ["x", "y"]}
        assert point.version == 2
        assert docs.count(where="year = 1999") == 2
        assert docs.count(where="lang = 'en'") == 0
        assert docs.search([1, 0, 0, 0], k=1)[0].payload["year"] == 1999

    def test_deleted_points_are_gone_from_everywhere(self, docs: Any):
        assert docs.delete(["a1", "nobody", "a1"]) == 1
        assert docs.delete("a1") == 0
        assert docs.get(["a1"]) == [None]
        assert docs.count() == len(POINTS) - 1
        assert "a1" not in [p.id for p in docs.scroll()]
        assert "a1" not in [h.id for h in docs.search([1, 0, 0, 0], k=50)]
        assert docs.count(where="tags contains 'x'") == 0

    def test_a_deleted_id_can_come_back(self, docs: Any):
        docs.delete(["a1"])
        docs.upsert([{"id": "a1", "vector": [1, 0, 0, 0]}])
        assert docs.get("a1")[0].version == 1
        assert docs.search([1, 0, 0, 0], k=1)[0].id == "a1"

    def test_a_delete_by_filter_deletes_what_the_dry_run_counted(self, docs: Any):
        before = state_hash(docs)
        assert docs.delete(where="year >= 2021", dry_run=True) == 2
        assert docs.delete(["a1"], dry_run=True) == 1
        assert docs.delete(all=True, dry_run=True) == len(POINTS)
        assert state_hash(docs) == before
        assert docs.delete(where="year >= 2021") == 2
        assert [p.id for p in docs.scroll()] == [i for i in ALL_IDS if i not in ("a2", 7)]
        assert docs.delete(all=True) == len(POINTS) - 2
        assert docs.count() == 0

    def test_payloads_come_back_as_they_were(self, db: Any):
        payload = {
            "text": "é\U0001f600\x00",
            "int": 2**63,
            "small": -(2**63),
            "float": 0.1,
            "whole": 1.0,
            "none": None,
            "flags": [True, False, None, 1, "1", [], {}],
            "deep": {"a": {"b": [{"c": 1}]}},
            "a.b": "dot",
            "": "empty key",
        }
        docs = db.collection("payloads", dim=1, metric="l2")
        docs.upsert([{"id": 1, "vector": [1], **payload}])
        docs.upsert(ids=[2, 3], vectors=[[2], [3]], payload=[payload, {}])
        assert same_json(docs.get(1)[0].payload, payload)
        assert same_json(docs.search([2], k=1)[0].payload, payload)
        assert docs.get(3)[0].payload == {}

    def test_an_upsert_without_payload_takes_the_old_one_away(self, docs: Any):
        docs.upsert(ids=["a1"], vectors=[[1, 0, 0, 0]])
        assert docs.get("a1")[0].payload == {}

    @pytest.mark.parametrize(
        ("dtype", "metric", "given"),
        [
            ("f32", "l2", np.array([[1.5, -2, 0, 3e38]], np.float32)),
            ("f16", "l2", np.array([[1.5, -2, 0, 65504]], np.float16)),
            ("i8", "l2", np.array([[-128, 127, 0, 1]], np.int8)),
            ("bit", "hamming", np.array([[255, 1, 0, 128]], np.uint8)),
        ],
    )
    def test_each_dtype_keeps_its_bytes(self, db: Any, dtype: str, metric: str, given: Any):
        dim = 32 if dtype == "bit" else 4
        docs = db.collection(dtype, dim=dim, dtype=dtype, metric=metric)
        docs.upsert(ids=["x"], vectors=given)
        vector = docs.get("x", with_vectors=True)[0].vector
        assert vector.dtype == given.dtype
        assert vector.tobytes() == given.tobytes()

    def test_optimizing_changes_nothing_that_can_be_seen(self, docs: Any):
        docs.delete([7])
        docs.update(["a2"], {"year": 1})
        before = state_hash(docs)
        seen: list[tuple[int, int]] = []
        docs.optimize(progress=lambda done, total: seen.append((done, total)))
        assert state_hash(docs) == before
        assert docs.stats()["dead_rows"] == 0
        docs.optimize(wait=False)
        docs.optimize(wait=True)
        assert state_hash(docs) == before
        assert docs.count(where="year = 1") == 1

    def test_progress_is_told_and_can_stop_an_upsert(
        self, docs: Any, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("vicinal.client.batch.BATCH_ROWS_MAX", 10)
        ids, vectors = list(range(100, 135)), np.ones((35, 4), np.float32)
        seen: list[tuple[int, int]] = []
        docs.upsert(ids=ids, vectors=vectors, progress=lambda d, t: seen.append((d, t)))
        assert seen == [(10, 35), (20, 35), (30, 35), (35, 35)]
        ids = [i + 100 for i in ids]
        with pytest.raises(vicinal.CancelledError, match="20 of 35"):
            docs.upsert(ids=ids, vectors=vectors, progress=lambda d, t: d < 20)
        assert [p is not None for p in docs.get(ids)] == [True] * 20 + [False] * 15


class Collections:
    """Making, finding and dropping collections."""

    def test_a_collection_is_made_once_and_found_again(self, docs: Any, db: Any):
        assert db.collections() == ["docs"]
        assert db.collection("docs").count() == len(POINTS)
        assert db.collection("docs", dim=4, metric="l2").count() == len(POINTS)
        db.collection("other", dim=2)
        assert db.collections() == ["docs", "other"]
        assert db.collection("other").metric == "cosine"

    def test_a_dropped_collection_is_gone_and_its_name_is_free(self, docs: Any, db: Any):
        db.drop("docs")
        assert db.collections() == []
        with pytest.raises(vicinal.NotFoundError, match="docs"):
            db.collection("docs")
        with pytest.raises(vicinal.ClosedError):
            docs.count()
        fresh = db.collection("docs", dim=2)
        assert fresh.count() == 0

    @pytest.mark.parametrize("name", ["../up", "a/b", ".", "..", "ü ß", "A", "a", "con", "x" * 128])
    def test_any_reasonable_name_is_a_collection_of_its_own(self, docs: Any, db: Any, name: str):
        made = db.collection(name, dim=1, metric="l2")
        made.upsert([{"id": name, "vector": [1]}])
        assert db.collection(name).get(name)[0].id == name
        assert set(db.collections()) == {"docs", name}
        db.drop(name)
        assert docs.count() == len(POINTS)

    @pytest.mark.parametrize("name", ["", "a\n", "\x00", "x" * 129, "\ud800"])
    def test_other_names_are_refused(self, docs: Any, db: Any, name: str):
        with refused(docs, vicinal.InvalidArgumentError, "name"):
            db.collection(name, dim=1)
        assert db.collections() == ["docs"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"dim": 5}, ("dim", 5, 4)),
            ({"metric": "cosine"}, ("metric", "cosine", "l2")),
            ({"dtype": "f16"}, ("dtype", "f16", "f32")),
            ({"strict": True}, ("strict",)),
            ({"M": 5}, ("M", 5)),
            ({"dim": 4, "metric": "ip"}, ("metric", "ip", "l2")),
        ],
    )
    def test_options_that_differ_from_what_exists_are_refused(
        self, docs: Any, db: Any, options: dict[str, Any], words: tuple[object, ...]
    ):
        with refused(docs, vicinal.CollectionMismatchError, "docs", *words):
            db.collection("docs", **options)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"dim": 4, "metric": "euclid"}, ("euclid", "l2", "cosine")),
            ({"dim": 4, "dtype": "f64"}, ("f64", "f32")),
            ({"dim": 4, "metric": "hamming"}, ("hamming", "bit")),
            ({"dim": 8, "metric": "l2", "dtype": "bit"}, ("l2", "bit")),
            ({"dim": 12, "dtype": "bit"}, (12, 8)),
            ({"dim": 0}, (0, 1, limits.DIM_MAX)),
            ({"dim": -1}, (-1,)),
            ({"dim": limits.DIM_MAX + 1}, (limits.DIM_MAX + 1, limits.DIM_MAX)),
            ({"dim": 4.0}, ("4.0",)),
            ({"dim": True}, ("True",)),
            ({"dim": 4, "M": limits.M_MIN - 1}, (limits.M_MIN - 1, limits.M_MIN)),
            ({"dim": 4, "M": limits.M_MAX + 1}, (limits.M_MAX,)),
            ({"dim": 4, "ef_construction": 1}, ("ef_construction", 1)),
            (
                {"dim": 4, "ef_construction": limits.EF_CONSTRUCTION_MAX + 1},
                (limits.EF_CONSTRUCTION_MAX,),
            ),
        ],
    )
    def test_options_out_of_range_are_refused(
        self, docs: Any, db: Any, options: dict[str, Any], words: tuple[object, ...]
    ):
        with refused(docs, vicinal.InvalidArgumentError, *words):
            db.collection("new", **options)
        assert db.collections() == ["docs"]

    def test_an_unknown_collection_is_not_found(self, docs: Any, db: Any):
        with refused(docs, vicinal.NotFoundError, "nothing", "docs", "dim="):
            db.collection("nothing")
        with refused(docs, vicinal.NotFoundError, "nothing"):
            db.drop("nothing")


class Conformance(
    Reading, SearchingMany, Writing, Updates, Expiring, Recalling, Snapshotting, Collections, Errors
):
    """All of it; a subclass gives the `db` fixture."""

    @pytest.fixture
    def docs(self, db: Any) -> Any:
        """A collection with a few points of every kind."""
        docs = db.collection("docs", dim=4, metric="l2")
        assert docs.upsert(POINTS) == len(POINTS)
        return docs
