"""What the store makes of RocksDB's log files that are not as they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from vicinal.model.errors import CorruptionError
from vicinal.storage import mark
from vicinal.storage.checksum import crc32c
from vicinal.storage.files import REAL, FileSystem
from vicinal.storage.frames import BLOCK_BYTES, HEADER_BYTES, find_trap, guard_logs


def frame(payload: bytes, kind: int = 1) -> bytes:
    """A record as RocksDB frames it."""
    crc = crc32c(bytes([kind]) + payload)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return (
        masked.to_bytes(4, "little") + len(payload).to_bytes(2, "little") + bytes([kind]) + payload
    )


def folder_with(tmp_path: Path, log: bytes, manifest: bytes = b"") -> Path:
    (tmp_path / "CURRENT").write_text("MANIFEST-000001\n")
    (tmp_path / "MANIFEST-000001").write_bytes(manifest or frame(b"edit"))
    (tmp_path / "000002.log").write_bytes(log)
    return tmp_path


GOOD = frame(b"one") + frame(b"two" * 30)


@pytest.mark.parametrize(
    ("raw", "bad"),
    [
        (GOOD, None),
        (b"", None),
        (GOOD + bytes(200), None),  # preallocated, never written
        (GOOD + frame(b"x", kind=5), len(GOOD)),
        (frame(b"x", kind=5) + GOOD, None),  # RocksDB refuses that one by itself
        (GOOD + frame(b"damaged")[:-1] + b"?", None),  # and cuts there
        (GOOD + b"\xff" * 3, None),  # too short for a header
        (
            frame(b"damaged")[:-1] + b"?" + frame(b"x", kind=9),
            None,
        ),  # behind damage nobody reads on
        (frame(bytes(BLOCK_BYTES - HEADER_BYTES)) + frame(b"x", kind=7), BLOCK_BYTES),
        (
            frame(b"damaged")[:-1] + b"?" + bytes(BLOCK_BYTES - 14) + frame(b"x", kind=6),
            0,
        ),  # the block behind it is a trap, and what is cut begins at the first bad record
    ],
)
def test_a_record_of_a_type_that_is_never_written_is_a_trap(
    tmp_path: Path, raw: bytes, bad: int | None
) -> None:
    folder_with(tmp_path, raw)
    assert find_trap(REAL, tmp_path / "000002.log") == bad


def test_a_log_is_cut_before_a_trap_and_kept_whole_aside(tmp_path: Path) -> None:
    raw = GOOD + frame(b"x", kind=5) + frame(b"behind")
    folder = folder_with(tmp_path, raw)
    with pytest.raises(CorruptionError, match="open the database for writing"):
        guard_logs(REAL, folder, read_only=True)
    assert (folder / "000002.log").read_bytes() == raw
    for _ in range(2):
        guard_logs(REAL, folder, read_only=False)
        assert (folder / "000002.log").read_bytes() == GOOD
        assert (folder / mark.KEPT_WAL_NAME / "000002.log").read_bytes() == raw
    (folder / "000002.log").write_bytes(raw)
    guard_logs(REAL, folder, read_only=False)
    assert (folder / "000002.log").read_bytes() == GOOD


def test_a_trap_in_the_manifest_is_damage(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, GOOD, frame(b"edit") + frame(b"x", kind=8))
    with pytest.raises(
        CorruptionError, match=r"MANIFEST-000001: the record at byte \d+ is damaged"
    ):
        guard_logs(REAL, folder, read_only=False)


def test_a_log_that_vanishes_under_a_reader_is_passed_over(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, GOOD)

    class Listing(FileSystem):
        def listdir(self, path: Path) -> list[str]:
            return [*super().listdir(path), "000009.log"]

    before = sorted(folder.iterdir())
    guard_logs(Listing(), folder, read_only=True)
    assert sorted(folder.iterdir()) == before
