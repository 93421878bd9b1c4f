"""The text front door: what parses to what, and what errors say."""

from datetime import UTC, datetime

import pytest

from vicinal.model.errors import FilterError
from vicinal.model.filter import (
    And,
    Between,
    Compare,
    Constant,
    Contains,
    In,
    IsNull,
    Like,
    Not,
    Or,
    compile_filter,
    fields,
    matches,
    parse,
    split_path,
)
from vicinal.model.filter.path import getter

A1, B2, C3 = (Compare((name,), "=", value) for name, value in [("a", 1), ("b", 2), ("c", 3)])
NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a = 1", A1),
        ("a == 1", A1),
        ("a<>1", Not(A1)),
        ("a != 1", Not(A1)),
        ("a < 1.5", Compare(("a",), "<", 1.5)),
        ("a<=-1", Compare(("a",), "<=", -1)),
        ("a > +1e3", Compare(("a",), ">", 1000.0)),
        ("a >= .5", Compare(("a",), ">=", 0.5)),
        ("a = 'it''s'", Compare(("a",), "=", "it's")),
        ("a = ''", Compare(("a",), "=", "")),
        ("a = TRUE", Compare(("a",), "=", True)),
        ("a = Null", IsNull(("a",))),
        ("a != null", Not(IsNull(("a",)))),
        ("a IS NULL", IsNull(("a",))),
        ("a is not null", Not(IsNull(("a",)))),
        ("a = timestamp '2024-01-31T13:00:00+01:00'", Compare(("a",), "=", NOON)),
        ("a in (1, 'x', 1)", In(("a",), (1, "x"))),
        ("a in ()", In(("a",), ())),
        ("a in (null)", IsNull(("a",))),
        ("a in (1, null)", Or((In(("a",), (1,)), IsNull(("a",))))),
        ("a not in (1)", Not(In(("a",), (1,)))),
        ("a between 1 and 2 and b = 2", And((Between(("a",), 1, 2), B2))),
        ("a not between 1 and 2", Not(Between(("a",), 1, 2))),
        ("a like 'x%'", Like(("a",), "x%")),
        ("a not like 'x!%' escape '!'", Not(Like(("a",), "x\\%"))),
        ("a contains 'x'", Contains(("a",), "x")),
        ("a not contains 2", Not(Contains(("a",), 2))),
        ("true", Constant(True)),
        ("not true", Constant(False)),
        ("a = 1 or b = 2 and c = 3", Or((A1, And((B2, C3))))),
        ("(a = 1 or b = 2) and c = 3", And((Or((A1, B2)), C3))),
        ("a = 1 and (b = 2 and c = 3)", And((A1, B2, C3))),
        ("not a = 1 and b = 2", And((Not(A1), B2))),
        ("not (a = 1 and b = 2)", Not(And((A1, B2)))),
        ("not not not a = 1", Not(A1)),
        ("not a != 1", A1),
        ("  a\n=\t1  ", A1),
    ],
)
def test_text_parses_to_the_tree(text: str, tree: object) -> None:
    assert parse(text) == tree
    assert parse(str(tree)) == tree


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("meta.author.name", ("meta", "author", "name")),
        ('"a.b".c', ("a.b", "c")),
        ("`a b`.`c``d`", ("a b", "c`d")),
        ('"say ""x"""', ('say "x"',)),
        ("tags.0.1", ("tags", "0", "1")),
        ("a.2d", ("a", "2d")),
        ("größe", ("größe",)),
        ("_x1", ("_x1",)),
        ("timestamp", ("timestamp",)),
        ("contains", ("contains",)),
        ('"and"', ("and",)),
        ("a.and", ("a", "and")),
        ('""', ("",)),
    ],
)
def test_field_paths_are_read_with_quotes_and_indexes(text: str, path: tuple[str, ...]) -> None:
    where = parse(f"{text} = 1")
    assert fields(where) == (path,)
    assert parse(str(where)) == where
    assert split_path(text) == path


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "filter is empty"),
        ("   ", 4, "filter is empty"),
        ("a", 2, "an operator"),
        ("a = ", 5, "expected a value, found the end"),
        ("a = 1 b", 7, "and, or, or the end"),
        ("a = 1)", 6, "and, or, or the end"),
        ("(a = 1", 7, "closing parenthesis"),
        ("= 1", 1, "expected a field"),
        ("5 < a", 1, "expected a field"),
        ("and = 1", 1, 'a field of that name is "and"'),
        ('a = "x"', 5, "strings take single quotes"),
        ("a = 'x", 5, "not closed"),
        ('"a = 1', 1, "quoted field name is not closed"),
        ("a = 1 & b = 2", 7, "write and"),
        ("a in 1", 6, "list in parentheses"),
        ("a in [1]", 6, "parentheses: in (1, 2)"),
        ("a in (1 2)", 9, "comma or a closing"),
        ("a in (1,)", 9, "expected a value"),
        ("a between 1 or 2", 13, "upper bound"),
        ("a between 1 and 'x'", 17, "one kind"),
        ("a between null and 2", 11, "is null"),
        ("a like 5", 8, "pattern in single quotes"),
        ("a like 'x' escape 'ab'", 8, "one character"),
        ("a like 'x\\'", 8, "ends in its escape"),
        ("a < null", 5, "is null or is not null"),
        ("a contains null", 12, "is null"),
        ("a is 5", 6, "expected null"),
        ("a not = 5", 7, "in, between, like or contains"),
        ("a = timestamp 'soon'", 15, "ISO 8601"),
        ("a = timestamp '0001-01-01T00:00:00+01:00'", 15, "years 1 to 9999"),
        ("a = timestamp 5", 15, "single quotes"),
        ("a..b = 1", 2, "each side of a dot"),
    ],
)
def test_error_names_the_column_and_what_was_expected(text: str, column: int, words: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text)
    assert caught.value.column == column
    assert words in str(caught.value)


