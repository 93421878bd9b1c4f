"""The torture run at its shortest, so that no part of it rots: `make torture` is the one that means something."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def torture(*arguments: str) -> str:
    """Run a part as a user does; returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(HERE), *arguments], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["kills", "--kills", "5"],
        ["sweep", "--way", "port", "--every", "250"],
        ["power", "--cuts", "3"],
        ["damage", "--cases", "1"],
        ["fuzz", "--budget", "0.2"],
        ["leaks", "--rounds", "10"],
        ["mixed", "--minutes", "0.05"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_part_finds_every_promise_kept(arguments: list[str]) -> None:
    assert "every promise held" in torture(*arguments)


def test_a_system_call_of_rocksdb_can_be_the_last() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    said = torture("sweep", "--way", "strace", "--fault", "kill", "--every", "400")
    assert "every promise held" in said
    assert "calls that it came at" in said


def test_a_planted_bug_is_caught_and_the_table_says_by_what() -> None:
    said = torture("bugs", "--bug", "version_is_not_bumped", "--bug", "descriptors_leak")
    assert "every promise held" in said
    assert "2 of 2" in said
    assert "kills" in said
    assert "leaks" in said
