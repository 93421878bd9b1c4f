"""The process that a sweep interrupts: fifty operations, the same each time, in one thread.

    python script_process.py

reads one JSON line for each run, forks, waits until the gate (a FIFO) is opened, and goes through the script.
An operation that the database refuses ends the script as a caller would: close, exit status 0. Any other
exception is exit status 1, with a traceback on the standard error.

The journal is written with writev, which nothing else here uses, so that faults of write spare it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fault"), str(HERE.parent / "property")]

import journal  # noqa: E402 (the path comes first)
import planted  # noqa: E402
from faulty_fs import FaultyFileSystem  # noqa: E402
from line_process import serve  # noqa: E402
from model import Model  # noqa: E402
from oracle import NoBackground  # noqa: E402
from writer_process import set_thresholds  # noqa: E402

import vicinal  # noqa: E402
from vicinal.storage import files  # noqa: E402

REOPENED_AFTER = (15, 30, 42)
STEP_EVERY = 6
"""Operations between two units of what the background thread would do."""

DIM, METRIC, DTYPE = 12, "l2", "f32"
THRESHOLDS = {
    "vicinal.engine.maintenance.QUIET_S": -1.0,
    "vicinal.engine.maintenance.SEAL_ROWS": 150,
    "vicinal.engine.maintenance.LINK_ROWS_MIN": 50,
    "vicinal.engine.maintenance.MERGE_FANIN": 2,
    "vicinal.engine.planner.FLAT_MAX": 20,
    "vicinal.engine.segment_files.FLAT_MAX": 20,
    "vicinal.engine.segment_files.CHUNK_ROWS": 1_000,
}


class DyingFileSystem(FaultyFileSystem):
    """Ends the process at a call instead of failing it; a power cut first takes what was not synced."""

    root: Path | None = None

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self._fail_at:
            if self.root is not None:
                self.power_cut(self.root)
            os._exit(0)


def plant(options: dict[str, Any]) -> FaultyFileSystem:
    """Put a failing file system in the place of the real one."""
    fault, nth = options["fault"], options["nth"]
    if fault in ("crash", "power"):
        made = DyingFileSystem(nth)
        made.root = Path(options["directory"]) if fault == "power" else None
    elif fault == "short":
        made = FaultyFileSystem(short_writes=True)
    else:
        made = FaultyFileSystem(nth, int(fault))
    # Everything holds the one real instance, so that is what changes.
    files.REAL.__dict__.update(made.__dict__)
    files.REAL.__class__ = type(made)  # type: ignore[assignment]
    if isinstance(made, DyingFileSystem):
        files.REAL.root = made.root  # type: ignore[attr-defined]
    return files.REAL  # type: ignore[return-value]


def session(options: dict[str, Any]) -> NoReturn:
    """One run; never returns."""
    try:
        with Path(options["gate"]).open():
            set_thresholds(THRESHOLDS)
            if options["bug"] is not None:
                planted.BUGS[options["bug"]]()
            vicinal.engine.database.Background = NoBackground  # type: ignore[attr-defined]
            counted = None if options["fault"] is None else plant(options)
        script(options)
        if counted is not None:
            Path(options["counted"]).write_text(" ".join(counted.calls))
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def script(options: dict[str, Any]) -> None:
    """The operations; the first that is refused is the last."""
    log = os.open(options["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    rng = random.Random(options["seed"])
    model = Model(DIM, METRIC, DTYPE)
    db: Any = None
    try:
        for number in range(options["operations"]):
            if db is None or number in REOPENED_AFTER:
                if db is not None:
                    db.close()
                db = vicinal.open(options["directory"], durability=options["durability"])
                collection = db.collection(
                    "c", dim=DIM, metric=METRIC, dtype=DTYPE, M=8, ef_construction=40
                )
            operation = journal.draw(rng)
            os.writev(log, [json.dumps(operation).encode() + b"\n"])
            answer = journal.perform(collection, operation, model)
            os.writev(log, [json.dumps({"ack": answer}).encode() + b"\n"])
            if number % STEP_EVERY == 0:
                collection._transport.engine.maintenance.step()
        db.close()
    except vicinal.VicinalError:
        with suppress(vicinal.VicinalError):
            if db is not None:
                db.close()


if __name__ == "__main__":
    serve(session)
