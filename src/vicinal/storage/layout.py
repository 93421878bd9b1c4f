"""The database directory: what lies where, who may write, and which format it has.

LOCK                                held by the one writer
RESERVE                             bytes that deletes may use on a full disk
FORMAT                              JSON {"format": 1, "written_by": version}; makes it a
database collections/<escaped name>/store    RocksDB
collections/<escaped name>/segments/<n>
snapshots/<name>                    bundles, see bundle.py
collections/.trash-...              dropped collections on their way out
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from vicinal.model.errors import (
    ClosedError,
    CorruptionError,
    FormatVersionError,
    NotADatabaseError,
    NotFoundError,
    ReadOnlyError,
)
from vicinal.model.version import VERSION
from vicinal.storage.files import (
    REAL,
    FileSystem,
    make_dirs,
    os_errors,
    read_file,
    remove_tree,
    write_file,
)
from vicinal.storage.lock import LOCK_NAME, WriterLock
from vicinal.storage.names import escape_name, unescape_name

FORMAT_VERSION = 1
FORMAT_NAME = "FORMAT"
COLLECTIONS_NAME = "collections"
STORE_NAME = "store"
SEGMENTS_NAME = "segments"
SNAPSHOTS_NAME = "snapshots"
_TRASH_PREFIX = ".trash-"
_FORMAT_BYTES_MAX = 4096
# What a crash while creating a database may leave, and what a fresh ext4 volume holds.
_HARMLESS = frozenset({LOCK_NAME, FORMAT_NAME + ".tmp", "lost+found"})
_FOUND_SHOWN_MAX = 5


class _Format(msgspec.Struct):
    format: int
    written_by: str


class DatabaseDir:
    """An open database directory; made by `open_database_dir`."""

    def __init__(
        self, fs: FileSystem, path: Path, *, read_only: bool, lock: WriterLock | None
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._fs = fs
        self._lock = lock
        self._open = True

    def collections(self) -> list[str]:
        """Names of the collections, sorted; directories that no name makes are left out."""
        self._check_open()
        folder = self.path / COLLECTIONS_NAME
        with os_errors(f"listing {folder}"):
            if not self._fs.exists(folder):
                return []
            entries = self._fs.listdir(folder)
            names = (unescape_name(entry) for entry in entries if self._fs.is_dir(folder / entry))
            return sorted(name for name in names if name is not None)

    def collection_path(self, name: str) -> Path:
        """Return the directory of a collection, which need not exist.

        Raises InvalidArgumentError for a name that no collection may have.
        """
        self._check_open()
        return self.path / COLLECTIONS_NAME / escape_name(name)

    def drop_collection(self, name: str) -> None:
        """Remove a collection that nobody has open.

        It is renamed first, then deleted: a crash leaves it whole or gone. What a crash or a fault
        leaves of the renamed directory is removed when the database is next opened for writing.

        Raises
        ------
        NotFoundError : there is no such collection.
        ReadOnlyError : the database is open read-only.
        StorageError : the operating system refused; before the rename nothing changed.
        """
        path = self.collection_path(name)
        if self.read_only:
            raise ReadOnlyError(
                f"{self.path} is open read-only; open it for writing to drop {name!r}"
            )
        with os_errors(f"dropping collection {name!r}"):
            if not self._fs.exists(path):
                raise NotFoundError(
                    f"there is no collection {name!r}; there are {self.collections()}"
                )
            trash = path.parent / f"{_TRASH_PREFIX}{os.urandom(8).hex()}"
            self._fs.rename(path, trash)
            self._fs.fsync_dir(path.parent)
            remove_tree(self._fs, trash)

    def close(self) -> None:
        """Release the lock; again does nothing."""
        self._open = False
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> DatabaseDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError(f"the database {self.path} is closed; open it again")


def open_database_dir(
    path: Path | str, *, read_only: bool, create: bool = True, fs: FileSystem = REAL
) -> DatabaseDir:
    """Open a database directory, creating it where it is missing or empty and `create` allows.

    Parameters
    ----------
    read_only : takes no lock, writes nothing, works beside a live writer.

    Raises
    ------
    LockedError : somebody writes to it; at once, with pid and host.
    NotADatabaseError : there is nothing, or something else, which is left untouched.
    FormatVersionError : written by a newer version.
    CorruptionError : its FORMAT file cannot be read.
    StorageError : the operating system refused.
    """
    path = Path(path).absolute()
    with os_errors(f"opening {path}"):
        _refuse_foreign(fs, path, may_create=create and not read_only)
        if read_only:
            _check_format(fs, path)
            return DatabaseDir(fs, path, read_only=True, lock=None)
        make_dirs(fs, path)
        lock = WriterLock(fs, path)
        try:
            if not fs.exists(path / FORMAT_NAME):
                _refuse_foreign(fs, path, may_create=create)
                write_format(fs, path)
            _check_format(fs, path)
            make_dirs(fs, path / COLLECTIONS_NAME)
            _remove_trash(fs, path / COLLECTIONS_NAME)
        except BaseException:
            lock.release()
            raise
        return DatabaseDir(fs, path, read_only=False, lock=lock)


def write_format(fs: FileSystem, path: Path) -> None:
    """Make a directory a database of this version's format."""
    written = _Format(FORMAT_VERSION, VERSION)
    write_file(fs, path / FORMAT_NAME, msgspec.json.encode(written) + b"\n")


def _refuse_foreign(fs: FileSystem, path: Path, *, may_create: bool) -> None:
    """Raise NotADatabaseError unless path is a database or a place for a new one."""
    if path.is_dir():
        if fs.exists(path / FORMAT_NAME):
            return
        found = [name for name in fs.listdir(path) if name not in _HARMLESS]
        if found:
            shown = ", ".join(found[:_FOUND_SHOWN_MAX])
            more = len(found) - _FOUND_SHOWN_MAX
            rest = f" and {more} more" if more > 0 else ""
            raise NotADatabaseError(
                f"{path} is no Vicinal database: it has no {FORMAT_NAME} file but holds "
                f"{shown}{rest}; "
                "nothing was touched, choose an empty or new directory"
            )
    elif fs.exists(path):
        raise NotADatabaseError(f"{path} is not a directory; choose an empty or new directory")
    if not may_create:
        raise NotADatabaseError(f"there is no Vicinal database at {path}; check the path")


def _check_format(fs: FileSystem, path: Path) -> None:
    raw = read_file(fs, path / FORMAT_NAME, bytes_max=_FORMAT_BYTES_MAX)
    try:
        found = msgspec.json.decode(raw, type=_Format)
    except msgspec.MsgspecError as error:
        raise CorruptionError(
            f"{path / FORMAT_NAME} cannot be read ({error}); restore it from a snapshot, its "
            "content "
            f'is {{"format": {FORMAT_VERSION}, "written_by": "<version>"}}'
        ) from None
    if found.format > FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} has format {found.format}, written by Vicinal {found.written_by}; this is "
            f"{VERSION} and reads up to format {FORMAT_VERSION}, install a newer one"
        )
    if found.format < 1:
        raise CorruptionError(
            f"{path / FORMAT_NAME} says format {found.format}; formats begin at 1"
        )


def _remove_trash(fs: FileSystem, folder: Path) -> None:
    for name in fs.listdir(folder):
        if name.startswith(_TRASH_PREFIX):
            remove_tree(fs, folder / name)
