"""Field paths: how a filter names a value inside a nested payload.

A path is a tuple of segments. As text the segments are joined by dots; a segment that is no plain
word stands in double quotes or backticks, where doubling the quote escapes it: `meta."a.b".name`.
On an object a segment is a key; on a list it is an index from 0 (`tags.0`). The path `id` is the
id of the point.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from vicinal.model.errors import FilterError, LimitError
from vicinal.model.limits import PATH_DEPTH_MAX

Path = tuple[str, ...]

ID_PATH: Path = ("id",)

# A field of one of these names must be quoted where it is the first segment.
KEYWORDS = frozenset(
    {"and", "or", "not", "in", "between", "like", "contains", "is", "null", "true", "false"}
    | {"timestamp", "escape"}
)

WORD_PATTERN = r"[^\W\d]\w*+"
QUOTED_PATTERN = r'"[^"]*+(?:""[^"]*+)*+"|`[^`]*+(?:``[^`]*+)*+`'
PATH_PATTERN = rf"(?:{WORD_PATTERN}|{QUOTED_PATTERN})(?:\.(?:\w++|{QUOTED_PATTERN}))*+"

_WORD = re.compile(WORD_PATTERN)
_LATER_WORD = re.compile(r"\w+")
_TEXT_SEGMENT = re.compile(rf"({QUOTED_PATTERN})|([^.\"`]+)")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def check_path(path: Path) -> Path:
    """Return path; FilterError if it is no tuple of strings, LimitError if it is too deep."""
    if not path or not all(type(segment) is str for segment in path):
        raise FilterError(f"a field path is a non-empty tuple of strings, not {path!r}")
    if len(path) > PATH_DEPTH_MAX:
        raise LimitError(
            f"field path has {len(path)} segments, the limit is {PATH_DEPTH_MAX}: "
            "store the value nearer to the top of the payload"
        )
    return path


def split_path(text: str) -> Path:
    """Parse a path as a dict filter, `F[...]` or `order_by` gives it.

    More lenient than inside a text filter: a segment may hold any character but dots and quotes,
    so `created-at.day` needs no quotes here.
    """
    segments: list[str] = []
    position = 0
    while True:
        found = _TEXT_SEGMENT.match(text, position)
        if found is None:
            raise FilterError(
                f"field {text!r} has an empty or badly quoted segment at column {position + 1}; "
                'write a.b, or "a.b" in double quotes for a key that holds a dot',
                column=position + 1,
            )
        segments.append(unquote(found.group()))
        position = found.end()
        if position == len(text):
            return check_path(tuple(segments))
        if text[position] != ".":
            raise FilterError(
                f"field {text!r} needs a dot at column {position + 1}", column=position + 1
            )
        position += 1


def split_token(text: str) -> Path:
    """Split what PATH_PATTERN matched into its segments."""
    if '"' not in text and "`" not in text:
        return check_path(tuple(text.split(".")))
    return check_path(tuple(unquote(found.group()) for found in _TEXT_SEGMENT.finditer(text)))


def unquote(segment: str) -> str:
    """Return a segment without its quotes, if it has any."""
    quote = segment[:1]
    if quote in ('"', "`"):
        return segment[1:-1].replace(quote * 2, quote)
    return segment


def path_text(path: Path) -> str:
    """Return the canonical text of path; parses back to the same path, in any front door."""
    first = path[0]
    plain = _WORD.fullmatch(first) is not None and first.lower() not in KEYWORDS
    parts = [first if plain else _quote(first)]
    parts += [s if _LATER_WORD.fullmatch(s) else _quote(s) for s in path[1:]]
    return ".".join(parts)


def getter(path: Path) -> Callable[[Mapping[str, object]], object]:
    """Return a function from a payload to the value at path, None where there is none."""
    if len(path) == 1:
        name = path[0]
        return lambda payload: payload.get(name)
    first = path[0]
    rest = tuple(steps(path[1:]))

    def get(payload: Mapping[str, object]) -> object:
        return descend(payload.get(first), rest)

    return get


def steps(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each segment as (key of an object, index of a list or -1)."""
    for segment in path:
        yield segment, int(segment) if _INDEX.fullmatch(segment) else -1


def descend(value: object, rest: tuple[tuple[str, int], ...]) -> object:
    """Return the value below `value` at the given steps, None where there is none."""
    for key, index in rest:
        if type(value) is dict:
            value = cast("dict[str, object]", value).get(key)
        elif type(value) is list:
            items = cast("list[object]", value)
            value = items[index] if 0 <= index < len(items) else None
        else:
            return None
    return value


def _quote(segment: str) -> str:
    return '"' + segment.replace('"', '""') + '"'
