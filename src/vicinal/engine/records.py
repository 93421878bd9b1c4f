"""The bytes of the two records the truth is made of: a point's record and a log record.

A point's record is a fixed header (row, version, expiry) and the payload. A log record carries
the resolved effects of one
batch: which rows were added with which ids and vectors, which rows died, which rows' payload
changed. It holds no filter and reads no clock, so that replaying it decides nothing and replaying
it twice changes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from vicinal.model.decoding import UNDECODABLE
from vicinal.model.errors import CorruptionError

POINT_HEADER = struct.Struct("<QQQ")
"""row, version, expires_at in ms since the epoch (0: never)."""

HEADER_BYTES = POINT_HEADER.size


class LogRecord(msgspec.Struct, array_like=True, frozen=True):
    """The effects of one batch; rows are global row numbers.

    Attributes
    ----------
    time_ms : when the batch was accepted, for people who read logs; replay ignores it.
    first_row : row of the first added point; the others follow it.
    keys : keys of the added points.
    vectors : their vectors, rows of the collection's dtype, C order.
    killed : rows that died, little-endian uint64.
    dirty : rows whose payload is newer in the store than in any segment file, little-endian uint64.
    """

    time_ms: int
    first_row: int
    keys: list[bytes]
    vectors: memoryview
    killed: bytes
    dirty: bytes


class SegmentEntry(msgspec.Struct, frozen=True):
    """One live segment of the manifest; dead and dirty are serialized bitmaps of local rows."""

    number: int
    n_rows: int
    row_min: int
    row_max: int
    dead: bytes
    dirty: bytes

    def dead_rows(self, where: str) -> BitMap:
        """Rows that died; CorruptionError names `where` the entry was read."""
        return _bitmap(self.dead, where)

    def dirty_rows(self, where: str) -> BitMap:
        """Rows whose payload is newer in the store; CorruptionError names `where` the entry was read."""
        return _bitmap(self.dirty, where)


class Manifest(msgspec.Struct, frozen=True):
    """Which segments are live, as of the log record `sequence`."""

    segments: tuple[SegmentEntry, ...] = ()
    next_row: int = 0
    next_segment: int = 1
    sequence: int = 0


_ROW_BYTES = 8
_LOG_ENCODER = msgspec.msgpack.Encoder()
_LOG_DECODER = msgspec.msgpack.Decoder(LogRecord)
_MANIFEST_DECODER = msgspec.msgpack.Decoder(Manifest)


def encode_log(record: LogRecord) -> bytes:
    """Return the bytes of a log record."""
    return _LOG_ENCODER.encode(record)


def decode_log(raw: bytes, where: str, sequence: int = 0) -> LogRecord:
    """Return the log record of raw; CorruptionError names `where` it was read, and its number."""
    try:
        record = _LOG_DECODER.decode(raw)
    except UNDECODABLE as fault:
        raise CorruptionError(f"{where}: log record {sequence} does not decode: {fault}") from None
    if len(record.killed) % _ROW_BYTES or len(record.dirty) % _ROW_BYTES:
        raise CorruptionError(
            f"{where}: log record {sequence} has {len(record.killed)} and {len(record.dirty)} bytes of row "
            f"numbers, which have {_ROW_BYTES} each"
        )
    return record


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest."""
    return _LOG_ENCODER.encode(manifest)


def decode_manifest(raw: bytes, where: str) -> Manifest:
    """Return the manifest of raw; CorruptionError names `where` it was read."""
    try:
        return _MANIFEST_DECODER.decode(raw)
    except UNDECODABLE as fault:
        raise CorruptionError(f"{where}: manifest does not decode: {fault}") from None


def pack_rows(rows: Sequence[int] | npt.NDArray[Any]) -> bytes:
    """Row numbers as little-endian uint64."""
    return np.asarray(rows, dtype="<u8").tobytes()


def unpack_rows(raw: bytes) -> npt.NDArray[np.int64]:
    """The inverse of `pack_rows`."""
    return np.frombuffer(raw, dtype="<u8").astype(np.int64)


def _bitmap(raw: bytes, where: str) -> BitMap:
    try:
        return BitMap.deserialize(raw)
    except (ValueError, IndexError) as fault:  # IndexError: there are no bytes
        raise CorruptionError(
            f"{where}: a bitmap of the manifest does not decode: {fault}"
        ) from None
