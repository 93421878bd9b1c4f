"""What a snapshot or backup is, in few words."""

from __future__ import annotations

import msgspec


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot or backup: where it is, when it was taken (UTC, ISO 8601), points of each collection, and its size."""

    name: str
    path: str
    created: str
    collections: dict[str, int]
    files: int
    bytes: int
