"""What is replaced, closed or dropped gives its descriptors and its memory back at once."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from descriptors import open_below
from inside import engine_of

import vicinal

ROUNDS = 6
ROWS = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
PAYLOAD = [{"year": 2000 + i % 9} for i in range(60)]


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts do not depend on when a thread runs."""
    monkeypatch.setattr("vicinal.engine.background.Background._run", lambda self: None)


def use(docs: Any) -> None:
    """One generation of segments: written, filtered, replaced."""
    docs.upsert(ids=range(60), vectors=ROWS, payload=PAYLOAD)
    docs.optimize()
    docs.search(ROWS[0], where="year > 2003")


def test_segments_that_were_replaced_hold_no_descriptors(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("c", dim=8)
        use(docs)
        before = open_below(tmp_path)
        assert before > 0
        for _ in range(ROUNDS):
            use(docs)
        assert open_below(tmp_path) <= before


@pytest.mark.parametrize("read_only", [False, True])
def test_a_closed_database_holds_no_descriptors(tmp_path: Path, read_only: bool) -> None:
    with vicinal.open(tmp_path / "db") as db:
        use(db.collection("c", dim=8))
    assert open_below(tmp_path) == 0
    for _ in range(ROUNDS):
        with vicinal.open(tmp_path / "db", read_only=read_only) as db:
            docs = db.collection("c")
            docs.search(ROWS[0], where="year > 2003")
            assert open_below(tmp_path) > 0
        # The handles `db` and `docs` still live, and hold nothing.
        assert open_below(tmp_path) == 0


def test_a_dropped_collection_holds_no_descriptors(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db:
        use(db.collection("c", dim=8))
        db.drop("c")
        before = open_below(tmp_path)
        for _ in range(ROUNDS):
            use(db.collection("c", dim=8))
            db.drop("c")
            assert open_below(tmp_path) == before


def test_a_replaced_segment_goes_without_the_garbage_collector(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("c", dim=8)
        docs.upsert(ids=range(60), vectors=ROWS, payload=PAYLOAD)
        docs.search(ROWS[0], where="year > 2003")
        gc.disable()
        try:
            tail = weakref.ref(engine_of(docs).state.view.tail)
            docs.optimize()
            assert tail() is None
            docs.search(ROWS[0], where="year > 2003")
            sealed = weakref.ref(engine_of(docs).state.view.sealed[0])
            use(docs)
            assert sealed() is None
        finally:
            gc.enable()
