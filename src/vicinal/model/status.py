"""How a collection is: whether it answers and takes writes, and if not, why and what to do."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Health(StrEnum):
    """What a collection can do.

    SERVING : everything.
    FULL : reads and deletes; the disk, or the memory budget, has no room for other writes, which go on by themselves
        when it has.
    DEGRADED : reads, without the points of a segment whose files are damaged; nothing of it is dropped.
    READ_ONLY : reads; a write or its fsync failed, and what became of it is decided when the database is reopened.
    QUARANTINED : nothing; its files are damaged, or memory fell behind them, or the memory budget has no
        room to open it. The other collections go on.
    """

    SERVING = "serving"
    FULL = "full"
    DEGRADED = "degraded"
    READ_ONLY = "read_only"
    QUARANTINED = "quarantined"


class Status(msgspec.Struct, frozen=True):
    """The health of a collection, and the reason where it is not SERVING."""

    health: Health
    reason: str | None = None


SERVING = Status(Health.SERVING)
