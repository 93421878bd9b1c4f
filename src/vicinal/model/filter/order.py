"""The total order of payload values: booleans, numbers, strings, then all else."""

from __future__ import annotations

from typing import Any, cast

_RANKS: dict[type, int] = {bool: 0, int: 1, float: 1, str: 2}
_OTHER = 3


def order_key(value: object) -> tuple[int, Any]:
    """Return a key that sorts payload values, for merging rows that several indexes sorted.

    Lists, objects and NaN are equal to each other. Where null goes does not depend on the direction, so
    the caller places it.
    """
    rank = _RANKS.get(type(value), _OTHER)
    return (_OTHER, 0) if rank == _OTHER or value != value else (rank, value)


def is_order_key(key: object) -> bool:
    """Whether it is what `order_key` returns for some value, so that keys compare with it."""
    if not isinstance(key, tuple):
        return False
    parts = cast("tuple[Any, ...]", key)
    return len(parts) == 2 and (parts == (_OTHER, 0) or order_key(parts[1]) == parts)
