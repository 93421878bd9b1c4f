"""What every transport must do with points that expire. No test waits: a time in the past has passed."""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import Any

import numpy as np
import pytest
from conformance_points import ALL_IDS, POINTS, refused

import vicinal
from vicinal.model import limits

PAST, FUTURE = 1_000_000_000.0, 4_000_000_000.0
ROW = np.ones((1, 4), np.float32)


class Expiring:
    """An expired point is as gone as a deleted one, at once and everywhere."""

    def test_an_expired_point_is_gone_from_everywhere(self, docs: Any):
        docs.upsert([POINTS[1]], expires_at=FUTURE)
        assert docs.update(["a1", "a2"], expires_at=PAST) == 2
        left = [i for i in ALL_IDS if i not in ("a1", "a2")]
        assert docs.get(["a1", "a2", 7])[:2] == [None, None]
        assert docs.count() == len(docs) == docs.stats()["points"] == len(left)
        assert docs.count(where="lang = 'en'") == 1
        assert [p.id for p in docs.scroll()] == left
        assert "a1" not in [p.id for p in docs.scroll(order_by="year")]
        for exact in (False, True):
            hits = docs.search([1, 0, 0, 0], k=50, exact=exact)
            assert {h.id for h in hits} == set(left)
            assert len(docs.search([1, 0, 0, 0], k=50, where="year > 0", exact=exact)) == 2
        assert docs.update(["a1"], {"x": 1}) == 0
        assert docs.update(where="tags contains 'x'", payload={"x": 1}) == 0
        assert docs.delete(["a1", "a2"]) == 0
        docs.optimize()
        assert docs.count() == len(left)
        assert docs.stats()["dead_rows"] == 0

    def test_the_id_of_an_expired_point_is_free(self, docs: Any):
        docs.update(["a1"], {"n": 1}, expires_at=PAST)
        with refused(docs, vicinal.VersionConflictError, "does not exist"):
            docs.update(["a1"], {"n": 2}, if_version=2)
        with refused(docs, vicinal.NotFoundError, "'a1'"):
            docs.upsert(ids=["a1"], vectors=ROW, mode="update_only")
        assert docs.upsert(ids=["a1"], vectors=ROW, mode="insert_only") == 1
        point = docs.get("a1")[0]
        assert (point.version, point.payload, point.expires_at) == (1, {}, None)
        assert docs.search([1, 1, 1, 1], k=1)[0].id == "a1"

    def test_a_point_says_when_it_expires(self, docs: Any):
        when = dt.datetime(2100, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
        docs.upsert(ids=["x"], vectors=ROW, expires_at=when)
        docs.upsert(ids=["y", "z"], vectors=np.ones((2, 4)), expires_at=[FUTURE, None])
        x, y, z = docs.get(["x", "y", "z"])
        assert x.expires_at == when
        assert y.expires_at.timestamp() == FUTURE
        assert z.expires_at is None
        assert docs.update(["y"], {"kept": 1}) == 1
        assert docs.get("y")[0].expires_at.timestamp() == FUTURE
        assert {p.id: p.expires_at for p in docs.scroll()}["x"] == when
        eastern = when.astimezone(dt.timezone(dt.timedelta(hours=-5)))
        docs.update(["y", "z"], expires_at=eastern)
        assert [p.expires_at for p in docs.get(["y", "z"])] == [when, when]
        assert docs.update(["x", "y"], expires_at=math.inf) == 2
        assert [p.expires_at for p in docs.get(["x", "y"])] == [None, None]
        docs.upsert(ids=["z"], vectors=ROW)
        assert docs.get("z")[0].expires_at is None

    def test_a_collection_gives_its_points_a_time_to_live(self, db: Any):
        docs = db.collection("short", dim=4, ttl=3600)
        before = time.time()
        docs.upsert(ids=["a"], vectors=ROW)
        docs.upsert(ids=["b", "c"], vectors=np.ones((2, 4)), expires_at=[math.inf, None])
        docs.upsert(ids=["d"], vectors=ROW, expires_at=FUTURE)
        after = time.time()
        a, b, c, d = (p.expires_at for p in docs.get(["a", "b", "c", "d"]))
        assert before + 3599 <= a.timestamp() <= after + 3601
        assert before + 3599 <= c.timestamp() <= after + 3601
        assert b is None
        assert d.timestamp() == FUTURE
        assert db.collection("short", ttl=dt.timedelta(hours=1)).stats()["ttl_s"] == 3600
        with pytest.raises(vicinal.CollectionMismatchError, match="ttl"):
            db.collection("short", ttl=60)

    @pytest.mark.parametrize(
        ("expires_at", "words"),
        [
            (dt.datetime(2100, 1, 1), ("time zone",)),
            ("2100-01-01", ("'2100-01-01'",)),
            ([FUTURE, FUTURE], (2, 1)),
            ([dt.datetime(2100, 1, 1)], ("time zone",)),
            (True, (True,)),
            (float("nan"), ("nan",)),
            (0, (0,)),
            (-1.0, (-1.0,)),
            (limits.EXPIRES_AT_S_MAX + 1, ("9999", "milliseconds")),
            ([{}], ("{}",)),
        ],
    )
    def test_times_that_are_none_are_refused(
        self, docs: Any, expires_at: Any, words: tuple[object, ...]
    ):
        with refused(docs, vicinal.InvalidArgumentError, *words):
            docs.upsert(ids=["a1"], vectors=ROW, expires_at=expires_at)
        if not isinstance(expires_at, list):
            with refused(docs, vicinal.InvalidArgumentError, *words):
                docs.update(["a1"], expires_at=expires_at)

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), limits.TTL_S_MAX + 1, "1h", True])
    def test_a_time_to_live_that_is_none_is_refused(self, docs: Any, db: Any, ttl: Any):
        with refused(docs, vicinal.InvalidArgumentError, "ttl"):
            db.collection("new", dim=4, ttl=ttl)
        assert db.collections() == ["docs"]
