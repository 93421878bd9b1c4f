"""The acknowledged mark: how far the store had promised to be safe, beside RocksDB's files.

RocksDB recovers to the first record of its write-ahead log that is not whole. That is right after a
power cut, and it would silently drop acknowledged writes if a sector in the middle of the log went
bad or a log file was lost. So after each fsync that succeeded, the store writes here how far it
reached. The mark itself is not fsynced: it may lag behind, never run ahead, so a store that
recovers to less than its mark has lost acknowledged writes, without false alarms.

The same goes for RocksDB's MANIFEST, the list of its tables: cut short it is still valid, and
RocksDB then deletes the tables that the rest of it named. So the mark also says how long the
MANIFEST was known to be on the disk.

    bytes 0..4    magic
    bytes 4..12   RocksDB sequence number, little endian
    bytes 12..20  last log record, little endian
    bytes 20..28  number of the MANIFEST, little endian
    bytes 28..36  its length in bytes, little endian
    bytes 36..40  CRC-32C of the above

An older mark ends after the log record and is checked as far as it goes.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from pathlib import Path

from vicinal.model.errors import CorruptionError
from vicinal.storage.checksum import crc32c
from vicinal.storage.files import FileSystem, opened, read_file, remove_tree, write_at

MARK_NAME = "ACKED"
KEPT_WAL_NAME = "KEPT_WAL"
_logger = logging.getLogger(__name__)
_MAGIC, _OLD_MAGIC = b"VAC2", b"VACK"
_BODY, _OLD_BODY = struct.Struct("<4sQQQQ"), struct.Struct("<4sQQ")
_CRC_BYTES = 4
_CURRENT_BYTES_MAX = 100
_MANIFEST = "MANIFEST-"


@dataclass(frozen=True)
class Mark:
    """A state that was on the disk: RocksDB's sequence number, the last log record, the MANIFEST."""

    rocks_seq: int
    log_seq: int
    manifest: int = 0
    manifest_bytes: int = 0


class MarkFile:
    """The mark of an open store; one thread writes at a time."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs = fs
        self._manifest: int | None = None
        self._manifest_bytes = 0
        self._number = manifest_number(fs, path)
        self._fd = fs.open_write(path / MARK_NAME, truncate=False)
        try:
            # Held open: if RocksDB begins another one, this mark still speaks of this one.
            self._manifest = fs.open_read(path / f"{_MANIFEST}{self._number:06d}")
        except BaseException:
            fs.close(self._fd)
            raise

    def write(self, rocks_seq: int, log_seq: int) -> None:
        """Replace the mark in place; one small write, no fsync of it."""
        size = self._fs.size(self._manifest) if self._manifest is not None else 0
        if size != self._manifest_bytes and self._manifest is not None:
            self._fs.fsync(
                self._manifest
            )  # RocksDB's own may be under way, and the mark never runs ahead
            self._manifest_bytes = size
        body = _BODY.pack(_MAGIC, rocks_seq, log_seq, self._number, self._manifest_bytes)
        write_at(self._fs, self._fd, body + crc32c(body).to_bytes(_CRC_BYTES, "little"), 0)

    def close(self) -> None:
        """Close the files."""
        manifest, self._manifest = self._manifest, None
        if manifest is not None:
            self._fs.close(manifest)
        self._fs.close(self._fd)


def read_mark(fs: FileSystem, path: Path) -> Mark | None:
    """Return the mark of a store, or None where there is none or a power cut tore it."""
    try:
        raw = read_file(fs, path / MARK_NAME, bytes_max=_BODY.size + _CRC_BYTES)
    except FileNotFoundError:
        return None
    for magic, body in ((_MAGIC, _BODY), (_OLD_MAGIC, _OLD_BODY)):
        content, checksum = raw[: body.size], raw[body.size : body.size + _CRC_BYTES]
        if content[: len(magic)] != magic or len(checksum) != _CRC_BYTES:
            continue
        if crc32c(content) == int.from_bytes(checksum, "little"):
            return Mark(*body.unpack(content)[1:])
    return None


def manifest_number(fs: FileSystem, path: Path) -> int:
    """The number of the MANIFEST that CURRENT names; CorruptionError where it names none."""
    raw = read_file(fs, path / "CURRENT", bytes_max=_CURRENT_BYTES_MAX)
    name = raw.decode("ascii", "replace").strip()
    digits = name.removeprefix(_MANIFEST)
    if not (name.startswith(_MANIFEST) and digits.isdecimal() and digits.isascii()):
        raise CorruptionError(
            f"{path / 'CURRENT'} names no MANIFEST but {name!r}; restore from a snapshot or a replica"
        )
    return int(digits)


def check_manifest(fs: FileSystem, path: Path, mark: Mark) -> None:
    """Raise CorruptionError where the MANIFEST is older or shorter than the mark knows it; nothing is touched.

    To be called before RocksDB sees the directory.
    """
    number = manifest_number(fs, path)
    file = path / f"{_MANIFEST}{number:06d}"
    size = 0
    if number == mark.manifest and fs.exists(file):
        with opened(fs, fs.open_read(file)) as fd:
            size = fs.size(fd)
    if number < mark.manifest or (number == mark.manifest and size < mark.manifest_bytes):
        raise CorruptionError(
            f"{file} has {size} bytes, but {_MANIFEST}{mark.manifest:06d} with {mark.manifest_bytes} bytes "
            "was on the disk: acknowledged writes are lost. Nothing was touched; restore from a snapshot "
            "or a replica"
        )


def keep_wal(fs: FileSystem, path: Path) -> None:
    """Link the write-ahead log aside, since recovery deletes it, also what it could not read of it.

    Best effort: on a file system without hard links there is nothing to look at afterwards.
    """
    kept = path / KEPT_WAL_NAME
    if fs.exists(kept):  # an open that failed or died before; those files are the older truth
        return
    logs = [path / name for name in fs.listdir(path) if name.endswith(".log")]
    logs = [log for log in logs if log.stat().st_size]
    if not logs:
        return
    fs.mkdir(kept)
    for log in logs:
        try:
            fs.link(log, kept / log.name)
        except OSError as error:
            _logger.warning("cannot link %s aside before recovery: %s", log, error)


def forget_wal(fs: FileSystem, path: Path) -> None:
    """Remove the links once recovery has proved complete."""
    if fs.exists(path / KEPT_WAL_NAME):
        remove_tree(fs, path / KEPT_WAL_NAME)
