"""Looks at RocksDB's log-format files (MANIFEST, write-ahead log) before RocksDB does.

RocksDB's reader (9.8) never returns when, past the first record, it meets a header whose type byte
says "recycled log": one flipped bit turns type 1 into type 5, and the open then spins with the GIL
held. We never recycle logs, so any type outside 1..4 is damage. Damage of other kinds is left to
RocksDB, which handles it.

A file is a sequence of 32 KiB blocks; a record has a 7-byte header (masked CRC-32C of type and
data, 4 bytes; length, 2 bytes; type, 1 byte) and never crosses a block. A rest of fewer than 7
bytes is padding.
"""

from __future__ import annotations

from pathlib import Path

from vicinal.model.errors import CorruptionError
from vicinal.storage.checksum import crc32c
from vicinal.storage.files import FileSystem, opened, read_at, read_file, write_at
from vicinal.storage.mark import KEPT_WAL_NAME

BLOCK_BYTES = 32 * 1024
HEADER_BYTES = 7
_READ_BYTES = 32 * BLOCK_BYTES
_WRITTEN_TYPES = range(1, 5)
_MASK_DELTA = 0xA282EAD8
_NAME_BYTES_MAX = 100


def guard_logs(fs: FileSystem, path: Path, *, read_only: bool) -> None:
    """Make the log files of a store safe to open.

    A write-ahead log is cut before its first bad record where RocksDB would not come back from it;
    RocksDB ignores all behind that record anyway. The uncut file stays in KEPT_WAL, and the
    acknowledged mark then tells whether anything acknowledged was lost.

    Raises
    ------
    CorruptionError : the MANIFEST is damaged so; or a write-ahead log is, and `read_only` forbids
        the cut.
    """
    current = read_file(fs, path / "CURRENT", bytes_max=_NAME_BYTES_MAX)
    manifest = current.decode("ascii", "replace").strip()
    if manifest.startswith("MANIFEST-") and fs.exists(path / manifest):
        bad = find_trap(fs, path / manifest)
        if bad is not None:
            raise CorruptionError(
                f"{path / manifest}: the record at byte {bad} is damaged; restore from a snapshot "
                "or a replica"
            )
    for name in fs.listdir(path):
        if not name.endswith(".log"):
            continue
        try:
            bad = find_trap(fs, path / name)
        except FileNotFoundError:  # a live writer is done with it
            continue
        if bad is None:
            continue
        if read_only:
            raise CorruptionError(
                f"{path / name}: the record at byte {bad} is damaged; open the database for "
                "writing to "
                "recover what is before it"
            )
        _cut(fs, path / name, bad)


def find_trap(fs: FileSystem, file: Path) -> int | None:
    """Return the offset of the first bad record if RocksDB would not return from reading the "
    "file, else None."""
    first_bad: int | None = None
    with opened(fs, fs.open_read(file)) as fd:
        size = fs.size(fd)
        buffer = memoryview(bytearray(min(size, _READ_BYTES)))
        for start in range(0, size, _READ_BYTES):
            came = read_at(fs, fd, buffer, start)
            for block in range(0, came, BLOCK_BYTES):
                view = buffer[block : min(block + BLOCK_BYTES, came)]
                bad, is_trap = _walk_block(view, is_first=start + block == 0)
                if bad is not None and first_bad is None:
                    first_bad = start + block + bad
                if is_trap:
                    return first_bad
    return None


def _walk_block(block: memoryview, *, is_first: bool) -> tuple[int | None, bool]:
    """Return where the block's first bad record is and whether it is of a type that we never "
    "write."""
    at = 0
    while len(block) - at >= HEADER_BYTES:
        length = block[at + 4] | block[at + 5] << 8
        kind = block[at + 6]
        if kind == 0 and length == 0:
            return None, False  # preallocated space that was never written
        end = at + HEADER_BYTES + length
        if kind not in _WRITTEN_TYPES:
            # As the very first record RocksDB takes it for a recycled log and refuses it by itself.
            return at, kind != 0 and not (is_first and at == 0)
        if end > len(block) or _masked(crc32c(block[at + 6 : end])) != int.from_bytes(
            block[at : at + 4], "little"
        ):
            return at, False
        at = end
    return None, False


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _cut(fs: FileSystem, log: Path, size: int) -> None:
    """Replace a log by its first `size` bytes; the whole file moves to KEPT_WAL."""
    shorter = log.with_name(log.name + ".tmp")
    with (
        opened(fs, fs.open_read(log)) as source,
        opened(fs, fs.open_write(shorter, truncate=True)) as target,
    ):
        buffer = memoryview(bytearray(min(size, _READ_BYTES)))
        for start in range(0, size, _READ_BYTES):
            view = buffer[: min(len(buffer), size - start)]
            write_at(fs, target, view[: read_at(fs, source, view, start)], start)
        fs.fsync(target)
    kept = log.parent / KEPT_WAL_NAME
    if not fs.exists(kept):
        fs.mkdir(kept)
    if not fs.exists(kept / log.name):
        fs.rename(log, kept / log.name)
    fs.rename(shorter, log)
    fs.fsync_dir(log.parent)
