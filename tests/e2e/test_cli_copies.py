"""The commands that keep a database safe, as a user runs them: backup and restore."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicinal

COMMAND = Path(sys.executable).with_name("vicinal")


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the installed command; its exit code must be `code`, and it must show no traceback."""
    done = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def answer(*arguments: object, code: int = 0) -> Any:
    """What the command prints with --json."""
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database of two collections."""
    with vicinal.open(tmp_path / "db") as db:
        for name in ("docs", "other"):
            docs = db.collection(name, dim=4)
            docs.upsert(ids=range(30), vectors=np.eye(30, 4, dtype=np.float32) + 1)
            docs.optimize()
    return tmp_path / "db"


def test_a_backup_is_restored_and_says_what_it_holds(path: Path, tmp_path: Path) -> None:
    made = answer("backup", path, tmp_path / "b.tar.gz")
    assert made["collections"] == {"docs": 30, "other": 30}
    done = run("backup", path, tmp_path / "one", "--collection", "docs")
    assert "30 points" in done.stdout
    assert f"vicinal restore {tmp_path / 'one'}" in done.stderr
    restored = answer("restore", tmp_path / "b.tar.gz", tmp_path / "new")
    assert restored["collections"] == made["collections"]
    assert restored["bytes"] == made["bytes"]
    assert run("count", tmp_path / "new", "-c", "other").stdout.strip() == "30"
    assert "docs\t30 points" in run("restore", tmp_path / "one", tmp_path / "part").stdout


def test_what_cannot_be_copied_is_one_line_on_stderr(path: Path, tmp_path: Path) -> None:
    assert "something at" in run("backup", path, path, code=2).stderr
    assert "something at" in run("restore", path, path, code=2).stderr
    assert "no snapshot or backup" in run("restore", path, tmp_path / "new", code=2).stderr
    with vicinal.open(path):
        assert "pid" in run("backup", path, tmp_path / "b", code=2).stderr
