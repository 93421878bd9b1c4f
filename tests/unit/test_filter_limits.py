"""Every bound on filters raises LimitError, through each door, and in little time."""

import time

import pytest

from vicinal.model.errors import FilterError, LimitError
from vicinal.model.filter import And, Compare, Constant, F, Filter, Not, compile_filter, parse
from vicinal.model.limits import (
    FILTER_DEPTH_MAX,
    FILTER_LIST_MAX,
    FILTER_NODES_MAX,
    FILTER_NUMBER_CHARS_MAX,
    FILTER_TEXT_BYTES_MAX,
    PATH_DEPTH_MAX,
)


def test_text_at_the_limit_parses_and_one_byte_more_does_not() -> None:
    text = "a = 1".ljust(FILTER_TEXT_BYTES_MAX)
    assert parse(text) == parse("a = 1")
    with pytest.raises(LimitError, match=str(FILTER_TEXT_BYTES_MAX)):
        parse(text + " ")


def test_text_limit_counts_bytes_not_characters() -> None:
    with pytest.raises(LimitError):
        parse("a = '" + "é" * (FILTER_TEXT_BYTES_MAX // 2) + "'")


@pytest.mark.parametrize("opening", ["(", "not ", "not (", "not not (not "])
@pytest.mark.parametrize("count", [FILTER_DEPTH_MAX + 1, 50_000])
def test_deep_nesting_raises_instead_of_overflowing(opening: str, count: int) -> None:
    with pytest.raises(LimitError, match=str(FILTER_DEPTH_MAX)):
        parse(opening * count + "a = 1")


def test_nesting_at_the_limit_parses() -> None:
    assert parse("(" * FILTER_DEPTH_MAX + "a = 1" + ")" * FILTER_DEPTH_MAX) == parse("a = 1")
    assert parse("not " * FILTER_DEPTH_MAX + "a = 1") == parse("a = 1")


def test_deep_dicts_raise() -> None:
    where: dict[str, object] = {"a": 1}
    field: dict[str, object] = {"$gt": 1}
    for _ in range(50_000):
        where, field = {"$not": where}, {"$not": field}
    for deep in (where, {"a": field}, {"$and": [where]}):
        with pytest.raises(LimitError, match=str(FILTER_DEPTH_MAX)):
            compile_filter(deep)


def test_deep_expressions_raise_while_they_are_built() -> None:
    where = F.a == 1
    with pytest.raises(LimitError, match=str(FILTER_DEPTH_MAX)):
        for _ in range(FILTER_DEPTH_MAX):
            where = ~(where & (F.b == 2))


def test_hand_built_trees_obey_the_depth_limit() -> None:
    where: Filter = Compare(("a",), "=", 1)
    with pytest.raises(LimitError, match=str(FILTER_DEPTH_MAX)):
        for _ in range(FILTER_DEPTH_MAX):
            where = Not(And((where, Constant(True))))


def test_too_many_conditions_raise() -> None:
    fits = " or ".join(["a = 1"] * (FILTER_NODES_MAX - 1))
    assert parse(fits)
    with pytest.raises(LimitError, match=str(FILTER_NODES_MAX)):
        parse(fits + " or a = 1")
    with pytest.raises(LimitError, match=str(FILTER_NODES_MAX)):
        compile_filter({"$or": [{"a": 1}] * FILTER_NODES_MAX})


def test_too_long_lists_raise() -> None:
    values = list(range(FILTER_LIST_MAX + 1))
    text = ",".join(map(str, values))
    for where in (f"a in ({text})", {"a": {"$in": values}}):
        with pytest.raises(LimitError, match=str(FILTER_LIST_MAX)):
            compile_filter(where)
    with pytest.raises(LimitError, match=str(FILTER_LIST_MAX)):
        F.a.in_(values)
    assert len(compile_filter({"a": {"$in": values[:-1]}}).values) == FILTER_LIST_MAX  # type: ignore[attr-defined]


def test_too_deep_paths_raise() -> None:
    path = ".".join(["a"] * PATH_DEPTH_MAX)
    assert parse(f"{path} = 1")
    for where in (f"{path}.a = 1", {path + ".a": 1}):
        with pytest.raises(LimitError, match=str(PATH_DEPTH_MAX)):
            compile_filter(where)
    with pytest.raises(LimitError, match=str(PATH_DEPTH_MAX)):
        _ = F[path].a


@pytest.mark.parametrize("number", ["9" * 5_000, "-" + "9" * 5_000, "1." + "0" * 5_000])
def test_long_numbers_raise(number: str) -> None:
    with pytest.raises(LimitError, match=str(FILTER_NUMBER_CHARS_MAX)):
        parse(f"a = {number}")


def test_huge_integers_raise() -> None:
    largest = 10 ** (FILTER_NUMBER_CHARS_MAX - 1) - 1
    for value in (largest, -largest):
        where = compile_filter({"a": value})
        assert parse(str(where)) == where
        with pytest.raises(LimitError, match="digits"):
            compile_filter({"a": value * 10})


@pytest.mark.parametrize(
    "text",
    [
        "a = 1 " * 150_000,
        '"' * 1_000_000,
        "'" * 999_999,
        "`" * 999_999,
        "a." * 500_000,
        "((((" * 250_000,
        "a in (" + "1," * 500_000,
        "-" * 1_000_000,
        "1" * 1_000_000,
        " " * 1_000_000 + "?",
        "a like '" + "%a" * 400_000 + "'" + "\\",
    ],
)
def test_hostile_texts_fail_in_little_processor_time(text: str) -> None:
    start = time.thread_time()
    with pytest.raises((FilterError, LimitError)):
        parse(text)
    # A quadratic scan of a megabyte would take hours; a linear one takes well under a second.
    assert time.thread_time() - start < 10
