"""The slow-query log: what is slow is written with plan and filter, without vectors; off, nothing is timed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

import vicinal
from vicinal.engine import slow
from vicinal.engine.reader import Reader


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    caplog.set_level(logging.WARNING, logger="vicinal.slow")
    yield lambda: [
        record.__dict__["vicinal_fields"]
        for record in caplog.records
        if record.name == "vicinal.slow"
    ]


def fill(db: vicinal.Database, n: int = 30) -> vicinal.Collection:
    docs = db.collection("docs", dim=2, metric="l2")
    docs.upsert([{"id": i, "vector": [i, 77.125], "n": i, "secret": "hidden"} for i in range(n)])
    return docs


def test_a_slow_search_is_written_with_plan_costs_and_filter(lines: Any) -> None:
    with vicinal.open(":memory:", slow_query_ms=0) as db:
        docs = fill(db)
        docs.search([1, 77.125], k=3, where="n > 10 and n < 20")
        docs.search([[1, 2], [3, 4]], k=2, exact=True)
    first, second = lines()
    assert first["collection"] == "docs"
    assert first["where"] == "n > 10 and n < 20"
    assert (first["k"], first["queries"], first["matches"], first["exact"]) == (3, 1, 9, False)
    assert first["estimated_distances"] == 9
    assert first["ms"] >= first["segments"][0]["actual_ms"] > 0
    assert first["segments"][0]["strategy"] == "scan"
    assert (second["queries"], second["exact"], second["where"]) == (2, True, None)
    assert "77.125" not in str(lines())
    assert "hidden" not in str(lines())


def test_a_quick_search_is_not_written(lines: Any) -> None:
    with vicinal.open(":memory:", slow_query_ms=1e6) as db:
        fill(db).search([1, 2])
    assert lines() == []


def test_nothing_is_timed_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = Reader.search

    def search(reader: Reader, *args: Any, **options: Any) -> Any:
        seen.append(options.get("runs"))
        return real(reader, *args, **options)

    monkeypatch.setattr(Reader, "search", search)
    with vicinal.open(":memory:") as db:
        fill(db).search([1, 2])
    with vicinal.open(":memory:", slow_query_ms=5) as db:
        fill(db).search([1, 2])
    assert [runs is None for runs in seen] == [True, False]


def test_lines_are_limited_and_the_rest_counted(
    lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(slow, "LINES_PER_S_MAX", 3)
    with vicinal.open(":memory:") as db:
        db.engine.watchers.add(slow.SlowLog(0, lambda: now[0]))
        docs = fill(db)
        for _ in range(10):
            docs.search([1, 2])
        assert len(lines()) == 3
        now[0] = 1.0
        docs.search([1, 2])
        assert lines()[-1]["lines_left_out"] == 7


@pytest.mark.parametrize("value", [-1, "5", True, float("nan"), 1e10])
def test_a_threshold_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="slow_query_ms"):
        vicinal.open(":memory:", slow_query_ms=value)


def test_a_server_decides_for_itself() -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="slow_query_ms"):
        vicinal.open("http://127.0.0.1:1", slow_query_ms=5)
