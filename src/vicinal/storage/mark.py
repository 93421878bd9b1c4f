"""The acknowledged mark: how far the store had promised to be safe, beside RocksDB's files.

RocksDB recovers to the first record of its write-ahead log that is not whole. That is right after a
power cut, and it would silently drop acknowledged writes if a sector in the middle of the log went
bad or a log file was lost. So after each fsync that succeeded, the store writes here how far it
reached. The mark itself is not fsynced: it may lag behind, never run ahead, so a store that
recovers to less than its mark has lost acknowledged writes, without false alarms.

    bytes 0..4    magic
    bytes 4..12   RocksDB sequence number, little endian
    bytes 12..20  last log record, little endian
    bytes 20..24  CRC-32C of the above
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from pathlib import Path

from vicinal.storage.checksum import crc32c
from vicinal.storage.files import FileSystem, read_file, remove_tree, write_at

MARK_NAME = "ACKED"
KEPT_WAL_NAME = "KEPT_WAL"
_logger = logging.getLogger(__name__)
_MAGIC = b"VACK"
_BODY = struct.Struct("<4sQQ")


@dataclass(frozen=True)
class Mark:
    """A state that was on the disk: RocksDB's sequence number and the last log record."""

    rocks_seq: int
    log_seq: int


class MarkFile:
    """The mark of an open store; one thread writes at a time."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs = fs
        self._fd = fs.open_write(path / MARK_NAME, truncate=False)

    def write(self, mark: Mark) -> None:
        """Replace the mark in place; one small write, no fsync."""
        body = _BODY.pack(_MAGIC, mark.rocks_seq, mark.log_seq)
        write_at(self._fs, self._fd, body + crc32c(body).to_bytes(4, "little"), 0)

    def close(self) -> None:
        """Close the file."""
        self._fs.close(self._fd)


def read_mark(fs: FileSystem, path: Path) -> Mark | None:
    """Return the mark of a store, or None where there is none or a power cut tore it."""
    try:
        raw = read_file(fs, path / MARK_NAME, bytes_max=_BODY.size + 4)
    except FileNotFoundError:
        return None
    body, checksum = raw[: _BODY.size], raw[_BODY.size :]
    if len(checksum) != 4 or crc32c(body) != int.from_bytes(checksum, "little"):
        return None
    magic, rocks_seq, log_seq = _BODY.unpack(body)
    return Mark(rocks_seq, log_seq) if magic == _MAGIC else None


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
