"""SIGKILL at random moments of a writing process: what was acknowledged is there, and nothing else.

VICINAL_KILLS sets the number of kills (50), VICINAL_KILL_SEED the seed of another run. A failure
names the seed, the kill and the directory's journal.
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import journal
import numpy as np
import pytest
from collection_strategies import SPACES, make_vectors
from model import Model, read_all, same_json, state_hash
from planted import BUGS

import vicinal
from vicinal.engine.doctor import examine

KILLS = int(os.environ.get("VICINAL_KILLS", "50"))
SEED = int(os.environ.get("VICINAL_KILL_SEED", "20"))
KILLS_A_DIRECTORY = 10
KILLED_WHILE_OPENING = 0.2
KILLS_TO_CATCH = 200
"""A planted bug that survives so many kills has not been seen."""

WRITES_S_MAX = 0.35
REOPEN_S_MIN = 0.005

THRESHOLDS = {
    "vicinal.engine.background.POLL_S": 0.002,
    "vicinal.engine.maintenance.QUIET_S": 0.0,
    "vicinal.engine.maintenance.SEAL_ROWS": [40, 150, 400],
    "vicinal.engine.maintenance.SEAL_ROWS_HARD": [200, 600],
    "vicinal.engine.maintenance.SEAL_LOG_RECORDS": [5, 30, 1000],
    "vicinal.engine.maintenance.LINK_ROWS_MIN": [5, 50],
    "vicinal.engine.maintenance.LINK_STEP_ROWS": 20,
    "vicinal.engine.maintenance.MERGE_FANIN": [2, 4],
    "vicinal.engine.planner.FLAT_MAX": [20, 100],
    "vicinal.engine.segment_files.FLAT_MAX": 20,
    "vicinal.engine.segment_files.CHUNK_ROWS": 32,
}


class Violation(AssertionError):
    """The database lied."""


class _NoBackground:
    """The checker looks at what recovery left, before any repair."""

    last_error = None

    def __init__(self, step: Any) -> None:
        """Runs nothing."""

    def wake(self) -> None:
        """Nothing waits."""

    def stop(self) -> None:
        """Nothing runs."""


class Nursery:
    """Forks writers and kills them."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("writer_process.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.opening_s = 0.05

    def kill_one(self, options: dict[str, Any], rng: random.Random, *, opening: bool) -> None:
        """Start a writer and kill it: while it opens, or while it writes."""
        if self._process.stdin is None:
            raise RuntimeError("the nursery has no input")
        self._process.stdin.write(json.dumps(options) + "\n")
        self._process.stdin.flush()
        pid = 0
        began = ready = 0.0
        while True:
            said = self._said()
            pid = int(said[0])
            if said[1] == "opening":
                began = time.monotonic()
                if opening:
                    break
            elif said[1] == "ready":
                ready = time.monotonic()
                self.opening_s = 0.5 * self.opening_s + 0.5 * (ready - began)
                break
            elif said[1] == "dead":
                raise Violation(f"the writer ended by itself: {self.errors.read_text()[-3000:]}")
        limit = max(REOPEN_S_MIN, self.opening_s) if opening else WRITES_S_MAX
        time.sleep(rng.uniform(0, limit))
        with suppress(ProcessLookupError):  # it may have failed by itself, which its status says
            os.kill(pid, signal.SIGKILL)
        while (said := self._said())[1] != "dead":
            pass
        if said[2] != str(-signal.SIGKILL):
            raise Violation(f"the writer failed: {self.errors.read_text()[-3000:]}")

    def _said(self) -> list[str]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"the nursery is gone: {self.errors.read_text()[-3000:]}")
        return line.split()

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    """One for a test."""
    nursery = Nursery(tmp_path / "errors")
    yield nursery
    nursery.close()


class Trial:
    """A directory that is written to, killed and checked again and again."""

    def __init__(self, folder: Path, rng: random.Random, bug: str | None = None) -> None:
        metric, dtype = rng.choice(SPACES)
        self.folder, self.rng, self.bug = folder, rng, bug
        folder.mkdir()
        self.model = Model(64 if dtype == "bit" else 12, metric, dtype)
        self.round = 0

    def options(self) -> dict[str, Any]:
        """Options of the next writer, drawn anew each time."""
        rng, model = self.rng, self.model
        thresholds = {
            name: rng.choice(value) if isinstance(value, list) else value
            for name, value in THRESHOLDS.items()
        }
        self.round += 1
        return {
            "directory": str(self.folder / "db"),
            "journal": str(self.journal),
            "seed": rng.randrange(2**32),
            "dim": model.dim,
            "metric": model.metric,
            "dtype": model.dtype,
            "durability": rng.choice(["sync", "sync", "interval", "none"]),
            "thresholds": thresholds,
            "operations": 10**9,
            "close": False,
            "bug": self.bug,
        }

    @property
    def journal(self) -> Path:
        """The journal of the current round."""
        return self.folder / f"journal-{self.round}"

    def check(self) -> None:
        """Compare what a reopen finds with the journal, and go on from there."""
        done, pending = journal.read(self.journal)
        for operation, answer in done:
            expected = journal.replay(self.model, operation)
            if answer != expected:
                raise Violation(f"{operation['kind']} answered {answer}, not {expected}")
        candidates = [self.model]
        if pending is not None:
            with_pending = copy.deepcopy(self.model)
            journal.replay(with_pending, pending)
            candidates.append(with_pending)
        self.model = verify(self.folder / "db", candidates)


