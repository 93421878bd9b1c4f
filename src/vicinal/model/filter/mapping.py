"""The dict front door of filters: the operators of document stores.

    {"year": {"$gte": 2020}, "$or": [{"lang": "en"}, {"tags": {"$contains": "new"}}]}

A key is a field path or one of $and, $or, $nor, $not; several keys must all hold. A plain value
means equality, None means null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

from vicinal.model.errors import FilterError, LimitError
from vicinal.model.filter.ast import (
    Between,
    Compare,
    Contains,
    Filter,
    IsNull,
    Like,
    Operator,
    all_of,
    any_of,
    equals,
    negate,
    one_of,
    too_deep,
)
from vicinal.model.filter.literal import scalar
from vicinal.model.filter.path import Path, path_text, split_path
from vicinal.model.limits import FILTER_DEPTH_MAX


def from_mapping(where: Mapping[str, object]) -> Filter:
    """Compile a dict filter; an empty one passes every point.

    Raises
    ------
    FilterError : an unknown operator, or an operand of the wrong form.
    LimitError : the filter is deeper or larger than `vicinal.model.limits` allows.
    """
    return _document(where, 1)


def _document(where: Mapping[str, object], depth: int) -> Filter:
    if depth > FILTER_DEPTH_MAX:
        raise LimitError(too_deep(depth))
    parts: list[Filter] = []
    for key, operand in where.items():
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise FilterError(f"a key of a dict filter is a field or an operator, not {key!r}")
        if key == "$not":
            parts.append(negate(_document(_mapping("$not", operand), depth + 1)))
        elif key in _CONNECTIVES:
            parts.append(_CONNECTIVES[key](_documents(key, operand, depth + 1)))
        elif key.startswith("$"):
            raise FilterError(
                f"unknown operator {key!r}; known beside fields are "
                f"$not, {', '.join(_CONNECTIVES)}, and under a field {', '.join(_OPERATORS)}, $not"
            )
        else:
            parts.append(_field(split_path(key), operand, depth + 1))
    return all_of(parts)


def _documents(name: str, operand: object, depth: int) -> list[Filter]:
    if not isinstance(operand, (list, tuple)) or not operand:
        raise FilterError(f"{name} takes a list of one or more filters, not {operand!r}")
    items = cast("Iterable[object]", operand)
    return [_document(_mapping(name, item), depth) for item in items]


def _mapping(name: str, operand: object) -> Mapping[str, object]:
    if not isinstance(operand, Mapping):
        raise FilterError(f"{name} takes a dict filter, not {operand!r}")
    return cast("Mapping[str, object]", operand)


def _field(path: Path, operand: object, depth: int) -> Filter:
    if depth > FILTER_DEPTH_MAX:
        raise LimitError(too_deep(depth))
    if isinstance(operand, (list, tuple, set, frozenset)):
        raise FilterError(
            f"field {path_text(path)} is given a plain list; write {{'$in': [...]}} for one of "
            "several values, {'$contains': value} for an element"
        )
    if not isinstance(operand, Mapping):
        return equals(path, operand)
    parts: list[Filter] = []
    for name, value in cast("Mapping[object, object]", operand).items():
        if name == "$not":
            parts.append(negate(_field(path, _mapping("$not", value), depth + 1)))
        elif isinstance(name, str) and name in _OPERATORS:
            parts.append(_OPERATORS[name](path, value))
        elif isinstance(name, str) and not name.startswith("$"):
            raise FilterError(
                f"field {path_text(path)} is compared with an object; to filter a nested field "
                f"write {path_text((*path, name))!r} as the key"
            )
        else:
            raise FilterError(
                f"unknown operator {name!r} under field {path_text(path)}; known are "
                f"{', '.join(_OPERATORS)}, $not"
            )
    if not parts:
        raise FilterError(f"field {path_text(path)} is given an empty dict; name an operator")
    return all_of(parts)


def _comparison(operator: Operator) -> Callable[[Path, object], Filter]:
    return lambda path, value: Compare(path, operator, scalar(value))


def _in(path: Path, values: object) -> Filter:
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise FilterError(f"$in and $nin under {path_text(path)} take a list, not {values!r}")
    return one_of(path, cast("Iterable[object]", values))


def _between(path: Path, bounds: object) -> Filter:
    if not isinstance(bounds, (list, tuple)) or len(cast("list[object]", bounds)) != 2:
        raise FilterError(f"$between under {path_text(path)} takes [low, high], not {bounds!r}")
    low, high = cast("list[object]", bounds)
    return Between(path, scalar(low), scalar(high))


def _like(path: Path, pattern: object) -> Filter:
    if not isinstance(pattern, str):
        raise FilterError(f"$like under {path_text(path)} takes a string, not {pattern!r}")
    return Like(path, pattern)


def _exists(path: Path, wanted: object) -> Filter:
    if not isinstance(wanted, bool):
        raise FilterError(f"$exists under {path_text(path)} takes true or false, not {wanted!r}")
    return negate(IsNull(path)) if wanted else IsNull(path)


_CONNECTIVES: dict[str, Callable[[list[Filter]], Filter]] = {
    "$and": all_of,
    "$or": any_of,
    "$nor": lambda parts: negate(any_of(parts)),
}

_OPERATORS: dict[str, Callable[[Path, object], Filter]] = {
    "$eq": equals,
    "$ne": lambda path, value: negate(equals(path, value)),
    "$gt": _comparison(">"),
    "$gte": _comparison(">="),
    "$lt": _comparison("<"),
    "$lte": _comparison("<="),
    "$in": _in,
    "$nin": lambda path, values: negate(_in(path, values)),
    "$between": _between,
    "$like": _like,
    "$contains": lambda path, value: Contains(path, scalar(value)),
    "$exists": _exists,
}
