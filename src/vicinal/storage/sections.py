"""The one container for segment files: named arrays, each byte under a checksum.

A file appears under its name only when it is whole and on the disk. Arrays are read through a
read-only memory map; checking goes through `pread` instead, because a bad sector then is an error
and not a SIGBUS.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from vicinal.model.errors import ClosedError, CorruptionError, InvalidArgumentError
from vicinal.storage.checksum import crc32c
from vicinal.storage.files import (
    REAL,
    FileSystem,
    opened,
    os_errors,
    read_at,
    remove_quietly,
    write_at,
)
from vicinal.storage.section_header import (
    BLOCK_BYTES,
    PRELUDE_BYTES,
    REMEDY,
    Header,
    Section,
    decode_header,
    decode_prelude,
    encode_header,
    plan,
)

TEMPORARY_SUFFIX = ".tmp"


@dataclass(frozen=True)
class Chunks:
    """An array that is too large to hold: its dtype, its shape, and its pieces in order.

    The pieces must have the dtype and, one after the other, as many elements as the shape.
    """

    dtype: npt.DTypeLike
    shape: tuple[int, ...]
    arrays: Iterable[npt.NDArray[Any]]


def write_sections(
    path: Path | str,
    kind: str,
    sections: Mapping[str, npt.NDArray[Any] | Chunks],
    meta: Mapping[str, Any],
    *,
    fs: FileSystem = REAL,
) -> None:
    """Write a section file, replacing one of that name; on return it is on the disk.

    Parameters
    ----------
    kind : what the file is, checked when it is opened.
    sections : arrays of little-endian bool, int, uint or float, at most 8 axes; any layout, stored
        in C order.
    meta : anything msgspec writes as MessagePack; comes back as plain dicts, lists, numbers and
        strings.

    Raises
    ------
    InvalidArgumentError : a dtype that cannot be stored, or chunks that are not what they announce.
    LimitError : too many sections or axes, or meta too large.
    StorageError : the operating system refused; nothing is left behind and an old file stays as it
        was.
    """
    path = Path(path)
    described = [(name, np.dtype(s.dtype), tuple(s.shape)) for name, s in sections.items()]
    header, region = plan(kind, described, dict(meta))
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with os_errors(f"writing {path}"):
        try:
            with opened(fs, fs.open_write(temporary, truncate=True)) as fd:
                fs.fallocate(fd, header.file_bytes)
                table = bytearray()
                for section, source in zip(header.sections, sections.values(), strict=True):
                    table += _write_section(fs, fd, section, source)
                write_at(fs, fd, table, header.table_offset)
                # Last, so that a file without a valid header is recognised as unfinished.
                write_at(fs, fd, encode_header(header, region, crc32c(table)), 0)
                fs.fsync(fd)
            fs.rename(temporary, path)
        except BaseException:
            remove_quietly(fs, temporary)
            raise
        fs.fsync_dir(path.parent)


def open_sections(
    path: Path | str, kind: str, *, verify: bool = True, fs: FileSystem = REAL
) -> Sections:
    """Open a section file.

    Parameters
    ----------
    kind : what it must be.
    verify : check every byte now; otherwise only the header, and `Sections.verify` may follow.

    Raises
    ------
    CorruptionError : a checksum, size or kind is wrong; names the file, the section and the block.
    FormatVersionError : written by a newer version.
    StorageError : the operating system refused.
    """
    path = Path(path)
    with os_errors(f"opening {path}"):
        fd = fs.open_read(path)
        try:
            header, table = _read_header(fs, fd, path)
            if header.kind != kind:
                raise CorruptionError(f"{path}: holds {header.kind!r}, expected {kind!r}{REMEDY}")
            opened_file = Sections(fs, fd, path, header, table)
        except BaseException:
            fs.close(fd)
            raise
    if verify:
        try:
            opened_file.verify()
        except BaseException:
            opened_file.close()
            raise
    return opened_file


class Sections:
    """An open section file; arrays stay valid after `close`, as long as they are referenced."""

    def __init__(
        self, fs: FileSystem, fd: int, path: Path, header: Header, table: npt.NDArray[np.uint32]
    ) -> None:
        self.path = path
        self._fs = fs
        self._fd: int | None = fd
        self._header = header
        self._table = table
        self._sections = {section.name: section for section in header.sections}
        self._map: mmap.mmap | None = mmap.mmap(fd, header.file_bytes, access=mmap.ACCESS_READ)

    @property
    def kind(self) -> str:
        """What the file is."""
        return self._header.kind

    @property
    def meta(self) -> dict[str, Any]:
        """The meta it was written with."""
        return self._header.meta

    @property
    def names(self) -> list[str]:
        """Section names in file order."""
        return list(self._sections)

    @property
    def file_bytes(self) -> int:
        """Length of the file in bytes."""
        return self._header.file_bytes

    def __contains__(self, name: object) -> bool:
        return name in self._sections

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Return a section as a read-only array over the memory map, 4096-aligned; not copied.

        Raises CorruptionError where the file has no such section, ClosedError after `close`.
        """
        mapped = self._map
        if mapped is None:
            raise ClosedError(f"{self.path} is closed; open it again")
        section = self._sections.get(name)
        if section is None:
            raise CorruptionError(
                f"{self.path}: has no section {name!r}, only {self.names}{REMEDY}"
            )
        if section.nbytes == 0:
            empty = np.empty(section.shape, section.dtype)
            empty.flags.writeable = False
            return empty
        return np.ndarray(section.shape, section.dtype, buffer=mapped, offset=section.offset)

    def verify(self) -> None:
        """Read the whole file and check each block.

        Raises CorruptionError naming the file, the section and the block, StorageError where the
        disk cannot read it.
        """
        fd = self._fd
        if fd is None:
            raise ClosedError(f"{self.path} is closed; open it again")
        buffer = memoryview(bytearray(BLOCK_BYTES))
        row = 0
        with os_errors(f"reading {self.path}"):
            for section in self._header.sections:
                for block, offset in enumerate(range(section.offset, section.end, BLOCK_BYTES)):
                    view = buffer[: min(BLOCK_BYTES, section.end - offset)]
                    came = read_at(self._fs, fd, view, offset)
                    if came != len(view) or crc32c(view) != int(self._table[row]):
                        raise CorruptionError(
                            f"{self.path}: section {section.name!r}, block {block} (bytes "
                            f"{offset} to "
                            f"{offset + len(view)}) fails its checksum{REMEDY}"
                        )
                    row += 1

    def close(self) -> None:
        """Close the file; arrays taken from it stay valid. Again does nothing."""
        fd, self._fd, self._map = self._fd, None, None
        if fd is not None:
            self._fs.close(fd)

    def __enter__(self) -> Sections:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def _write_section(
    fs: FileSystem, fd: int, section: Section, source: npt.NDArray[Any] | Chunks
) -> bytes:
    """Write one section with its padding; return its part of the block table."""
    blocks = _BlockSums()
    offset = section.offset
    arrays = source.arrays if isinstance(source, Chunks) else (source,)
    for array in arrays:
        if array.dtype != section.dtype:
            raise InvalidArgumentError(
                f"section {section.name!r}: a chunk has dtype {array.dtype}, announced is "
                f"{section.dtype}"
            )
        if offset + array.nbytes > section.offset + section.nbytes:
            raise InvalidArgumentError(
                f"section {section.name!r}: the chunks hold more than the announced shape "
                f"{section.shape}"
            )
        if array.nbytes:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            blocks.add(data)
            offset = write_at(fs, fd, data, offset)
    if offset != section.offset + section.nbytes:
        raise InvalidArgumentError(
            f"section {section.name!r}: the chunks hold {offset - section.offset} bytes, the "
            "announced "
            f"shape {section.shape} needs {section.nbytes}"
        )
    padding = bytes(section.end - offset)
    blocks.add(memoryview(padding))
    write_at(fs, fd, padding, offset)
    return blocks.table()


