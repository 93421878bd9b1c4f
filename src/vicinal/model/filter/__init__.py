"""Filters: which points of a collection qualify.

Three front doors, `"year >= 2020 and lang = 'en'"`, `{"year": {"$gte": 2020}, "lang": "en"}` and
`(F.year >= 2020) & (F.lang == "en")`, compile to one syntax tree (`Filter`), whose meaning is
`compile_predicate`; docs/filters.md is the user's view of the same rules:

- **Two values.** A condition is true or false, never unknown, and `not X` is exactly the points
  that X leaves out. So `year != 2020` is `not year = 2020`, and holds for points without a year;
  likewise `not in`, `not like`, `not between`, `not contains`.
- **Null.** Missing and JSON null are the same. Every condition but `is null` is false for them.
  `= null` means `is null`, `!= null` means `is not null`.
- **Kinds.** Strings, numbers, booleans and instants never equal or order with one another: such a
  comparison is false. `true = 1` is false.
- **Numbers** compare exactly, int with float too: 2**53 + 1 differs from 2.0**53. NaN never
  matches.
- **Strings** compare by code point, without normal forms or case folding.
- **Lists.** A comparison holds for a list when it holds for any of its elements (one level deep).
  An empty list is not null and passes no comparison.
- **Instants.** A timestamp literal compares with strings in ISO 8601 form, as points in time in
  microseconds; without an offset they are UTC.
"""

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
    all_of,
    any_of,
    fields,
    leaves,
    negate,
    to_text,
)
from vicinal.model.filter.compile import Where, compile_filter
from vicinal.model.filter.expression import Expression, F, Field
from vicinal.model.filter.literal import Scalar
from vicinal.model.filter.parser import parse
from vicinal.model.filter.path import Path, path_text, split_path
from vicinal.model.filter.predicate import (
    Payload,
    PointId,
    Predicate,
    compile_predicate,
    matches,
)

__all__ = [
    "And",
    "Between",
    "Compare",
    "Constant",
    "Contains",
    "Expression",
    "F",
    "Field",
    "Filter",
    "In",
    "IsNull",
    "Leaf",
    "Like",
    "Not",
    "Or",
    "Path",
    "Payload",
    "PointId",
    "Predicate",
    "Scalar",
    "Where",
    "all_of",
    "any_of",
    "compile_filter",
    "compile_predicate",
    "fields",
    "leaves",
    "matches",
    "negate",
    "parse",
    "path_text",
    "split_path",
    "to_text",
]
