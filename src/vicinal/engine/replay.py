"""Replay of the log at opening, many records at a time.

Effects on different rows do not conflict, and those on one row agree: rows are only ever appended, die once, and are
marked dirty as often as one likes. So the records of a stretch of the log are merged into one, whose rows are appended
before any of them dies, and that is applied as if it had been written so. What a record costs is then its checksum and
its decoding.
"""

from __future__ import annotations

from functools import partial

from vicinal.engine.records import LogRecord, decode_log
from vicinal.engine.state import CollectionState
from vicinal.model.errors import invariant

GROUP_BYTES = 8 * 2**20
GROUP_RECORDS = 50_000


class _Group:
    """The merged effects of records that follow each other."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.first_row = 0
        self.keys: list[bytes] = []
        self.vectors: list[memoryview] = []
        self.killed: list[bytes] = []
        self.dirty: list[bytes] = []
        self.bytes = 0
        self.records = 0

    def add(self, record: LogRecord) -> None:
        """Merge one more; rows below base are in a segment already."""
        keys = record.keys
        self.records += 1
        if keys and record.first_row >= self.base:
            if self.keys:
                end = self.first_row + len(self.keys)
                invariant(record.first_row == end, "rows of the log follow each other")
            else:
                self.first_row = record.first_row
            self.keys += keys
            self.vectors.append(record.vectors)
            self.bytes += len(record.vectors)
        if record.killed:
            self.killed.append(record.killed)
        if record.dirty:
            self.dirty.append(record.dirty)

    def merged(self) -> LogRecord:
        """All of them as one record."""
        return LogRecord(
            time_ms=0,
            first_row=self.first_row,
            keys=self.keys,
            vectors=memoryview(b"".join(self.vectors)),
            killed=b"".join(self.killed),
            dirty=b"".join(self.dirty),
        )


def replay(state: CollectionState) -> int:
    """Apply what the log holds behind the segments to memory; returns how many records there were.

    Raises CorruptionError naming the record, MemoryLimitError where the budget has no room for its rows.
    """
    where = f"collection {state.name!r}"
    group = _Group(state.view.tail.base)
    count = 0
    for sequence, raw in state.store.read_log():
        group.add(decode_log(raw, where, sequence))
        count += 1
        if group.bytes >= GROUP_BYTES or group.records >= GROUP_RECORDS:
            _apply(state, group)
            group = _Group(group.base)
    _apply(state, group)
    return count


def _apply(state: CollectionState, group: _Group) -> None:
    record = group.merged()
    needed = partial(state.room_for_rows, record)
    with state.budget.reserve(f"opening collection {state.name!r}", needed):
        # Payloads are read from the store when they are wanted.
        state.apply(record, [None] * len(record.keys))
