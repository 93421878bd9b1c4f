"""What every transport must do when a write has conditions: modes, versions, changes of payload, updates by filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conformance_points import ALL_IDS, POINTS, UUID, refused

import vicinal

NEW = {"id": "new", "vector": [1, 1, 1, 1], "n": 1}
ONES = np.ones((2, 4), np.float32)


class Updates:
    """Conditions hold for the whole batch or nothing of it happens."""

    def test_insert_only_writes_new_points_and_refuses_a_batch_with_one_that_exists(
        self, docs: Any
    ):
        with refused(docs, vicinal.AlreadyExistsError, "'a1'", "insert_only", "upsert") as caught:
            docs.upsert([NEW, POINTS[0]], mode="insert_only")
        assert caught.value.id == "a1"
        with refused(docs, vicinal.AlreadyExistsError, "1 more"):
            docs.upsert(ids=["a1", 7], vectors=ONES, mode="insert_only")
        assert docs.upsert([NEW], mode="insert_only") == 1
        assert docs.get("new")[0].version == 1
        docs.delete(["new"])
        assert docs.upsert([NEW], mode="insert_only") == 1

    def test_update_only_replaces_points_and_refuses_a_batch_with_one_that_is_missing(
        self, docs: Any
    ):
        with refused(docs, vicinal.NotFoundError, "'new'", "update_only", "upsert"):
            docs.upsert([POINTS[0], NEW], mode="update_only")
        with refused(docs, vicinal.NotFoundError, "1 more"):
            docs.upsert(ids=["x", "y"], vectors=ONES, mode="update_only")
        assert docs.upsert(ids=["a1"], vectors=ONES[:1], mode="update_only") == 1
        point = docs.get("a1", with_vectors=True)[0]
        assert (point.version, point.payload, point.vector.tolist()) == (2, {}, [1, 1, 1, 1])

    def test_a_write_happens_only_where_the_version_is_the_expected_one(self, docs: Any):
        for write in (
            lambda v: docs.upsert(ids=["a1"], vectors=ONES[:1], if_version=v),
            lambda v: docs.update(["a1"], {"n": 1}, if_version=v),
            lambda v: docs.update("a1", {"n": 1}, if_version=[v], dry_run=True),
            lambda v: docs.delete("a1", if_version=v, dry_run=True),
            lambda v: docs.delete(["a1"], if_version=[v]),
        ):
            version = docs.get("a1")[0].version
            for wrong in (0, version + 1):
                with refused(docs, vicinal.VersionConflictError, "'a1'", version) as caught:
                    write(wrong)
                fault = caught.value
                assert (fault.id, fault.expected, fault.found) == ("a1", wrong, version)
            assert write(version) == 1
        assert docs.get("a1") == [None]
        for write in (
            lambda: docs.upsert(ids=["a1"], vectors=ONES[:1], if_version=1),
            lambda: docs.update(["a1"], {"n": 1}, if_version=1),
            lambda: docs.delete(["a1"], if_version=1),
        ):
            with refused(docs, vicinal.VersionConflictError, "does not exist", 1) as caught:
                write()
            assert caught.value.found == 0
        assert docs.upsert(ids=["a1"], vectors=ONES[:1], if_version=0) == 1
        assert docs.get("a1")[0].version == 1

    def test_one_wrong_version_refuses_the_whole_batch(self, docs: Any):
        docs.update(["a2"], {"n": 1})
        with refused(docs, vicinal.VersionConflictError, "'a2'") as caught:
            docs.upsert(ids=["a1", "a2"], vectors=ONES, if_version=[1, 1])
        assert (caught.value.expected, caught.value.found) == (1, 2)
        with refused(docs, vicinal.VersionConflictError, "7"):
            docs.delete(["a1", 7], if_version=[1, 3])
        with refused(docs, vicinal.VersionConflictError, "7"):
            docs.update(["a1", 7], {"x": 1}, if_version=[None, 3])
        assert docs.upsert(ids=["a1", "a2"], vectors=ONES, if_version=[None, 2]) == 2
        assert [p.version for p in docs.get(["a1", "a2"])] == [2, 3]
        assert docs.delete(["a1", "a2"], if_version=[2, 3]) == 2

    def test_conditions_hold_for_a_call_of_many_batches(
        self, docs: Any, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("vicinal.client.batch.BATCH_ROWS_MAX", 2)
        rows = np.ones((len(ALL_IDS), 4), np.float32)
        with refused(docs, vicinal.VersionConflictError, "7"):
            docs.upsert(ids=ALL_IDS, vectors=rows, if_version=[1, 1, 9, 1, 1, 1])
        fresh = ["n1", "n2", "n3", "n4", "n5", "a1"]
        with refused(docs, vicinal.AlreadyExistsError, "'a1'"):
            docs.upsert(ids=fresh, vectors=rows, mode="insert_only")
        with refused(docs, vicinal.NotFoundError, "'n5'"):
            docs.upsert(ids=fresh[::-1], vectors=rows, mode="update_only")
        assert docs.upsert(ids=ALL_IDS, vectors=rows, if_version=[1] * 6) == 6
        assert [p.version for p in docs.get(ALL_IDS)] == [2] * 6

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"mode": "replace"}, ("'replace'", "insert_only")),
            ({"if_version": 1}, ("if_version", 2)),
            ({"if_version": [1]}, ("if_version", 1, 2)),
            ({"if_version": [1, -1]}, ("if_version[1]", -1)),
            ({"if_version": [1, True]}, ("if_version[1]", True)),
            ({"if_version": [1, 1.0]}, ("if_version[1]", 1.0)),
            ({"if_version": "1"}, ("if_version", "'1'")),
        ],
    )
    def test_conditions_that_are_none_are_refused(
        self, docs: Any, options: dict[str, Any], words: tuple[object, ...]
    ):
        with refused(docs, vicinal.InvalidArgumentError, *words):
            docs.upsert(ids=["a1", "a2"], vectors=ONES, **options)

    def test_versions_belong_to_ids_that_stand_once(self, docs: Any):
        with refused(docs, vicinal.DuplicateIdError, "'a1'"):
            docs.delete(["a1", "a1"], if_version=[1, 1])
        with refused(docs, vicinal.DuplicateIdError, "'a1'"):
            docs.update(["a1", "a1"], {"x": 1}, if_version=[1, 1])
        with refused(docs, vicinal.InvalidArgumentError, "if_version"):
            docs.delete(where="year > 0", if_version=1)
        with refused(docs, vicinal.InvalidArgumentError, "if_version"):
            docs.update(where="year > 0", payload={"x": 1}, if_version=1)

    def test_an_update_replaces_the_payload_or_takes_fields_away(self, docs: Any):
        assert docs.update(["a1", "nobody"], {"only": 1}, replace=True) == 1
        assert docs.get("a1")[0].payload == {"only": 1}
        assert docs.count(where="lang = 'en'") == 1
        assert docs.update(["a2", 7], delete_keys=["lang", "meta", "nowhere"]) == 2
        assert docs.get("a2")[0].payload == {"year": 2021}
        assert docs.update([7], {"year": 1}, delete_keys=["tags"]) == 1
        assert docs.get(7)[0].payload == {"year": 1}
        assert docs.get(7)[0].version == 3
        assert docs.count(where="lang is null") == len(POINTS)
        assert docs.update([UUID], {}, replace=True) == 1
        assert docs.get(UUID)[0].payload == {}
        assert docs.search([0.5, 0.5, 0, 0], k=1)[0].payload == {}

    def test_an_update_by_filter_changes_what_the_dry_run_counted(self, docs: Any):
        with refused(docs, vicinal.InvalidArgumentError, "exactly one"):
            docs.update(["a1"], {"x": 1}, where="year > 0")
        assert docs.update(where="year >= 2021", payload={"x": 1}, dry_run=True) == 2
        assert docs.update(["a1", "nobody"], {"x": 1}, dry_run=True) == 1
        assert docs.update(all=True, delete_keys=["x"], dry_run=True) == len(POINTS)
        assert {p.version for p in docs.get(ALL_IDS)} == {1}
        # The points are fixed when the call begins, although the change makes others match.
        assert docs.update(where={"year": {"$gte": 2021}}, payload={"year": 2000, "x": 1}) == 2
        assert docs.count(where="x = 1 and year = 2000") == 2
        assert docs.get(["a2"])[0].payload == {
            "lang": "fr", "year": 2000, "meta": {"author": {"n": 1}}, "x": 1,
        }  # fmt: skip
        assert docs.update(where="x = 1", delete_keys=["x", "lang"]) == 2
        assert docs.count(where="x is null") == len(POINTS)
        assert docs.update(all=True, payload={"all": True}, replace=True) == len(POINTS)
        assert [p.payload for p in docs.scroll()] == [{"all": True}] * len(POINTS)
        assert docs.update(where="nowhere = 1", payload={"x": 1}) == 0

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({}, ("nothing to change",)),
            ({"delete_keys": []}, ("delete_keys",)),
            ({"delete_keys": "lang"}, ("delete_keys", "'lang'")),
            ({"delete_keys": [1]}, ("delete_keys", 1)),
            ({"delete_keys": ["x"], "payload": {"x": 1}}, ("'x'",)),
            ({"delete_keys": ["x"], "payload": {"y": 1}, "replace": True}, ("replace",)),
            ({"replace": True}, ("nothing to change",)),
            ({"payload": ["x"]}, ("list",)),
            ({"payload": {"x": object()}}, ("object",)),
        ],
    )
    def test_changes_that_make_no_sense_are_refused(
        self, docs: Any, options: dict[str, Any], words: tuple[object, ...]
    ):
        for selection in ({"ids": ["a1"]}, {"where": "year > 0"}, {"all": True}):
            with refused(docs, vicinal.InvalidArgumentError, *words):
                docs.update(**selection, **options)

    def test_an_update_by_filter_that_no_payload_can_hold_changes_nothing(
        self, docs: Any, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("vicinal.engine.writer.UPDATE_CHUNK", 1)
        monkeypatch.setattr("vicinal.model.payload.PAYLOAD_BYTES_MAX", 100)
        docs.update([ALL_IDS[-1]], {"long": "x" * 80})
        with refused(docs, vicinal.LimitError, 100):
            docs.update(all=True, payload={"y": "y" * 40})
        assert docs.update(all=True, payload={"y": 1}) == len(POINTS)
