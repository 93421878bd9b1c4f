"""The recall monitor: what it counts is right, it repeats few searches, and none that can no longer be repeated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.server.recall_monitor import BUSY_SHARE_MAX, PAUSE_S_MIN, RecallMonitor


class Watched:
    """A collection whose searches a monitor samples; its reports, and a clock."""

    def __init__(self, db: vicinal.Database, share: float = 1.0, chance: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.docs = db.collection("docs", dim=8, metric="l2")
        self.docs.upsert(ids=range(50), vectors=rng.standard_normal((50, 8)))
        self.reports: list[tuple[str, int, int]] = []
        self.now = 0.0
        self.monitor = RecallMonitor(
            share, lambda *told: self.reports.append(told), lambda: self.now, lambda: chance
        )
        db.engine.watchers.add(self.monitor)

    def settle(self) -> list[tuple[str, int, int]]:
        """Reports once nothing is under way."""
        self.monitor.close()
        return self.reports


@pytest.fixture
def db() -> Iterator[vicinal.Database]:
    with vicinal.open(":memory:") as db:
        yield db


def test_a_right_answer_counts_whole(db: vicinal.Database) -> None:
    watched = Watched(db)
    watched.docs.search(np.zeros(8), k=7)
    assert watched.settle() == [("docs", 7, 7)]


def test_a_wrong_answer_counts_what_is_right_of_it(db: vicinal.Database) -> None:
    watched = Watched(db)
    records: list[Any] = []
    db.engine.watchers.remove(watched.monitor)
    db.engine.watchers.add(records.append)
    watched.docs.search(np.zeros(8), k=5)
    (record,) = records
    record.found.distances[0, 3:] += 1e3  # as if the graph had missed the last two
    watched.monitor(record)
    assert watched.settle() == [("docs", 3, 5)]


def test_fewer_matches_than_asked_for_are_all_there_should_be(db: vicinal.Database) -> None:
    watched = Watched(db)
    watched.docs.search(np.zeros(8), k=10, where="id < 4")
    assert watched.settle() == [("docs", 4, 4)]


def test_exact_searches_and_empty_collections_are_left_alone(db: vicinal.Database) -> None:
    watched = Watched(db)
    watched.docs.search(np.zeros(8), exact=True)
    watched.docs.delete(all=True)
    watched.docs.search(np.zeros(8))
    assert watched.settle() == []


def test_a_share_is_kept(db: vicinal.Database) -> None:
    watched = Watched(db, share=0.3, chance=0.3)
    watched.docs.search(np.zeros(8))
    assert watched.settle() == []


def test_points_that_changed_meanwhile_are_not_held_against_it(db: vicinal.Database) -> None:
    watched = Watched(db)
    records: list[Any] = []
    db.engine.watchers.remove(watched.monitor)
    db.engine.watchers.add(records.append)
    watched.docs.search(np.zeros(8), k=5)
    watched.docs.upsert(ids=[1000], vectors=np.zeros((1, 8)))
    watched.monitor(records[0])
    assert watched.settle() == []


def test_there_is_a_pause_after_each(db: vicinal.Database) -> None:
    watched = Watched(db)
    for now, expected in ((0.0, 1), (PAUSE_S_MIN / 2, 1), (PAUSE_S_MIN, 2)):
        watched.now = now
        watched.docs.search(np.zeros(8))
        while watched.monitor._busy:
            pass
        assert len(watched.reports) == expected


def test_a_slow_repeat_makes_the_pause_longer(db: vicinal.Database) -> None:
    watched = Watched(db)
    real = watched.monitor._compare

    def slowly(*args: Any) -> None:
        real(*args)
        watched.now += 3.0

    watched.monitor._compare = slowly  # type: ignore[method-assign]
    watched.docs.search(np.zeros(8))
    while watched.monitor._busy:
        pass
    assert watched.monitor._next_s == pytest.approx(3.0 / BUSY_SHARE_MAX)


def test_a_closed_monitor_samples_nothing_and_raises_nothing(db: vicinal.Database) -> None:
    watched = Watched(db)
    watched.monitor.close()
    watched.docs.search(np.zeros(8))
    assert watched.reports == []
