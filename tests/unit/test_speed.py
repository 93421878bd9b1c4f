"""The doctor of speed: what it sees, what it makes of it, and what it tells to do."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

import vicinal
from vicinal.cli.console import CliError
from vicinal.cli.main import app
from vicinal.cli.speed import Check, Round, Seen, judge, look

EVEN = Round(us=[100.0 + i % 50 for i in range(500)], faults=0, switches=3)
HEALTHY = Seen(
    first=EVEN,
    again=EVEN,
    own_bytes=10_000_000,
    mapped_bytes=200_000_000,
    free_bytes=8_000_000_000,
    budget_bytes=None,
    indexed_ratio=1.0,
    load_per_core=0.2,
)
UNEVEN = replace(EVEN, us=[*EVEN.us[:-20], *([2_000.0] * 20)])


def bad(seen: Seen) -> list[Check]:
    checks = judge(seen)
    assert [c.name for c in checks] == ["warm-up", "memory", "index", "evenness"]
    assert all(c.what for c in checks)
    assert all(c.good == (not c.remedy) for c in checks)
    return [c for c in checks if not c.good]


def test_what_is_healthy_gets_no_advice() -> None:
    assert bad(HEALTHY) == []
    assert bad(replace(HEALTHY, free_bytes=None)) == []


def test_a_cold_start_is_told_apart_from_slow_searches() -> None:
    cold = replace(EVEN, us=[400.0] * 500, faults=37)
    (check,) = bad(replace(HEALTHY, first=cold))
    assert check.name == "warm-up"
    assert "37 pages came from the disk" in check.what
    assert "before traffic comes" in check.remedy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"free_bytes": 100_000_000}, "read from the disk again and again"),
        ({"budget_bytes": 150_000_000}, "150.0 MB wanted"),
    ],
)
def test_what_does_not_fit_in_memory_is_said(change: dict[str, int], says: str) -> None:
    (check,) = bad(replace(HEALTHY, **change))
    assert check.name == "memory"
    assert says in check.what
    assert "f16" in check.remedy


def test_a_budget_that_suffices_is_good() -> None:
    assert bad(replace(HEALTHY, budget_bytes=250_000_000)) == []


def test_rows_that_no_graph_holds_are_said() -> None:
    (check,) = bad(replace(HEALTHY, indexed_ratio=0.5))
    assert check.name == "index"
    assert "vicinal optimize" in check.remedy


@pytest.mark.parametrize(
    ("again", "blames"),
    [
        (replace(UNEVEN, faults=12), "12 pages came from the disk"),
        (replace(UNEVEN, switches=400), "other programs took the processor 400 times"),
        (UNEVEN, "neither the disk nor other programs"),
    ],
)
def test_uneven_searches_are_said_with_what_is_to_blame(again: Round, blames: str) -> None:
    (check,) = bad(replace(HEALTHY, first=again, again=again))
    assert check.name == "evenness"
    assert blames in check.remedy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("c", dim=16)
        docs.upsert(ids=np.arange(3_000), vectors=rng.standard_normal((3_000, 16)))
        docs.optimize(wait=True)
        db.collection("empty", dim=4)
    return tmp_path / "db"


def test_a_collection_is_looked_at_by_searching_its_points_twice(path: Path) -> None:
    ticks = itertools.count()
    with vicinal.open(path, read_only=True) as db:
        seen = look(db.collection("c"), clock=lambda: next(ticks) * 1e-3)
        assert len(seen.first.us) == len(seen.again.us) == 500
        assert next(ticks) == 2_000  # each of a thousand searches began and ended
        assert seen.again.us == pytest.approx([1_000.0] * 500)
        assert seen.mapped_bytes >= 3_000 * 16 * 4
        assert seen.indexed_ratio == 1.0
        with pytest.raises(CliError, match="no points"):
            look(db.collection("empty"))


def test_the_command_says_it_and_answers_with_its_exit_code(path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["doctor", str(path), "--speed", "-c", "c", "--memory", "1MB", "--json"])
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert not report["good"]
    assert not checks["memory"]["good"]
    assert checks["index"]["good"]
    done = run(app, ["doctor", str(path), "--speed", "-c", "c", "--memory", "1MB"])
    assert "look: memory: " in done.stdout


@pytest.mark.parametrize(
    "options", [["--speed", "--repair"], ["--memory", "1GiB"], ["-c", "c"]], ids=" ".join
)
def test_options_that_do_not_go_together_are_refused(path: Path, options: list[str]) -> None:
    done = CliRunner().invoke(app, ["doctor", str(path), *options])
    assert isinstance(done.exception, CliError)