class _BlockSums:
    """CRC-32C per 1 MiB of a stream that comes in pieces of any size."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._crc = 0
        self._filled = 0

    def add(self, data: memoryview) -> None:
        while len(data):
            piece = data[: BLOCK_BYTES - self._filled]
            self._crc = crc32c(piece, self._crc)
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == BLOCK_BYTES:
                self._finish()

    def table(self) -> bytes:
        if self._filled:
            self._finish()
        return np.array(self._done, dtype="<u4").tobytes()

    def _finish(self) -> None:
        self._done.append(self._crc)
        self._crc = self._filled = 0


def _read_header(fs: FileSystem, fd: int, path: Path) -> tuple[Header, npt.NDArray[np.uint32]]:
    file_bytes = fs.size(fd)
    region, body_bytes, region_crc = decode_prelude(
        path, _read(fs, fd, 0, min(PRELUDE_BYTES, file_bytes), path), file_bytes
    )
    raw = _read(fs, fd, 0, region, path)
    header = decode_header(path, raw, body_bytes, region_crc, file_bytes)
    table = _read(fs, fd, header.table_offset, file_bytes - header.table_offset, path)
    if crc32c(table) != header.table_crc:
        raise CorruptionError(f"{path}: the block table fails its checksum{REMEDY}")
    return header, np.frombuffer(table, dtype="<u4")


def _read(fs: FileSystem, fd: int, offset: int, n_bytes: int, path: Path) -> bytes:
    """Read exactly n_bytes, which the caller has compared with the length of the file."""
    buffer = bytearray(n_bytes)
    if read_at(fs, fd, memoryview(buffer), offset) != n_bytes:
        raise CorruptionError(f"{path}: ends before byte {offset + n_bytes}{REMEDY}")
    return bytes(buffer)
