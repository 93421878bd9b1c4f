"""When a write counts as safe: three promises, in words of what a power cut can lose."""

from __future__ import annotations

from enum import StrEnum

from vicinal.model.naming import member


class Durability(StrEnum):
    """What an acknowledged write survives.

    Under every mode a batch is all or nothing, an acknowledged write survives the death of the
    process (kill -9, out of memory, a crash), and what a power cut takes is always the newest end:
    if a write is there, so is each one before it.

    SYNC : a power cut loses nothing that was acknowledged. The write is on the disk (fsync) before
        the call returns; writers that wait at the same time share one fsync.
    INTERVAL : a power cut or a crash of the operating system loses at most the last
        `sync_interval_ms` of acknowledged writes, up to four times that under sustained writes,
        plus the time of two fsyncs: the last that ended and the one under way.
    NONE : a power cut or a crash of the operating system loses what the kernel had not yet written
        by itself, commonly the last 30 seconds, with no bound promised. `Store.sync()` and a clean
        `close()` still make everything before them safe.
    """

    SYNC = "sync"
    INTERVAL = "interval"
    NONE = "none"


def parse_durability(name: str | Durability) -> Durability:
    """Return the mode of that name; InvalidArgumentError lists the known ones."""
    return member(Durability, name, "durability")
