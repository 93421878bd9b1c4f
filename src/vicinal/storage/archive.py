"""A tar archive, written and read as streams; the reader takes nothing but plain files with short flat names.

Python's tarfile reads what people have put into tar in forty years, links and paths included, and its filters have
been bypassed more than once. This reader knows one kind of header. Compressed input is never held in memory, and
may grow RATIO_MAX times until the reader knows how many bytes there should be, and to no more than those afterwards.

    bytes 0..100    name, NUL-padded        bytes 148..156  checksum, octal
    bytes 124..136  size, octal, or base 256 where the first bit is set
    byte  156       type: '0' is a file     all in 512-byte blocks, two of zeros at the end
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vicinal.model.errors import CorruptionError
from vicinal.storage.files import os_errors

BLOCK_BYTES = 512
CHUNK_BYTES = 2**20
RATIO_MAX = 200
"""Bytes out for each byte in, of what nobody has announced; deflate reaches 1032, a manifest hardly 5."""

_SLACK_BYTES = 2**20
_FLAT = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,98}")
_GZIP_MAGIC = b"\x1f\x8b"


class ArchiveWriter:
    """Writes files one after another; gzip where the name ends in .gz."""

    def __init__(self, path: Path) -> None:
        with os_errors(f"writing {path}"):
            self._raw = path.open("xb")
            is_gzip = path.name.endswith((".gz", ".gz.tmp"))
            self._packed = gzip.GzipFile(fileobj=self._raw, mode="wb", mtime=0) if is_gzip else None

    def begin(self, name: str, size: int) -> None:
        """Write the header of a file; exactly `size` bytes must follow."""
        header = tarfile.TarInfo(name)
        header.size = size
        self.write(header.tobuf(tarfile.GNU_FORMAT))

    def write(self, data: bytes) -> None:
        """Write some of the file."""
        if self._packed is None:
            self._raw.write(data)
        else:
            self._packed.write(data)

    def end(self, size: int) -> None:
        """Fill the file's last block."""
        self.write(bytes(-size % BLOCK_BYTES))

    def close(self) -> IO[bytes]:
        """Write the end; returns the raw file, still open, to be synced."""
        self.write(bytes(2 * BLOCK_BYTES))
        if self._packed is not None:
            self._packed.close()
        return self._raw

    def abandon(self) -> None:
        """Close without an end."""
        self._raw.close()


class Budget:
    """How many bytes an archive may unfold to."""

    def __init__(self) -> None:
        self._bytes_max: int | None = None

    def allow(self, content_bytes: int, files: int) -> None:
        """Say what the archive should hold; headers and padding come on top."""
        self._bytes_max = content_bytes + 2 * BLOCK_BYTES * (files + 4) + _SLACK_BYTES

    def check(self, came: int, out: int, where: str) -> None:
        """Raise CorruptionError where `out` bytes are more than `came` bytes may unfold to."""
        allowed = RATIO_MAX * came + _SLACK_BYTES if self._bytes_max is None else self._bytes_max
        if out > allowed:
            raise CorruptionError(
                f"{where}: {came} bytes unfold to more than {allowed}; this is no backup of ours"
            )


def read_archive(
    file: IO[bytes], where: str, budget: Budget
) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Yield (name, size, chunks) of the files of an archive; the chunks are read before the next file is.

    Raises CorruptionError for whatever is not a plain file with a flat name, and for what grows too much.
    """
    stream = _Stream(_inflated(file, where, budget), where)
    while True:
        header = stream.take(BLOCK_BYTES)
        if not any(header):
            return
        name, size = _parse(header, where)
        yield name, size, stream.chunks(size)
        stream.finish(-size % BLOCK_BYTES)


def _parse(header: bytes, where: str) -> tuple[str, int]:
    total = sum(header) - sum(header[148:156]) + 8 * 32
    stored = _octal(header[148:156])
    if stored != total:
        raise CorruptionError(f"{where}: an archive header fails its checksum")
    raw = header[:100].rstrip(b"\0")
    kind = header[156:157]
    if kind not in (b"0", b"\0"):
        raise CorruptionError(
            f"{where}: {raw[:100]!r} is of type {kind!r}; a backup holds plain files only, no links, "
            "folders or devices"
        )
    if not _FLAT.fullmatch(raw) or b".." in raw or header[345:500].rstrip(b"\0"):
        raise CorruptionError(f"{where}: {raw[:100]!r} is no name of a file in a backup")
    size = header[124:136]
    length = int.from_bytes(size, "big") & (2**88 - 1) if size[0] & 0x80 else _octal(size)
    if length < 0 or length >= 2**63:
        raise CorruptionError(f"{where}: {raw!r} has no usable size")
    return raw.decode("ascii"), length


def _octal(field: bytes) -> int:
    text = field.strip(b" \0")
    return int(text, 8) if re.fullmatch(rb"[0-7]+", text) else -1


def _inflated(file: IO[bytes], where: str, budget: Budget) -> Iterator[bytes]:
    """Chunks of the archive, uncompressed where it is gzip."""
    first = file.read(CHUNK_BYTES)
    if not first.startswith(_GZIP_MAGIC):
        while first:
            yield first
            first = file.read(CHUNK_BYTES)
        return
    inflater = zlib.decompressobj(wbits=31)
    came, out = 0, 0
    while first:
        came += len(first)
        pending = first
        while pending and not inflater.eof:
            try:
                data = inflater.decompress(pending, CHUNK_BYTES)
            except zlib.error as fault:
                raise CorruptionError(f"{where}: gzip: {fault}") from None
            out += len(data)
            budget.check(came, out, where)
            if data:
                yield data
            pending = inflater.unconsumed_tail
        first = b"" if inflater.eof else file.read(CHUNK_BYTES)
    if not inflater.eof:
        raise CorruptionError(f"{where}: gzip: the file ends too early")


class _Stream:
    """Exact numbers of bytes out of chunks of any size."""

    def __init__(self, chunks: Iterator[bytes], where: str) -> None:
        self._chunks = chunks
        self._where = where
        self._held = memoryview(b"")
        self._left = 0

    def take(self, count: int) -> bytes:
        """The next count bytes, few."""
        return b"".join(self._pieces(count))

    def chunks(self, count: int) -> Iterator[bytes]:
        """The next count bytes in pieces."""
        self._left = count
        for piece in self._pieces(count):
            self._left -= len(piece)
            yield bytes(piece)

    def finish(self, padding: int) -> None:
        """Pass over what the reader of `chunks` left, and the padding."""
        for _ in self._pieces(self._left + padding):
            continue
        self._left = 0

    def _pieces(self, count: int) -> Iterator[memoryview]:
        while count:
            if not len(self._held):
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise CorruptionError(f"{self._where}: the archive ends too early")
                self._held = memoryview(chunk)
            piece = self._held[:count]
            self._held = self._held[len(piece) :]
            count -= len(piece)
            yield piece
