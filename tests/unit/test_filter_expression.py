"""The expression front door: operators, chaining, and the mistakes that Python invites."""

import copy

import pytest

from vicinal.model.errors import FilterError
from vicinal.model.filter import Expression, F, compile_filter


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (F.a == 1, "a = 1"),
        (F.a != 1, "a != 1"),
        (F.a < 1, "a < 1"),
        (F.a <= 1, "a <= 1"),
        (F.a > 1, "a > 1"),
        (F.a >= 1, "a >= 1"),
        (F.a == None, "a is null"),  # noqa: E711
        (F.a.is_null(), "a is null"),
        (~F.a.is_null(), "a is not null"),
        (F["meta"].author == "x", "meta.author = 'x'"),
        (F["meta.author"]["name"] == "x", "meta.author.name = 'x'"),
        (F["in_"] == 1, "in_ = 1"),
        (F.tags[0] == "x", "tags.0 = 'x'"),
        (F.a.in_([1, 2]), "a in (1, 2)"),
        (F.a.in_(range(2)), "a in (0, 1)"),
        (F.a.between(1, 2), "a between 1 and 2"),
        (F.a.like("x%"), "a like 'x%'"),
        (F.a.contains("x"), "a contains 'x'"),
        ((F.a == 1) & (F.b == 2) & (F.c == 3), "a = 1 and b = 2 and c = 3"),
        ((F.a == 1) | (F.b == 2), "a = 1 or b = 2"),
        (~((F.a == 1) | (F.b == 2)), "not (a = 1 or b = 2)"),
        ((F.a == 1) & compile_filter("b = 2"), "a = 1 and b = 2"),
        (compile_filter("b = 2") | (F.a == 1), "b = 2 or a = 1"),
    ],
)
def test_expression_compiles_to_the_same_filter_as_the_text(where: Expression, text: str) -> None:
    assert str(compile_filter(where)) == text
    assert compile_filter(where) == compile_filter(text)


def test_and_between_expressions_raises_and_names_the_operators() -> None:
    with pytest.raises(FilterError, match=r"&, \| and ~"):
        _ = (F.a == 1) and (F.b == 2)


def test_chained_comparison_raises() -> None:
    with pytest.raises(FilterError, match=r"1 < F\.x < 5"):
        _ = 1 < F.a < 5


def test_not_raises() -> None:
    with pytest.raises(FilterError, match="neither true nor false"):
        _ = not F.a.is_null()  # pyright: ignore[reportGeneralTypeIssues]


def test_bare_field_as_condition_raises() -> None:
    with pytest.raises(FilterError, match=r"F\.a == True"):
        _ = bool(F.a)


def test_in_raises_and_names_contains() -> None:
    with pytest.raises(FilterError, match=r"F.tags.contains\("):
        _ = "x" in F.tags


def test_field_compared_with_a_field_raises() -> None:
    with pytest.raises(FilterError, match="values only"):
        _ = F.a == F.b


def test_missing_parentheses_raise() -> None:
    with pytest.raises((FilterError, TypeError)):
        _ = F.a == 1 & F.b == 2  # pyright: ignore[reportOperatorIssue]


def test_combining_with_a_plain_value_raises() -> None:
    with pytest.raises(FilterError, match="combine filters"):
        _ = (F.a == 1) & True  # pyright: ignore[reportOperatorIssue]


def test_iterating_a_field_raises_instead_of_running_forever() -> None:
    with pytest.raises(TypeError):
        list(F.a)  # pyright: ignore[reportArgumentType]


def test_negative_index_raises() -> None:
    with pytest.raises(FilterError, match="indexed from 0"):
        _ = F.tags[-1]


def test_string_as_list_raises() -> None:
    with pytest.raises(FilterError, match="list of values"):
        F.a.in_("abc")


def test_dunder_lookups_find_no_field() -> None:
    assert not hasattr(F, "__array__")
    assert not hasattr(F.a, "__deepcopy__")
    assert repr(copy.copy(F.a)) == "<field a>"
