"""Opening the RocksDB of a store: whether there is one, tries beside a live writer, where its log ends."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from rocksdict import Rdict, ReadOptions

from vicinal.model.errors import CorruptionError, StorageError
from vicinal.storage.batch import TRIMMED_KEY
from vicinal.storage.files import FileSystem, os_errors
from vicinal.storage.records import SEQ_MAX
from vicinal.storage.rocks import Handles, StoreMemory, is_missing_file, open_rocks, translate

_READ_ONLY_OPEN_TRIES = 5


def is_fresh(fs: FileSystem, path: Path) -> bool:
    """Whether there is no store yet; CorruptionError where there is one that lost its root file."""
    with os_errors(f"opening the store {path}"):
        if not path.is_dir():
            if fs.exists(path):
                raise StorageError(f"{path} is not a directory")
            return True
        names = fs.listdir(path)
    if "CURRENT" in names:
        return False
    # RocksDB would take this for a new database and delete what it does not know.
    data = [name for name in names if name.endswith((".sst", ".blob", ".log"))]
    if data:
        raise CorruptionError(
            f"{path}: the file CURRENT is missing but there is data ({data[0]} and {len(data) - 1} "
            "more files); nothing was touched. Restore from a snapshot or a replica"
        )
    return True


def open_handles(path: Path, *, read_only: bool, create: bool, memory: StoreMemory) -> Handles:
    """Open RocksDB, again where a live writer replaced a file meanwhile; see `open_rocks` for the errors."""
    tries = itertools.count(1)
    while True:
        try:
            return open_rocks(path, read_only=read_only, create=create, memory=memory)
        except StorageError as error:
            # A live writer may delete files between our reading of the manifest and of them.
            tried = next(tries)
            if not (read_only and is_missing_file(error)) or tried == _READ_ONLY_OPEN_TRIES:
                raise
            time.sleep(0.005 * 2**tried)


def read_ends(handles: Handles, path: Path) -> tuple[int, int]:
    """Return (trimmed through, last sequence)."""
    try:
        raw = handles.meta.get(TRIMMED_KEY)
        key = _last_key(handles.log)
    except Exception as error:
        raise translate(error, f"opening the store {path}") from error
    trimmed = int.from_bytes(raw, "big") if raw is not None else 0
    last = int.from_bytes(key, "big") if key is not None else trimmed
    if not trimmed <= last <= SEQ_MAX or (key is not None and (len(key) != 8 or last == trimmed)):
        raise CorruptionError(
            f"{path}: the log ends at {last} but is trimmed through {trimmed}; "
            "restore from a snapshot or a replica"
        )
    return trimmed, last


def _last_key(family: Rdict) -> bytes | None:
    cursor = family.iter(ReadOptions())
    try:
        cursor.seek_to_last()
        if cursor.valid():
            return cursor.key()
        cursor.status()
        return None
    finally:
        del cursor  # see Handles
