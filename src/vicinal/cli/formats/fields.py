"""Which payload fields can be columns of a typed table without losing anything; the others travel as JSON text.

A field is a column where each point that has it has one kind of value: bool, int, float, string, or a list of one of
these. Then a null in the column can only mean that the point lacks the field. Null values, nested objects and mixed
kinds are not columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

COLUMNS_MAX = 1_000
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EMPTY_LIST = "list"
NONE = ""


class FieldKinds:
    """Collects the kinds of fields over all points; `columns` is the outcome."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def add(self, payload: Mapping[str, Any]) -> None:
        """Take one point's payload into account."""
        kinds = self._kinds
        for name, value in payload.items():
            kind = kind_of(value)
            known = kinds.get(name)
            if known is None:
                kinds[name] = kind
            elif known != kind:
                kinds[name] = _join(known, kind)

    def columns(self) -> dict[str, str]:
        """Kind of each field that is a column, in the order in which fields were first seen."""
        fields = ((n, "list:string" if k == EMPTY_LIST else k) for n, k in self._kinds.items() if k)
        return dict(list(fields)[:COLUMNS_MAX])


def kind_of(value: object) -> str:
    """bool, int, float, string, list:KIND, or NONE for what a column cannot hold."""
    if isinstance(value, list):
        kinds = {_scalar_kind(v) for v in cast("list[object]", value)}
        if not kinds:
            return EMPTY_LIST
        kind = kinds.pop()
        return f"list:{kind}" if kind and not kinds else NONE
    return _scalar_kind(value)


def id_kind(ids: Iterable[object]) -> str:
    """int, str, uuid where all are of one kind, else mixed."""
    kinds = {type(i).__name__.lower() for i in ids}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _scalar_kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if INT64_MIN <= value <= INT64_MAX else NONE
    if isinstance(value, float):
        return "float"
    return "string" if isinstance(value, str) else NONE


def _join(a: str, b: str) -> str:
    if a == EMPTY_LIST and b.startswith(EMPTY_LIST):
        return b
    if b == EMPTY_LIST and a.startswith(EMPTY_LIST):
        return a
    return NONE
