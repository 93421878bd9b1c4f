"""Damage stays where it is: derived files are made anew, damaged collections wait, a failed fsync stops writes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model import state_hash

import vicinal
from vicinal.storage.mark import MarkFile

N = 1_500
"""Rows enough for a graph."""

ROWS = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with two collections in sealed segments."""
    with vicinal.open(tmp_path / "db") as db:
        for name in ("bad", "good"):
            docs = db.collection(name, dim=8, metric="l2")
            docs.upsert(ids=range(N), vectors=ROWS, payload=[{"n": i} for i in range(N)])
            docs.delete(range(100))
            docs.optimize()
            docs.update([500], {"late": True})
            docs.delete([501])
    return tmp_path / "db"


def segment_file(path: Path, name: str, collection: str = "bad") -> Path:
    (folder,) = (path / "collections" / collection / "segments").iterdir()
    return folder / name


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    file.write_bytes(raw)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def test_vectors_and_rows_are_the_only_primary_files_of_a_segment(path: Path) -> None:
    files = {file.name for file in segment_file(path, "x").parent.iterdir()}
    assert files == {"vectors.bin", "rows.bin", "payload.bin", "graph.bin"}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("name", ["graph.bin", "payload.bin"])
def test_a_damaged_derived_file_is_set_aside_and_made_anew(
    path: Path, name: str, damage: Callable[[Path], Any], read_only: bool
) -> None:
    file = segment_file(path, name)
    with vicinal.open(path) as db:
        before = state_hash(db.collection("bad"))
    damage(file)
    bad = file.read_bytes() if file.exists() else None
    with vicinal.open(path, read_only=read_only) as db:
        docs = db.collection("bad")
        assert state_hash(docs) == before
        assert docs.stats()["segments"][0]["rebuilt"] == [name]
        assert docs.stats()["status"] == "serving"
        hits = docs.search(ROWS[700], k=5)
        assert (hits[0].id, hits[0].payload) == (700, {"n": 700})
        assert hits[0].distance == 0
        assert docs.count(where="n < 200") == 100
        assert docs.get(500)[0].payload == {"n": 500, "late": True}
    aside = file.with_name(name + ".damaged")
    if read_only:
        assert (file.read_bytes() if file.exists() else None) == bad
        assert not aside.exists()
        return
    assert (aside.read_bytes() if aside.exists() else None) == bad
    with vicinal.open(path) as db:
        docs = db.collection("bad")
        assert docs.stats()["segments"][0]["rebuilt"] == []
        assert state_hash(docs) == before
        docs.optimize()
    assert not aside.exists()


@pytest.mark.parametrize("name", ["vectors.bin", "rows.bin"])
def test_a_damaged_collection_waits_apart_while_the_others_serve(path: Path, name: str) -> None:
    file = segment_file(path, name)
    whole = file.read_bytes()
    flip(file)
    with vicinal.open(path) as db:
        status = db.status()
        assert {n: s.health for n, s in status.items()} == {"bad": "quarantined", "good": "serving"}
        assert name in (status["bad"].reason or "")
        assert status["good"].reason is None
        assert db.collections() == ["bad", "good"]
        for _ in range(2):
            with pytest.raises(vicinal.CorruptionError, match=name):
                db.collection("bad")
        good = db.collection("good")
        good.upsert(ids=["new"], vectors=ROWS[:1])
        assert good.count() == N - 100
        # Mended behind its back: it stays apart until the database is opened again.
        damaged = file.read_bytes()
        file.write_bytes(whole)
        with pytest.raises(vicinal.CorruptionError, match=name):
            db.collection("bad")
    with vicinal.open(path) as db:
        assert db.status()["bad"] == vicinal.Status(vicinal.Health.SERVING)
        assert db.collection("bad").count() == N - 101
    file.write_bytes(damaged)
    with vicinal.open(path) as db:
        with pytest.raises(vicinal.CorruptionError):
            db.collection("bad", dim=8, metric="l2")
        db.drop("bad")
        assert db.status().keys() == {"good"}
        assert db.collection("bad", dim=2).count() == 0


def test_a_store_that_does_not_open_is_quarantined_too(path: Path) -> None:
    (path / "collections" / "bad" / "store" / "CURRENT").unlink()
    with vicinal.open(path) as db:
        assert db.status()["bad"].health is vicinal.Health.QUARANTINED
        assert db.collection("good").count() == N - 101


WRITES: dict[str, Callable[[Any], Any]] = {
    "upsert": lambda docs: docs.upsert(ids=[700, "new"], vectors=ROWS[:2]),
    "update": lambda docs: docs.update([700, 701], {"n": -1}),
    "delete": lambda docs: docs.delete([700, 701]),
}


@pytest.mark.parametrize("write", WRITES)
def test_after_a_failed_fsync_a_collection_shows_what_was_acknowledged_and_takes_no_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    syncs = []

    def fail(self: MarkFile, mark: object) -> None:
        syncs.append(mark)
        raise OSError(errno.EIO, "Input/output error")

    with vicinal.open(path) as db:
        docs = db.collection("bad")
        before = state_hash(docs)
        with monkeypatch.context() as patched:
            patched.setattr(MarkFile, "write", fail)
            with pytest.raises(vicinal.StorageError, match="the disk reports a fault"):
                WRITES[write](docs)
        # The cause is gone, but what became of the batch is not known: no write, and no second fsync.
        for again in WRITES.values():
            with pytest.raises(vicinal.StorageError, match="open it again"):
                again(docs)
        assert len(syncs) == 1
        assert state_hash(docs) == before
        assert docs.get("new") == [None]
        assert docs.get(700, with_vectors=True)[0].version == 1
        assert docs.search(ROWS[700], k=1, where="n = 700")[0].payload == {"n": 700}
        assert docs.stats()["status"] == db.status()["bad"].health == "read_only"
        assert "Input/output error" in docs.stats()["reason"]
        assert db.collection("good").update([700], {"n": -1}) == 1
    with vicinal.open(path) as db:
        docs = db.collection("bad")
        whole = {
            "upsert": lambda: docs.get("new")[0] is not None and docs.get(700)[0].version == 2,
            "update": lambda: docs.count(where="n = -1") == 2,
            "delete": lambda: docs.count() == N - 103,
        }[write]
        assert whole() or state_hash(docs) == before
        assert docs.upsert(ids=["after"], vectors=ROWS[:1]) == 1
