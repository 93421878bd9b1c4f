"""Properties of the language: round trip, no stray exceptions, equal meaning through every door."""

import functools
import pickle
from typing import Any

from filter_strategies import any_paths, filters, ids, paths, payloads
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vicinal.model.errors import FilterError, LimitError
from vicinal.model.filter import (
    And,
    Between,
    Compare,
    Constant,
    Contains,
    Filter,
    In,
    IsNull,
    Like,
    Not,
    Or,
    compile_filter,
    matches,
    negate,
    parse,
    path_text,
    split_path,
)
from vicinal.model.filter.literal import instant_of, instant_us

EXAMPLES = settings(max_examples=400, deadline=None)
SCRAPS = ["a", "b.c", '"', "'", "`", "(", ")", ",", " ", "=", "!=", "<", ">=", "1", "-1.5e3", "'x'"]
SCRAPS += ["and", "or", "not", "in", "like", "between", "is", "null", "true", "timestamp", "escape"]
SCRAPS += ["contains", "\\", "%", ".", "\n", "\x00", "\ud800", "é", "'2024-01-01'", "1e999", "--"]


@EXAMPLES
@given(filters(paths | any_paths))
def test_printed_filters_parse_back_to_equal_filters(where: Filter) -> None:
    again = parse(str(where))
    assert again == where
    assert hash(again) == hash(where)
    assert again.fingerprint == where.fingerprint
    assert repr(again) == repr(where)


@EXAMPLES
@given(any_paths)
def test_printed_paths_split_back(path: tuple[str, ...]) -> None:
    assert split_path(path_text(path)) == path


@EXAMPLES
@given(st.text(max_size=60) | st.lists(st.sampled_from(SCRAPS), max_size=25).map(" ".join))
@example("a = '\ud800'")
def test_random_text_parses_or_raises_a_filter_error(text: str) -> None:
    try:
        where = parse(text)
    except FilterError as error:
        assert error.column is not None
        assert 1 <= error.column <= len(text) + 1
    except LimitError:
        pass
    else:
        assert parse(str(where)) == where


@EXAMPLES
@given(filters(), payloads, ids)
def test_predicate_agrees_with_a_plain_reading_of_the_rules(
    where: Filter, payload: dict[str, object], point_id: object
) -> None:
    assert matches(where, payload, point_id) is reference(where, payload, point_id)  # pyright: ignore[reportArgumentType]


@EXAMPLES
@given(filters(), payloads, ids)
def test_text_and_dict_forms_mean_the_same(
    where: Filter, payload: dict[str, object], point_id: object
) -> None:
    as_dict = compile_filter(to_mapping(where))
    assert as_dict == where
    assert matches(as_dict, payload, point_id) is matches(where, payload, point_id)  # pyright: ignore[reportArgumentType]


@given(filters())
def test_filters_survive_pickling(where: Filter) -> None:
    again = pickle.loads(pickle.dumps(where))
    assert again == where
    assert negate(negate(again)) == where


def reference(where: Filter, payload: object, point_id: object) -> bool:
    """The semantics again, written for clarity alone."""
    match where:
        case Constant(value):
            return value
        case And(parts):
            return all(reference(part, payload, point_id) for part in parts)
        case Or(parts):
            return any(reference(part, payload, point_id) for part in parts)
        case Not(part):
            return not reference(part, payload, point_id)
    condition: Any = where  # all others have a path
    value = look_up(condition.path, payload, point_id)
    match where:
        case IsNull():
            return value is None
        case Contains(_, literal) if isinstance(value, str):
            return isinstance(literal, str) and literal in value
        case Contains(_, literal):
            return isinstance(value, list) and any(compares(v, "=", literal) for v in value)
    elements = value if isinstance(value, list) else [value]
    match where:
        case Compare(_, operator, literal):
            return any(compares(v, operator, literal) for v in elements)
        case In(_, literals):
            return any(compares(v, "=", literal) for v in elements for literal in literals)
        case Between(_, low, high):
            return any(compares(v, ">=", low) and compares(v, "<=", high) for v in elements)
        case Like(_, pattern):
            return any(isinstance(v, str) and like(pattern, v) for v in elements)
    raise AssertionError(where)


def look_up(path: tuple[str, ...], payload: object, point_id: object) -> object:
    if path[0] == "id":
        plain = point_id if isinstance(point_id, (str, int)) else str(point_id)
        return plain if len(path) == 1 else None
    value = payload
    for segment in path:
        if isinstance(value, dict):
            value = value.get(segment)
        elif isinstance(value, list) and segment in {str(i) for i in range(len(value))}:
            value = value[int(segment)]
        else:
            return None
    return value


def compares(value: Any, operator: str, literal: Any) -> bool:
    def kind(x: object) -> str:
        return {bool: "bool", int: "number", float: "number", str: "string"}.get(type(x), "other")

    if kind(literal) == "other":
        value, literal = instant_of(value), instant_us(literal)  # pyright: ignore[reportArgumentType]
    if kind(value) != kind(literal):
        return False
    return {
        "=": lambda: value == literal,
        "<": lambda: value < literal,
        "<=": lambda: value <= literal,
        ">": lambda: value > literal,
        ">=": lambda: value >= literal,
    }[operator]()


def like(pattern: str, text: str) -> bool:
    @functools.cache
    def match(i: int, j: int) -> bool:
        if i == len(pattern):
            return j == len(text)
        if pattern[i] == "%":
            return match(i + 1, j) or (j < len(text) and match(i, j + 1))
        if j == len(text):
            return False
        if pattern[i] == "_":
            return match(i + 1, j + 1)
        i += pattern[i] == "\\"
        return pattern[i] == text[j] and match(i + 1, j + 1)

    return match(0, 0)


def to_mapping(where: Filter) -> dict[str, object]:
    match where:
        case Constant(value):
            return {} if value else {"$not": {}}
        case And(parts):
            return {"$and": [to_mapping(part) for part in parts]}
        case Or(parts):
            return {"$or": [to_mapping(part) for part in parts]}
        case Not(part):
            return {"$not": to_mapping(part)}
    condition: Any = where  # all others have a path
    name = path_text(condition.path)
    match where:
        case IsNull():
            return {name: None}
        case Contains(_, literal):
            return {name: {"$contains": literal}}
        case Compare(_, operator, literal):
            names = {"=": "$eq", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}
            return {name: {names[operator]: literal}}
        case In(_, literals):
            return {name: {"$in": list(literals)}}
        case Between(_, low, high):
            return {name: {"$between": [low, high]}}
        case Like(_, pattern):
            return {name: {"$like": pattern}}
    raise AssertionError(where)
