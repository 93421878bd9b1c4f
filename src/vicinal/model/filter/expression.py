"""The Python front door of filters: `(F.year >= 2020) & F.tags.contains("new")`.

`F.name` and `F["name"]` name a field; both chain into nested objects, and `F.tags[0]` into a list.
Comparisons give an Expression; combine those with &, | and ~, each side in parentheses. A field
whose name is a method here (in_, between, like, contains, is_null) is reached with F["like"].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from vicinal.model.errors import FilterError
from vicinal.model.filter.ast import (
    Between,
    Compare,
    Contains,
    Filter,
    IsNull,
    Like,
    all_of,
    any_of,
    equals,
    negate,
    one_of,
)
from vicinal.model.filter.literal import Scalar, scalar
from vicinal.model.filter.path import Path, check_path, path_text, split_path


class Expression:
    """A filter under construction in Python; `.filter` is its syntax tree."""

    __slots__ = ("filter",)

    def __init__(self, where: Filter) -> None:
        self.filter = where

    def __and__(self, other: Expression | Filter) -> Expression:
        return Expression(all_of([self.filter, _operand(other)]))

    def __rand__(self, other: Filter) -> Expression:
        return Expression(all_of([_operand(other), self.filter]))

    def __or__(self, other: Expression | Filter) -> Expression:
        return Expression(any_of([self.filter, _operand(other)]))

    def __ror__(self, other: Filter) -> Expression:
        return Expression(any_of([_operand(other), self.filter]))

    def __invert__(self) -> Expression:
        return Expression(negate(self.filter))

    def __bool__(self) -> NoReturn:
        raise FilterError(
            f"the filter ({self.filter}) is neither true nor false by itself; combine filters with "
            "&, | and ~ instead of and, or and not, put each comparison in parentheses, and write "
            "a chain such as 1 < F.x < 5 as (F.x > 1) & (F.x < 5)"
        )

    def __repr__(self) -> str:
        return f"<filter {self.filter}>"


class Field:
    """A field of the payload, or of an object nested in it."""

    __slots__ = ("_path",)
    __iter__ = None  # indexing would otherwise make a field look like an endless sequence

    def __init__(self, path: Path) -> None:
        self._path = check_path(path)

    def __getattr__(self, name: str) -> Field:
        segment = _attribute(name)  # first, since a half-made copy has no path yet
        return Field((*self._path, segment))

    def __getitem__(self, key: str | int) -> Field:
        return Field((*self._path, *_item(key)))

    def __eq__(self, other: object) -> Expression:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Expression(equals(self._path, _value(other)))

    def __ne__(self, other: object) -> Expression:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Expression(negate(equals(self._path, _value(other))))

    def __lt__(self, other: object) -> Expression:
        return Expression(Compare(self._path, "<", scalar(_value(other))))

    def __le__(self, other: object) -> Expression:
        return Expression(Compare(self._path, "<=", scalar(_value(other))))

    def __gt__(self, other: object) -> Expression:
        return Expression(Compare(self._path, ">", scalar(_value(other))))

    def __ge__(self, other: object) -> Expression:
        return Expression(Compare(self._path, ">=", scalar(_value(other))))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def in_(self, values: Iterable[object]) -> Expression:
        """Return the filter that the field equals one of values; a None among them means null."""
        if isinstance(values, (str, bytes)):
            raise FilterError(f"in_ takes a list of values, not the string {values!r}")
        return Expression(one_of(self._path, values))

    def between(self, low: Scalar, high: Scalar) -> Expression:
        """Return the filter low <= field <= high."""
        return Expression(Between(self._path, low, high))

    def like(self, pattern: str) -> Expression:
        r"""Return the filter that the string matches; % is any run, _ one character, \ escapes."""
        return Expression(Like(self._path, pattern))

    def contains(self, value: Scalar) -> Expression:
        """Return the filter that the list has the element, or the string the substring."""
        return Expression(Contains(self._path, value))

    def is_null(self) -> Expression:
        """Return the filter that the field is missing or null; ~ turns it round."""
        return Expression(IsNull(self._path))

    def __contains__(self, value: object) -> NoReturn:
        raise FilterError(
            f"`in` cannot build a filter; write F.{path_text(self._path)}.contains(...)"
        )

    def __bool__(self) -> NoReturn:
        raise FilterError(
            f"field {path_text(self._path)} is no condition by itself; compare it, as in "
            f"F.{path_text(self._path)} == True"
        )

    def __repr__(self) -> str:
        return f"<field {path_text(self._path)}>"


class Fields:
    """The start of every expression: see `F`."""

    __slots__ = ()
    __iter__ = None

    def __getattr__(self, name: str) -> Field:
        return Field((_attribute(name),))

    def __getitem__(self, path: str) -> Field:
        return Field(split_path(path))

    def __repr__(self) -> str:
        return "F"


F = Fields()


def _attribute(name: str) -> str:
    # Dunder look-ups come from copy, pickle and inspection, which must not find a field.
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(name)
    return name


def _item(key: str | int) -> Path:
    if isinstance(key, str):
        return split_path(key)
    if key < 0:
        raise FilterError(f"index {key} counts from the end; lists are indexed from 0")
    return (str(key),)


def _value(other: object) -> object:
    if isinstance(other, (Field, Expression)):
        raise FilterError(f"a field compares with values only, not with {other!r}")
    return other


def _operand(other: object) -> Filter:
    if isinstance(other, Expression):
        return other.filter
    if isinstance(other, Filter):
        return other
    raise FilterError(
        f"& and | combine filters, not {other!r}; put each comparison in parentheses, "
        "as in (F.a == 1) & (F.b == 2)"
    )
