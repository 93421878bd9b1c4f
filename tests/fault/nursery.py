"""Forks writing processes, kills them at random moments, and has what they leave examined."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import journal
from collection_strategies import SPACES
from line_process import LineProcess
from model import Model
from oracle import Violation, verify

import vicinal

KILLS_A_DIRECTORY = 10
KILLED_WHILE_OPENING = 0.2

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


class Nursery(LineProcess):
    """Forks writers and kills them."""

    def __init__(self, errors: Path) -> None:
        super().__init__(Path(__file__).with_name("writer_process.py"), errors=errors)
        self.strict = True
        """Whether a writer that ended otherwise than by the kill is a failure of its own."""
        self.opening_s = 0.05

    def kill_one(
        self,
        options: dict[str, Any],
        rng: random.Random,
        *,
        opening: bool,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Start a writer and kill it: while it opens, or while it writes. before : called just before the kill."""
        self.tell(json.dumps(options))
        pid = 0
        began = ready = 0.0
        while True:
            said = self.hear().split()
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
        before()
        with suppress(ProcessLookupError):  # it may have failed by itself, which its status says
            os.kill(pid, signal.SIGKILL)
        while (said := self.hear().split())[1] != "dead":
            pass
        if self.strict and said[2] != str(-signal.SIGKILL):
            raise Violation(f"the writer failed: {self.errors.read_text()[-3000:]}")


class Trial:
    """A directory that is written to, killed and checked again and again."""

    def __init__(self, folder: Path, rng: random.Random, bug: str | None = None) -> None:
        metric, dtype = rng.choice(SPACES)
        self.folder, self.rng, self.bug = folder, rng, bug
        self.tally: Counter[str] = Counter()
        """What the checks met, by name."""
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
        self.tally["operations acknowledged"] += len(done)
        if pending is not None:
            there = self.model is candidates[-1]
            self.tally["under way, there whole" if there else "under way, absent"] += 1


def kill_and_check(
    nursery: Nursery, folder: Path, kills: int, seed: int, bug: str | None = None
) -> Counter[str]:
    """The loop; returns what it met by name. Violation names the seed and the kill."""
    rng = random.Random(seed)
    tally: Counter[str] = Counter()
    trial: Trial | None = None
    for number in range(kills):
        fresh = number % KILLS_A_DIRECTORY == 0
        if fresh or trial is None:
            trial = Trial(folder / f"trial-{seed}-{number}", rng, bug)
            trial.tally = tally
        # The first kill in a directory may find it half made.
        opening = rng.random() < (0.5 if fresh else KILLED_WHILE_OPENING)
        options = trial.options()
        nursery.kill_one(options, rng, opening=opening)
        tally["kills while opening" if opening else "kills while writing"] += 1
        tally[f"kills in {options['durability']}"] += 1
        try:
            trial.check()
        except (Violation, vicinal.VicinalError) as fault:
            raise Violation(
                f"kill {number} of seed {seed} ({trial.journal}): {type(fault).__name__}: {fault}"
            ) from fault
    return tally
