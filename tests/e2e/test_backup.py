"""Copies that can be relied on: every form restores to the same points, also under writes; a cut-off one is none."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model import state_hash

import vicinal

N = 2_000
ROWS = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)


@pytest.fixture
def db(tmp_path: Path) -> Any:
    """Two collections: one in a sealed segment, the log and a tail, one with nothing but a log."""
    db = vicinal.open(tmp_path / "db")
    docs = db.collection("Docs", dim=8, metric="l2")
    docs.upsert(ids=range(N), vectors=ROWS, payload=[{"n": i} for i in range(N)])
    docs.optimize()
    docs.delete(range(50))
    docs.update([100], {"late": True})
    docs.upsert(ids=["x", uuid.UUID(int=5)], vectors=ROWS[:2], expires_at=4_000_000_000)
    db.collection("small/ü", dim=2).upsert([{"id": 1, "vector": [1, 2]}])
    yield db
    db.close()


def hashes(db: Any) -> dict[str, str]:
    return {name: state_hash(db.collection(name)) for name in db.collections()}


def target_of(kind: str, tmp_path: Path) -> str | Path:
    if kind == "memory":
        return f"memory://{uuid.uuid4().hex}/backup"
    return tmp_path / "deep" / f"backup{kind}"


@pytest.mark.parametrize("kind", ["", ".tar", ".tar.gz", "memory"])
def test_a_backup_restores_to_the_same_database(db: Any, tmp_path: Path, kind: str) -> None:
    target = target_of(kind, tmp_path)
    seen: list[tuple[int, int]] = []
    made = db.backup(target, progress=lambda done, total: seen.append((done, total)))
    assert made.collections == {"Docs": N - 48, "small/ü": 1}
    assert seen[-1] == (made.bytes, made.bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    before = hashes(db)
    db.collection("Docs").delete(all=True)
    restored = vicinal.restore(target, tmp_path / "new", progress=lambda done, total: True)
    assert (restored.collections, restored.bytes) == (made.collections, made.bytes)
    with vicinal.open(tmp_path / "new") as new:
        assert hashes(new) == before
        docs = new.collection("Docs")
        assert docs.search(ROWS[700], k=1)[0].id == 700
        assert docs.stats()["segments"][0]["rebuilt"] == []
        assert docs.get("x")[0].expires_at.timestamp() == 4_000_000_000
        docs.upsert(ids=["new"], vectors=ROWS[:1])
        docs.optimize()
    assert not list((tmp_path / "db" / "snapshots").iterdir())


def test_a_snapshot_restores_to_its_moment_whatever_came_after(db: Any, tmp_path: Path) -> None:
    before = hashes(db)
    snapshot = db.snapshot()
    docs = db.collection("Docs")
    docs.delete(where="n > 1000")
    docs.optimize()
    docs.upsert(ids=range(5_000, 5_100), vectors=ROWS[:100])
    db.drop("small/ü")
    vicinal.restore(snapshot.path, tmp_path / "new")
    with vicinal.open(tmp_path / "new") as new:
        assert hashes(new) == before
    part = docs.snapshot("part")
    vicinal.restore(part.path, tmp_path / "one")
    with vicinal.open(tmp_path / "one") as one:
        assert one.collections() == ["Docs"]
        assert hashes(one) == hashes(db)


def test_a_snapshot_links_the_files_of_segments(db: Any) -> None:
    snapshot = db.snapshot("linked")
    linked = [p for p in Path(snapshot.path).iterdir() if p.name.endswith("vectors.bin")]
    assert [p.stat().st_nlink for p in linked] == [2]
    manifest = json.loads((Path(snapshot.path) / "MANIFEST.json").read_text())
    names = {file["name"] for file in manifest["files"]}
    assert names == {p.name for p in Path(snapshot.path).iterdir()} - {"MANIFEST.json"}
    assert not [name for name in names if "LOCK" in name or "rocksdict" in name]


def test_a_backup_under_writes_is_one_moment_of_the_collection(db: Any, tmp_path: Path) -> None:
    docs = db.collection("live", dim=8, metric="l2")
    docs.upsert(ids=[0, 1], vectors=ROWS[:2])
    stop, written = threading.Event(), [2]

    def write() -> None:
        while not stop.is_set():
            n = written[0]
            docs.upsert(ids=[n, n + 1], vectors=ROWS[:2], payload=[{"n": n}, {"n": n}])
            written[0] = n + 2

    writer = threading.Thread(target=write)
    writer.start()
    try:
        floors = []
        for i in range(5):
            floors.append(written[0])
            db.backup(tmp_path / f"b{i}", collections=["live"])
    finally:
        stop.set()
        writer.join()
    assert written[0] > floors[0]
    for i, floor in enumerate(floors):
        vicinal.restore(tmp_path / f"b{i}", tmp_path / f"r{i}")
        with vicinal.open(tmp_path / f"r{i}") as restored:
            found = sorted(p.id for p in restored.collection("live").scroll(limit=100_000))
            assert found == list(range(len(found))), "a batch is torn, or one is missing"
            assert len(found) >= floor, "a write that was acknowledged before is missing"
            assert len(found) % 2 == 0


@pytest.mark.parametrize("kind", ["", ".tar.gz", "memory"])
def test_a_copy_that_is_stopped_leaves_nothing(db: Any, tmp_path: Path, kind: str) -> None:
    target = target_of(kind, tmp_path)
    with pytest.raises(vicinal.CancelledError):
        db.backup(target, progress=lambda done, total: done < total // 2)
    with pytest.raises(vicinal.NotFoundError):
        vicinal.restore(target, tmp_path / "new")
    with pytest.raises(vicinal.CancelledError):
        db.snapshot("cut", progress=lambda done, total: False)
    assert db.snapshots() == []
    if kind != "memory":
        assert not list((tmp_path / "deep").iterdir())
    db.backup(target)
    with pytest.raises(vicinal.CancelledError):
        vicinal.restore(target, tmp_path / "new", progress=lambda done, total: False)
    assert sorted(p.name for p in tmp_path.iterdir() if "new" in p.name) == []
    vicinal.restore(target, tmp_path / "new")


def test_nothing_that_exists_is_replaced(db: Any, tmp_path: Path) -> None:
    made = db.backup(tmp_path / "b")
    (tmp_path / "file.tar").write_text("mine")
    for target in (tmp_path / "b", tmp_path / "file.tar", tmp_path):
        with pytest.raises(vicinal.InvalidArgumentError, match="something at"):
            db.backup(target)
        with pytest.raises(vicinal.InvalidArgumentError, match="something at"):
            vicinal.restore(made.path, target)
    assert (tmp_path / "file.tar").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    vicinal.restore(made.path, tmp_path / "empty")
    with pytest.raises(vicinal.InvalidArgumentError, match="something at"):
        vicinal.restore(made.path, tmp_path / "db")
    with pytest.raises(vicinal.NotFoundError, match=r"MANIFEST\.json"):
        vicinal.restore(tmp_path / "nowhere", tmp_path / "new")


def test_a_reader_makes_no_snapshot_and_says_who_can(db: Any, tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db", read_only=True) as view:
        with pytest.raises(vicinal.ReadOnlyError, match="the process that writes"):
            view.backup(tmp_path / "b")
        with pytest.raises(vicinal.ReadOnlyError, match="read-only"):
            view.drop_snapshot("x")
        assert view.snapshots() == []


def test_a_damaged_collection_is_left_out_only_when_asked(db: Any, tmp_path: Path) -> None:
    db.close()
    (vectors,) = (tmp_path / "db").rglob("vectors.bin")
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with vicinal.open(tmp_path / "db") as again:
        with pytest.raises(vicinal.CorruptionError, match=r"vectors\.bin"):
            again.backup(tmp_path / "b")
        assert not (tmp_path / "b").exists()
        made = again.backup(tmp_path / "b", collections=["small/ü"])
        assert made.collections == {"small/ü": 1}


def test_what_a_crash_left_of_a_snapshot_is_removed(db: Any, tmp_path: Path) -> None:
    kept = db.snapshot("kept")
    db.close()
    left = tmp_path / "db" / "snapshots" / ".backup-1-aa"
    left.mkdir()
    (left / "0.store.CURRENT").write_text("x")
    with vicinal.open(tmp_path / "db") as again:
        assert again.snapshots() == [kept]
        assert not left.exists()


def test_an_in_memory_database_is_backed_up_too(tmp_path: Path) -> None:
    with vicinal.open(":memory:") as db:
        db.collection("c", dim=2).upsert([{"id": 1, "vector": [1, 2]}])
        db.backup(tmp_path / "b.tar")
    vicinal.restore(tmp_path / "b.tar", tmp_path / "new")
    with vicinal.open(tmp_path / "new") as new:
        assert new.collection("c").count() == 1
