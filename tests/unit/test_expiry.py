"""Points that expire while time moves: hidden by the first look, deleted for good by maintenance, never by replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import vicinal
from vicinal.engine.records import decode_log, unpack_rows
from vicinal.model.clock import expiry_ms, to_datetime

START = 1_700_000_000.0


class Clock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is purged but where a test asks for it."""
    monkeypatch.setattr("vicinal.engine.background.Background._run", lambda self: None)


@pytest.fixture
def db(tmp_path: Path, clock: Clock) -> Iterator[Any]:
    with vicinal.open(tmp_path / "db", clock=clock) as db:
        yield db


@pytest.fixture
def docs(db: Any) -> Any:
    """Ten points; point i expires i seconds after the start, point 0 never."""
    docs = db.collection("c", dim=1, metric="l2")
    times = [None] + [START + i for i in range(1, 10)]
    docs.upsert(ids=range(10), vectors=np.arange(10)[:, None], expires_at=times)
    return docs


def seen(docs: Any) -> list[int]:
    """Ids that every way of looking agrees on."""
    ids = [p.id for p in docs.scroll()]
    assert docs.count() == len(ids)
    assert docs.count(where="id >= 0") == len(ids)
    assert sorted(docs.search([0], k=100).ids.tolist()) == sorted(ids)
    assert [p.id for p in docs.get(range(10)) if p is not None] == sorted(ids)
    return ids


def stored(docs: Any) -> list[int]:
    """Rows of the index of what is due, whatever the time is."""
    return [
        int.from_bytes(key[8:], "big") for key, _ in docs._transport.engine.state.store.scan_due()
    ]


def test_points_vanish_at_their_millisecond(docs: Any, clock: Clock) -> None:
    assert seen(docs) == list(range(10))
    clock.now = START + 2.999
    assert seen(docs) == [0, *range(3, 10)]
    clock.now = START + 3
    assert seen(docs) == [0, *range(4, 10)]
    clock.now = START + 1000
    assert seen(docs) == [0]


@pytest.mark.parametrize("sealed", [False, True])
def test_points_vanish_from_sealed_segments_and_after_a_reopen(
    docs: Any, db: Any, clock: Clock, tmp_path: Path, sealed: bool
) -> None:
    if sealed:
        docs.optimize()
    db.close()
    clock.now = START + 4
    with vicinal.open(tmp_path / "db", clock=clock) as again:
        assert seen(again.collection("c")) == [0, *range(5, 10)]
        clock.now = START + 6
        assert seen(again.collection("c")) == [0, *range(7, 10)]
        with vicinal.open(tmp_path / "db", read_only=True, clock=clock) as view:
            assert seen(view.collection("c")) == [0, *range(7, 10)]
            clock.now = START + 8
            assert seen(view.collection("c")) == [0, 9]


def test_what_was_hidden_stays_hidden_when_the_clock_goes_back(docs: Any, clock: Clock) -> None:
    clock.now = START + 5
    assert seen(docs) == [0, *range(6, 10)]
    clock.now = START - 1000
    assert seen(docs) == [0, *range(6, 10)]
    docs.optimize()
    assert seen(docs) == [0, *range(6, 10)]


def test_compaction_deletes_what_expired_and_nothing_else(docs: Any, clock: Clock) -> None:
    clock.now = START + 5
    assert stored(docs) == list(range(1, 10))
    docs.optimize()
    assert stored(docs) == list(range(6, 10))
    stats = docs.stats()
    assert (stats["points"], stats["segments"][0]["rows"]) == (5, 5)


def test_background_work_deletes_in_batches(
    docs: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vicinal.engine.writer.PURGE_CHUNK", 2)
    maintenance = docs._transport.engine.maintenance
    clock.now = START + 5
    left = []
    while maintenance.step():
        left.append(stored(docs))
    assert left == [list(range(3, 10)), list(range(5, 10)), list(range(6, 10))]
    assert not docs._transport.engine.state.expiry.to_purge
    assert seen(docs) == [0, *range(6, 10)]
    clock.now = START + 6
    assert docs.count() == 4
    assert maintenance.step()
    assert stored(docs) == [7, 8, 9]


def test_the_log_holds_rows_that_died_and_no_time_decides_at_replay(
    docs: Any, db: Any, clock: Clock, tmp_path: Path
) -> None:
    clock.now = START + 5
    assert docs._transport.engine.writer.purge()
    records = [decode_log(raw, "log") for _, raw in docs._transport.engine.state.store.read_log()]
    assert unpack_rows(records[-1].killed).tolist() == [1, 2, 3, 4, 5]
    db.close()
    clock.now = START  # the machine came back with a clock that is wrong
    with vicinal.open(tmp_path / "db", clock=clock) as again:
        assert seen(again.collection("c")) == [0, *range(6, 10)]


def test_replacing_and_deleting_forgets_the_old_time(docs: Any, clock: Clock) -> None:
    docs.upsert(ids=[1], vectors=[[1]])
    docs.upsert(ids=[2], vectors=[[2]], expires_at=START + 50)
    docs.update([3], expires_at=START + 60)
    docs.update([4], {"x": 1}, expires_at=float("inf"))
    docs.delete([5])
    assert len(stored(docs)) == 6
    clock.now = START + 10
    assert set(seen(docs)) == {0, 1, 2, 3, 4}
    clock.now = START + 55
    assert set(seen(docs)) == {0, 1, 3, 4}


def test_points_that_expire_while_a_segment_is_written_stay_hidden(
    docs: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vicinal.engine import maintenance

    write = maintenance.write_segment

    def slow(*args: Any, **options: Any) -> None:
        write(*args, **options)
        clock.now = START + 5
        assert seen(docs) == [0, *range(6, 10)]

    monkeypatch.setattr(maintenance, "write_segment", slow)
    docs.optimize()
    assert seen(docs) == [0, *range(6, 10)]
    assert docs.stats()["segments"][0]["rows"] == 10
    monkeypatch.setattr(maintenance, "write_segment", write)
    docs.optimize()
    assert docs.stats()["segments"][0]["rows"] == 5


def test_a_time_to_live_counts_from_each_upsert(db: Any, clock: Clock) -> None:
    docs = db.collection("ttl", dim=1, metric="l2", ttl=10)
    docs.upsert(ids=[1, 2], vectors=[[1], [2]])
    clock.now = START + 6
    docs.upsert(ids=[2], vectors=[[2]])
    docs.update([1], {"x": 1})
    clock.now = START + 10
    assert [p.id for p in docs.scroll()] == [2]
    clock.now = START + 16
    assert docs.count() == 0


@given(ms=st.integers(1, 253_402_300_799_000))
@example(ms=1_700_000_000_001)
def test_a_datetime_of_a_millisecond_is_that_millisecond(ms: int) -> None:
    when = to_datetime(ms)
    assert expiry_ms(when) == ms
