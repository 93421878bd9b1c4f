"""RocksDB iterators that are read in chunks and whose end is checked."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

from rocksdict import RdictIter

from vicinal.storage.gate import Gate

SCAN_CHUNK = 512
"""Rows that are read before writers and `close` get their turn."""

Row = tuple[bytes, bytes]
"""A key and its value."""


class Cursor:
    """A RocksDB iterator read in chunks. Its end is checked: damage must not look like the end."""

    def __init__(self, cursor: RdictIter, start: bytes | None) -> None:
        self._cursor: RdictIter | None = cursor
        if start is None:
            cursor.seek_to_first()
        else:
            cursor.seek(start)

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """Return the next rows, none at the end; raises what stopped the iterator early."""
        cursor, chunk = self._cursor, list[tuple[bytes, bytes]]()
        if cursor is None:
            return chunk
        try:
            while len(chunk) < count and cursor.valid():
                chunk.append((cursor.key(), cursor.value()))
                cursor.next()
            if not cursor.valid():
                self._cursor = None
                cursor.status()
            return chunk
        finally:
            del cursor  # see Handles

    def drop(self) -> None:
        """Let go of the RocksDB iterator."""
        self._cursor = None


class Cursors:
    """The iterators of one store that are under way.

    gate : kept open while a chunk is read.
    translated : of (what went wrong, what was being done), the error to raise.
    """

    def __init__(self, gate: Gate, translated: Callable[[Exception, str], Exception]) -> None:
        self._gate, self._translated = gate, translated
        self._open: weakref.WeakSet[Cursor] = weakref.WeakSet()

    def add(self, rows: RdictIter, start: bytes | None) -> Cursor:
        """Begin at a key, or at the first."""
        cursor = Cursor(rows, start)
        self._open.add(cursor)
        return cursor

    def chunks(self, cursor: Cursor, doing: str) -> Iterator[list[Row]]:
        """Yield the rows, SCAN_CHUNK at a time."""
        while True:
            with self._gate:
                try:
                    chunk = cursor.take(SCAN_CHUNK)
                except Exception as error:
                    raise self._translated(error, doing) from error
            if not chunk:
                return
            yield chunk

    def rows(self, cursor: Cursor, doing: str) -> Iterator[Row]:
        """Yield the rows."""
        for chunk in self.chunks(cursor, doing):
            yield from chunk

    def drop(self) -> None:
        """Let go of all of them: an iterator that somebody still holds would keep RocksDB open, and its lock."""
        for cursor in self:
            cursor.drop()

    def __iter__(self) -> Iterator[Cursor]:
        return iter(list(self._open))
