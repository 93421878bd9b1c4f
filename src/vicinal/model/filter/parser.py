"""The text front door of filters: a recursive-descent parser for conditions in the manner of SQL.

    or        := and ("or" and)*
    and       := not ("and" not)*
    not       := "not"* primary
    primary   := "(" or ")" | "true" | "false" | field condition
    condition := ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
               | ["not"] "in" "(" [value ("," value)*] ")"
               | ["not"] "between" value "and" value
               | ["not"] "like" string ["escape" string]
               | ["not"] "contains" value
               | "is" ["not"] "null"
    value     := string | number | "true" | "false" | "null" | "timestamp" string

Keywords are case-insensitive. `= null` means `is null`; a null in a list adds `or ... is null`.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import cast

from vicinal.model.errors import FilterError, LimitError
from vicinal.model.filter.ast import (
    Between,
    Compare,
    Constant,
    Contains,
    Filter,
    Like,
    Operator,
    all_of,
    any_of,
    equals,
    list_too_long,
    negate,
    one_of,
    too_deep,
    too_many_nodes,
)
from vicinal.model.filter.literal import Scalar, instant_of, scalar
from vicinal.model.filter.path import KEYWORDS, Path, path_text, split_token
from vicinal.model.filter.pattern import normal_pattern
from vicinal.model.filter.tokens import Token, error_at, tokenize
from vicinal.model.limits import (
    FILTER_DEPTH_MAX,
    FILTER_LIST_MAX,
    FILTER_NODES_MAX,
    FILTER_NUMBER_CHARS_MAX,
)

# Only these cannot start a condition: the other keywords are field names there.
_RESERVED = frozenset({"and", "or", "not", "in", "between", "like", "is", "null"})
_CACHED_TEXT_CHARS_MAX = 4_096


def parse(text: str) -> Filter:
    """Parse the text of a filter.

    Raises
    ------
    FilterError : the text is no filter; has the 1-based column, and shows it with a caret.
    LimitError : the filter is longer, deeper or larger than `vicinal.model.limits` allows.
    """
    if len(text) <= _CACHED_TEXT_CHARS_MAX:
        return _parse_cached(text)
    return _Parser(text).parse()


@lru_cache(maxsize=1024)
def _parse_cached(text: str) -> Filter:
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokenize(text)
        self._next = 0
        self._conditions = 0

    def parse(self) -> Filter:
        if self._peek().kind == "end":
            raise self._error(self._peek(), "filter is empty; write a condition, or true for all")
        where = self._or(0)
        rest = self._peek()
        if rest.kind != "end":
            raise self._expected("and, or, or the end", rest)
        return where

    def _or(self, depth: int) -> Filter:
        parts = [self._and(depth)]
        while self._accept("or"):
            parts.append(self._and(depth))
        return parts[0] if len(parts) == 1 else any_of(parts)

    def _and(self, depth: int) -> Filter:
        parts = [self._not(depth)]
        while self._accept("and"):
            parts.append(self._not(depth))
        return parts[0] if len(parts) == 1 else all_of(parts)

    def _not(self, depth: int) -> Filter:
        nots = 0
        while self._accept("not"):
            nots += 1
            _check_depth(depth + nots)
        where = self._primary(depth + nots)
        for _ in range(nots):
            where = negate(where)
        return where

    def _primary(self, depth: int) -> Filter:
        token = self._take()
        if token.text == "(" and token.kind == "mark":
            _check_depth(depth + 1)
            where = self._or(depth + 1)
            closing = self._take()
            if closing.kind != "mark" or closing.text != ")":
                raise self._expected("and, or, or a closing parenthesis", closing)
            return where
        self._conditions += 1
        if self._conditions > FILTER_NODES_MAX:
            raise LimitError(too_many_nodes(self._conditions))
        if token.keyword in ("true", "false"):
            return Constant(token.keyword == "true")
        if token.kind != "path":
            raise self._expected("a field, not or a parenthesis", token)
        if token.keyword in _RESERVED:
            raise self._expected(
                "a field, not or a parenthesis", token, f'; a field of that name is "{token.text}"'
            )
        return self._condition(split_token(token.text))

    def _condition(self, path: Path) -> Filter:
        token = self._take()
        if token.kind == "operator":
            return self._comparison(path, token)
        if token.keyword == "is":
            negated = self._accept("not")
            if not self._accept("null"):
                raise self._expected("null", self._peek(), "; compare with = otherwise")
            return negate(equals(path, None)) if negated else equals(path, None)
        negated = token.keyword == "not"
        word = self._take() if negated else token
        where = self._named_condition(path, word)
        if where is None:
            operators = "in, between, like or contains"
            if not negated:
                operators = f"an operator (= != < <= > >= is not {operators})"
            raise self._expected(f"{operators} after field {path_text(path)}", word)
        return negate(where) if negated else where

    def _comparison(self, path: Path, token: Token) -> Filter:
        at = self._peek()
        value = self._value()
        if token.text in ("=", "=="):
            return equals(path, value)
        if token.text in ("!=", "<>"):
            return negate(equals(path, value))
        if value is None:
            raise self._error(at, f"nothing is {token.text} null; use is null or is not null")
        return Compare(path, cast("Operator", token.text), value)

    def _named_condition(self, path: Path, word: Token) -> Filter | None:
        if word.keyword == "in":
            return one_of(path, self._list())
        if word.keyword == "between":
            low = self._non_null("between")
            if not self._accept("and"):
                raise self._expected("and with the upper bound of between", self._peek())
            at = self._peek()
            high = self._non_null("between")
            try:
                return Between(path, low, high)
            except FilterError as error:
                raise self._error(at, str(error)) from None
        if word.keyword == "like":
            return self._like(path)
        if word.keyword == "contains":
            return Contains(path, self._non_null("contains"))
        return None

    def _like(self, path: Path) -> Filter:
        at = self._peek()
        pattern = self._string("a pattern in single quotes")
        escape = "\\"
        if self._accept("escape"):
            escape = self._string("an escape character in single quotes")
        try:
            return Like(path, normal_pattern(pattern, escape))
        except FilterError as error:
            raise self._error(at, str(error)) from None

    def _list(self) -> list[Scalar | None]:
        opening = self._take()
        if opening.kind != "mark" or opening.text != "(":
            raise self._expected("a list in parentheses", opening)
        values: list[Scalar | None] = []
        if self._peek().text == ")":
            self._take()
            return values
        while True:
            values.append(self._value())
            if len(values) > FILTER_LIST_MAX:
                raise LimitError(list_too_long(len(values)))
            mark = self._take()
            if mark.kind == "mark" and mark.text == ")":
                return values
            if mark.kind != "mark" or mark.text != ",":
                raise self._expected("a comma or a closing parenthesis", mark)

    def _non_null(self, operator: str) -> Scalar:
        at = self._peek()
        value = self._value()
        if value is None:
            raise self._error(at, f"{operator} takes no null; use is null or is not null")
        return value

    def _value(self) -> Scalar | None:
        token = self._take()
        if token.kind == "string":
            return _unquoted(token.text)
        if token.kind == "number":
            return self._number(token)
        keyword = token.keyword
        if keyword in ("true", "false"):
            return keyword == "true"
        if keyword == "null":
            return None
        if keyword == "timestamp":
            return self._timestamp()
        hint = ""
        if token.kind == "path" and keyword not in KEYWORDS:
            hint = "; strings take single quotes, and a field compares with values only"
        raise self._expected("a value", token, hint)

    def _number(self, token: Token) -> Scalar:
        if len(token.text) > FILTER_NUMBER_CHARS_MAX:
            raise LimitError(
                f"number at column {token.start + 1} has {len(token.text)} characters, "
                f"the limit is {FILTER_NUMBER_CHARS_MAX}; shorten it"
            )
        digits = token.text.lstrip("+-")
        return scalar(int(token.text) if digits.isdigit() else float(token.text))

    def _timestamp(self) -> Scalar:
        at = self._peek()
        text = self._string("a time in single quotes, such as '2024-01-31T12:00:00Z'")
        if instant_of(text) is None:
            raise self._error(
                at, "expected an ISO 8601 time such as '2024-01-31' or '2024-01-31T12:00:00Z'"
            )
        try:
            return scalar(datetime.fromisoformat(text))
        except FilterError as error:
            raise self._error(at, str(error)) from None

    def _string(self, what: str) -> str:
        token = self._take()
        if token.kind != "string":
            raise self._expected(what, token)
        return _unquoted(token.text)

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        # The end is never passed, so that every error has a token to point at.
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _accept(self, keyword: str) -> bool:
        if self._tokens[self._next].keyword != keyword:
            return False
        self._next += 1
        return True

    def _expected(self, what: str, found: Token, hint: str = "") -> FilterError:
        return self._error(found, f"expected {what}, found {found.shown}{hint}")

    def _error(self, token: Token, problem: str) -> FilterError:
        return error_at(self._text, token.start, problem)


def _check_depth(depth: int) -> None:
    if depth > FILTER_DEPTH_MAX:
        raise LimitError(too_deep(depth))


def _unquoted(text: str) -> str:
    return text[1:-1].replace("''", "'")
