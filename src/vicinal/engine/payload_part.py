"""The values of one kind in one field: sorted, each with its rows. Immutable once built."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from vicinal.engine.payload_bits import Mask, Rows
    from vicinal.model.filter import Scalar

# Sorted distinct values. Arrays of int64 ("q") and float64 ("d") take 8 bytes a value and give
# back Python numbers, so that comparisons with any literal stay exact.
Values = Sequence[Any]

_NO_ROWS = np.zeros(0, np.uint32)
_FLOAT_EXACT_INT = 2**53
_SLICES_MAX = 256


class Part:
    """Distinct values in order; rows[starts[i]:starts[i + 1]] are the rows that have values[i].

    A row stands under several values where its field is a list.
    """

    __slots__ = ("memory_bytes", "rows", "starts", "values")

    def __init__(self, values: Values, starts: npt.NDArray[np.uint32], rows: Rows) -> None:
        self.values = values
        self.starts = starts
        self.rows = rows
        self.memory_bytes = _values_bytes(values) + starts.nbytes + rows.nbytes
        """Bytes of the arrays and of the values themselves."""

    def compare(self, operator: str, literal: Scalar | int) -> Rows:
        """Return the rows whose value compares so with a literal of the same kind."""
        values = cast("Any", self.values)
        low, high = 0, len(values)
        if operator in ("=", ">="):
            low = bisect_left(values, literal)
        if operator == ">":
            low = bisect_right(values, literal)
        if operator in ("=", "<="):
            high = bisect_right(values, literal)
        if operator == "<":
            high = bisect_left(values, literal)
        return self.rows[self.starts[low] : self.starts[high]]

    def between(self, low: Scalar | int, high: Scalar | int) -> Rows:
        """Return the rows with low <= value <= high."""
        values = cast("Any", self.values)
        first, last = bisect_left(values, low), bisect_right(values, high)
        return self.rows[self.starts[first] : self.starts[last]]

    def one_of(self, literals: set[Any]) -> Rows:
        """Return the rows whose value is one of the literals, which are of the same kind."""
        values = cast("Any", self.values)
        if len(literals) * 8 >= len(values):
            return self.codes_rows([i for i, value in enumerate(values) if value in literals])
        codes: list[int] = []
        for literal in literals:
            code = bisect_left(values, literal)
            if code < len(values) and values[code] == literal:
                codes.append(code)
        return self.codes_rows(codes)

    def passing(self, test: Callable[[Any], bool]) -> Rows:
        """Return the rows whose value passes a test, which sees each distinct value once."""
        return self.codes_rows([i for i, value in enumerate(self.values) if test(value)])

    def codes_rows(self, codes: Sequence[int]) -> Rows:
        """Return the rows of the values with these positions."""
        if len(codes) > _SLICES_MAX:
            flags = np.zeros(len(self.values), np.bool_)
            flags[codes] = True
            return self.rows[np.repeat(flags, self.counts)]
        slices = [self.rows[self.starts[code] : self.starts[code + 1]] for code in codes]
        return np.concatenate(slices) if slices else _NO_ROWS

    @property
    def counts(self) -> npt.NDArray[np.uint32]:
        """How many rows each value has."""
        return np.diff(self.starts)

    @property
    def rows_descending(self) -> Rows:
        """The rows by falling value, and by rising row where values are equal."""
        counts = self.counts[::-1].astype(np.int64)
        ends = np.cumsum(counts)
        shifts = self.starts[:-1][::-1].astype(np.int64) - (ends - counts)
        return self.rows[np.repeat(shifts, counts) + np.arange(len(self.rows))]


def _values_bytes(values: Values) -> int:
    if isinstance(values, array):
        return len(values) * values.itemsize
    return sum(map(sys.getsizeof, values)) + 8 * len(values)


def build_part(values: Sequence[Any], rows: Rows) -> Part:
    """Index values[i] under rows[i]; rows rise, values are comparable with each other and no NaN.

    Strings, bools, and numbers: ints and floats that are equal count as one value.
    """
    packed = pack_numbers(values)
    if packed is None:
        distinct = sorted(set(values))
        codes = {value: code for code, value in enumerate(distinct)}
        each = np.fromiter(map(codes.__getitem__, values), np.int64, len(values))
        return _by_code(distinct, each, rows)
    order = np.argsort(packed, kind="stable")
    ordered = packed[order]
    firsts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    starts = np.append(firsts, len(ordered)).astype(np.uint32)
    return Part(_as_array(ordered[firsts]), starts, rows[order])


def pack_numbers(values: Sequence[Any]) -> npt.NDArray[Any] | None:
    """Return values as int64 or float64 where that loses nothing, else None."""
    types = set(map(type, values))
    if types == {int}:
        try:
            return np.array(values, np.int64)
        except OverflowError:
            return None
    if types == {float}:
        return np.array(values, np.float64)
    if types == {int, float}:
        ints = [value for value in values if type(value) is int]
        if min(ints) >= -_FLOAT_EXACT_INT and max(ints) <= _FLOAT_EXACT_INT:
            return np.array(values, np.float64)
    return None


def merge_parts(parts: Iterable[tuple[Part, Mask | None]]) -> Part | None:
    """Merge parts of one kind; a mask over all rows says which of a part's rows still count.

    Returns None where no row is left.
    """
    kept: list[tuple[Part, npt.NDArray[np.int64], Rows]] = []
    for part, live in parts:
        codes = np.repeat(np.arange(len(part.values)), part.counts)
        rows = part.rows
        if live is not None:
            keep = live[rows]
            codes, rows = codes[keep], rows[keep]
        if len(rows):
            kept.append((part, codes, rows))
    if not kept:
        return None
    distinct, maps = _union([part.values for part, _, _ in kept])
    each = np.concatenate([m[codes] for m, (_, codes, _) in zip(maps, kept, strict=True)])
    rows = np.concatenate([rows for _, _, rows in kept])
    order = np.argsort(rows, kind="stable")
    return _by_code(distinct, each[order], rows[order])


def _union(sources: list[Values]) -> tuple[Values, list[npt.NDArray[np.int64]]]:
    """Return the sorted union of the sources, and for each source the positions in it."""
    codes = {source.typecode if isinstance(source, array) else "" for source in sources}
    if len(codes) == 1 and codes != {""}:
        arrays: list[npt.NDArray[Any]] = [np.asarray(source) for source in sources]
        distinct = np.unique(np.concatenate(arrays))
        return _as_array(distinct), [np.searchsorted(distinct, a) for a in arrays]
    merged: set[Any] = set()
    merged.update(*sources)
    values = sorted(merged)
    position = {value: i for i, value in enumerate(values)}
    maps = [np.fromiter(map(position.__getitem__, s), np.int64, len(s)) for s in sources]
    packed = pack_numbers(values)
    return values if packed is None else _as_array(packed), maps


def _by_code(distinct: Values, codes: npt.NDArray[np.int64], rows: Rows) -> Part:
    """Group rising rows by code; values that no row has any more are dropped."""
    counts = np.bincount(codes, minlength=len(distinct))
    small = codes.astype(np.uint16) if len(distinct) <= 1 << 16 else codes  # 16 bits sort by radix
    rows = rows[np.argsort(small, kind="stable")]
    used = np.flatnonzero(counts)
    if len(used) < len(distinct):
        if isinstance(distinct, array):
            distinct = _as_array(np.asarray(distinct)[used])
        else:
            distinct = [distinct[i] for i in used.tolist()]
        counts = counts[used]
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.uint32)
    return Part(distinct, starts, rows)


def _as_array(values: npt.NDArray[Any]) -> Values:
    packed: array[Any] = array("q" if values.dtype.kind == "i" else "d")
    packed.frombytes(values.tobytes())
    return packed
