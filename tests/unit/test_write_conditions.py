"""Conditions of writes: what is checked first, what the errors say, and that they hold between threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import vicinal
from vicinal.client.conditions import to_change, to_versions
from vicinal.model.change import Change, Conditions, WriteMode
from vicinal.model.ids import encode_id

KEYS = [encode_id("a"), encode_id("b"), encode_id("c")]


def test_a_version_conflict_comes_before_what_the_mode_says() -> None:
    conditions = Conditions(WriteMode.INSERT_ONLY, [None, 3, None])
    with pytest.raises(vicinal.VersionConflictError) as caught:
        conditions.check(KEYS, [1, 2, 0])
    assert (caught.value.id, caught.value.expected, caught.value.found) == ("b", 3, 2)


def test_conditions_are_cut_like_the_batches_they_belong_to() -> None:
    conditions = Conditions(versions=[1, None, 3])
    assert conditions.part(1, 3).versions == [None, 3]
    assert Conditions(WriteMode.INSERT_ONLY).part(0, 2) == Conditions(WriteMode.INSERT_ONLY)
    assert not Conditions().any
    assert conditions.any


def test_numpy_versions_are_versions() -> None:
    assert to_versions(np.int64(3), 1) == [3]
    assert to_versions(np.array([1, 2]), 2) == [1, 2]
    assert to_versions((None, 0), 2) == [None, 0]
    assert to_versions(None, 7) is None


def test_a_change_leaves_the_old_payload_alone() -> None:
    old = {"a": 1, "b": 2}
    assert Change({"b": 3}, remove=("a", "z")).apply(old) == {"b": 3}
    assert Change({"c": 1}, replace=True).apply(old) == {"c": 1}
    assert old == {"a": 1, "b": 2}
    assert to_change({"a": 1}, replace=False, delete_keys=["b", "b"]).remove == ("b",)


def test_counting_up_by_compare_and_set_loses_no_step_between_threads() -> None:
    with vicinal.open(":memory:") as db:
        docs = db.collection("c", dim=1, metric="l2")
        docs.upsert([{"id": "counter", "vector": [0], "n": 0}])
        conflicts: list[int] = []

        def count_up() -> None:
            done = 0
            while done < 25:
                point = docs.get("counter")[0]
                try:
                    docs.update("counter", {"n": point.payload["n"] + 1}, if_version=point.version)
                    done += 1
                except vicinal.VersionConflictError as fault:
                    conflicts.append(fault.found)

        threads = [threading.Thread(target=count_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        point = docs.get("counter")[0]
        assert (point.payload["n"], point.version) == (100, 101)


def test_only_one_of_many_inserts_of_an_id_wins() -> None:
    with vicinal.open(":memory:") as db:
        docs = db.collection("c", dim=1, metric="l2")
        won: list[int] = []
        start = threading.Barrier(4)

        def insert(number: int) -> None:
            start.wait()
            try:
                docs.upsert([{"id": 1, "vector": [number], "by": number}], mode="insert_only")
                won.append(number)
            except vicinal.AlreadyExistsError:
                return

        threads = [threading.Thread(target=insert, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [docs.get(1)[0].payload["by"]] == won
