"""What every transport must do with snapshots; what becomes of them on disk is told in test_backup.py."""

from __future__ import annotations

from typing import Any

import pytest
from conformance_points import POINTS, refused

import vicinal


class Snapshotting:
    """Snapshots are made, listed and deleted, and change nothing."""

    def test_a_snapshot_keeps_the_moment_and_says_what_it_holds(self, docs: Any, db: Any):
        db.collection("other", dim=2)
        assert db.snapshots() == []
        whole = db.snapshot("first")
        assert (whole.name, whole.collections) == ("first", {"docs": len(POINTS), "other": 0})
        assert whole.bytes > 0
        docs.delete(["a1"])
        part = docs.snapshot("second")
        assert part.collections == {"docs": len(POINTS) - 1}
        assert db.snapshots() == [whole, part]
        assert db.snapshot(collections=["other"]).collections == {"other": 0}
        assert len(db.snapshots()) == 3
        db.drop_snapshot("first")
        assert "first" not in [s.name for s in db.snapshots()]
        assert docs.count() == len(POINTS) - 1

    @pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 101, "a b", "é", "a\n"])
    def test_names_that_no_snapshot_may_have_are_refused(self, docs: Any, db: Any, name: str):
        with refused(docs, vicinal.InvalidArgumentError, "snapshot name"):
            db.snapshot(name)
        with refused(docs, vicinal.InvalidArgumentError, "snapshot name"):
            db.drop_snapshot(name)

    def test_a_name_is_taken_once_and_an_unknown_one_is_not_found(self, docs: Any, db: Any):
        docs.snapshot("mine")
        with refused(docs, vicinal.InvalidArgumentError, "'mine'"):
            db.snapshot("mine")
        with refused(docs, vicinal.NotFoundError, "'yours'", "'mine'"):
            db.drop_snapshot("yours")
        with refused(docs, vicinal.NotFoundError, "'nothing'"):
            db.snapshot(collections=["nothing"])
        with refused(docs, vicinal.InvalidArgumentError, "'docs'", "twice"):
            db.snapshot(collections=["docs", "docs"])
        assert [s.name for s in db.snapshots()] == ["mine"]
