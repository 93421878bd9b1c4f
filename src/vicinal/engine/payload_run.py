"""The values of one field over a set of rows: what a field index is made of. Immutable once built.

A field index is a list of runs over disjoint rows, as in a log-structured merge tree: appended and
changed rows make a small run, and runs of like size are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from vicinal.engine.payload_bits import Mask, Rows, bitmap_of_rows
from vicinal.engine.payload_part import Part, build_part, merge_parts
from vicinal.model.errors import InternalError
from vicinal.model.filter import Between, Compare, Contains, In, IsNull, Leaf, Like
from vicinal.model.filter.literal import Kind, Scalar, instant_of, instant_us, kind_of
from vicinal.model.filter.pattern import compile_pattern

_KIND_OF_TYPE: dict[type, Kind] = {
    bool: Kind.BOOL,
    int: Kind.NUMBER,
    float: Kind.NUMBER,
    str: Kind.KEYWORD,
}
_ORDER = (Kind.BOOL, Kind.NUMBER, Kind.KEYWORD)
_NO_ROWS = np.zeros(0, np.uint32)


class Run:
    """An index of one field over the rows `covers`.

    parts : the values by kind, elements of lists among them. nulls, lists : the rows whose value
    is missing or null, and is a list. stamps : (row, microseconds) of datetime objects.
    """

    def __init__(
        self,
        covers: BitMap,
        parts: dict[Kind, Part],
        nulls: BitMap,
        lists: BitMap,
        stamps: tuple[tuple[int, int], ...],
    ) -> None:
        self.covers = covers
        self.parts = parts
        self.nulls = nulls
        self.lists = lists
        self.stamps = stamps

    def select(self, leaf: Leaf, n: int) -> BitMap:
        """Return the covered rows, all below n, that pass a condition; not to be changed."""
        if isinstance(leaf, IsNull):
            return self.nulls
        if isinstance(leaf, Contains):
            return self._containing(leaf.value, n)
        if isinstance(leaf, Compare):
            kind, value = kind_of(leaf.value), _key(leaf.value)
            rows = self._rows(kind, lambda part: part.compare(leaf.operator, value))
        elif isinstance(leaf, Between):
            low, high = _key(leaf.low), _key(leaf.high)
            rows = self._rows(kind_of(leaf.low), lambda part: part.between(low, high))
        elif isinstance(leaf, In):
            rows = self._member_rows(leaf.values)
        elif isinstance(leaf, Like):  # pyright: ignore[reportUnnecessaryIsInstance]
            test = compile_pattern(leaf.pattern)
            rows = self._rows(Kind.KEYWORD, lambda part: part.passing(test))
        else:
            raise InternalError(f"no index for {type(leaf).__name__}")
        return bitmap_of_rows(rows, n)

    def part(self, kind: Kind) -> Part | None:
        """Return the values of a kind; instants are derived from the strings when first needed."""
        return self._instants if kind is Kind.INSTANT else self.parts.get(kind)

    @cached_property
    def _instants(self) -> Part | None:
        values: list[int] = [instant for _, instant in self.stamps]
        rows: list[Rows] = [np.array([row for row, _ in self.stamps], np.uint32)]
        keywords = self.parts.get(Kind.KEYWORD)
        if keywords is not None:
            starts = keywords.starts.tolist()
            for code, keyword in enumerate(keywords.values):
                instant = instant_of(keyword)
                if instant is not None:
                    first, last = starts[code], starts[code + 1]
                    values += [instant] * (last - first)
                    rows.append(keywords.rows[first:last])
        all_rows = np.concatenate(rows)
        return build_part(values, all_rows) if values else None

    @cached_property
    def ascending(self) -> Rows:
        """The covered rows that are not null, by value in the total order, then by row."""
        scalars = [part.rows for part in self._scalar_parts()]
        return np.concatenate([*map(self._without_lists, scalars), self._others])

    @cached_property
    def descending(self) -> Rows:
        """The covered rows that are not null, by falling value, then by rising row."""
        scalars = [part.rows_descending for part in reversed(self._scalar_parts())]
        return np.concatenate([self._others, *map(self._without_lists, scalars)])

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parts; bitmaps are counted as serialised."""
        parts = [*self.parts.values()]
        instants = cast("Part | None", self.__dict__.get("_instants"))
        if instants is not None:
            parts.append(instants)
        orders = [self.__dict__.get(name) for name in ("ascending", "descending")]
        return (
            self._bitmap_bytes
            + sum(part.memory_bytes for part in parts)
            + sum(order.nbytes for order in orders if order is not None)
        )

    @cached_property
    def _bitmap_bytes(self) -> int:
        return sum(len(bitmap.serialize()) for bitmap in (self.covers, self.nulls, self.lists))

    def _rows(self, kind: Kind, select: Callable[[Part], Rows]) -> Rows:
        part = self.part(kind)
        return _NO_ROWS if part is None else select(part)

    def _member_rows(self, values: tuple[Scalar, ...]) -> Rows:
        by_kind: dict[Kind, set[Any]] = {}
        for value in values:
            by_kind.setdefault(kind_of(value), set()).add(_key(value))
        found = [
            self._rows(kind, lambda part, wanted=wanted: part.one_of(wanted))
            for kind, wanted in by_kind.items()
        ]
        return np.concatenate(found) if found else _NO_ROWS

    def _containing(self, value: Scalar, n: int) -> BitMap:
        kind, key = kind_of(value), _key(value)
        equal = self._rows(kind, lambda part: part.compare("=", key))
        elements = bitmap_of_rows(equal, n) & self.lists
        if not isinstance(value, str):
            return elements
        holding = self._rows(kind, lambda part: part.passing(lambda text: value in text))
        return elements | (bitmap_of_rows(holding, n) - self.lists)

    def _scalar_parts(self) -> list[Part]:
        return [self.parts[kind] for kind in _ORDER if kind in self.parts]

    def _without_lists(self, rows: Rows) -> Rows:
        if not self.lists or not len(rows):
            return rows
        listed = np.zeros(self.covers.max() + 1, np.bool_)
        listed[np.array(self.lists.to_array(), np.int64)] = True
        return rows[~listed[rows]]

    @cached_property
    def _others(self) -> Rows:
        """The rows whose value is a list, an object, NaN or of no known kind, rising."""
        rest = self.covers - self.nulls
        n = self.covers.max() + 1 if self.covers else 0
        for part in self._scalar_parts():
            rest -= bitmap_of_rows(part.rows, n)
        return np.array((rest | self.lists).to_array(), np.uint32)


