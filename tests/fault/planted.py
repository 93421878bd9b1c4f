"""Bugs that a database could have, planted at run time to show that the checks see them.

Each is the mistake of some database that lost or invented data; the name says which. `CAUGHT_BY` says which
part of the suite must notice it: a part of tests/torture, or a file of tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec

from vicinal.engine import maintenance, state, writer
from vicinal.engine.maintenance import Maintenance
from vicinal.engine.payload_index import PayloadIndex
from vicinal.engine.records import POINT_HEADER, LogRecord
from vicinal.engine.segment import Segment
from vicinal.engine.state import CollectionState
from vicinal.storage import archive, bundle_copy, files, mark, sections, store
from vicinal.storage.commit import GroupCommit
from vicinal.storage.files import FileSystem
from vicinal.storage.mark import MarkFile
from vicinal.storage.sections import Sections
from vicinal.storage.space import Space
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

    setattr(Maintenance, "commit_manifest", greedy)  # noqa: B010 - it takes less


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


def fsync_is_skipped() -> None:
    """A sync says done and does nothing."""
    Store._sync_now = lambda self: self._open_handles().db.latest_sequence_number()


def files_are_not_synced() -> None:
    """A segment is in the manifest before its files are on the disk."""
    FileSystem.fsync = lambda self, fd: None  # type: ignore[method-assign]
    FileSystem.fsync_dir = lambda self, path: None  # type: ignore[method-assign]


def sources_go_before_the_manifest_is_safe() -> None:
    """Merged segments are deleted while the disk still has the manifest that names them."""
    rewrite = Maintenance._rewrite

    def hasty(self: Maintenance, *args: Any, **options: Any) -> None:
        with mock.patch.object(self._state.store, "sync", lambda: None):
            rewrite(self, *args, **options)

    Maintenance._rewrite = hasty


def tombstones_are_ignored() -> None:
    """What is deleted stays in the segments, and comes back when they are rewritten."""
    Segment.kill = lambda self, local: None  # type: ignore[method-assign]


def version_is_not_bumped() -> None:
    """Every change leaves a point at its first version."""

    class Stuck:
        size = POINT_HEADER.size
        unpack_from = POINT_HEADER.unpack_from

        @staticmethod
        def pack(row: int, version: int, expires_ms: int) -> bytes:
            return POINT_HEADER.pack(row, 1, expires_ms)

    writer.POINT_HEADER = Stuck  # type: ignore[assignment]


def expiry_is_not_stored() -> None:
    """What is due is known to the process that wrote it, and to no other."""
    write = Store.write
    Store.write = lambda self, *, due=(), **rest: write(self, **rest)  # type: ignore[method-assign]


def mark_runs_ahead() -> None:
    """More is promised than was synced."""
    write = MarkFile.write
    MarkFile.write = lambda self, rocks, log: write(self, rocks + 1000, log)  # type: ignore[method-assign]


def mark_is_not_read() -> None:
    """Nobody looks at how far the store had promised."""
    store.read_mark = lambda fs, path: None


def checksums_are_not_checked() -> None:
    """The blocks of a file are taken as they are."""
    Sections.verify = lambda self: None  # type: ignore[method-assign]


def sums_of_a_snapshot_are_not_checked() -> None:
    """A snapshot is restored whatever its bytes are."""
    bundle_copy.checked = lambda file, chunks, where: chunks


def short_writes_are_taken_for_whole() -> None:
    """What a write did not take is forgotten."""

    def once(fs: FileSystem, fd: int, data: Any, offset: int) -> int:
        view = memoryview(data).cast("B")
        fs.pwrite(fd, view, offset)
        return offset + len(view)

    for module in (files, sections, mark):
        vars(module)["write_at"] = once


def fsync_is_tried_again() -> None:
    """After a failed fsync the next one is believed."""
    wait = GroupCommit.wait

    def forgetful(self: GroupCommit, ticket: int) -> None:
        self._failure = None
        wait(self, ticket)

    GroupCommit.wait = forgetful  # type: ignore[method-assign]
    Store._refuse_after_failure = lambda self: None


def reserve_is_not_freed() -> None:
    """Deletes on a full disk do not get what is kept for them."""
    Space.release = lambda self: False  # type: ignore[method-assign]


def descriptors_leak() -> None:
    """Files stay open when they are done with."""
    Sections.close = lambda self: None  # type: ignore[method-assign]


def closed_collections_stay() -> None:
    """Somebody keeps what was closed."""
    close = Store.close
    kept: list[Any] = []

    def keeping(self: Store) -> None:
        kept.append(bytearray(b"x") * 200_000)
        close(self)

    Store.close = keeping


def payload_index_is_stale() -> None:
    """A filter finds points by the payload that they had."""
    PayloadIndex.update = lambda self, row: None  # type: ignore[method-assign]


def names_in_archives_are_believed() -> None:
    """A backup may write where it wants to."""

    class Anything:
        @staticmethod
        def fullmatch(raw: bytes) -> bool:
            return True

    archive._FLAT = Anything  # type: ignore[assignment]


KILLS, POWER, DAMAGE, SWEEP, LEAKS = "kills", "power", "damage", "sweep", "leaks"
CAUGHT_BY: dict[Callable[[], None], str] = {
    acknowledge_before_the_commit: KILLS,
    log_without_the_deaths: KILLS,
    two_writes_for_one_batch: KILLS,
    trim_what_is_not_sealed: KILLS,
    manifest_without_the_dead: KILLS,
    manifest_without_the_updates: KILLS,
    deaths_during_a_rewrite_are_lost: KILLS,
    vectors_of_the_neighbour: KILLS,
    tombstones_are_ignored: KILLS,
    version_is_not_bumped: KILLS,
    expiry_is_not_stored: KILLS,
    mark_runs_ahead: KILLS,
    fsync_is_skipped: POWER,
    files_are_not_synced: POWER,
    sources_go_before_the_manifest_is_safe: POWER,
    checksums_are_not_checked: DAMAGE,
    mark_is_not_read: DAMAGE,
    sums_of_a_snapshot_are_not_checked: DAMAGE,
    short_writes_are_taken_for_whole: SWEEP,
    descriptors_leak: LEAKS,
    closed_collections_stay: LEAKS,
    fsync_is_tried_again: "tests/fault/test_isolation.py",
    reserve_is_not_freed: "tests/fault/test_full_disk.py",
    payload_index_is_stale: "tests/unit/test_filter_index.py",
    names_in_archives_are_believed: "tests/unit/test_bundle.py",
}
BUGS: dict[str, Callable[[], None]] = {bug.__name__: bug for bug in CAUGHT_BY}
"""By name."""
