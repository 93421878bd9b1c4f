"""Filter conditions with a meaning of their own, so that the product's cannot vouch for itself.

Each condition says three things: whether it holds for a point (plain Python, written from the rules
in docs/filters.md and from nothing in `vicinal`), and how it is written as text, as a dict and as
an expression. The three forms must select the same points.
"""

from __future__ import annotations

import json
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import vicinal

Value = str | int | float | bool
Payload = Mapping[str, Any]

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_DOLLAR = {"=": "$eq", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}
_MISSING = object()


class Condition(ABC):
    """One condition or several joined; `holds` is the oracle."""

    @abstractmethod
    def holds(self, payload: Payload, point_id: object) -> bool:
        """Whether the point passes."""

    @abstractmethod
    def text(self) -> str:
        """The SQL-like form."""

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """The dict form."""

    @abstractmethod
    def expression(self) -> Any:
        """The Python form, built with `vicinal.F`."""

    def form(self, name: str) -> Any:
        """The form of that name: text, dict or expression."""
        return {"text": self.text, "dict": self.document, "expression": self.expression}[name]()


FORMS = ("text", "dict", "expression")


@dataclass(frozen=True)
class Compare(Condition):
    """field <operator> value."""

    path: str
    operator: str
    value: Value

    def holds(self, payload: Payload, point_id: object) -> bool:
        compare = _ORDER[self.operator]
        return any(
            _kind(v) == _kind(self.value) and compare(v, self.value)
            for v in _elements(look_up(payload, point_id, self.path))
        )

    def text(self) -> str:
        return f"{self.path} {self.operator} {_literal(self.value)}"

    def document(self) -> dict[str, Any]:
        return {self.path: {_DOLLAR[self.operator]: self.value}}

    def expression(self) -> Any:
        return _ORDER[self.operator](vicinal.F[self.path], self.value)


@dataclass(frozen=True)
class Between(Condition):
    """low <= field <= high, of one element where the field is a list."""

    path: str
    low: Value
    high: Value

    def holds(self, payload: Payload, point_id: object) -> bool:
        return any(
            _kind(v) == _kind(self.low) and self.low <= v <= self.high
            for v in _elements(look_up(payload, point_id, self.path))
        )

    def text(self) -> str:
        return f"{self.path} between {_literal(self.low)} and {_literal(self.high)}"

    def document(self) -> dict[str, Any]:
        return {self.path: {"$between": [self.low, self.high]}}

    def expression(self) -> Any:
        return vicinal.F[self.path].between(self.low, self.high)


@dataclass(frozen=True)
class In(Condition):
    """field in (values)."""

    path: str
    values: tuple[Value, ...]

    def holds(self, payload: Payload, point_id: object) -> bool:
        return any(Compare(self.path, "=", v).holds(payload, point_id) for v in self.values)

    def text(self) -> str:
        return f"{self.path} in ({', '.join(map(_literal, self.values))})"

    def document(self) -> dict[str, Any]:
        return {self.path: {"$in": list(self.values)}}

    def expression(self) -> Any:
        return vicinal.F[self.path].in_(list(self.values))


@dataclass(frozen=True)
class Like(Condition):
    """field like pattern; only % and _ are special here."""

    path: str
    pattern: str

    def holds(self, payload: Payload, point_id: object) -> bool:
        parts = [{"%": ".*", "_": "."}.get(c, re.escape(c)) for c in self.pattern]
        regex = re.compile("".join(parts), re.DOTALL)
        return any(
            type(v) is str and regex.fullmatch(v) is not None
            for v in _elements(look_up(payload, point_id, self.path))
        )

    def text(self) -> str:
        return f"{self.path} like {_literal(self.pattern)}"

    def document(self) -> dict[str, Any]:
        return {self.path: {"$like": self.pattern}}

    def expression(self) -> Any:
        return vicinal.F[self.path].like(self.pattern)


@dataclass(frozen=True)
class Contains(Condition):
    """The list has the element, or the string the substring."""

    path: str
    value: Value

    def holds(self, payload: Payload, point_id: object) -> bool:
        found = look_up(payload, point_id, self.path)
        if type(found) is str:
            return type(self.value) is str and self.value in found
        return type(found) is list and any(
            _kind(v) == _kind(self.value) and v == self.value for v in found
        )

    def text(self) -> str:
        return f"{self.path} contains {_literal(self.value)}"

    def document(self) -> dict[str, Any]:
        return {self.path: {"$contains": self.value}}

    def expression(self) -> Any:
        return vicinal.F[self.path].contains(self.value)


@dataclass(frozen=True)
class IsNull(Condition):
    """The field is missing or null."""

    path: str

    def holds(self, payload: Payload, point_id: object) -> bool:
        return look_up(payload, point_id, self.path) in (None, _MISSING)

    def text(self) -> str:
        return f"{self.path} is null"

    def document(self) -> dict[str, Any]:
        return {self.path: {"$exists": False}}

    def expression(self) -> Any:
        return vicinal.F[self.path].is_null()


@dataclass(frozen=True)
class Not(Condition):
    """Exactly the points that the other leaves out."""

    part: Condition

    def holds(self, payload: Payload, point_id: object) -> bool:
        return not self.part.holds(payload, point_id)

    def text(self) -> str:
        return f"not ({self.part.text()})"

    def document(self) -> dict[str, Any]:
        return {"$not": self.part.document()}

    def expression(self) -> Any:
        return ~self.part.expression()


@dataclass(frozen=True)
class Both(Condition):
    """First and second."""

    first: Condition
    second: Condition

    def holds(self, payload: Payload, point_id: object) -> bool:
        return self.first.holds(payload, point_id) and self.second.holds(payload, point_id)

    def text(self) -> str:
        return f"({self.first.text()}) and ({self.second.text()})"

    def document(self) -> dict[str, Any]:
        return {"$and": [self.first.document(), self.second.document()]}

    def expression(self) -> Any:
        return self.first.expression() & self.second.expression()


@dataclass(frozen=True)
class Either(Condition):
    """First or second."""

    first: Condition
    second: Condition

    def holds(self, payload: Payload, point_id: object) -> bool:
        return self.first.holds(payload, point_id) or self.second.holds(payload, point_id)

    def text(self) -> str:
        return f"({self.first.text()}) or ({self.second.text()})"

    def document(self) -> dict[str, Any]:
        return {"$or": [self.first.document(), self.second.document()]}

    def expression(self) -> Any:
        return self.first.expression() | self.second.expression()


def look_up(payload: Payload, point_id: object, path: str) -> object:
    """The value of a dotted path, or a mark where there is none."""
    if path == "id":
        return str(point_id) if isinstance(point_id, uuid.UUID) else point_id
    value: Any = payload
    for segment in path.split("."):
        if type(value) is list and segment.isdigit():
            value = value[int(segment)] if int(segment) < len(value) else _MISSING
        elif isinstance(value, Mapping):
            value = value.get(segment, _MISSING)
        else:
            return _MISSING
    return value


def sort_key(payload: Payload, point_id: object, path: str) -> tuple[int, Any] | None:
    """The place of a point in an ascending order; None where the field is missing or null."""
    value = look_up(payload, point_id, path)
    kind = _kind(value)
    if value is None or value is _MISSING:
        return None
    return {"bool": (0, value), "number": (1, value), "str": (2, value)}.get(kind, (3, 0))


def _elements(value: object) -> list[Any]:
    return value if type(value) is list else [value]


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "str" if isinstance(value, str) else "other"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value)
