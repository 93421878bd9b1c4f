"""Records of the log and of segments that are damaged say so."""

from __future__ import annotations

import pytest
from pyroaring import BitMap

import vicinal
from vicinal.engine.records import SegmentEntry


@pytest.mark.parametrize("raw", [b"", b"\0", b"no bitmap", BitMap([1, 70_000]).serialize()[:-3]])
def test_a_bitmap_that_does_not_decode_is_damage(raw: bytes) -> None:
    sound = BitMap([3]).serialize()
    assert SegmentEntry(1, 10, 0, 9, sound, sound).dead_rows("here") == BitMap([3])
    entry = SegmentEntry(1, 10, 0, 9, raw, raw)
    for read in (entry.dead_rows, entry.dirty_rows):
        with pytest.raises(vicinal.CorruptionError, match="here: a bitmap"):
            read("here")
