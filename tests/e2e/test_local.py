"""The conformance suite on a directory, on a reopened and optimized one, and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import Conformance
from conformance_points import POINTS

import vicinal


class TestDirectory(Conformance):
    """A path."""

    @pytest.fixture
    def db(self, tmp_path: Path) -> Iterator[Any]:
        db = vicinal.open(tmp_path / "db")
        yield db
        db.close()


class TestMemory(Conformance):
    """`:memory:`."""

    @pytest.fixture
    def db(self) -> Iterator[Any]:
        db = vicinal.open(":memory:")
        yield db
        db.close()


class TestSealed(Conformance):
    """A directory whose points lie in a segment of files, after a reopen."""

    @pytest.fixture
    def db(self, tmp_path: Path) -> Iterator[Any]:
        with vicinal.open(tmp_path / "db") as first:
            docs = first.collection("docs", dim=4, metric="l2")
            docs.upsert(POINTS)
            docs.optimize()
            assert docs.stats()["tail_points"] == 0
        db = vicinal.open(tmp_path / "db")
        yield db
        db.close()

    @pytest.fixture
    def docs(self, db: Any) -> Any:
        return db.collection("docs")


class TestReplayed(TestSealed):
    """A directory whose points come from the log, after a reopen."""

    @pytest.fixture
    def db(self, tmp_path: Path) -> Iterator[Any]:
        with vicinal.open(tmp_path / "db") as first:
            first.collection("docs", dim=4, metric="l2").upsert(POINTS)
        db = vicinal.open(tmp_path / "db")
        yield db
        db.close()
