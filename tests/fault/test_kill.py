"""SIGKILL at random moments of a writing process: what was acknowledged is there, and nothing else.

VICINAL_KILLS sets the number of kills (50), VICINAL_KILL_SEED the seed of another run. A failure
names the seed, the kill and the directory's journal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from nursery import Nursery, kill_and_check
from oracle import Violation
from planted import CAUGHT_BY

KILLS = int(os.environ.get("VICINAL_KILLS", "50"))
SEED = int(os.environ.get("VICINAL_KILL_SEED", "20"))
KILLS_TO_CATCH = 200
"""A planted bug that survives so many kills has not been seen."""


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    """One for a test."""
    nursery = Nursery(tmp_path / "errors")
    yield nursery
    nursery.close()


@pytest.mark.timeout(60 + 2 * KILLS)
def test_a_killed_writer_loses_nothing_it_acknowledged(nursery: Nursery, tmp_path: Path) -> None:
    met = kill_and_check(nursery, tmp_path, KILLS, SEED)
    assert met["kills while writing"] + met["kills while opening"] == KILLS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", [b.__name__ for b, part in CAUGHT_BY.items() if part == "kills"])
def test_the_checks_see_a_planted_bug(bug: str, nursery: Nursery, tmp_path: Path) -> None:
    with pytest.raises(Violation):
        kill_and_check(nursery, tmp_path, KILLS_TO_CATCH, SEED, bug)
