"""The header of a section file, checked so strictly that a hostile one can only be refused.

    bytes 0..8     magic
    bytes 8..12    format version, little endian as all numbers here
    bytes 12..16   length of the whole header region, a multiple of 4096: where the first section
    begins bytes 16..24   length of the file
    bytes 24..28   length of the MessagePack body that follows byte 36
    bytes 28..32   CRC-32C of the header region from byte 36 to its end, padding included
    bytes 32..36   CRC-32C of bytes 0..32

The body names the kind, the sections (name, dtype, shape, offset), the caller's meta, and the place
and checksum of the block table: one CRC-32C per 1 MiB of each section, its padding up to the next
section included. So each byte of the file is under exactly one checksum.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vicinal.model.decoding import UNDECODABLE
from vicinal.model.errors import (
    CorruptionError,
    FormatVersionError,
    InvalidArgumentError,
    LimitError,
)
from vicinal.storage.checksum import crc32c

SECTION_VERSION = 1
ALIGN_BYTES = 4096
BLOCK_BYTES = 2**20
HEADER_BYTES_MAX = 64 * 2**20
SECTIONS_MAX = 1024
DIMENSIONS_MAX = 8
PRELUDE_BYTES = 36
_MAGIC = b"VICSECT\x00"
_PRELUDE = struct.Struct("<8sIIQII")
_KINDS = "biufV"


class SectionEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One section: its name, NumPy dtype string, shape and byte offset in the file."""

    name: str
    dtype: str
    shape: list[int]
    offset: int


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    sections: list[SectionEntry]
    meta: dict[str, Any]
    table_offset: int
    table_crc: int


