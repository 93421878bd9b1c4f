"""Literals of filters: which Python values may stand in one, what kind each is, how it is printed.

A literal is a str, int, float, bool or an aware datetime in UTC. Four kinds never equal each
other: keyword (str), number (int and float, compared exactly), bool, instant (datetime).
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import cast
from uuid import UUID

import numpy as np

from vicinal.model.errors import FilterError, LimitError
from vicinal.model.limits import FILTER_NUMBER_CHARS_MAX

Scalar = str | int | float | bool | datetime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT_BOUND = 10 ** (FILTER_NUMBER_CHARS_MAX - 1)


class Kind(Enum):
    """The kinds of comparable values; values of different kinds never compare as true."""

    BOOL = "bool"
    NUMBER = "number"
    KEYWORD = "keyword"
    INSTANT = "instant"


_KINDS: dict[type, Kind] = {
    str: Kind.KEYWORD,
    int: Kind.NUMBER,
    float: Kind.NUMBER,
    bool: Kind.BOOL,
    datetime: Kind.INSTANT,
}


def kind_of(literal: Scalar) -> Kind:
    """Return the kind of a value that `scalar` returned."""
    return _KINDS[type(literal)]


def scalar(value: object) -> Scalar:
    """Return value as a literal, or raise FilterError saying what to write instead.

    NumPy scalars, dates (midnight UTC), naive datetimes (taken as UTC), UUIDs (their text) and
    subclasses of the basic types are turned into the basic types. None is no literal.
    """
    exact = type(value)
    if exact is str or exact is bool:
        return cast("str | bool", value)
    if isinstance(value, np.datetime64):
        value = cast("object", value.astype("datetime64[us]").item())
    if isinstance(value, np.generic) and not isinstance(value, (np.str_, np.float64)):
        value = cast("object", value.item())
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return _checked_int(int.__index__(value))
    if isinstance(value, float):
        return _checked_float(float.__float__(value))
    if isinstance(value, datetime):
        return _in_utc(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, UUID):
        return str(value)
    raise FilterError(_complaint(value))


def instant_us(value: datetime) -> int:
    """Return the microseconds from 1970-01-01T00:00:00Z to value; a naive value is UTC."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - EPOCH) // _MICROSECOND


def instant_of(value: object) -> int | None:
    """Return the instant that a payload value denotes, in microseconds since 1970, or None.

    Instants are strings in the extended ISO 8601 form, `YYYY-MM-DD` with an optional time and
    offset (without an offset: UTC; digits beyond microseconds are dropped), and datetimes.
    """
    if type(value) is str:
        if len(value) < 10 or value[4] != "-" or value[7] != "-":
            return None
        try:
            return instant_us(datetime.fromisoformat(value))
        except ValueError:
            return None
    return instant_us(value) if isinstance(value, datetime) else None


def literal_text(literal: Scalar) -> str:
    """Return the canonical text of a literal; the parser reads the same literal from it."""
    if isinstance(literal, bool):
        return "true" if literal else "false"
    if isinstance(literal, str):
        return "'" + literal.replace("'", "''") + "'"
    if isinstance(literal, int):
        return str(literal)
    if isinstance(literal, float):
        # No number is spelled "inf"; one that overflows reads as infinity.
        return repr(literal) if math.isfinite(literal) else f"{'-' * (literal < 0)}1e999"
    return f"timestamp '{literal.replace(tzinfo=None).isoformat()}Z'"


def _checked_int(value: int) -> int:
    if not -_INT_BOUND < value < _INT_BOUND:
        raise LimitError(
            f"an integer of a filter has over {FILTER_NUMBER_CHARS_MAX - 1} digits; "
            "no payload value is that large, so leave the condition out"
        )
    return value


def _checked_float(value: float) -> float:
    if math.isnan(value):
        raise FilterError("NaN equals nothing and orders with nothing, so it cannot be filtered on")
    return value


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        return datetime.combine(value.date(), value.time(), UTC)
    try:
        moved = value.astimezone(UTC)
    except OverflowError:
        raise FilterError(f"timestamp {value.isoformat()} leaves the years 1 to 9999") from None
    return datetime.combine(moved.date(), moved.time(), UTC)


def _complaint(value: object) -> str:
    if value is None:
        return "null neither equals nor orders with a value here; use is null or is not null"
    name = type(value).__name__
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        return (
            f"a {name} is no single value; "
            "use in for one of several values, contains for an element of a list"
        )
    if isinstance(value, dict):
        return "an object is no single value; name the nested field, as in meta.author"
    return f"a filter cannot compare with a {name}; use str, int, float, bool or datetime"
