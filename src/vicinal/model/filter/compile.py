"""The one entry for filters of every form."""

from __future__ import annotations

from collections.abc import Mapping

from vicinal.model.errors import FilterError
from vicinal.model.filter.ast import Filter
from vicinal.model.filter.expression import Expression
from vicinal.model.filter.mapping import from_mapping
from vicinal.model.filter.parser import parse

Where = str | Mapping[str, object] | Expression | Filter


def compile_filter(where: Where) -> Filter:
    """Compile a filter: text, a dict, an expression of `F`, or a Filter, which is returned as is.

    Short texts are cached, so passing the same text again costs a look-up.

    Raises
    ------
    FilterError : it is no filter; for text the error has the 1-based column.
    LimitError : it is longer, deeper or larger than `vicinal.model.limits` allows.
    """
    if isinstance(where, str):
        return parse(where)
    if isinstance(where, Expression):
        return where.filter
    if isinstance(where, Filter):
        return where
    if isinstance(where, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        return from_mapping(where)
    raise FilterError(
        f"a filter is a text, a dict or an expression of F, not {type(where).__name__}"
    )
