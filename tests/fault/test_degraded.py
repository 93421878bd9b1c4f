"""Damage to a segment's primary files: the other segments serve, nothing is dropped until somebody says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import engine_of
from model import state_hash
from typer.testing import CliRunner

import vicinal
from vicinal.cli.main import app
from vicinal.engine.doctor import examine

N = 300
ROWS = np.random.default_rng(0).standard_normal((3 * N, 8)).astype(np.float32)
FIRST = range(N, 2 * N)
"""Ids of the segment that is damaged."""


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicinal.engine.background.Background._run", lambda self: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two segments and a tail, with dead, changed and expiring points in the second segment."""
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("docs", dim=8, metric="l2")
        for start in (0, N, 2 * N):
            ids = range(start, start + N)
            payload = [{"n": i} for i in ids]
            docs.upsert(ids=ids, vectors=ROWS[start : start + N], payload=payload)
            if start < 2 * N:
                engine_of(docs).maintenance._seal(threads=1)
        docs.delete([N, N + 1])
        docs.update([N + 2], {"late": True})
        docs.update([N + 3, N + 4], expires_at=4e9)
        docs.upsert(ids=[N + 5], vectors=ROWS[:1], payload=[{"n": N + 5, "moved": True}])
        db.collection("other", dim=2).upsert(ids=["a"], vectors=[[1, 2]])
    return tmp_path / "db"


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    file.write_bytes(raw)


def primary(path: Path, name: str) -> Path:
    """A primary file of the second segment."""
    segments = path / "collections" / "docs" / "segments"
    return sorted(segments.iterdir(), key=lambda p: int(p.name))[1] / name


LOST = [i for i in FIRST if i not in (N, N + 1, N + 5)]
LEFT = sorted([*range(N), N + 5, *range(2 * N, 3 * N)])

DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:5000]),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["vectors.bin", "rows.bin"])
def test_the_other_segments_serve_and_nothing_is_written(
    path: Path, name: str, damage: str
) -> None:
    whole = primary(path, name).read_bytes()
    with vicinal.open(path) as db:
        before = state_hash(db.collection("docs"))
    DAMAGES[damage](primary(path, name))
    with vicinal.open(path) as db:
        docs = db.collection("docs")
        status = db.status()["docs"]
        assert status.health is vicinal.Health.DEGRADED
        assert status.reason is not None
        assert name in status.reason
        assert f"up to {N} points" in status.reason
        assert "--accept-loss" in status.reason
        assert db.status()["other"].health == "serving"
        assert docs.stats()["status"] == "degraded"
        assert sorted(p.id for p in docs.scroll(limit=10_000)) == LEFT
        assert docs.count() == len(LEFT)
        assert docs.count("n >= 0") == len(LEFT)
        assert docs.search(ROWS[7], k=1).ids[0] == 7
        assert docs.search(ROWS[2 * N + 7], k=1, where=f"n = {2 * N + 7}").ids[0] == 2 * N + 7
        # What the store holds is sound, so it is shown; what is lost is said to be lost.
        assert docs.get(N + 2)[0].payload == {"n": N + 2, "late": True}
        with pytest.raises(vicinal.CorruptionError, match="lost"):
            docs.get(N + 2, with_vectors=True)
        assert docs.get(7, with_vectors=True)[0].vector.tolist() == ROWS[7].tolist()
        for write in (
            lambda: docs.upsert(ids=[1], vectors=ROWS[:1]),
            lambda: docs.update([1], {"n": 0}),
            lambda: docs.delete([1]),
            lambda: docs.optimize(),
            lambda: docs.snapshot("s"),
            lambda: db.backup(path.with_name("copy")),
        ):
            with pytest.raises(vicinal.CorruptionError, match="takes no write"):
                write()
        assert not engine_of(docs).maintenance.step()
        db.collection("other").upsert(ids=["b"], vectors=[[1, 2]])
    primary(path, name).write_bytes(whole)
    with vicinal.open(path) as db:
        assert db.status()["docs"].health == "serving"
        assert state_hash(db.collection("docs")) == before


