"""A RocksDB iterator that is read in chunks and whose end is checked."""

from __future__ import annotations

from rocksdict import RdictIter


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