@dataclass(frozen=True)
class Section:
    """A checked section: [offset, offset + nbytes) holds the array, blocks reach to `end`."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    end: int

    @property
    def n_blocks(self) -> int:
        """Checksummed blocks of up to 1 MiB."""
        return -(-(self.end - self.offset) // BLOCK_BYTES)


@dataclass(frozen=True)
class Header:
    """A checked header. The block table reaches from `table_offset` to the end of the file."""

    kind: str
    sections: tuple[Section, ...]
    meta: dict[str, Any]
    table_offset: int
    table_crc: int
    file_bytes: int

    @property
    def n_blocks(self) -> int:
        """Blocks of all sections."""
        return sum(section.n_blocks for section in self.sections)


def align(n_bytes: int) -> int:
    """Round up to the alignment of sections."""
    return -(-n_bytes // ALIGN_BYTES) * ALIGN_BYTES


def check_dtype(dtype: np.dtype[Any]) -> str:
    """Return the string of a dtype that may be stored: plain little-endian or one-byte numbers."""
    if dtype.kind not in "biuf" or dtype.byteorder == ">" or dtype.str[0] not in "<|":
        raise InvalidArgumentError(
            f"dtype {dtype} cannot be stored; use little-endian bool, int, uint or float"
        )
    return dtype.str


def plan(
    kind: str,
    sections: list[tuple[str, np.dtype[Any], tuple[int, ...]]],
    meta: dict[str, Any],
) -> tuple[Header, int]:
    """Lay out a file before any byte is written; return the header and the length of its region.

    The checksum of the block table is 0 until `encode_header` gets the real one; the length does
    not depend on it.
    """
    if len(sections) > SECTIONS_MAX:
        raise LimitError(f"{len(sections)} sections, at most {SECTIONS_MAX}")
    sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in sections]
    region = ALIGN_BYTES
    while True:
        placed, offset = list[Section](), region
        for (name, dtype, shape), nbytes in zip(sections, sizes, strict=True):
            check_dtype(dtype)
            if len(shape) > DIMENSIONS_MAX:
                raise LimitError(
                    f"section {name!r} has {len(shape)} axes, at most {DIMENSIONS_MAX}"
                )
            end = align(offset + nbytes)
            placed.append(Section(name, dtype, shape, offset, nbytes, end))
            offset = end
        n_blocks = sum(section.n_blocks for section in placed)
        header = Header(kind, tuple(placed), meta, offset, 0, offset + 4 * n_blocks)
        needed = align(PRELUDE_BYTES + len(_encode_body(header, 2**32 - 1)))
        if needed <= region:
            return header, region
        if needed > HEADER_BYTES_MAX:
            raise LimitError(f"meta of {needed} bytes is too large, at most {HEADER_BYTES_MAX}")
        region = needed


def encode_header(header: Header, region: int, table_crc: int) -> bytes:
    """Return the header region."""
    body = _encode_body(header, table_crc)
    padded = body.ljust(region - PRELUDE_BYTES, b"\x00")
    prelude = _PRELUDE.pack(
        _MAGIC, SECTION_VERSION, region, header.file_bytes, len(body), crc32c(padded)
    )
    return prelude + crc32c(prelude).to_bytes(4, "little") + padded


def decode_prelude(path: Path, raw: bytes, file_bytes: int) -> tuple[int, int, int]:
    """Check the first 36 bytes; return region length, body length, region checksum."""
    if len(raw) < PRELUDE_BYTES or raw[:8] != _MAGIC:
        raise CorruptionError(f"{path}: not a Vicinal section file ({file_bytes} bytes){REMEDY}")
    _, version, region, recorded, body_bytes, region_crc = _PRELUDE.unpack_from(raw)
    if crc32c(raw[: _PRELUDE.size]) != int.from_bytes(raw[_PRELUDE.size : PRELUDE_BYTES], "little"):
        raise CorruptionError(f"{path}: the first bytes of the header fail their checksum{REMEDY}")
    if version > SECTION_VERSION:
        raise FormatVersionError(
            f"{path} has section format {version}, this version reads up to {SECTION_VERSION}; "
            "install a newer one"
        )
    if recorded != file_bytes:
        raise CorruptionError(f"{path}: has {file_bytes} bytes, written were {recorded}{REMEDY}")
    if (
        version < 1
        or region % ALIGN_BYTES
        or not PRELUDE_BYTES + body_bytes <= region <= min(file_bytes, HEADER_BYTES_MAX)
    ):
        raise CorruptionError(
            f"{path}: header of {region} bytes with a body of {body_bytes} in a file of "
            f"{file_bytes}{REMEDY}"
        )
    return region, body_bytes, region_crc


def decode_header(
    path: Path, raw: bytes, body_bytes: int, region_crc: int, file_bytes: int
) -> Header:
    """Check a whole header region against the length of its file."""
    if crc32c(raw[PRELUDE_BYTES:]) != region_crc:
        raise CorruptionError(f"{path}: the header fails its checksum{REMEDY}")
    try:
        body = msgspec.msgpack.decode(raw[PRELUDE_BYTES : PRELUDE_BYTES + body_bytes], type=_Body)
    except UNDECODABLE as error:
        raise CorruptionError(f"{path}: the header cannot be read ({error}){REMEDY}") from None
    sections = _check_sections(path, body, first=len(raw), file_bytes=file_bytes)
    header = Header(body.kind, sections, body.meta, body.table_offset, body.table_crc, file_bytes)
    if body.table_offset + 4 * header.n_blocks != file_bytes:
        raise CorruptionError(
            f"{path}: {header.n_blocks} checksums at byte {body.table_offset} do not end the file "
            f"of {file_bytes} bytes{REMEDY}"
        )
    return header


def _check_sections(path: Path, body: _Body, *, first: int, file_bytes: int) -> tuple[Section, ...]:
    if len(body.sections) > SECTIONS_MAX:
        raise CorruptionError(
            f"{path}: {len(body.sections)} sections, at most {SECTIONS_MAX}{REMEDY}"
        )
    if not first <= body.table_offset <= file_bytes or body.table_offset % ALIGN_BYTES:
        raise CorruptionError(
            f"{path}: block table at byte {body.table_offset} of {file_bytes}{REMEDY}"
        )
    placed, names, expected = list[Section](), set[str](), first
    for entry in body.sections:
        dtype = _stored_dtype(path, entry)
        if len(entry.shape) > DIMENSIONS_MAX or any(axis < 0 for axis in entry.shape):
            raise CorruptionError(f"{path}: section {entry.name!r} has shape {entry.shape}{REMEDY}")
        # Python integers: a product of axes cannot wrap around.
        nbytes = math.prod(entry.shape) * dtype.itemsize
        end = align(entry.offset + nbytes)
        if entry.offset != expected or end > body.table_offset or entry.name in names:
            raise CorruptionError(
                f"{path}: section {entry.name!r} of {nbytes} bytes at byte {entry.offset} does "
                "not fit "
                f"into the file{REMEDY}"
            )
        if any(axis > file_bytes for axis in entry.shape):
            raise CorruptionError(f"{path}: section {entry.name!r} has shape {entry.shape}{REMEDY}")
        names.add(entry.name)
        placed.append(Section(entry.name, dtype, tuple(entry.shape), entry.offset, nbytes, end))
        expected = end
    if expected != body.table_offset:
        raise CorruptionError(
            f"{path}: sections end at byte {expected}, not at the block table{REMEDY}"
        )
    return tuple(placed)


def _stored_dtype(path: Path, entry: SectionEntry) -> np.dtype[Any]:
    # Short strings of a fixed form only: NumPy's dtype parser never sees anything else.
    text = entry.dtype
    if len(text) in (3, 4) and text[0] in "<|" and text[1] in "biuf" and text[2:].isdecimal():
        try:
            dtype: np.dtype[Any] = np.dtype(text)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind in "biuf" and dtype.str == text:
            return dtype
    raise CorruptionError(f"{path}: section {entry.name!r} has dtype {text[:16]!r}{REMEDY}")


def _encode_body(header: Header, table_crc: int) -> bytes:
    entries = [SectionEntry(s.name, s.dtype.str, list(s.shape), s.offset) for s in header.sections]
    body = _Body(header.kind, entries, header.meta, header.table_offset, table_crc)
    return msgspec.msgpack.encode(body)


REMEDY = "; the file is damaged, rebuild it or restore from a snapshot or a replica"