def test_error_points_a_caret_at_the_place() -> None:
    with pytest.raises(FilterError) as caught:
        parse("a = 1\nand\tb ? 2")
    _, shown, caret = str(caught.value).split("\n")
    assert shown == "  a = 1 and b ? 2"
    assert shown[caret.index("^")] == "?"


def test_error_in_a_long_text_shows_the_part_around_the_caret() -> None:
    with pytest.raises(FilterError) as caught:
        parse("a = 1 and " * 500 + "b ? 2" + " and a = 1" * 500)
    _, shown, caret = str(caught.value).split("\n")
    assert shown[caret.index("^")] == "?"
    assert len(shown) < 100
    assert caught.value.column == 5003


def test_filters_of_different_literal_types_differ() -> None:
    assert len({parse("a = 1"), parse("a = 1.0"), parse("a = true"), parse("a = '1'")}) == 4


def test_fingerprint_is_stable_and_follows_the_canonical_text() -> None:
    assert parse("a=1").fingerprint == parse("(a == 1)").fingerprint
    assert parse("a=1").fingerprint == "fec2d2ff4c3b3c0a858a3942c8873129"
    assert parse("a=1").fingerprint != parse("a=2").fingerprint


def test_fields_are_listed_once_in_order_of_appearance() -> None:
    where = parse("b = 1 and (a.x > 2 or b is null) and not c like 'x'")
    assert fields(where) == (("b",), ("a", "x"), ("c",))


def test_compile_filter_refuses_other_objects() -> None:
    with pytest.raises(FilterError, match="not int"):
        compile_filter(5)  # pyright: ignore[reportArgumentType]


def test_a_compiled_filter_is_taken_as_it_is_and_must_be_the_one_that_was_meant() -> None:
    tree = And((A1, Compare(("b", "c"), "<", 5)))
    assert compile_filter(tree) is tree
    assert compile_filter({"a": 1}) == compile_filter("a = 1") == A1


@pytest.mark.parametrize("path", [(), ("a", 1), (b"a",)])
def test_a_path_of_no_strings_is_refused_where_the_filter_is_made(path: object) -> None:
    with pytest.raises(FilterError, match="non-empty tuple of strings"):
        Compare(path, "=", 1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ('a"b"', 2, "needs a dot"),
        ('"a"b.c', 4, "needs a dot"),
        ("a.`b``c", 3, "badly quoted"),
        ("a..b", 3, "empty"),
        ("a.", 3, "empty"),
        ("", 1, "empty"),
    ],
)
def test_a_field_outside_of_a_text_filter_says_where_it_is_malformed(
    text: str, column: int, words: str
) -> None:
    with pytest.raises(FilterError, match=words) as caught:
        split_path(text)
    assert caught.value.column == column
    with pytest.raises(FilterError, match=words):
        compile_filter({text: 1})


@pytest.mark.parametrize(
    ("text", "value"),
    [("a", {"b": [7]}), ("a.b.0", 7), ("a.b.1", None), ("a.c", None), ("x", None), ("x.y", None)],
)
def test_a_getter_reads_what_a_filter_on_its_path_sees(text: str, value: object) -> None:
    payload = {"a": {"b": [7]}}
    assert getter(split_path(text))(payload) == value
    assert matches(compile_filter(f"{text} is null"), payload, 1) is (value is None)