def verify(directory: Path, candidates: list[Model]) -> Model:
    """Return the candidate that the directory holds; raise Violation where it holds neither."""
    with mock.patch("vicinal.engine.database.Background", _NoBackground):
        with vicinal.open(directory) as db:
            if "c" not in db.collections() or not _was_made(db):
                if any(not model.points for model in candidates):
                    return candidates[0]
                raise Violation("the collection is gone")
            collection = db.collection("c")
            model = _fitting(collection, candidates)
            _check_answers(collection, model)
            first = state_hash(collection)
        with vicinal.open(directory, read_only=True) as db:
            if state_hash(db.collection("c")) != first:
                raise Violation("a read-only open finds another state")
        with vicinal.open(directory) as db:
            if state_hash(db.collection("c")) != first:
                raise Violation("the second reopen finds another state than the first")
    report = examine(directory)
    if not report.healthy:
        raise Violation(f"the doctor finds {report.findings}")
    return model


def _was_made(db: Any) -> bool:
    """Whether the collection's making came to its end before the kill."""
    try:
        db.collection("c")
    except vicinal.NotFoundError:
        return False
    return True


def _fitting(collection: Any, candidates: list[Model]) -> Model:
    points = read_all(collection, with_vectors=True)
    complaints: list[str] = []
    for model in candidates:
        complaint = _difference(points, model)
        if complaint is None:
            return model
        complaints.append(complaint)
    raise Violation(" | or, with the batch under way: ".join(complaints))


def _difference(points: list[Any], model: Model) -> str | None:
    """What a full scroll shows that the model does not say, or the other way round."""
    ids = [p.id for p in points]
    if len(set(ids)) != len(ids):
        return "an id stands twice"
    lost = [i for i in model.points if i not in set(ids)]
    phantoms = [i for i in ids if i not in model.points]
    if lost or phantoms:
        return f"{len(lost)} points lost {lost[:5]}, {len(phantoms)} phantoms {phantoms[:5]}"
    if ids != list(model.points):
        return "the points are in another order"
    for point in points:
        stored = model.points[point.id]
        if point.vector.tobytes() != stored.vector.tobytes():
            return f"the vector of {point.id!r} has other bytes"
        if not same_json(point.payload, stored.payload):
            return f"the payload of {point.id!r} is {point.payload}, not {stored.payload}"
        if point.version != stored.version:
            return f"the version of {point.id!r} is {point.version}, not {stored.version}"
    return None


def _check_answers(collection: Any, model: Model) -> None:
    """get, count, filters and searches agree with the scroll."""
    everyone = [journal.point_id(i) for i in range(journal.POOL)]
    for id_, point in zip(everyone, collection.get(everyone, with_vectors=True), strict=True):
        stored = model.points.get(id_)
        if (point is None) != (stored is None):
            raise Violation(f"get of {id_!r} answers {point!r}")
        if stored is not None and point.vector.tobytes() != stored.vector.tobytes():
            raise Violation(f"get of {id_!r} has another vector")
    if collection.count() != len(model.points):
        raise Violation(f"count is {collection.count()}, not {len(model.points)}")
    query = make_vectors(7, 1, model.dim, model.metric, model.dtype)[0]
    query = query.astype(np.float32) if model.dtype == "f16" else query
    for where in [None, *journal.probes()]:
        text = None if where is None else where.text()
        if collection.count(where=text) != len(model.matching(where)):
            raise Violation(f"count of {text} is {collection.count(where=text)}")
        for k, exact in ((10, True), (10, False), (journal.POOL, False)):
            hits = collection.search(query, k=k, where=text, exact=exact)
            try:
                model.check_hits(hits, query, k, where, exact=exact)
            except AssertionError as fault:
                raise Violation(f"search k={k} where={text} exact={exact}: {fault}") from None
            for hit in hits:
                if not same_json(hit.payload, model.points[hit.id].payload):
                    raise Violation(f"a hit of {hit.id!r} has payload {hit.payload}")


def kill_and_check(
    nursery: Nursery, folder: Path, kills: int, seed: int, bug: str | None = None
) -> None:
    """The loop; Violation names the seed and the kill."""
    rng = random.Random(seed)
    trial: Trial | None = None
    for number in range(kills):
        fresh = number % KILLS_A_DIRECTORY == 0
        if fresh or trial is None:
            trial = Trial(folder / f"trial-{seed}-{number}", rng, bug)
        # The first kill in a directory may find it half made.
        opening = rng.random() < (0.5 if fresh else KILLED_WHILE_OPENING)
        nursery.kill_one(trial.options(), rng, opening=opening)
        try:
            trial.check()
        except (Violation, vicinal.VicinalError) as fault:
            raise Violation(
                f"kill {number} of seed {seed} ({trial.journal}): {type(fault).__name__}: {fault}"
            ) from fault


@pytest.mark.timeout(60 + 2 * KILLS)
def test_a_killed_writer_loses_nothing_it_acknowledged(nursery: Nursery, tmp_path: Path) -> None:
    kill_and_check(nursery, tmp_path, KILLS, SEED)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", sorted(BUGS))
def test_the_checks_see_a_planted_bug(bug: str, nursery: Nursery, tmp_path: Path) -> None:
    with pytest.raises(Violation):
        kill_and_check(nursery, tmp_path, KILLS_TO_CATCH, SEED, bug)
