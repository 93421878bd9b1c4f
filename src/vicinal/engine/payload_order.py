"""The total order of payload values, for order_by: booleans, numbers, text, lists, objects; then points without a value.

False comes before True, numbers compare exactly across int and float, text by code point, lists and objects by their JSON
text. NaN counts as no value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

OrderKey: TypeAlias = tuple[int, Any]


def order_key(value: object) -> OrderKey | None:
    """The sort key of a payload value; None where there is no value to sort by."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return (1, value)
    if isinstance(value, int | float):
        return (2, value)
    if isinstance(value, str):
        return (3, value)
    kind = 4 if isinstance(value, list) else 5
    return (kind, msgspec.json.encode(value, order="sorted").decode())


class Ordering:
    """All rows of a segment in the order of one field, ascending and descending; ties by row."""

    __slots__ = ("ascending", "descending")

    def __init__(self, values: Iterable[object]) -> None:
        keys = [order_key(value) for value in values]
        missing = [row for row, key in enumerate(keys) if key is None]
        present = [row for row, key in enumerate(keys) if key is not None]
        present.sort(key=keys.__getitem__)  # pyright: ignore[reportArgumentType]
        self.ascending = np.array(present + missing, dtype=np.int64)
        # A stable sort keeps equal keys in row order, reverse=True too.
        falling = sorted(sorted(present), key=keys.__getitem__, reverse=True)  # pyright: ignore[reportArgumentType]
        self.descending = np.array(falling + missing, dtype=np.int64)

    def take(self, rows: BitMap, *, descending: bool) -> npt.NDArray[np.int64]:
        """The given rows in this order."""
        order = self.descending if descending else self.ascending
        wanted = np.zeros(len(order), dtype=bool)
        wanted[np.asarray(rows.to_array(), dtype=np.int64)] = True
        return order[wanted[order]]
