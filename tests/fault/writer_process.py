"""The process that writes until it is killed, and the nursery that forks one after another.

    python writer_process.py

reads one JSON line for each session from its standard input, forks, and writes lines to its standard
output: `<pid> born`, `<pid> opening`, `<pid> ready`, `<pid> dead <status>`. Forking from a process that
has imported everything already makes a kill cheap, and places it in the database, not in an import.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "property")]

import journal  # noqa: E402 (the path comes first)
import planted  # noqa: E402
from line_process import say, serve  # noqa: E402
from model import Model  # noqa: E402

import vicinal  # noqa: E402
from vicinal.storage.store import Store  # noqa: E402


def session(options: dict[str, Any]) -> NoReturn:
    """Open the database and write until killed; an exception ends it with status 1."""
    try:
        write(options)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def write(options: dict[str, Any]) -> None:
    """The writer itself."""
    set_thresholds(options["thresholds"])
    if options["bug"] is not None:
        planted.BUGS[options["bug"]]()
    if options.get("syncs"):
        record_syncs(options["syncs"])
    rng = random.Random(options["seed"])
    model = Model(options["dim"], options["metric"], options["dtype"])
    log = os.open(options["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    say(os.getpid(), "opening")
    db = vicinal.open(options["directory"], durability=options["durability"])
    collection = db.collection(
        "c", dim=model.dim, metric=model.metric, dtype=model.dtype, M=8, ef_construction=40
    )
    say(os.getpid(), "ready")
    for _ in range(options["operations"]):
        operation = journal.draw(rng)
        os.write(log, json.dumps(operation).encode() + b"\n")
        answer = journal.perform(collection, operation, model)
        acknowledged = {"ack": answer, "at": time.monotonic()}
        os.write(log, json.dumps(acknowledged).encode() + b"\n")
    if options["close"]:
        db.close()


class Noted:
    """Stands for the store and its RocksDB while a sync is done; notes how long the logs are just before the fsync.

    No sooner: the mark covers what is written up to the moment when the sync asks how far the store is.
    """

    def __init__(self, store: Store, note: Callable[[dict[str, Any]], None]) -> None:
        self._store, self._note = store, note
        self.db = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _open_handles(self) -> Noted:
        return self

    def latest_sequence_number(self) -> int:
        return self._store._open_handles().db.latest_sequence_number()

    def flush_wal(self, sync: bool) -> None:
        sizes = {log.name: log.stat().st_size for log in self._store.path.glob("*.log")}
        self._note({"sizes": sizes})
        self._store._open_handles().db.flush_wal(sync)


def record_syncs(path: str) -> None:
    """Write down when each sync begins and ends, and how long the write-ahead logs were that it made safe."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sync = Store._sync_now

    def note(what: dict[str, Any]) -> None:
        os.write(fd, json.dumps(what).encode() + b"\n")

    def recorded(self: Store) -> int:
        note({"begin": time.monotonic()})
        reached = sync(Noted(self, note))  # type: ignore[arg-type]
        note({"end": time.monotonic()})
        return reached

    Store._sync_now = recorded


def set_thresholds(values: dict[str, Any]) -> None:
    """Set module constants by their dotted names."""
    for name, value in values.items():
        module, _, constant = name.rpartition(".")
        setattr(sys.modules[module], constant, value)


if __name__ == "__main__":
    serve(session)
