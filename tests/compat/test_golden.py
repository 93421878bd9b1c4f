"""Databases of earlier versions open, answer as they did, and go on; those of later versions are refused."""

from __future__ import annotations

import json
from pathlib import Path

import golden
import pytest

import vicinal
from vicinal.engine.doctor import examine

HERE = Path(__file__).parent
KEPT = sorted(path.stem for path in HERE.glob("*.b64"))


@pytest.fixture(params=KEPT)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, object]:
    """A database that an earlier version wrote, and what that version read in it."""
    golden.unpack((HERE / f"{request.param}.b64").read_text(), tmp_path / "db")
    return tmp_path / "db", json.loads((HERE / f"{request.param}.json").read_text())


def test_there_is_a_database_of_the_first_format() -> None:
    assert "format-1" in KEPT


def test_it_answers_as_it_did(kept: tuple[Path, object]) -> None:
    folder, told = kept
    assert golden.answers(folder) == told
    assert examine(folder).healthy


def test_it_goes_on(kept: tuple[Path, object]) -> None:
    """Written to, compacted and opened again, it has what it had and what is new."""
    folder, told = kept
    with vicinal.open(folder) as db:
        docs = db.collection("docs")
        docs.upsert(ids=["new"], vectors=golden.vectors(1, 11), payload=[{"year": 1990}])
        docs.optimize()
        assert docs.search(golden.vectors(1, 11)[0], k=1)[0].id == "new"
        docs.delete(["new"])
    assert golden.answers(folder) == told
    assert examine(folder).healthy


def test_its_snapshot_is_restored(kept: tuple[Path, object], tmp_path: Path) -> None:
    folder, told = kept
    vicinal.restore(folder / "snapshots" / "kept", tmp_path / "restored")
    found = golden.answers(tmp_path / "restored")
    assert found | {"snapshots": ["kept"]} == told


def test_its_backup_of_today_is_what_it_was(kept: tuple[Path, object], tmp_path: Path) -> None:
    folder, told = kept
    with vicinal.open(folder) as db:
        db.backup(tmp_path / "copy.tar.gz")
    vicinal.restore(tmp_path / "copy.tar.gz", tmp_path / "restored")
    assert golden.answers(tmp_path / "restored") | {"snapshots": ["kept"]} == told


def test_a_later_format_is_refused_and_left_alone(kept: tuple[Path, object]) -> None:
    folder, _ = kept
    told = (folder / "FORMAT").read_text()
    assert '"format":1' in told
    (folder / "FORMAT").write_text(told.replace('"format":1', '"format":2'))
    before = _files(folder)
    for read_only in (True, False):
        with pytest.raises(vicinal.FormatVersionError, match="format 2"):
            vicinal.open(folder, read_only=read_only)
    assert _files(folder) == before


def _files(folder: Path) -> dict[Path, int]:
    """When each was changed last, but for who has it open."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK")
    return {path: path.stat().st_mtime_ns for path in files}