def build_run(rows: Rows, values: Sequence[object]) -> Run:
    """Index values[i] under rows[i]. rows : (m,) uint32, rising; values : None where missing."""
    covers = _bitmap(rows)
    nulls = lists = BitMap()
    entries, entry_rows = values, rows
    types = set(map(type, values))
    if list in types:
        entries, entry_rows, lists = _with_elements(values, rows)
        types |= set(map(type, entries))
    if type(None) in types:
        nulls = _bitmap(_pick(rows, [value is None for value in values]))
    parts: dict[Kind, Part] = {}
    for kind in _ORDER:
        of_kind = {each for each in types if _KIND_OF_TYPE.get(each) is kind}
        if of_kind:
            part = _part_of_types(entries, entry_rows, of_kind, whole=of_kind == types)
            if part is not None:
                parts[kind] = part
    stamps: list[tuple[int, int]] = []
    if any(issubclass(each, datetime) for each in types):
        for row, value in zip(entry_rows.tolist(), entries, strict=True):
            if isinstance(value, datetime):
                stamps.append((row, instant_us(value)))
    return Run(covers, parts, nulls, lists, tuple(stamps))


def merge_runs(runs: Sequence[tuple[Run, BitMap]]) -> Run:
    """Merge runs, each with the rows of it that do not count any more."""
    covers, nulls, lists = BitMap(), BitMap(), BitMap()
    stamps: list[tuple[int, int]] = []
    masks: list[Mask | None] = []
    for run, dead in runs:
        covers |= run.covers - dead
        nulls |= run.nulls - dead
        lists |= run.lists - dead
        stamps += [stamp for stamp in run.stamps if stamp[0] not in dead]
        masks.append(_live_mask(run, dead) if dead else None)
    parts: dict[Kind, Part] = {}
    for kind in _ORDER:
        pairs = [
            (run.parts[kind], mask)
            for (run, _), mask in zip(runs, masks, strict=True)
            if kind in run.parts
        ]
        merged = merge_parts(pairs) if pairs else None
        if merged is not None:
            parts[kind] = merged
    return Run(covers, parts, nulls, lists, tuple(stamps))


def _part_of_types(
    values: Sequence[object], rows: Rows, types: set[type], *, whole: bool
) -> Part | None:
    """Index the values of these types; NaN matches nothing, so it is in no part."""
    if not whole:
        chosen = [type(value) in types for value in values]
        rows = _pick(rows, chosen)
        values = [value for value, keep in zip(values, chosen, strict=True) if keep]
    if float in types and any([value != value for value in values]):  # noqa: C419
        chosen = [value == value for value in values]
        rows = _pick(rows, chosen)
        values = [value for value, keep in zip(values, chosen, strict=True) if keep]
    return build_part(values, rows) if values else None


def _with_elements(values: Sequence[object], rows: Rows) -> tuple[list[object], Rows, BitMap]:
    """Return the values with lists replaced by their elements, their rows, and the list rows."""
    entries: list[object] = []
    entry_rows: list[int] = []
    listed: list[int] = []
    for row, value in zip(rows.tolist(), values, strict=True):
        if type(value) is list:
            elements = cast("list[object]", value)
            entries += elements
            entry_rows += [row] * len(elements)
            listed.append(row)
        else:
            entries.append(value)
            entry_rows.append(row)
    return entries, np.array(entry_rows, np.uint32), BitMap(listed)


def _key(literal: Scalar) -> Scalar | int:
    """Return what parts hold for a literal: an instant is in microseconds."""
    return instant_us(literal) if isinstance(literal, datetime) else literal


def _pick(rows: Rows, chosen: list[bool]) -> Rows:
    return rows[np.array(chosen, np.bool_)]


def _bitmap(rows: npt.NDArray[np.uint32]) -> BitMap:
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        return BitMap(range(int(rows[0]), int(rows[-1]) + 1))
    return bitmap_of_rows(rows, int(rows[-1]) + 1 if len(rows) else 0)


def _live_mask(run: Run, dead: BitMap) -> Mask:
    mask = np.ones(run.covers.max() + 1, np.bool_)
    mask[np.array(dead.to_array(), np.int64)] = False
    return mask
