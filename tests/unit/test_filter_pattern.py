"""like patterns: what matches, escapes, and time."""

import time

import pytest

from vicinal.model.errors import FilterError
from vicinal.model.filter.pattern import compile_pattern, normal_pattern


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("abc", ["abc"], ["", "ab", "abcd", "ABC"]),
        ("", [""], ["a"]),
        ("%", ["", "a", "a\nb"], []),
        ("_", ["a", "\n", "é", "\U0001f600"], ["", "ab"]),
        ("a%", ["a", "abc"], ["", "ba"]),
        ("%a", ["a", "bca"], ["", "ab"]),
        ("%a%", ["a", "bab"], ["", "b"]),
        ("a%a", ["aa", "aba"], ["a", "ab"]),
        ("a%b%c", ["abc", "axbxc", "abbcc"], ["acb", "ab"]),
        ("%a_c%", ["abc", "xaacx", "aabc"], ["ac", "abbc"]),
        ("a_%_c", ["abbc", "abxbc"], ["abc"]),
        ("100\\%", ["100%"], ["100", "100x"]),
        ("a\\_b", ["a_b"], ["axb"]),
        ("a\\\\b", ["a\\b"], ["a\\\\b"]),
        ("\\a", ["a"], ["\\a"]),
        ("a.b*", ["a.b*"], ["axb", "a.bb"]),
    ],
)
def test_pattern_matches(pattern: str, matching: list[str], other: list[str]) -> None:
    matches = compile_pattern(normal_pattern(pattern))
    assert all(map(matches, matching))
    assert not any(map(matches, other))


def test_other_escape_characters_are_rewritten() -> None:
    assert normal_pattern("a!%b!!c!_\\", "!") == "a\\%b!c\\_\\\\"
    assert normal_pattern("100%%_", "%") == "100\\%_"


@pytest.mark.parametrize(
    ("pattern", "escape"), [("a\\", "\\"), ("a", ""), ("a", "xy"), ("a!", "!")]
)
def test_bad_escapes_raise(pattern: str, escape: str) -> None:
    with pytest.raises(FilterError):
        normal_pattern(pattern, escape)


@pytest.mark.parametrize("pattern", ["%a" * 50 + "b", "%_a" * 50 + "b%", "%" * 1000 + "b"])
def test_no_pattern_backtracks(pattern: str) -> None:
    start = time.perf_counter()
    assert not compile_pattern(normal_pattern(pattern))("a" * 10_000)
    assert time.perf_counter() - start < 5
