"""Damage to primary data of a segment: what is lost with it, and how it is given up when somebody says so.

A segment whose vectors or row numbers are damaged is left out, and its collection goes on with the others, reading
only: the damaged files, the ids and the payloads of its points stay as they are until a copy is restored. Giving the
segment up is a decision that nobody takes by himself: `give_up` does, for `vicinal doctor --accept-loss`.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vicinal.engine.expiry import due_key
from vicinal.engine.records import POINT_HEADER, SegmentEntry
from vicinal.model.errors import CorruptionError, StorageError
from vicinal.storage.files import REAL, make_dirs, os_errors

GIVEN_UP_NAME = "given-up"
"""Folder of a collection for the files of segments that were given up."""

REMEDY = (
    "Its points stay in the store and nothing is dropped. Restore the collection from a backup or snapshot, or give up "
    "what cannot be read: vicinal doctor --accept-loss"
)


@dataclass(frozen=True, slots=True)
class LostSegment:
    """A segment that the manifest names and that cannot be read."""

    entry: SegmentEntry
    n_live: int
    """Points of it when it was last written."""

    fault: str

    def __str__(self) -> str:
        return (
            f"segment {self.entry.number} with up to {self.n_live} points is damaged ({self.fault})"
        )


def is_damage(fault: CorruptionError | StorageError, *, read_only: bool) -> bool:
    """Whether a segment's fault is of its files, so that the others may go on without it.

    A file that is gone may have been replaced by the process that writes, where this one only reads.
    """
    if isinstance(fault, CorruptionError):
        return True
    return fault.errno == errno.EIO or (fault.errno == errno.ENOENT and not read_only)


def describe(lost: tuple[LostSegment, ...]) -> str:
    """What is lost, what goes on and what to do."""
    return f"{'; '.join(map(str, lost))}. The other points are served, without writes. {REMEDY}"


def set_aside(collection: Path, number: int) -> Path:
    """Move the files of a segment out of the way, for whoever wants to look; returns where they are."""
    target = collection / GIVEN_UP_NAME / str(number)
    source = collection / "segments" / str(number)
    with os_errors(f"moving {source}"):
        make_dirs(REAL, target.parent)
        if source.exists() and not target.exists():
            REAL.rename(source, target)
            REAL.fsync_dir(target.parent)
    return target


def homeless(
    rows: np.ndarray[tuple[int], np.dtype[np.int64]], lost: tuple[LostSegment, ...]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of rows were in a lost segment."""
    found = np.zeros(len(rows), np.bool_)
    for each in lost:
        found |= (rows >= each.entry.row_min) & (rows <= each.entry.row_max)
    return found


def due_of(raw: bytes) -> list[tuple[bytes, bytes | None]]:
    """What deletes a point's entry of what is due."""
    row, _, expires_ms = POINT_HEADER.unpack_from(raw)
    return [(due_key(expires_ms, row), None)] if expires_ms else []
