"""The words of the filter language: text in, tokens with their positions out."""

from __future__ import annotations

import re
from typing import NamedTuple

from vicinal.model.errors import FilterError, LimitError
from vicinal.model.filter.path import PATH_PATTERN
from vicinal.model.limits import FILTER_TEXT_BYTES_MAX

_WINDOW_CHARS = 72

# Possessive quantifiers throughout: no text makes the scan more than linear.
_TOKEN = re.compile(
    rf"""\s*+(?:
      (?P<path>{PATH_PATTERN})
    | (?P<number>[+-]?+(?:[0-9]++(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+)
    | (?P<string>'[^']*+(?:''[^']*+)*+')
    | (?P<operator><>|<=|>=|==|!=|=|<|>)
    | (?P<mark>[(),])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_KEYWORD = re.compile(r"[A-Za-z]+")


class Token(NamedTuple):
    """One word of a filter: its kind, its text, and the 0-based offset where it starts.

    Kinds: path, number, string, operator, mark (parentheses and comma), end.
    """

    kind: str
    text: str
    start: int

    @property
    def keyword(self) -> str:
        """The text in lower case where it could be a keyword, else an empty string."""
        plain = self.kind == "path" and _KEYWORD.fullmatch(self.text)
        return self.text.lower() if plain else ""

    @property
    def shown(self) -> str:
        """How an error names the token."""
        if self.kind == "end":
            return "the end"
        return self.text if len(self.text) <= 40 else self.text[:37] + "..."


def tokenize(text: str) -> list[Token]:
    """Return the tokens of text, the last of kind end.

    Raises
    ------
    LimitError : the text is longer than FILTER_TEXT_BYTES_MAX.
    FilterError : a character starts no token, or a quote is not closed.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > FILTER_TEXT_BYTES_MAX:
        raise LimitError(
            f"filter text has {size} bytes, the limit is {FILTER_TEXT_BYTES_MAX}; "
            "store a field that says what these points have in common"
        )
    tokens: list[Token] = []
    position = 0
    match = _TOKEN.match
    while True:
        found = match(text, position)
        if found is None:
            raise _stray(text, position)
        kind = found.lastgroup or ""
        tokens.append(Token(kind, found.group(kind), found.start(kind)))
        if kind == "end":
            return tokens
        position = found.end()


def error_at(text: str, start: int, problem: str) -> FilterError:
    """Return a FilterError that names the 1-based column and shows the place with a caret."""
    first = max(0, min(start - _WINDOW_CHARS // 2, len(text) - _WINDOW_CHARS))
    shown = text[first : first + _WINDOW_CHARS]
    # Line breaks and tabs would move the caret away from the place that it points at.
    shown = "".join(c if c.isprintable() else " " for c in shown)
    before = "..." if first else ""
    after = "..." if first + _WINDOW_CHARS < len(text) else ""
    caret = " " * (len(before) + start - first) + "^"
    return FilterError(
        f"{problem}, at column {start + 1}:\n  {before}{shown}{after}\n  {caret}",
        column=start + 1,
    )


def _stray(text: str, position: int) -> FilterError:
    start = position
    while start < len(text) and text[start].isspace():
        start += 1
    character = text[start]
    if character == "'":
        return error_at(text, start, "string is not closed; end it with a single quote")
    if character in '"`':
        return error_at(text, start, f"quoted field name is not closed; end it with {character}")
    hint = {
        "&": "; write and",
        "|": "; write or",
        "!": "; write not, or != between values",
        "[": "; a list stands in parentheses: in (1, 2)",
        ".": "; a field name has a word or a number on each side of a dot",
    }.get(character, "; quote strings with ' and unusual field names with \"")
    return error_at(text, start, f"{character!r} has no meaning here{hint}")
