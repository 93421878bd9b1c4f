"""The total order of payload values: booleans, numbers, strings, then all else; null comes last."""

from __future__ import annotations

from typing import Any

_RANKS: dict[type, int] = {bool: 0, int: 1, float: 1, str: 2}
_OTHER = 3


def order_key(value: object, *, descending: bool = False) -> tuple[int, Any]:
    """Return a key that sorts payload values, for merging rows that several indexes sorted.

    Lists, objects and NaN are equal to each other. Null sorts last; pass descending where the sort
    is reversed, so that null comes last there too.
    """
    if value is None:
        return (-1, 0) if descending else (_OTHER + 1, 0)
    rank = _RANKS.get(type(value), _OTHER)
    return (_OTHER, 0) if rank == _OTHER or value != value else (rank, value)
