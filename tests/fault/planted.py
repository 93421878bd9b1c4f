"""Bugs that a database could have, planted in the writing process to show that the checks see them.

Each is the mistake of some database that lost or invented data; the name says which.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from vicinal.engine import maintenance, state
from vicinal.engine.maintenance import Maintenance
from vicinal.engine.records import LogRecord
from vicinal.engine.state import CollectionState
from vicinal.storage.store import Store


def acknowledge_before_the_commit() -> None:
    """The batch waits in memory until the next one comes."""
    commit = CollectionState.commit
    held: list[tuple[Any, ...]] = []

    def later(self: CollectionState, *args: Any, **options: Any) -> None:
        held.append((self, args, options))
        if len(held) > 1:
            owner, first, rest = held.pop(0)
            commit(owner, *first, **rest)

    CollectionState.commit = later


def log_without_the_deaths() -> None:
    """The log forgets which rows a batch replaced or deleted."""
    encode = state.encode_log
    state.encode_log = lambda record: encode(msgspec.structs.replace(record, killed=b""))


def two_writes_for_one_batch() -> None:
    """Points and log are committed one after the other."""
    write = Store.write

    def split(self: Store, points: Any = (), log: Any = None, **rest: Any) -> Any:
        if log is None:
            return write(self, points=points, **rest)
        half = len(points) // 2
        write(self, points=points[:half])
        time.sleep(0.01)  # a slow disk, so that few kills are enough
        return write(self, points=points[half:], log=log, **rest)

    Store.write = split


def trim_what_is_not_sealed() -> None:
    """The log is cut up to its end though the tail still needs it."""
    commit = Maintenance.commit_manifest

    def greedy(self: Maintenance, view: Any, trim_through: int | None) -> None:
        commit(self, view, None if trim_through is None else self._state.store.last_seq)

    Maintenance.commit_manifest = greedy


def manifest_without_the_dead() -> None:
    """What died in a segment before the log was cut is forgotten."""
    entry = maintenance.SegmentEntry
    empty = maintenance.BitMap().serialize()
    maintenance.SegmentEntry = lambda n, rows, low, high, dead, dirty: entry(  # type: ignore[misc]
        n, rows, low, high, empty, dirty
    )


def manifest_without_the_updates() -> None:
    """A segment's stale payload is served after a reopen."""
    entry = maintenance.SegmentEntry
    empty = maintenance.BitMap().serialize()
    maintenance.SegmentEntry = lambda n, rows, low, high, dead, dirty: entry(  # type: ignore[misc]
        n, rows, low, high, dead, empty
    )


def deaths_during_a_rewrite_are_lost() -> None:
    """What is deleted while a segment is rewritten lives on in the new one."""
    Maintenance._carry_over = staticmethod(lambda sources, before, new: None)  # type: ignore[method-assign]


def vectors_of_the_neighbour() -> None:
    """Rows are applied in another order than their ids."""
    apply = CollectionState.decode_vectors

    def shifted(self: CollectionState, record: LogRecord) -> Any:
        rows = apply(self, record)
        return rows[::-1] if len(rows) > 40 else rows

    CollectionState.decode_vectors = shifted


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        acknowledge_before_the_commit,
        log_without_the_deaths,
        two_writes_for_one_batch,
        trim_what_is_not_sealed,
        manifest_without_the_dead,
        manifest_without_the_updates,
        deaths_during_a_rewrite_are_lost,
        vectors_of_the_neighbour,
    )
}
