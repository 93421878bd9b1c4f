"""A database on a disk that fills up: writes are refused beforehand, reads and deletes go on, and so do writes later.

Needs mount, and skips with the reason where it is not permitted.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model import state_hash
from test_storage_disk import mounted

import vicinal
from vicinal.storage.space import RESERVE_NAME, Space

ROWS = np.random.default_rng(0).standard_normal((200, 128)).astype(np.float32)


def fill(docs: Any) -> tuple[int, vicinal.StorageError]:
    """Upsert until the disk refuses; return how many points are in, and the refusal."""
    start = docs.count()
    for first in range(start, 1_000_000, len(ROWS)):
        try:
            docs.upsert(ids=range(first, first + len(ROWS)), vectors=ROWS)
        except vicinal.StorageError as error:
            return first, error
    raise RuntimeError("the disk never filled up")


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sealed or compacted but where a test asks for it."""
    monkeypatch.setattr("vicinal.engine.background.Background._run", lambda self: None)


def test_a_full_disk_refuses_writes_reads_and_deletes_and_then_goes_on(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "m", "-t", "tmpfs", "-o", "size=24m", "tmpfs") as disk,
        vicinal.open(disk / "db") as db,
    ):
        docs = db.collection("c", dim=128, metric="l2")
        reserve = disk / "db" / RESERVE_NAME
        assert reserve.stat().st_blocks * 512 >= 2**20
        n, error = fill(docs)
        assert error.errno == 28
        needed = int(str(error).split(" needs ")[1].split(" bytes")[0])
        assert needed > 2 * ROWS.nbytes
        assert needed > os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        assert db.status()["c"].health == docs.stats()["status"] == "full"
        before = state_hash(docs)
        with pytest.raises(vicinal.StorageError, match="nothing was written"):
            docs.upsert(ids=range(n, n + len(ROWS)), vectors=ROWS)
        with pytest.raises(vicinal.StorageError, match="by itself"):
            docs.update(all=True, payload={"x": "y" * 10_000})
        assert state_hash(docs) == before
        assert docs.search(ROWS[7], k=1)[0].distance == 0
        # Nothing is left for others either, and deletes still go through.
        (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * 4096 - 8192))
        assert docs.delete(range(100)) == 100
        assert not reserve.exists()
        assert docs.count() == n - 100
        assert docs.delete(all=True) == n - 100
        docs.optimize()
        (disk / "ballast").unlink()
        # The space of what was deleted is there again: the same handle writes, without a reopen.
        assert docs.upsert(ids=range(200), vectors=ROWS) == 200
        assert docs.stats()["status"] == "serving"
        docs.upsert(ids=range(200), vectors=ROWS)
        assert reserve.exists()
        db.close()
        with vicinal.open(disk / "db") as again:
            assert again.collection("c").count() == 200


def test_writes_resume_when_somebody_else_frees_space(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "m", "-t", "tmpfs", "-o", "size=16m", "tmpfs") as disk,
        vicinal.open(disk / "db") as db,
    ):
        docs = db.collection("c", dim=128, metric="l2")
        n, _ = fill(docs)
        before = state_hash(docs)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert docs.upsert(ids=range(n, n + len(ROWS)), vectors=ROWS) == len(ROWS)
        assert docs.stats()["status"] == "serving"
        assert docs.delete(range(n, n + len(ROWS))) == len(ROWS)
        assert state_hash(docs) == before


def test_a_full_disk_refuses_a_compaction_before_it_takes_the_last_bytes(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "m", "-t", "tmpfs", "-o", "size=16m", "tmpfs") as disk,
        vicinal.open(disk / "db") as db,
    ):
        docs = db.collection("c", dim=128, metric="l2")
        fill(docs)
        (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * 4096 - 8192))
        before = state_hash(docs)
        with pytest.raises(vicinal.StorageError, match="compacting collection 'c' needs"):
            docs.optimize()
        assert state_hash(docs) == before
        (disk / "ballast").unlink()
        assert docs.delete([0]) == 1


def test_a_database_on_a_full_disk_opens(tmp_path: Path) -> None:
    with mounted(tmp_path / "m", "-t", "tmpfs", "-o", "size=24m", "tmpfs") as disk:
        with vicinal.open(disk / "db") as db:
            docs = db.collection("c", dim=128, metric="l2")
            fill(docs)
            before = state_hash(docs)
        free = os.statvfs(disk).f_bavail * 4096
        if free > 8192:
            (disk / "ballast").write_bytes(bytes(free - 8192))
        with vicinal.open(disk / "db") as db:
            docs = db.collection("c")
            assert state_hash(docs) == before
            assert docs.delete([3]) == 1


def test_the_reserve_is_made_where_there_is_room_and_given_back_once(tmp_path: Path) -> None:
    space = Space(tmp_path, reserve_bytes=2**20)
    file = tmp_path / RESERVE_NAME
    assert file.stat().st_size == 2**20
    assert not space.short
    assert space.release()
    assert not file.exists()
    assert space.short
    assert not space.release()
    space.admit("a write", 10, lambda: 0, frees=False)
    assert file.exists()
