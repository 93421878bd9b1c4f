"""RocksDB as one collection uses it: options with reasons, opening, errors in our own words.

The figures behind the options are in docs/decisions/0002-rocksdb-as-the-truth.md.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DataBlockIndexType,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBufferManager,
)

from vicinal.model.errors import CorruptionError, LockedError, StorageError, VicinalError
from vicinal.storage.files import storage_error

if TYPE_CHECKING:
    from rocksdict import ColumnFamily

_logger = logging.getLogger(__name__)

POINTS, LOG, META = "points", "log", "meta"

MEMTABLE_BYTES = 64 * 2**20
# All open stores of the process share these two, so ten collections cost no more memory than one.
MEMTABLES_TOTAL_BYTES = 384 * 2**20
BLOCK_CACHE_BYTES = 64 * 2**20
WAL_TOTAL_BYTES_MAX = 256 * 2**20
OPEN_FILES_MAX = 256
BUFFER_BYTES_MIN = 2**20
BUFFERS_AT_REST_BYTES = 2 * 2**20
"""What empty write buffers of a store take, their filters included."""
BLOOM_BITS_PER_KEY = 10
BLOCK_BYTES = 16 * 2**10
POINT_BLOCK_BYTES = 4 * 2**10
"""A point that is read alone costs the reading and unpacking of its whole block."""


class StoreMemory:
    """The write buffers and the cache of blocks that the stores of one database share.

    limit : the database's memory budget, of which they take an eighth and a sixteenth at most; None is the
        figures above, shared by all such databases of the process.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is None:
            self.buffer_bytes = MEMTABLE_BYTES
            self.manager, self.cache = _memtable_budget(), _block_cache()
        else:
            self.buffer_bytes = max(BUFFER_BYTES_MIN, min(MEMTABLE_BYTES, limit // 32))
            total = max(2 * BUFFER_BYTES_MIN, min(MEMTABLES_TOTAL_BYTES, limit // 8))
            self.manager = WriteBufferManager(total, False)
            self.cache = Cache(min(BLOCK_CACHE_BYTES, limit // 16))

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache of blocks holds now."""
        return self.cache.get_usage()


class Handles:
    """An open RocksDB with its families.

    RocksDB closes when the last object that belongs to it goes. The traceback of a kept exception
    keeps frames and their locals, so nobody holds a family or an iterator in a local variable past
    an error: they are reached through this object, which `close` empties.
    """

    def __init__(self, db: Rdict) -> None:
        self.db = db
        self.points = db.get_column_family(POINTS)
        self.log = db.get_column_family(LOG)
        self.meta = db.get_column_family(META)
        self.points_family: ColumnFamily | None = db.get_column_family_handle(POINTS)
        self.log_family: ColumnFamily | None = db.get_column_family_handle(LOG)
        self.meta_family: ColumnFamily | None = db.get_column_family_handle(META)

    def memtable_bytes(self) -> int:
        """Bytes in memory that no table file holds yet."""
        families = (self.points, self.log, self.meta)
        name = "rocksdb.cur-size-all-mem-tables"
        return sum(family.property_int_value(name) or 0 for family in families)

    def close(self) -> None:
        """Let go of RocksDB, whatever it answers.

        rocksdict writes the memtables out while it closes. Where that fails nothing is lost, since
        the write-ahead log still has it all, so the failure is only logged.
        """
        parts = (self.points, self.log, self.meta, self.db)
        del self.points, self.log, self.meta, self.db
        self.points_family = self.log_family = self.meta_family = None
        for part in parts:
            try:
                part.close()
            except Exception as error:
                _logger.warning("closing RocksDB: %s; the write-ahead log keeps the data", error)


def open_rocks(path: Path, *, read_only: bool, create: bool, memory: StoreMemory) -> Handles:
    """Open the RocksDB at path with its three families.

    Raises
    ------
    LockedError : another handle in this or another process has it open for writing.
    CorruptionError : RocksDB found damage it cannot recover from.
    StorageError : the operating system refused.
    """
    families = {
        POINTS: _points_options(memory),
        LOG: _log_options(memory),
        META: _meta_options(memory),
    }
    options = _database_options(memory, read_only=read_only)
    options.create_if_missing(create)
    # Also of an existing store: a crash may have come between creating it and its families.
    options.create_missing_column_families(not read_only)
    access = AccessType.read_only(False) if read_only else AccessType.read_write()
    try:
        return Handles(Rdict(str(path), options, families, access))
    except Exception as error:
        raise translate(error, f"opening {path}") from error


def translate(error: Exception, doing: str) -> VicinalError:
    """Turn what rocksdict raises, a bare Exception with RocksDB's status, into our own error."""
    if isinstance(error, VicinalError):
        return error
    text = str(error)
    if "lock hold by current process" in text or "While lock file" in text:
        return LockedError(f"{doing}: the store is already open for writing; close it there first")
    if text.startswith("Corruption"):
        return CorruptionError(f"{doing}: {text}; restore from a snapshot or a replica")
    # RocksDB ends its text with strerror; the errno gives the remedy.
    for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS,
                 errno.EMFILE, errno.ENOENT):  # fmt: skip
        if os.strerror(code).lower() in text.lower():
            built = storage_error(doing, OSError(code, text))
            built.errno = code
            return built
    return StorageError(f"{doing}: {text}")


def is_missing_file(error: VicinalError) -> bool:
    """Whether a file vanished under a reader, as happens when a live writer compacts."""
    return isinstance(error, StorageError) and (
        error.errno == errno.ENOENT or re.search("no such file", str(error), re.I) is not None
    )


@functools.cache
def _memtable_budget() -> WriteBufferManager:
    return WriteBufferManager(MEMTABLES_TOTAL_BYTES, False)


@functools.cache
def _block_cache() -> Cache:
    return Cache(BLOCK_CACHE_BYTES)


def _database_options(memory: StoreMemory, *, read_only: bool) -> Options:
    options = Options(raw_mode=True)
    options.set_write_buffer_manager(memory.manager)
    # A reader opens every table at once: the descriptors then outlive the writer's compactions.
    options.set_max_open_files(-1 if read_only else OPEN_FILES_MAX)
    options.set_max_total_wal_size(WAL_TOTAL_BYTES_MAX)
    # Cut the log at the first record that is not whole. The unsynced tail of a power cut may have
    # holes, so stricter modes would refuse healthy stores; what this mode could hide, damage
    # before the tail, the acknowledged mark detects (see mark.py).
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_paranoid_checks(True)
    options.set_max_background_jobs(max(2, min(4, os.cpu_count() or 2)))
    # Spread write-back, so that a flush or compaction does not stall somebody's fsync.
    options.set_bytes_per_sync(2**20)
    options.set_wal_bytes_per_sync(2**20)
    options.set_skip_stats_update_on_db_open(True)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(4 * 2**20)
    options.set_max_manifest_file_size(16 * 2**20)
    options.set_is_fd_close_on_exec(True)
    if read_only:
        # RocksDB's diagnostic log would be written into the writer's directory; this place
        # cannot exist, and then RocksDB goes without.
        options.set_db_log_dir("/dev/null/none")
    return options


def _table_options(memory: StoreMemory, *, by_key: bool) -> BlockBasedOptions:
    """by_key : of a family that is asked for keys here and there, as points are; others are read from end to end."""
    table = BlockBasedOptions()
    table.set_block_cache(memory.cache)
    table.set_format_version(5)
    table.set_block_size(POINT_BLOCK_BYTES if by_key else BLOCK_BYTES)
    if by_key:
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
        table.set_data_block_index_type(DataBlockIndexType.binary_and_hash())
    # Index and filter memory is bounded by the cache too, and level 0 stays resident.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    return table


def _family_options(memory: StoreMemory) -> Options:
    options = Options(raw_mode=True)
    options.set_write_buffer_size(memory.buffer_bytes)
    options.set_max_write_buffer_number(4)
    # rocksdict holds the GIL through a write, so a RocksDB stall would stop all of Python: the
    # triggers lie far out and Store waits in Python before they are reached.
    options.set_level_zero_file_num_compaction_trigger(4)
    options.set_level_zero_slowdown_writes_trigger(32)
    options.set_level_zero_stop_writes_trigger(64)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_bytes_for_level_base(256 * 2**20)
    options.set_target_file_size_base(64 * 2**20)
    return options


def _points_options(memory: StoreMemory) -> Options:
    options = _family_options(memory)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_block_based_table_factory(_table_options(memory, by_key=True))
    # New ids are looked up at every upsert; the filter answers those from memory, also in the
    # memtable.
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.02)
    return options


def _log_options(memory: StoreMemory) -> Options:
    options = _family_options(memory)
    # Vectors do not compress. Keys only grow, so compaction has nothing to merge and moves files
    # as they are: blob files saved no write, and a reader beside a live writer could not keep
    # them open, as it does tables.
    options.set_compression_type(DBCompressionType.none())
    options.set_block_based_table_factory(_table_options(memory, by_key=False))
    return options


def _meta_options(memory: StoreMemory) -> Options:
    options = _family_options(memory)
    options.set_write_buffer_size(min(4 * 2**20, memory.buffer_bytes))
    options.set_max_write_buffer_number(2)
    options.set_block_based_table_factory(_table_options(memory, by_key=False))
    return options
