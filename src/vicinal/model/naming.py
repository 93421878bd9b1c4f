"""Members of enumerations by the names that users give."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from vicinal.model.errors import InvalidArgumentError

E = TypeVar("E", bound=Enum)


def member(kind: type[E], name: str | E, what: str) -> E:
    """The member of that value, or the member itself. InvalidArgumentError, which lists the known ones of `what`."""
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(m.value for m in kind)
        raise InvalidArgumentError(f"unknown {what} {name!r}; known are {known}") from None
