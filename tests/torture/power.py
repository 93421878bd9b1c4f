"""Power cuts: nothing acknowledged is lost in sync, and in interval no more than the newest moment.

Two models. `disk`: an ext4 file system in a file, mounted through a loop device, whose page cache and journal are
thrown away at a random moment (the shutdown ioctl), then mounted again; it needs root. `tear`: the writer is killed,
and its write-ahead log is cut at a random place behind what was last synced, with zeros or noise behind the
cut or nothing, as a disk that wrote some of the sectors would leave it.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import journal
from nursery import KILLS_A_DIRECTORY, Nursery, Trial
from oracle import Violation, verify
from report import Deadline, Result

import vicinal
from vicinal.storage.mark import MARK_NAME

PURPOSE = "power cuts in sync and in interval"
EXT4_IOC_SHUTDOWN = 0x8004587D
SHUTDOWNS = {"with its journal": 1, "without its journal": 2}
IMAGE_BYTES = 96 * 2**20
WINDOW_S = 0.4
"""What docs/durability.md states for interval under sustained writes, besides the time of two syncs."""

SLACK_S = 0.5
"""For a machine that is busy with something else when the timer is due."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--cuts", type=int, default=20, help="of each model in each mode (100)")
    parser.add_argument("--mode", action="append", choices=["sync", "interval"])
    parser.add_argument("--model", action="append", choices=["disk", "tear"])
    parser.add_argument("--seconds", type=float, help="stop after so long")


