"""The store of one collection: points, log and meta in one RocksDB, changed together or not at all.

Invariants
- A batch is one RocksDB write: after any crash it is there whole or not at all, and so is each
  batch before it.
- Log records are numbered 1, 2, 3, ... without gaps; a number is given once. Trimming removes from
  the front.
- A batch that might not fit on the disk is refused before it is begun.
- After a failed write or fsync the store is read-only until it is opened again: whether the failed
  batch is on the disk is unknown until recovery decides it, and fsync is never tried twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rocksdict import Checkpoint, ReadOptions, WriteBatch, WriteOptions

from vicinal.model.errors import (
    ClosedError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    VicinalError,
)
from vicinal.storage.batch import DUE, DUE_END, fill, meta_key, trim
from vicinal.storage.commit import GroupCommit, IntervalTimer
from vicinal.storage.cursor import Cursor, Cursors
from vicinal.storage.durability import Durability, parse_durability
from vicinal.storage.files import REAL, FileSystem, make_dirs, os_errors, tree_bytes
from vicinal.storage.frames import guard_logs
from vicinal.storage.gate import Gate
from vicinal.storage.mark import (
    KEPT_WAL_NAME,
    Mark,
    MarkFile,
    check_manifest,
    forget_wal,
    keep_wal,
    read_mark,
)
from vicinal.storage.records import decode_records, encode_record, seq_key
from vicinal.storage.recovery import is_fresh, open_handles, read_ends
from vicinal.storage.rocks import Handles, StoreMemory, is_missing_file, translate
from vicinal.storage.space import Space

_logger = logging.getLogger(__name__)

SYNC_INTERVAL_MS_MIN, SYNC_INTERVAL_MS_MAX = 1, 60_000
# rocksdict writes the memtables out when it closes, holding the GIL; above this we do it before.
_FLUSH_AT_CLOSE_BYTES = 8 * 2**20
_STALL_POLL_S = 0.001


class Store:
    """An open store; every method may be called from any thread. Use `Store.open`."""

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        read_only: bool = False,
        durability: Durability | str = Durability.SYNC,
        sync_interval_ms: int = 100,
        create: bool = True,
        accept_loss: bool = False,
        fs: FileSystem = REAL,
        space: Space | None = None,
        memory: StoreMemory | None = None,
    ) -> Store:
        """Open the store in directory `path`, creating it where `create` allows.

        Parameters
        ----------
        read_only : a view of the moment of opening; takes no lock and works beside a live writer.
            It never sees half a batch. It may see writes that their writer has not acknowledged
            yet.
        durability : see `Durability`.
        sync_interval_ms : 1..60000; for `Durability.INTERVAL` only.
        accept_loss : open a store that lost acknowledged writes to damage, keeping what is left.
        space : the disk, shared with other stores; None is one of its own without a reserve.
        memory : write buffers and cache, shared with other stores; None is those without a budget.

        Raises
        ------
        NotFoundError : there is no store at path and it may not be created.
        LockedError : it is open for writing, here or elsewhere.
        CorruptionError : damage; the message says what is lost.
        StorageError : the operating system refused.
        """
        if not SYNC_INTERVAL_MS_MIN <= sync_interval_ms <= SYNC_INTERVAL_MS_MAX:
            raise InvalidArgumentError(
                f"sync_interval_ms is {sync_interval_ms}; "
                f"use {SYNC_INTERVAL_MS_MIN} to {SYNC_INTERVAL_MS_MAX}"
            )
        path = Path(path)
        mode = parse_durability(durability)
        fresh = is_fresh(fs, path)
        if fresh and (read_only or not create):
            raise NotFoundError(f"there is no store at {path}")
        mark: Mark | None
        with os_errors(f"opening the store {path}"):
            if fresh:
                make_dirs(fs, path)
            # Read before opening: a live writer may advance it meanwhile, never what it covers.
            mark = read_mark(fs, path)
            if mark is not None and not fresh and not (accept_loss and not read_only):
                check_manifest(fs, path, mark)
            if not (fresh or read_only):
                keep_wal(fs, path)
            if not fresh:
                guard_logs(fs, path, read_only=read_only)
        handles = open_handles(
            path, read_only=read_only, create=fresh, memory=memory or StoreMemory()
        )
        try:
            disk = Space(path, reserve_bytes=0, fs=fs) if space is None else space
            store = cls(
                path, handles, mark, mode, sync_interval_ms, read_only, accept_loss, fs, disk
            )
        except BaseException:
            handles.close()
            raise
        return store

    def __init__(
        self,
        path: Path,
        handles: Handles,
        mark: Mark | None,
        durability: Durability,
        sync_interval_ms: int,
        read_only: bool,
        accept_loss: bool,
        fs: FileSystem,
        space: Space,
    ) -> None:
        self.path = path
        self.space = space
        self._acknowledged: dict[bytes, bytes | None] = {}
        self.durability = durability
        self.read_only = read_only
        self._handles: Handles | None = handles
        self._gate = Gate(f"the store {path}")
        self._write_lock = threading.Lock()
        self._failure: Exception | None = None
        self._timer: IntervalTimer | None = None
        self._mark_file: MarkFile | None = None
        self._unsynced = WriteOptions()
        self._cursors = Cursors(self._gate, self._translated)
        self._trimmed, self._seq = read_ends(handles, path)
        self._seq_known = True
        reached = handles.db.latest_sequence_number()
        self._commit = GroupCommit(self._sync_now, safe=reached)
        if mark is not None and mark.rocks_seq > reached and not (accept_loss and not read_only):
            lost = (
                f"log records {self._seq + 1} to {mark.log_seq}"
                if mark.log_seq > self._seq
                else "writes outside the log"
            )
            raise CorruptionError(
                f"{path}: acknowledged writes are lost, {lost}; the write-ahead log is damaged or a "
                f"file of it is missing (what there is of it is kept in {KEPT_WAL_NAME}). Restore from "
                "a snapshot or a replica, or open with accept_loss=True to go on with what is left, "
                f"everything up to record {self._seq}"
            )
        if not read_only:
            with os_errors(f"opening the store {path}"):
                self._mark_file = MarkFile(fs, path)
                self._mark_file.write(reached, self._seq)
                forget_wal(fs, path)
            if durability is Durability.INTERVAL:
                self._timer = IntervalTimer(sync_interval_ms / 1000, self._is_dirty, self.sync)

    # ------------------------------------------------------------------ reading

    def get_points(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of many keys in their order, None for those that are not there."""
        with self._gate:
            try:
                values = self._open_handles().points.get(list(keys))
            except Exception as error:
                raise self._translated(error, "reading points") from error
        found: list[bytes | None] = list(values or ())
        kept = self._acknowledged
        if kept:
            return [kept.get(key, value) for key, value in zip(keys, found, strict=True)]
        return found

    def keep_acknowledged(self, points: Mapping[bytes, bytes | None]) -> None:
        """After a failed write: answer with these values, those from before it, until it is opened again."""
        self._acknowledged.update(points)

    def get_meta(self, key: str) -> bytes | None:
        """Return a meta value, or None."""
        with self._gate:
            try:
                return self._open_handles().meta.get(meta_key(key))
            except Exception as error:
                raise self._translated(error, "reading meta") from error

    @property
    def last_seq(self) -> int:
        """Number of the newest log record ever written, trimmed or not; 0 in a new store."""
        with self._gate, self._write_lock:
            self._know_seq()
            return self._seq

    @property
    def trimmed_through(self) -> int:
        """Number of the newest log record that was trimmed; 0 if none was."""
        return self._trimmed

    @property
    def failure(self) -> Exception | None:
        """The fault that made the store read-only, None while there was none."""
        return self._failure

    @property
    def fsyncs(self) -> int:
        """Syncs of the write-ahead log since opening."""
        return self._commit.rounds

    @property
    def fsync_seconds(self) -> float:
        """Seconds that they took in all."""
        return self._commit.seconds

    def read_log(self, after: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (sequence, payload) of the records behind `after`, as of this call.

        Raises
        ------
        CorruptionError : a record fails its checksum or is missing; names the sequence.
        InvalidArgumentError : records behind `after` were trimmed (0 means: from the first there
            is).
        """
        with self._gate, self._write_lock:
            self._know_seq()
            last, trimmed = self._seq, self._trimmed
            if after < 0 or 0 < after < trimmed:
                raise InvalidArgumentError(
                    f"log records up to {trimmed} are trimmed, cannot read after {after}"
                )
            rows = self._cursors.add(
                self._open_handles().log.iter(ReadOptions()), seq_key(max(after, trimmed) + 1)
            )
        return self._decode_log(rows, first=max(after, trimmed) + 1, last=last)

    def scan_points(self, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) in key order from `start`: the state as of this call."""
        with self._gate:
            rows = self._cursors.add(self._open_handles().points.iter(ReadOptions()), start)
        return self._cursors.rows(rows, "scanning points")

    def scan_due(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of what was written as `due`, in key order from `start`, as of this call."""
        with self._gate:
            rows = self._cursors.add(self._open_handles().meta.iter(ReadOptions()), DUE + start)
        return self._scan_due(rows)

    def memory_bytes(self) -> int:
        """Bytes in memory that no table file holds yet; 0 when closed."""
        try:
            with self._gate:
                return self._open_handles().memtable_bytes()
        except ClosedError:
            return 0

    def flush(self, at_least: int = 0, *, wait: bool = True) -> None:
        """Write the memtables out to tables where they hold so many bytes or more.

        wait : until it is done, which stops every Python thread; otherwise RocksDB does it by itself.
        """
        if self.read_only:
            return
        with self._gate:
            self._refuse_after_failure()
            handles = self._open_handles()
            if handles.memtable_bytes() < at_least:
                return
            try:
                for family in (handles.log, handles.points, handles.meta):
                    family.flush(wait)
            except Exception as error:
                raise self._translated(error, "writing memtables out") from error

    def disk_bytes(self) -> int:
        """Bytes of disk that the store occupies now."""
        with self._gate:
            return tree_bytes(self.path)

    # ------------------------------------------------------------------ writing

    def write(
        self,
        *,
        points: Iterable[tuple[bytes, bytes | None]] = (),
        log: bytes | None = None,
        meta: Mapping[str, bytes | None] | None = None,
        due: Iterable[tuple[bytes, bytes | None]] = (),
        trim_log_through: int | None = None,
        frees: bool = False,
        settle: bool = True,
    ) -> int:
        """Write one batch, all or nothing; return when it is as safe as the durability promises.

        Parameters
        ----------
        points : (key, value) to put, (key, None) to delete; of a key twice the later counts.
        log : payload of the next log record, or None for no record.
        meta : values to put, None deletes.
        due : (key, value) to put into the index of what is due, (key, None) to delete from it.
        trim_log_through : removes the log records up to this number, this batch's own not included.
        frees : the batch makes room in the long run, so it may use the reserve of a full disk.
        settle : False returns before that; `settle()` waits for all batches so written.

        Returns
        -------
        The sequence number of the log record; the last one given where log is None.

        Raises
        ------
        ReadOnlyError : opened read-only.
        StorageError : the disk has no room: nothing was written, and the store goes on. Or the
            write or its fsync failed, now or earlier: the store is read-only until reopened, and
            whether this batch is there then is decided by recovery: whole or not at all.
        """
        if self.read_only:
            raise ReadOnlyError(f"the store {self.path} is open read-only; open it for writing")
        with self._gate:
            handles = self._open_handles()
            batch = WriteBatch(raw_mode=True)
            fill(batch, handles, points, meta, due)
            with self._write_lock:
                self._refuse_after_failure()
                self._know_seq()
                trimmed = self._add_trim(batch, handles, trim_log_through)
                seq = self._seq
                if log is not None:
                    seq += 1
                    batch.put(seq_key(seq), encode_record(seq, log), handles.log_family)
                if batch.is_empty():
                    return seq
                size = batch.size_in_bytes()
                self.space.admit("the write", size, handles.memtable_bytes, frees=frees)
                self._throttle(handles, size)
                # An interrupt (Ctrl-C) in here leaves open whether the number was used.
                self._seq_known = False
                try:
                    handles.db.write(batch, self._unsynced)
                except Exception as error:
                    raise self._fail(self._translated(error, "writing")) from error
                self._seq, self._trimmed, self._seq_known = seq, trimmed, True
                ticket = handles.db.latest_sequence_number()
            if settle and self.durability is Durability.SYNC:
                self._commit.wait(ticket)
            return seq

    def settle(self) -> None:
        """Return when everything written before is as safe as the durability promises; errors as of `write`."""
        if self.durability is Durability.SYNC:
            self.sync()
        else:
            self._refuse_after_failure()

    def sync(self) -> None:
        """Return when everything written before is on the disk, under any durability."""
        if self.read_only:
            return
        with self._gate:
            self._refuse_after_failure()
            self._commit.wait(self._open_handles().db.latest_sequence_number())

    def checkpoint(self, target: Path) -> None:
        """Make a copy of this moment in a new directory, of hard links where the disk has them. Writes go on."""
        with self._gate:
            try:
                Checkpoint(self._open_handles().db).create_checkpoint(str(target))
            except Exception as error:
                raise self._translated(error, "making a checkpoint") from error

    def reclaim(self) -> None:
        """Write the memtables out, so that write-ahead logs go, and drop from the tables what was deleted."""
        if self.read_only:
            return
        with self._gate:
            self._refuse_after_failure()
            self.flush()
            handles = self._open_handles()
            try:
                handles.log.compact_range(None, None)
                handles.points.compact_range(None, None)
            except Exception as error:
                raise self._translated(error, "making room") from error

    def close(self) -> None:
        """Sync, close and release; running calls are waited for. Closing again does nothing.

        Raises StorageError where the last sync failed; the store is closed all the same.
        """
        if self._timer is not None:
            self._timer.stop()
        handles = self._handles
        if not self._gate.shut() or handles is None:
            return
        reached: int | None = None
        try:
            if not self.read_only and self._failure is None:
                ticket = handles.db.latest_sequence_number()
                self._commit.wait(ticket)
                _flush_large_memtables(handles)
                reached = ticket
        finally:
            self._handles = None
            self._cursors.drop()
            handles.close()
            if self._mark_file is not None:
                self._close_mark(self._mark_file, reached)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ private

    def _open_handles(self) -> Handles:
        handles = self._handles
        if handles is None:
            raise StorageError(f"the store {self.path} has no handles")
        return handles

    def _translated(self, error: Exception, doing: str) -> VicinalError:
        built = translate(error, f"{doing} in the store {self.path}")
        if self.read_only and is_missing_file(built):
            return StorageError(f"{built}; the writer has replaced the file, open the view again")
        return built

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise StorageError(
                f"the store {self.path} is read-only since a write failed ({self._failure}); "
                "mend the cause, then close and open it again"
            ) from self._failure

    def _fail(self, error: VicinalError) -> VicinalError:
        self._failure = self._failure or error
        return error

    def _is_dirty(self) -> bool:
        handles = self._handles
        return handles is not None and handles.db.latest_sequence_number() > self._commit.safe

    def _sync_now(self) -> int:
        """Sync the write-ahead log and move the mark; runs in one thread at a time."""
        handles = self._open_handles()
        reached, seq = handles.db.latest_sequence_number(), self._seq
        try:
            handles.db.flush_wal(True)
            if self._mark_file is not None:
                self._mark_file.write(reached, seq)
        except Exception as error:
            raise self._fail(self._translated(error, "syncing")) from error
        return reached

    def _close_mark(self, mark: MarkFile, reached: int | None) -> None:
        """Let the mark cover the tables that closing wrote, where it came to its end."""
        try:
            if reached is not None:
                mark.write(reached, self._seq)
        except OSError as error:
            _logger.warning("writing the mark of %s: %s; it lags behind", self.path, error)
        finally:
            mark.close()

    def _know_seq(self) -> None:
        """Read the ends of the log again where an interrupt left them unknown."""
        if not self._seq_known:
            self._trimmed, self._seq = read_ends(self._open_handles(), self.path)
            self._seq_known = True

    def _add_trim(self, batch: WriteBatch, handles: Handles, through: int | None) -> int:
        if through is None or through <= self._trimmed:
            return self._trimmed
        if through > self._seq:
            raise InvalidArgumentError(
                f"cannot trim the log through {through}, its last record is {self._seq}"
            )
        trim(batch, handles, through)
        return through

    def _throttle(self, handles: Handles, batch_bytes: int) -> None:
        """Wait here, where Python runs on, instead of inside RocksDB, which would hold the GIL."""
        db = handles.db
        while db.property_int_value("rocksdb.is-write-stopped"):
            if db.property_int_value("rocksdb.background-errors"):
                return  # the write then fails with the reason
            time.sleep(_STALL_POLL_S)
        rate = db.property_int_value("rocksdb.actual-delayed-write-rate")
        if rate:
            time.sleep(min(1.0, batch_bytes / rate))

    def _decode_log(self, rows: Cursor, *, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        expected, where = first, str(self.path)
        for chunk in self._cursors.chunks(rows, "reading the log"):
            yield from enumerate(decode_records(chunk, first=expected, where=where), expected)
            expected += len(chunk)
        if expected != last + 1:
            raise CorruptionError(
                f"{where}: log records {expected} to {last} are missing; "
                "restore the collection from a snapshot or a replica"
            )

    def _scan_due(self, rows: Cursor) -> Iterator[tuple[bytes, bytes]]:
        try:
            for key, value in self._cursors.rows(rows, "reading what is due"):
                if key >= DUE_END:
                    return
                yield key[len(DUE) :], value
        finally:
            rows.drop()


def _flush_large_memtables(handles: Handles) -> None:
    for family in (handles.points, handles.log):
        held = family.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
        if held > _FLUSH_AT_CLOSE_BYTES:
            try:
                family.flush(True)
            except Exception as error:  # the write-ahead log has it all
                _logger.warning("writing memtables out: %s; the write-ahead log keeps them", error)
