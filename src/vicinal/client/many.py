"""Searches of different kinds that go together, and what they found in the time they had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import numpy.typing as npt

from vicinal.model.errors import InvalidArgumentError
from vicinal.model.hits import Hits
from vicinal.model.search import SearchOptions

_NAMES = ("query", *SearchOptions.__struct_fields__)


@dataclass(frozen=True, slots=True)
class OneSearch:
    """One search among many, checked.

    Attributes
    ----------
    query : (1, columns).
    """

    query: npt.NDArray[Any]
    options: SearchOptions


class ManyHits(Sequence[Hits | None]):
    """What `Collection.search_many` found: for each search, in their order, its Hits; None where its time was over.

    Attributes
    ----------
    missing : places of the searches that were not carried out.
    """

    def __init__(self, found: Sequence[Hits | None]) -> None:
        self._found = list(found)
        self.missing = [i for i, hits in enumerate(self._found) if hits is None]

    @property
    def complete(self) -> bool:
        """Whether every search was carried out."""
        return not self.missing

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, place: int) -> Hits | None: ...
    @overload
    def __getitem__(self, place: slice) -> list[Hits | None]: ...
    def __getitem__(self, place: int | slice) -> Hits | list[Hits | None] | None:
        return self._found[place]

    def __iter__(self) -> Iterator[Hits | None]:
        return iter(self._found)

    def __repr__(self) -> str:
        return f"ManyHits({len(self)} searches, {len(self.missing)} missing)"


def given_options(search: object, place: int) -> dict[str, Any]:
    """The `query` and the options that a search gives. InvalidArgumentError: one is not known, or the query missing."""
    if not isinstance(search, Mapping):
        raise InvalidArgumentError(
            f"search {place} is {type(search).__name__}; give a dict of query and options of search"
        )
    options: dict[Any, Any] = dict(cast("Mapping[Any, Any]", search))
    for name in options:
        if name not in _NAMES:
            known = ", ".join(_NAMES)
            raise InvalidArgumentError(f"search {place} has no option {name!r}; known are {known}")
    if "query" not in options:
        raise InvalidArgumentError(f"search {place} has no query")
    return options
