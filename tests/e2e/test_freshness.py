"""No served answer is older than the last write, or has a point whose time is over: cached, joined or computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving import Gate, http_call, metric

import vicinal


def test_a_search_that_comes_after_a_write_sees_it_though_the_cache_knows_the_query(
    local: vicinal.Database,
) -> None:
    with local.serve(http_port=0) as server, vicinal.open(server.url) as db:
        docs, here = db.collection("docs"), local.collection("docs")
        query = [3.0, 0.0]
        assert docs.search(query, k=1)[0].id == docs.search(query, k=1)[0].id == 3
        assert metric(server.url, 'vicinal_result_cache_total{outcome="hit"}') == 1
        docs.delete([3])
        assert docs.search(query, k=1)[0].id in (2, 4)
        here.upsert([{"id": "here", "vector": query}])
        assert docs.search(query, k=1)[0].id == "here", "a write beside the server counts too"
        here.update(["here"], {"x": 1})
        assert docs.search(query, k=1)[0].payload == {"x": 1}
        db.drop("docs")
        again = db.collection("docs", dim=2, metric="l2")
        assert len(again.search(query, k=1)) == 0


def test_writers_and_readers_at_once_see_no_stale_answer(local: vicinal.Database) -> None:
    with local.serve(http_port=0, search_threads=2, recall_share=0) as server:
        done = threading.Event()
        faults: list[str] = []

        def write(name: str) -> None:
            with vicinal.open(server.url) as db:
                docs = db.collection("docs")
                for n in range(60):
                    docs.upsert([{"id": name, "vector": [100, 0], "n": n}])
                    for _ in range(2):
                        seen = {h.id: h.payload for h in docs.search([100, 0], k=2)}
                        if seen.get(name, {}).get("n") != n:
                            faults.append(f"{name}: wrote {n}, then saw {seen}")

        def read() -> None:
            with vicinal.open(server.url) as db:
                docs = db.collection("docs")
                while not done.is_set():
                    docs.search([100, 0], k=2)

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            for writer in [pool.submit(write, name) for name in ("a", "b")]:
                writer.result()
            done.set()
            for reader in readers:
                reader.result()
        assert faults == []
        assert metric(server.url, 'vicinal_result_cache_total{outcome="hit"}') > 0


def test_a_search_does_not_join_one_that_began_before_the_last_write(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with (
        local.serve(http_port=0, search_threads=2, recall_share=0) as server,
        vicinal.open(server.url) as db,
        ThreadPoolExecutor(2) as pool,
    ):
        docs = db.collection("docs")
        before = pool.submit(docs.search, [5.0, 0.0], k=1)
        assert gate.entered.acquire(timeout=30)
        docs.delete([5])
        after = pool.submit(docs.search, [5.0, 0.0], k=1)
        assert gate.entered.acquire(timeout=30), "it began a search of its own"
        gate.open.set()
        assert before.result()[0].id == 5
        assert after.result()[0].id in (4, 6)
        assert docs.search([5.0, 0.0], k=1)[0].id in (4, 6), "and the older answer was not kept"


class Time:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def expiring(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[vicinal.Database, Time]]:
    """Point i expires i seconds after the start, point 0 never; nothing happens in the background."""
    monkeypatch.setattr("vicinal.engine.background.Background._run", lambda self: None)
    time = Time()
    with vicinal.open(":memory:", clock=time) as db:
        times = [None, *(time.now + i for i in range(1, 6))]
        docs = db.collection("docs", dim=1, metric="l2")
        docs.upsert(ids=range(6), vectors=np.arange(6)[:, None], expires_at=times)
        yield db, time


def test_no_cached_answer_has_a_point_that_has_expired(
    expiring: tuple[vicinal.Database, Time],
) -> None:
    local, time = expiring
    with local.serve(http_port=0) as server, vicinal.open(server.url) as db:
        docs = db.collection("docs")
        for second in range(7):
            time.now = 1_000 + second
            left = [0, *range(second + 1, 6)]
            for _ in range(3):
                assert docs.search([0], k=9).ids.tolist() == left
                assert docs.search([[0], [0]], k=9).ids.tolist() == [left, left]
        hits = metric(server.url, 'vicinal_result_cache_total{outcome="hit"}')
        # The first of three computes, where something changed; after the last point is gone, nothing does.
        assert hits == 2 * (6 * 2 + 3)


def test_an_answer_computed_before_a_point_expired_is_not_kept_for_later(
    expiring: tuple[vicinal.Database, Time], monkeypatch: pytest.MonkeyPatch
) -> None:
    local, time = expiring
    gate = Gate(monkeypatch)
    with (
        local.serve(http_port=0, search_threads=3, recall_share=0) as server,
        vicinal.open(server.url) as db,
        ThreadPoolExecutor(2) as pool,
    ):
        docs = db.collection("docs")
        before = pool.submit(docs.search, [0], k=9)
        assert gate.entered.acquire(timeout=30)
        time.now += 2
        after = pool.submit(docs.search, [0], k=9)
        assert gate.entered.acquire(timeout=30), "it joined a search that began before the time"
        gate.open.set()
        assert before.result().ids.tolist() == [0, 1, 2, 3, 4, 5]
        assert after.result().ids.tolist() == [0, 3, 4, 5]
        assert docs.search([0], k=9).ids.tolist() == [0, 3, 4, 5]


def test_searches_wait_for_a_write_under_way_only_where_a_point_has_expired(
    expiring: tuple[vicinal.Database, Time],
) -> None:
    local, time = expiring
    lock = local.engine.collection("docs", None, {}).state.lock
    with (
        local.serve(http_port=0) as server,
        vicinal.open(server.url) as db,
        ThreadPoolExecutor(1) as pool,
    ):
        docs = db.collection("docs")
        with lock:  # as a writer holds it
            assert len(docs.search([0], k=9)) == 6
            time.now += 1
            waiting = pool.submit(docs.search, [0], k=9)
            assert http_call(server.url, "GET", "/livez")[0] == 200, "the event loop goes on"
            assert not waiting.done()
        assert len(waiting.result()) == 5
