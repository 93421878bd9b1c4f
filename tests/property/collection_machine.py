"""A collection and its model, side by side: what an example is about, and how both are loaded and opened.

The rules, of which each does the same to both, are in `conditional_writes.py` and `test_collection_model.py`.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from collection_strategies import (
    BULK_BASE,
    ID_KINDS,
    SMALL_IDS,
    SPACES,
    make_payloads,
    make_vectors,
    point_id,
    seeds,
)
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize
from inside import engine_of
from model import Model

import vicinal

START_S = 1_700_000_000.0

# Small enough that a few steps cross them: seal, link, merge, graph or scan, several batches a call.
SMALL = {
    "vicinal.engine.maintenance.SEAL_ROWS": 30,
    "vicinal.engine.maintenance.SEAL_ROWS_HARD": 120,
    "vicinal.engine.maintenance.SEAL_LOG_RECORDS": 25,
    "vicinal.engine.maintenance.LINK_ROWS_MIN": 6,
    "vicinal.engine.maintenance.LINK_STEP_ROWS": 10,
    "vicinal.engine.maintenance.MERGE_FANIN": 3,
    "vicinal.engine.planner.FLAT_MAX": 12,
    "vicinal.engine.segment_files.FLAT_MAX": 12,
    "vicinal.engine.segment_files.CHUNK_ROWS": 16,
    "vicinal.engine.segment.MATCH_CACHE_ENTRIES": 3,
    "vicinal.engine.writer.DELETE_CHUNK": 7,
    "vicinal.engine.writer.UPDATE_CHUNK": 4,
    "vicinal.engine.writer.PURGE_CHUNK": 3,
    "vicinal.client.batch.BATCH_ROWS_MAX": 5,
}
ALWAYS = {"vicinal.engine.maintenance.QUIET_S": -1.0}


class _NoBackground:
    """Background work happens when a rule says so, and so every run of an example is the same."""

    def __init__(self, step: Any) -> None:
        self.last_error = None

    def wake(self) -> None:
        """Nothing waits."""

    def stop(self) -> None:
        """Nothing runs."""


class CollectionAndModel(RuleBasedStateMachine):
    """One collection and its model, without the rules."""

    bulk = 0
    """Points that are there at the start."""

    now_s = START_S
    """The time that the database sees."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.path = Path(tempfile.mkdtemp(prefix="vicinal-property-"))
        self.stack.callback(shutil.rmtree, self.path, ignore_errors=True)
        self.stack.enter_context(mock.patch("vicinal.engine.database.Background", _NoBackground))

    @initialize(
        space=st.sampled_from(SPACES),
        dim=st.sampled_from([8, 24]),
        ids=st.sampled_from(ID_KINDS),
        small=st.booleans(),
        scan_all=st.booleans(),
        seed=seeds,
    )
    def make(
        self,
        space: tuple[str, str],
        dim: int,
        ids: str,
        small: bool,
        scan_all: bool,
        seed: int,
    ) -> None:
        """Draw what the example is about, and load what is there at the start."""
        self.metric, self.dtype = space
        self.dim = 64 if self.dtype == "bit" else dim
        self.id_kind = ids
        values = dict(ALWAYS)
        if not scan_all:  # as if there were many matches
            values |= {"vicinal.index.GraphIndex.scan_matches_max": lambda *_: 0}
        if self.bulk:
            # Several segments of a bulk load, each with a graph, and a tail.
            values |= {"vicinal.engine.maintenance.SEAL_ROWS": 1_200}
            values |= {"vicinal.client.batch.BATCH_ROWS_MAX": 1_300}
            values |= {
                f"vicinal.engine.{place}.FLAT_MAX": 200 for place in ("planner", "segment_files")
            }
        elif small:
            values |= SMALL
        for target, value in values.items():
            self.stack.enter_context(mock.patch(target, value))
        self.model = Model(self.dim, self.metric, self.dtype)
        self.open()
        if self.bulk:
            numbers = range(BULK_BASE, BULK_BASE + self.bulk)
            self.write(list(numbers), seed | 1, make_payloads(seed, self.bulk), as_dicts=False)
            engine_of(self.collection).maintenance.step()

    def clock(self) -> float:
        """Seconds since the epoch."""
        return self.now_s

    def open(self) -> None:
        """Open the database, and the collection or a new one."""
        self.db = vicinal.open(self.path / "db", clock=self.clock)
        self.collection = self.db.collection(
            "c", dim=self.dim, metric=self.metric, dtype=self.dtype, M=8, ef_construction=60
        )

    def ids(self, numbers: list[int]) -> list[Any]:
        """Ids of numbers; those of the bulk load stand for others where there was none."""
        if not self.bulk:
            numbers = list(dict.fromkeys(n % SMALL_IDS for n in numbers))
        return [point_id(self.id_kind, n) for n in numbers]

    def vectors(self, seed: int, n: int) -> np.ndarray:
        """n random rows in the collection's dtype."""
        return make_vectors(seed, n, self.dim, self.metric, self.dtype)

    def write(self, numbers: list[int], seed: int, given: Any, *, as_dicts: bool) -> None:
        """Upsert into both."""
        ids = self.ids(numbers)
        rows = self.vectors(seed, len(ids))
        held = [{}] * len(ids) if given is None else given[: len(ids)]
        if as_dicts:
            points = zip(ids, rows, held, strict=True)
            n = self.collection.upsert([{"id": i, "vector": v} | p for i, v, p in points])
        else:
            n = self.collection.upsert(
                ids=ids, vectors=rows, payload=None if given is None else held
            )
        assert n == len(ids)
        self.model.upsert(ids, rows, held)
