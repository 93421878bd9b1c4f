"""Writers that come at the same time share a sync, and nothing else."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.engine import combining
from vicinal.engine.combining import Combiner, Request
from vicinal.storage.mark import MarkFile

ROWS = np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicinal.engine.background.Background._run", lambda self: None)


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Any]:
    with vicinal.open(tmp_path / "db") as db:
        yield db.collection("docs", dim=4, metric="l2")


class Held:
    """Holds the next sync up until `go`, so that writers gather behind it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, docs: Any) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        engine = docs._transport.engine
        self.combiner = engine.writer._combiner
        commit = engine.state.store._commit
        sync = commit._sync

        def held() -> int:
            self.entered.set()
            assert self.go.wait(30)
            return sync()

        monkeypatch.setattr(commit, "_sync", held)

    def gather(self, first: Callable[[], Any], others: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run all at once: the others wait while the first is synced. Outcomes in order; an error is one too."""

        def outcome(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except vicinal.VicinalError as fault:
                return fault

        with ThreadPoolExecutor(1 + len(others)) as threads:
            futures = [threads.submit(outcome, first)]
            assert self.entered.wait(30)
            for number, call in enumerate(others, 1):
                futures.append(threads.submit(outcome, call))
                while len(self.combiner._waiting) < number:  # in this order
                    time.sleep(0.001)
            self.go.set()
            return [future.result(30) for future in futures]


def upsert(docs: Any, *ids: Any, **options: Any) -> Callable[[], Any]:
    return lambda: docs.upsert(ids=list(ids), vectors=ROWS[: len(ids)], **options)


def test_writers_that_wait_share_one_sync(docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = docs._transport.engine.state.store
    before = store.fsyncs
    held = Held(monkeypatch, docs)
    done = held.gather(upsert(docs, 0), [upsert(docs, i) for i in range(1, 11)])
    assert done == [1] * 11
    assert store.fsyncs == before + 2
    assert sorted(p.id for p in docs.scroll(limit=100)) == list(range(11))
    assert store.last_seq == 11


def test_a_batch_that_is_refused_is_refused_alone(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs.upsert(ids=["a"], vectors=ROWS[:1])
    held = Held(monkeypatch, docs)
    done = held.gather(
        upsert(docs, "b"),
        [
            upsert(docs, "a", mode="insert_only"),
            upsert(docs, "c"),
            lambda: docs.update(["a"], {"n": 1}, if_version=7),
            lambda: docs.update(["a"], {"n": 2}),
            lambda: docs.delete(["nobody"]),
            lambda: docs.delete(["b"]),
        ],
    )
    assert isinstance(done[1], vicinal.AlreadyExistsError)
    assert isinstance(done[3], vicinal.VersionConflictError)
    assert [done[i] for i in (0, 2, 4, 5, 6)] == [1, 1, 1, 0, 1]
    assert sorted(p.id for p in docs.scroll()) == ["a", "c"]
    assert docs.get("a")[0].payload == {"n": 2}


def test_batches_of_one_group_see_each_other(docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch, docs)
    rows = [ROWS[i : i + 1] for i in range(5)]
    done = held.gather(
        upsert(docs, "first"),
        [
            lambda: docs.upsert(ids=["x"], vectors=rows[0]),
            lambda: docs.upsert(ids=["x"], vectors=rows[1]),
            lambda: docs.update(["x"], {"n": 1}),
            lambda: docs.delete(["first"]),
            lambda: docs.upsert(ids=["x"], vectors=rows[2], payload=[{"n": 2}], if_version=3),
        ],
    )
    assert done == [1, 1, 1, 1, 1, 1]
    (point,) = docs.get(["x"], with_vectors=True)
    assert (point.version, point.payload) == (4, {"n": 2})
    assert point.vector.tolist() == ROWS[2].tolist()
    assert docs.count() == 1
    assert docs.search(ROWS[2], k=5).ids.tolist() == ["x"]


def test_when_the_sync_fails_none_of_the_group_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("docs", dim=4, metric="l2")
        docs.upsert(ids=["old"], vectors=ROWS[:1], payload=[{"n": 0}])
        write = MarkFile.write
        marks: list[int] = []

        def fail(self: MarkFile, rocks_seq: int, log_seq: int) -> None:
            marks.append(log_seq)
            if len(marks) > 1:
                raise OSError(errno.EIO, "Input/output error")
            write(self, rocks_seq, log_seq)

        monkeypatch.setattr(MarkFile, "write", fail)
        held = Held(monkeypatch, docs)
        done = held.gather(
            upsert(docs, "kept"),
            [
                lambda: docs.update(["old"], {"n": 1}),
                lambda: docs.delete(["nobody"]),
                lambda: docs.update(["old"], {"n": 2}),
                upsert(docs, "new"),
            ],
        )
        assert done[0] == 1
        assert done[2] == 0
        for i in (1, 3, 4):
            assert isinstance(done[i], vicinal.StorageError), done[i]
        assert len(marks) == 2
        assert docs.get(["old", "new", "kept"])[0].payload == {"n": 0}
        assert docs.get(["new"]) == [None]
        assert sorted(p.id for p in docs.scroll()) == ["kept", "old"]
        assert db.status()["docs"].health == "read_only"
        with pytest.raises(vicinal.StorageError, match="open it again"):
            docs.upsert(ids=["more"], vectors=ROWS[:1])
        monkeypatch.setattr(MarkFile, "write", write)
    with vicinal.open(tmp_path / "db") as db:
        assert db.collection("docs").get(["kept"])[0] is not None


def test_a_call_of_several_batches_keeps_the_others_out(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vicinal.engine.writer.DELETE_CHUNK", 3)
    docs.upsert(ids=range(20), vectors=ROWS[:20], payload=[{"n": i} for i in range(20)])
    order: list[str] = []
    delete = docs._transport.engine.writer._delete

    def watched(keys: list[bytes], conditions: Any) -> int:
        order.append("delete")
        return delete(keys, conditions)

    monkeypatch.setattr(docs._transport.engine.writer, "_delete", watched)
    held = Held(monkeypatch, docs)
    done = held.gather(
        lambda: docs.delete(where="n >= 0"),
        [],
    )
    assert done == [20]
    assert order == ["delete"] * 7
    assert docs.count() == 0


def test_many_writers_lose_nothing_and_every_version_counts(docs: Any) -> None:
    def work(writer: int) -> None:
        for i in range(25):
            docs.upsert(ids=[f"{writer}-{i}", "shared"], vectors=ROWS[i : i + 2])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert docs.count() == 8 * 25 + 1
    assert docs.get("shared")[0].version == 200
    assert docs._transport.engine.state.store.last_seq == 200


def test_no_more_than_so_many_share_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combining, "TOGETHER_MAX", 3)
    groups: list[int] = []
    entered, go = threading.Event(), threading.Event()

    def carry_out(group: Sequence[Request]) -> None:
        groups.append(len(group))
        entered.set()
        go.wait(30)
        for request in group:
            request.value = request.write()

    combiner = Combiner(carry_out)
    with ThreadPoolExecutor(9) as threads:
        futures = [threads.submit(combiner.run, lambda: 0)]
        assert entered.wait(30)
        futures += [threads.submit(combiner.run, lambda i=i: i) for i in range(1, 9)]
        while len(combiner._waiting) < 8:
            time.sleep(0.001)
        go.set()
        assert [f.result(30) for f in futures] == list(range(9))
    assert groups == [1, 3, 3, 2]


def test_a_carrier_that_breaks_leaves_the_place_to_the_next() -> None:
    def carry_out(group: Sequence[Request]) -> None:
        raise MemoryError

    combiner = Combiner(carry_out)
    for _ in range(2):
        with pytest.raises(MemoryError):
            combiner.run(lambda: 1)
    assert not combiner._at_work
