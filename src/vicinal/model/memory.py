"""Bytes of memory as people write them, and what an estimate or a budget says in them."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from vicinal.model.errors import InvalidArgumentError
from vicinal.model.limits import MEMORY_BUDGET_BYTES_MIN

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection takes, in bytes; see `vicinal.estimate_memory`.

    Attributes
    ----------
    points, dim : what was asked.
    resident : memory of its own once everything is in one segment (`optimize`), by structure.
    mapped : files that are mapped then, by structure. They answer fastest while the system has memory to keep
        them in, and it takes that memory back when others need it.
    loading : memory of its own while the points are written and linked, at most.
    disk : bytes of disk once everything is in one segment.
    """

    points: int
    dim: int
    resident: dict[str, int]
    mapped: dict[str, int]
    loading: int
    disk: int

    @property
    def resident_bytes(self) -> int:
        """Memory of its own, in all."""
        return sum(self.resident.values())

    @property
    def mapped_bytes(self) -> int:
        """Mapped files, in all."""
        return sum(self.mapped.values())


def pick_memory(stats: dict[str, Any]) -> dict[str, Any]:
    """What the figures of a collection say about its memory."""
    names = ("status", "reason", "points", "memory_bytes", "mapped_bytes")
    return {name: stats[name] for name in names}


def index_bytes(stats: dict[str, Any]) -> int:
    """Bytes of a collection's indexes, whether files back them or not; without vectors that a file holds."""
    memory, mapped = stats["memory_bytes"], stats["mapped_bytes"]
    return memory["index"] + memory["payload_index"] + mapped["graph"]


def parse_bytes(size: int | str, name: str) -> int:
    """Return a number of bytes given as an int or as text such as "512MiB", "2 GB" or "1.5g".

    Raises InvalidArgumentError, which names the argument, where it is neither or not above 0.
    """
    value: float = -1
    if isinstance(size, str):
        found = _SIZE.fullmatch(size)
        if found is not None and found[2].lower() in _UNITS:
            value = float(found[1]) * _UNITS[found[2].lower()]
    elif type(size) is int:
        value = size
    if not 0 < value < 2**63:
        raise InvalidArgumentError(
            f"{name} is {size!r}; give a number of bytes above 0, or text such as '512MiB' or '2GiB'"
        )
    return math.floor(value)


def parse_budget(size: int | str) -> int:
    """Return a memory budget in bytes; InvalidArgumentError where it is none or too small to open anything."""
    value = parse_bytes(size, "memory_budget")
    if value < MEMORY_BUDGET_BYTES_MIN:
        raise InvalidArgumentError(
            f"memory_budget is {size!r}; a database needs {MEMORY_BUDGET_BYTES_MIN} bytes or more for its "
            "buffers alone; leave it out for no limit"
        )
    return value