class Disk:
    """A file system whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.image, self.mount = folder / "image", folder / "disk"
        self.mount.mkdir()
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        _call("mkfs.ext4", "-q", "-F", str(self.image))
        self.mounted = False
        self.on()

    def on(self) -> None:
        """Mount it; its journal is replayed."""
        _call("mount", "-o", "loop", str(self.image), str(self.mount))
        self.mounted = True

    def cut(self, flags: int) -> None:
        """From here on nothing reaches the disk."""
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", flags))
        finally:
            os.close(fd)

    def off(self) -> None:
        """Take it out; what was not on the disk is gone."""
        if self.mounted:
            self.mounted = False
            _call("umount", str(self.mount))

    def close(self) -> None:
        """Remove it."""
        self.off()
        self.image.unlink()


class Unavailable(Exception):
    """This machine does not let us."""


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} is not installed") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")


class Cut(Trial):
    """A directory whose power is cut again and again."""

    def __init__(
        self, folder: Path, rng: random.Random, mode: str, bug: str | None, disk: Disk | None
    ) -> None:
        super().__init__(folder, rng, bug)
        self.mode, self.disk = mode, disk
        self.cut_s = 0.0

    @property
    def directory(self) -> Path:
        """The database."""
        return (self.folder if self.disk is None else self.disk.mount) / "db"

    @property
    def syncs(self) -> Path:
        """When the writer synced."""
        return self.folder / f"syncs-{self.round}"

    def options(self) -> dict[str, Any]:
        """As for a kill, in one mode and with a record of the syncs."""
        options = super().options() | {"durability": self.mode, "directory": str(self.directory)}
        return options | {"syncs": str(self.syncs)}

    def run(self, nursery: Nursery, *, opening: bool) -> None:
        """Write, cut, and come back."""
        options = self.options()
        if self.disk is None:
            nursery.kill_one(options, self.rng, opening=opening)
            self.cut_s = time.monotonic()
            self.tear()
            return
        name = self.rng.choice(sorted(SHUTDOWNS))
        disk = self.disk
        nursery.kill_one(
            options, self.rng, opening=opening, before=lambda: disk.cut(SHUTDOWNS[name])
        )
        self.cut_s = time.monotonic()
        disk.off()
        disk.on()

    def recorded(self) -> tuple[float, dict[str, int], list[float]]:
        """When the last finished sync began, the lengths of the logs that any sync had begun with, durations."""
        began, sizes, last = 0.0, {}, 0.0
        durations: list[float] = []
        for line in self.syncs.read_text().splitlines() if self.syncs.exists() else []:
            entry = json.loads(line)
            if "begin" in entry:
                last = entry["begin"]
            elif "sizes" in entry:
                sizes = entry["sizes"]
            else:
                began = last
                durations.append(entry["end"] - last)
        return began, sizes, durations

    def tear(self) -> None:
        """Cut the write-ahead log behind what was synced."""
        _, synced, _ = self.recorded()
        rng = self.rng
        stores = list(self.directory.glob("collections/*/store"))
        if not synced or not stores:
            return  # nothing was promised yet; what is there then, a plain kill leaves
        logs = sorted(stores[0].glob("*.log"), key=lambda log: int(log.stem))
        loose = [(log, synced.get(log.name, 0), log.stat().st_size) for log in logs]
        at = rng.randint(0, sum(size - safe for _, safe, size in loose))
        for log, safe, size in loose:
            keep = min(size, safe + at)
            at -= keep - safe
            if keep == size:
                continue
            self.tally["logs torn"] += 1
            with log.open("r+b") as file:
                file.truncate(keep)
                file.seek(keep)
                file.write(rng.choice([b"", bytes(size - keep), rng.randbytes(size - keep)]))
        if rng.random() < 0.2:
            (stores[0] / MARK_NAME).unlink(missing_ok=True)

    def check(self) -> None:
        """The state is that of the journal up to a moment that the mode allows."""
        done, pending = journal.read(self.journal)
        times = journal.times(self.journal)
        began, _, durations = self.recorded()
        model = self.model
        states = [copy.deepcopy(model)] if not done or self._may_go(times[0], began) else []
        for (operation, _), at in zip(done, [*times, None][1:], strict=True):
            journal.replay(model, operation)
            # The state after this operation may be the end if all that follow may be lost.
            if at is None or self._may_go(at, began):
                states.append(copy.deepcopy(model))
        if pending is not None:
            journal.replay(model, pending)
            states.append(model)
        states.reverse()
        self.model = self._verified(states)
        kept = len(states) - 1 - next(i for i, s in enumerate(states) if s is self.model)
        first = len(done) + (pending is not None) - (len(states) - 1)
        lost = max(0, len(done) - first - kept)
        self.tally["operations acknowledged"] += len(done)
        self.tally["operations lost"] += lost
        self.tally["cuts that lost any"] += lost > 0
        if lost:
            loss_s = self.cut_s - times[len(done) - lost]
            longest = max(durations, default=0.0)
            if loss_s > WINDOW_S + 2 * longest + SLACK_S:
                raise Violation(f"{lost} operations of the last {loss_s:.2f} s are lost")
            self.tally["longest loss, ms"] = max(
                self.tally["longest loss, ms"], round(1000 * loss_s)
            )

    def _may_go(self, acknowledged_s: float, began_s: float) -> bool:
        """Whether an operation acknowledged then may be lost."""
        return self.mode != "sync" and acknowledged_s >= began_s

    def _verified(self, states: list[Any]) -> Any:
        try:
            return verify(self.directory, states)
        except vicinal.NotADatabaseError as fault:
            if states[-1].points:
                raise Violation(f"the database is gone: {fault}") from None
            return states[-1]


def cut_and_check(
    nursery: Nursery, folder: Path, cuts: int, seed: int, mode: str, model: str,
    bug: str | None = None, over: Deadline | None = None,
) -> Counter[str]:  # fmt: skip
    """The loop; returns what it met. Violation names the cut."""
    rng = random.Random(f"{seed} {mode} {model}")
    tally: Counter[str] = Counter()
    trial: Cut | None = None
    nursery.strict = model != "disk"  # a writer sees its disk go, before the kill
    try:
        for number in range(cuts):
            if over:
                break
            if trial is None or number % KILLS_A_DIRECTORY == 0:
                place = folder / f"{mode}-{model}-{seed}-{number}"
                if trial is not None and trial.disk is not None:
                    trial.disk.close()
                trial = Cut(place, rng, mode, bug, None)
                trial.disk = Disk(place) if model == "disk" else None
                trial.tally = tally
            opening = rng.random() < (0.3 if trial.round == 0 else 0.15)
            try:
                trial.run(nursery, opening=opening)
                tally["cuts"] += 1
                trial.check()
            except (Violation, vicinal.VicinalError) as fault:
                raise Violation(
                    f"cut {number} of seed {seed}, {mode}, {model} ({trial.journal}): "
                    f"{type(fault).__name__}: {fault}"
                ) from fault
    finally:
        if trial is not None and trial.disk is not None:
            trial.disk.off()
    return tally


def run(options: argparse.Namespace, folder: Path) -> Result:
    """Each mode under each model."""
    result = Result("power", f"power --seed {options.seed} --cuts {options.cuts}")
    over = Deadline(options.seconds)
    models = options.model or ["disk", "tear"]
    for mode in options.mode or ["sync", "interval"]:
        for model in models:
            nursery = Nursery(folder / f"errors-{mode}-{model}")
            try:
                tally = cut_and_check(
                    nursery, folder, options.cuts, options.seed, mode, model, over=over
                )
                result.figures |= {f"{mode}, {model}: {k}": n for k, n in sorted(tally.items())}
            except Unavailable as reason:
                result.figures[f"{mode}, {model}"] = f"not here: {reason}"
            except Violation as fault:
                result.violations.append(str(fault))
            finally:
                nursery.close()
    if not result.violations:
        for left in folder.glob("*/db"):
            shutil.rmtree(left, ignore_errors=True)
    return result