def test_a_repair_alone_drops_nothing(path: Path) -> None:
    flip(primary(path, "vectors.bin"))
    for repair in (False, True):
        report = examine(path, repair=repair)
        assert not report.healthy
        (finding,) = [f for f in report.findings if f.level == "damage"]
        assert "vectors.bin" in finding.what
        assert "--accept-loss" in finding.remedy
    with vicinal.open(path) as db:
        assert db.collection("docs").get(N + 2)[0] is not None


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["vectors.bin", "rows.bin"])
def test_accepting_the_loss_drops_the_lost_points_says_which_and_keeps_the_files(
    path: Path, name: str, damage: str
) -> None:
    file = primary(path, name)
    DAMAGES[damage](file)
    damaged = file.read_bytes() if file.exists() else None
    done = CliRunner().invoke(app, ["doctor", str(path), "--accept-loss"])
    assert done.exit_code == 0, done.output
    assert f"{len(LOST)} points: " in done.output
    assert "given-up" in done.output
    kept = path / "collections" / "docs" / "given-up" / file.parent.name / name
    assert (kept.read_bytes() if kept.exists() else None) == damaged
    assert examine(path).healthy
    with vicinal.open(path) as db:
        docs = db.collection("docs")
        assert db.status()["docs"].health == "serving"
        assert sorted(p.id for p in docs.scroll(limit=10_000)) == LEFT
        assert docs.get(LOST) == [None] * len(LOST)
        assert docs.upsert(ids=LOST[:5], vectors=ROWS[:5]) == 5
        docs.optimize()
    with vicinal.open(path) as db:
        docs = db.collection("docs")
        assert docs.count() == len(LEFT) + 5
        assert docs.get(LOST[0])[0].version == 1
    assert examine(path).healthy


def test_a_collection_of_which_everything_is_lost_can_be_given_up_too(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with vicinal.open(path) as db:
        docs = db.collection("docs", dim=8)
        docs.upsert(ids=range(N), vectors=ROWS[:N])
        docs.optimize()
    (folder,) = (path / "collections" / "docs" / "segments").iterdir()
    flip(folder / "rows.bin")
    with vicinal.open(path) as db:
        with pytest.raises(vicinal.CorruptionError, match=r"rows\.bin"):
            db.collection("docs")
        assert db.status()["docs"].health == "quarantined"
    done = CliRunner().invoke(app, ["doctor", str(path), "--accept-loss", "--json"])
    assert json.loads(done.stdout)["healthy"] is True
    with vicinal.open(path) as db:
        assert db.collection("docs").count() == 0
        assert db.collection("docs").upsert(ids=[1], vectors=ROWS[:1]) == 1


def test_a_store_that_lost_acknowledged_writes_opens_after_the_loss_is_accepted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "db"
    with vicinal.open(path) as db:
        docs = db.collection("docs", dim=8)
        docs.upsert(ids=range(5), vectors=ROWS[:5])
        docs.upsert(ids=range(5, 10), vectors=ROWS[5:10])
        log = max((path / "collections/docs/store").glob("*.log"))
        raw = log.read_bytes()
        # A copy of the open database is what a crash leaves.
        shutil.copytree(path, tmp_path / "crashed")
    crashed = tmp_path / "crashed"
    log = crashed / "collections/docs/store" / log.name
    log.write_bytes(raw[:-40])
    with vicinal.open(crashed) as db:
        assert "acknowledged writes are lost" in (db.status()["docs"].reason or "")
    done = CliRunner().invoke(app, ["doctor", str(crashed), "--accept-loss"])
    assert done.exit_code == 0, done.output
    with vicinal.open(crashed) as db:
        assert db.collection("docs").count() == 5


def test_the_list_of_collections_says_what_is_degraded(path: Path) -> None:
    flip(primary(path, "vectors.bin"))
    done = CliRunner().invoke(app, ["ls", str(path)])
    assert done.exit_code == 0
    assert "docs is degraded" in done.output
    assert "other" in done.stdout
