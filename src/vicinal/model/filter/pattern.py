r"""SQL like patterns: `%` is any run of characters, `_` is one character, `\` escapes.

Matching is by code point and case-sensitive, over the whole string. A pattern is split at its
`%`; each piece has a fixed length, so pieces are found from left to right without backtracking
and no pattern takes more than (length of text) x (length of pattern) steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vicinal.model.errors import FilterError

_SPECIAL = frozenset("%_\\")


def normal_pattern(pattern: str, escape: str = "\\") -> str:
    r"""Return an equal pattern in normal form: `\` escapes, only where needed, no `%%` run.

    Raises FilterError where the escape is not one character or ends the pattern.
    """
    if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise FilterError(f"like takes a pattern string, not {pattern!r}")
    if len(escape) != 1:
        raise FilterError(f"escape takes one character, not {escape!r}")
    out: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            escaped = next(characters, None)
            if escaped is None:
                raise FilterError(
                    f"like pattern {pattern!r} ends in its escape character; "
                    f"double it to mean {escape!r} itself"
                )
            out.append("\\" + escaped if escaped in _SPECIAL else escaped)
        elif character == "\\":
            out.append("\\\\")
        elif character != "%" or out[-1:] != ["%"]:
            out.append(character)
    return "".join(out)


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """Return the test for a pattern in normal form."""
    pieces = _pieces(pattern)
    if len(pieces) == 1:
        return _whole(pieces[0])
    first, *middle, last = pieces
    if not middle and not _wild(first) and not _wild(last):
        head, tail = _plain(first), _plain(last)
        shortest = len(head) + len(tail)
        if not tail:
            return lambda text: text.startswith(head)
        if not head:
            return lambda text: text.endswith(tail)
        return lambda text: len(text) >= shortest and text.startswith(head) and text.endswith(tail)
    if not first and not last and len(middle) == 1 and not _wild(middle[0]):
        inner = _plain(middle[0])
        return lambda text: inner in text
    return _sequence(first, middle, last)


# A piece is a list of characters, with None for `_`.
_Piece = list[str | None]


def _pieces(pattern: str) -> list[_Piece]:
    pieces: list[_Piece] = [[]]
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            pieces.append([])
        elif character == "_":
            pieces[-1].append(None)
        else:
            pieces[-1].append(next(characters) if character == "\\" else character)
    return pieces


def _wild(piece: _Piece) -> bool:
    return None in piece


def _plain(piece: _Piece) -> str:
    return "".join(character or "" for character in piece)


def _regex(piece: _Piece) -> re.Pattern[str]:
    return re.compile("".join("." if c is None else re.escape(c) for c in piece), re.DOTALL)


def _whole(piece: _Piece) -> Callable[[str], bool]:
    if _wild(piece):
        regex = _regex(piece)
        return lambda text: regex.fullmatch(text) is not None
    plain = _plain(piece)
    return lambda text: text == plain


def _sequence(first: _Piece, middle: list[_Piece], last: _Piece) -> Callable[[str], bool]:
    head, tail = _regex(first), _regex(last)
    finders = [_finder(piece) for piece in middle]
    head_size, tail_size = len(first), len(last)

    def matches(text: str) -> bool:
        stop = len(text) - tail_size
        if stop < head_size or head.match(text) is None or tail.match(text, stop) is None:
            return False
        position = head_size
        for find in finders:
            position = find(text, position, stop)
            if position < 0:
                return False
        return True

    return matches


def _finder(piece: _Piece) -> Callable[[str, int, int], int]:
    """Return a function (text, from, to) -> end of the leftmost occurrence of piece, or -1."""
    size = len(piece)
    if not _wild(piece):
        plain = _plain(piece)

        def find_plain(text: str, start: int, stop: int) -> int:
            found = text.find(plain, start, stop)
            return found + size if found >= 0 else -1

        return find_plain
    regex = _regex(piece)

    def find_wild(text: str, start: int, stop: int) -> int:
        found = regex.search(text, start, stop)
        return found.end() if found else -1

    return find_wild
