"""The meaning of filters: compiles one into a Python function. Indexes must agree with it.

Payload values are of the exact JSON types (dict, list, str, int, float, bool, None), as the store
returns them; any other type matches nothing, except that a datetime is an instant.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from vicinal.model.errors import InternalError
from vicinal.model.filter.ast import (
    And,
    Between,
    Compare,
    Constant,
    Contains,
    Filter,
    In,
    IsNull,
    Leaf,
    Like,
    Not,
    Or,
)
from vicinal.model.filter.literal import Kind, Scalar, instant_of, instant_us, kind_of
from vicinal.model.filter.path import ID_PATH, getter
from vicinal.model.filter.pattern import compile_pattern

PointId = str | int | UUID
Payload = Mapping[str, object]
Predicate = Callable[[Payload, PointId], bool]
Test = Callable[[object], bool]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(where: Filter, payload: Payload, point_id: PointId) -> bool:
    """Return whether a point passes; for many points compile the predicate once."""
    return compile_predicate(where)(payload, point_id)


def compile_predicate(where: Filter) -> Predicate:
    """Return the function (payload, id) -> bool of a filter; thread-safe, holds no state."""
    if isinstance(where, And):
        return _all([compile_predicate(part) for part in where.parts])
    if isinstance(where, Or):
        return _any([compile_predicate(part) for part in where.parts])
    if isinstance(where, Not):
        inner = compile_predicate(where.part)
        return lambda payload, point_id: not inner(payload, point_id)
    if isinstance(where, Constant):
        value = where.value
        return lambda _payload, _id: value
    leaf = cast("Leaf", where)
    test = value_test(leaf)
    if leaf.path == ID_PATH:
        return lambda _payload, point_id: test(id_value(point_id))
    if len(leaf.path) == 1:
        name = leaf.path[0]
        return lambda payload, _id: test(payload.get(name))
    if leaf.path[0] == ID_PATH[0]:  # an id has no parts
        return lambda _payload, _id: test(None)
    get = getter(leaf.path)
    return lambda payload, _id: test(get(payload))


def id_value(point_id: PointId) -> str | int:
    """Return the value that filters on `id` see: a UUID is its text."""
    return str(point_id) if isinstance(point_id, UUID) else point_id


def value_test(leaf: Leaf) -> Test:
    """Return the test of a condition for the whole value of its field, None where missing."""
    if isinstance(leaf, IsNull):
        return lambda value: value is None
    if isinstance(leaf, Contains):
        return _contains(leaf.value)
    test = element_test(leaf)

    def test_any(value: object) -> bool:
        if type(value) is list:
            return any(map(test, cast("list[object]", value)))
        return test(value)

    return test_any


def element_test(leaf: Leaf) -> Test:
    """Return the test of a condition for one value that is no list."""
    if isinstance(leaf, Compare):
        return _comparison(leaf.operator, leaf.value)
    if isinstance(leaf, Between):
        return _between(leaf.low, leaf.high)
    if isinstance(leaf, In):
        return _member(leaf.values)
    if isinstance(leaf, Like):
        like = compile_pattern(leaf.pattern)
        return lambda value: type(value) is str and like(value)
    raise InternalError(f"{type(leaf).__name__} has no test of single elements")


def _all(parts: list[Predicate]) -> Predicate:
    if len(parts) == 2:
        first, second = parts
        return lambda payload, point_id: first(payload, point_id) and second(payload, point_id)

    def every(payload: Payload, point_id: PointId) -> bool:
        for part in parts:  # noqa: SIM110 (a generator would double the time)
            if not part(payload, point_id):
                return False
        return True

    return every


def _any(parts: list[Predicate]) -> Predicate:
    if len(parts) == 2:
        first, second = parts
        return lambda payload, point_id: first(payload, point_id) or second(payload, point_id)

    def some(payload: Payload, point_id: PointId) -> bool:
        for part in parts:  # noqa: SIM110 (a generator would double the time)
            if part(payload, point_id):
                return True
        return False

    return some


def _comparison(symbol: str, literal: Scalar) -> Test:
    compare = _COMPARE[symbol]
    kind = kind_of(literal)
    if kind is Kind.KEYWORD:
        return lambda value: type(value) is str and compare(value, literal)
    if kind is Kind.BOOL:
        return lambda value: type(value) is bool and compare(value, literal)
    if kind is Kind.NUMBER:
        return lambda value: (
            (type(value) is int or type(value) is float) and compare(value, literal)
        )
    wanted = _instant(literal)

    def test(value: object) -> bool:
        instant = instant_of(value)
        return instant is not None and compare(instant, wanted)

    return test


def _between(low: Scalar, high: Scalar) -> Test:
    above, below = _comparison(">=", low), _comparison("<=", high)
    return lambda value: above(value) and below(value)


def _member(values: tuple[Scalar, ...]) -> Test:
    # Sets per kind: in one set 1, 1.0 and True would be the same value.
    by_kind: dict[Kind, set[Scalar]] = {kind: set() for kind in Kind}
    for value in values:
        by_kind[kind_of(value)].add(value)
    sets: dict[type, set[Scalar]] = {
        str: by_kind[Kind.KEYWORD],
        bool: by_kind[Kind.BOOL],
        int: by_kind[Kind.NUMBER],
        float: by_kind[Kind.NUMBER],
    }
    nothing: set[Scalar] = set()

    def test(value: object) -> bool:
        found = sets.get(type(value), nothing)
        return bool(found) and value in found

    if not by_kind[Kind.INSTANT]:
        return test
    instants = {_instant(value) for value in by_kind[Kind.INSTANT]}
    return lambda value: test(value) or instant_of(value) in instants


def _contains(literal: Scalar) -> Test:
    equal = _comparison("=", literal)
    if type(literal) is not str:
        return lambda value: type(value) is list and any(map(equal, cast("list[object]", value)))

    def test(value: object) -> bool:
        if type(value) is str:
            return literal in value
        return type(value) is list and literal in cast("list[object]", value)

    return test


def _instant(literal: Scalar) -> int:
    if isinstance(literal, datetime):
        return instant_us(literal)
    raise InternalError(f"{literal!r} is no instant")
