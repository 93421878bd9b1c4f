"""Sets of rows in three forms, and the ways between them: roaring bitmap, bool mask, packed bits.

Roaring bitmaps are made from masks, and packed bits from bitmaps, through the portable
serialisation (https://github.com/RoaringBitmap/RoaringFormatSpec): its dense containers are packed
bits already, so both ways cost a copy instead of a step per row.
"""

from __future__ import annotations

import struct
from array import array

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap, FrozenBitMap

Rows = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]
Bitset = npt.NDArray[np.uint64]

_CHUNK = 1 << 16  # rows of a container
_ARRAY_MAX = 4096  # rows of a container up to which it is an array
_COOKIE = 12346
_COOKIE_WITH_RUNS = 12347
_OFFSETS_WITH_RUNS_MIN = 4  # a bitmap with runs has offsets from so many containers on


def bitmap_of_mask(mask: Mask) -> BitMap:
    """Return the rows where mask is true. mask : (n,) bool."""
    containers: list[bytes] = []
    keys: list[int] = []
    for key, first in enumerate(range(0, len(mask), _CHUNK)):
        chunk = mask[first : first + _CHUNK]
        count = int(np.count_nonzero(chunk))
        if count == 0:
            continue
        keys += (key, count - 1)
        if count <= _ARRAY_MAX:
            containers.append(np.flatnonzero(chunk).astype("<u2").tobytes())
        else:
            containers.append(np.packbits(chunk, bitorder="little").tobytes().ljust(8192, b"\0"))
    size = len(containers)
    offsets: list[int] = []
    position = 8 + 8 * size
    for container in containers:
        offsets.append(position)
        position += len(container)
    header = struct.pack(f"<II{2 * size}H{size}I", _COOKIE, size, *keys, *offsets)
    return BitMap.deserialize(header + b"".join(containers))


def bitmap_of_rows(rows: npt.NDArray[np.integer], n: int) -> BitMap:
    """Return a bitmap of rows, which are below n and may be in any order and repeat."""
    if len(rows) < max(64, n >> 6):
        return BitMap(array("I", np.sort(rows).astype(np.uint32).tobytes()))
    mask = np.zeros(n, np.bool_)
    # NumPy scatters int64 positions three times as fast as uint32 ones.
    mask[rows.astype(np.int64)] = True
    return bitmap_of_mask(mask)


def to_bitset(bitmap: BitMap | FrozenBitMap, n: int) -> Bitset:
    """Return a bitmap as packed bits: bit r % 64 of word r // 64 is row r.

    Returns
    -------
    (ceil(n / 64),) uint64, little-endian, writable; rows from n on are left out.
    """
    words = (n + 63) // 64
    out = np.zeros((words * 64 + _CHUNK - 1) // _CHUNK * (_CHUNK // 8), np.uint8)
    data = memoryview(bitmap.serialize())
    cookie, size = struct.unpack_from("<HH", data)
    position = 8
    runs = np.zeros(0, np.uint8)
    if cookie == _COOKIE_WITH_RUNS:
        size += 1
        position = 4 + (size + 7) // 8
        runs = np.unpackbits(np.frombuffer(data[4:position], np.uint8), bitorder="little")
    else:
        (size,) = struct.unpack_from("<I", data, 4)
    header = struct.unpack_from(f"<{2 * size}H", data, position)
    position += 4 * size
    if not len(runs) or size >= _OFFSETS_WITH_RUNS_MIN:
        position += 4 * size
    for i in range(size):
        first = header[2 * i] * (_CHUNK // 8)
        count = header[2 * i + 1] + 1
        target = out[first : first + _CHUNK // 8]
        if len(runs) and runs[i]:
            stop = position + 2 + 4 * struct.unpack_from("<H", data, position)[0]
            if len(target):
                pairs = np.frombuffer(data[position + 2 : stop], "<u2").astype(np.int64)
                target[:] = _packed_runs(pairs[0::2], pairs[1::2] + 1)
        elif count <= _ARRAY_MAX:
            stop = position + 2 * count
            if len(target):
                mask = np.zeros(_CHUNK, np.bool_)
                mask[np.frombuffer(data[position:stop], "<u2").astype(np.int64)] = True
                target[:] = np.packbits(mask, bitorder="little")
        else:
            stop = position + 8192
            if len(target):
                target[:] = np.frombuffer(data[position:stop], np.uint8)
        position = stop
    bits = out.view(np.uint64)[:words].copy()
    if n % 64:
        bits[-1] &= np.uint64((1 << n % 64) - 1)
    return bits


def _packed_runs(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    spans = np.empty(2 * len(starts) + 1, np.int64)  # gap, run, gap, ..., run, gap
    spans[0::2] = np.append(starts, _CHUNK) - np.concatenate(([0], starts + lengths))
    spans[1::2] = lengths
    inside = np.zeros(len(spans), np.bool_)
    inside[1::2] = True
    return np.packbits(np.repeat(inside, spans), bitorder="little")
