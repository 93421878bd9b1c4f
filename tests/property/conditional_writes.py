"""Rules of the state machine for writes with conditions, changes of payload by filter, and points that expire."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from collection_machine import CollectionAndModel
from collection_strategies import conditions, forms, id_lists, payloads, seeds
from conditions import Condition
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from model import state_hash

import vicinal

removed = st.lists(st.sampled_from(["lang", "tags", "meta"]), min_size=1, unique=True)
lives = st.lists(st.none() | st.sampled_from([-1, 0, 1, 3, 10, 100]), min_size=8, max_size=8)
changes = st.one_of(
    st.fixed_dictionaries({"payload": payloads, "replace": st.booleans()}),
    st.fixed_dictionaries({"delete_keys": removed}),
    st.fixed_dictionaries(
        {"payload": st.fixed_dictionaries({"year": st.integers(0, 2)}), "delete_keys": removed}
    ),
)


class ConditionalWrites(CollectionAndModel):
    """What the machine of a collection does beside plain upserts and deletes."""

    @precondition(lambda self: self.bulk == 0)
    @rule(archive=st.booleans())
    def backup(self, archive: bool) -> None:
        """A backup restores to what there is now."""
        source = self.path / ("b.tar" if archive else "b")
        self.db.backup(source)
        vicinal.restore(source, self.path / "restored")
        with vicinal.open(self.path / "restored", clock=self.clock) as db:
            assert state_hash(db.collection("c")) == state_hash(self.collection)
        shutil.rmtree(self.path / "restored")
        source.unlink() if archive else shutil.rmtree(source)

    @rule(seconds=st.sampled_from([0, 1, 5, 5, 20, 200]))
    def pass_time(self, seconds: int) -> None:
        """Points whose time has come are gone."""
        self.now_s += seconds
        self.model.expire(self.now_s)

    @rule(numbers=id_lists, seed=seeds, lives=lives)
    def upsert_expiring(self, numbers: list[int], seed: int, lives: list[int | None]) -> None:
        """Points with a time of their own each, or none; some of them gone at once."""
        ids = self.ids(numbers)
        rows = self.vectors(seed, len(ids))
        times = [None if life is None else self.now_s + life for life in lives[: len(ids)]]
        assert self.collection.upsert(ids=ids, vectors=rows, expires_at=times) == len(ids)
        self.model.upsert(ids, rows, [{}] * len(ids), times)
        self.model.expire(self.now_s)

    @rule(numbers=id_lists, life=st.sampled_from([-1, 0, 1, 7, 50, float("inf")]))
    def touch(self, numbers: list[int], life: float) -> None:
        """A new time for points that are there."""
        ids = self.ids(numbers)
        time = self.now_s + life
        assert self.collection.update(ids, expires_at=time) == self.model.touch(ids, time)
        self.model.expire(self.now_s)

    @rule(where=conditions, form=forms, change=changes, dry=st.booleans())
    def update_where(self, where: Condition, form: str, change: dict[str, Any], dry: bool) -> None:
        """Change payloads by filter, or only count: merge, replace, or take fields away."""
        ids = [p.id for p in self.model.matching(where)]
        assert self.collection.update(where=where.form(form), dry_run=dry, **change) == len(ids)
        if not dry:
            given = dict(change)
            self.model.update(
                ids,
                given.pop("payload", {}),
                remove=given.pop("delete_keys", ()),
                **given,
            )

    @rule(numbers=id_lists, seed=seeds, mode=st.sampled_from(["insert_only", "update_only"]))
    def upsert_in_mode(self, numbers: list[int], seed: int, mode: str) -> None:
        """All of the batch where the mode allows each id, else nothing."""
        ids = self.ids(numbers)
        rows = self.vectors(seed, len(ids))
        there = {i in self.model.points for i in ids}
        if there == {mode == "update_only"}:
            assert self.collection.upsert(ids=ids, vectors=rows, mode=mode) == len(ids)
            self.model.upsert(ids, rows, [{}] * len(ids))
            return
        error = vicinal.NotFoundError if mode == "update_only" else vicinal.AlreadyExistsError
        with pytest.raises(error):
            self.collection.upsert(ids=ids, vectors=rows, mode=mode)

    @rule(
        numbers=id_lists,
        seed=seeds,
        wrong=st.integers(0, 8) | st.none(),
        how=st.sampled_from(["upsert", "update", "delete"]),
    )
    def compare_and_set(self, numbers: list[int], seed: int, wrong: int | None, how: str) -> None:
        """All of the batch where every version is the expected one, else nothing."""
        ids = self.ids(numbers)
        rows = self.vectors(seed, len(ids))
        versions: list[int | None] = [self.model.version(i) for i in ids]
        if wrong is not None and wrong < len(ids):
            versions[wrong] = (versions[wrong] or 0) + 1
        elif seed % 3 == 0:
            versions[0] = None
        write: Any = {
            "upsert": lambda: self.collection.upsert(ids=ids, vectors=rows, if_version=versions),
            "update": lambda: self.collection.update(ids, {"year": 1}, if_version=versions),
            "delete": lambda: self.collection.delete(ids, if_version=versions),
        }[how]
        if wrong is not None and wrong < len(ids):
            with pytest.raises(vicinal.VersionConflictError) as caught:
                write()
            assert caught.value.id == ids[wrong]
            assert caught.value.found == self.model.version(ids[wrong])
            return
        if how == "upsert":
            assert write() == len(ids)
            self.model.upsert(ids, rows, [{}] * len(ids))
        elif how == "update":
            assert write() == self.model.update(ids, {"year": 1})
        else:
            assert write() == self.model.delete(ids)
