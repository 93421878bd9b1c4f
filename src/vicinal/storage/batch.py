"""What one batch changes, as RocksDB takes it, and the keys of the family `meta`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rocksdict import WriteBatch

from vicinal.model.errors import InvalidArgumentError
from vicinal.storage.records import seq_key
from vicinal.storage.rocks import Handles

OWN = b"\x00"
"""Meta keys that begin so are the store's own."""

TRIMMED_KEY = OWN + b"trimmed"
DUE, DUE_END = OWN + b"due:", OWN + b"due;"
"""Before each key of what is due, and behind all of them."""


def meta_key(name: str) -> bytes:
    """The key of a meta value. Raises InvalidArgumentError where it is empty or one of the store's own."""
    key = name.encode()
    if not key or key.startswith(OWN):
        raise InvalidArgumentError(f"meta key {name!r} is empty or begins with a NUL character")
    return key


def fill(
    batch: WriteBatch,
    handles: Handles,
    points: Iterable[tuple[bytes, bytes | None]],
    meta: Mapping[str, bytes | None] | None,
    due: Iterable[tuple[bytes, bytes | None]],
) -> None:
    """Put values, and delete those that are None; see `Store.write`."""
    put, delete = batch.put, batch.delete
    for key, value in points:
        if value is None:
            delete(key, handles.points_family)
        else:
            put(key, value, handles.points_family)
    for name, value in (meta or {}).items():
        if value is None:
            delete(meta_key(name), handles.meta_family)
        else:
            put(meta_key(name), value, handles.meta_family)
    for key, value in due:
        if value is None:
            delete(DUE + key, handles.meta_family)
        else:
            put(DUE + key, value, handles.meta_family)


def trim(batch: WriteBatch, handles: Handles, through: int) -> None:
    """Remove the log records up to this number."""
    # From the first number on, each time: tombstones side by side would never meet in a compaction, and each
    # flush would leave a table, and an open file, for ever.
    batch.delete_range(seq_key(1), seq_key(through + 1), handles.log_family)
    batch.put(TRIMMED_KEY, seq_key(through), handles.meta_family)
