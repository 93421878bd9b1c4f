"""The syntax tree of filters: one set of frozen nodes, whatever front door a filter came through.

A node that exists is valid: construction checks literals, flattens nothing, and refuses trees
beyond the bounds of `vicinal.model.limits`. Build connectives with `all_of`, `any_of` and
`negate`, which keep the tree in normal form. Two filters are equal when their canonical text is;
so `x = 1`, `x = 1.0` and `x = true` are three filters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from vicinal.model.errors import FilterError, LimitError
from vicinal.model.filter.literal import Kind, Scalar, kind_of, literal_text, scalar
from vicinal.model.filter.path import Path, check_path, path_text
from vicinal.model.filter.pattern import normal_pattern
from vicinal.model.limits import FILTER_DEPTH_MAX, FILTER_LIST_MAX, FILTER_NODES_MAX

Operator = Literal["=", "<", "<=", ">", ">="]
OPERATORS: tuple[Operator, ...] = ("=", "<", "<=", ">", ">=")


class Filter(ABC):
    """Base of the nodes: immutable, hashable, safe to share between threads.

    `str(node)` is the canonical text, which parses back to an equal node.
    """

    __slots__ = ("_depth", "_nodes", "_text")

    _depth: int
    _nodes: int
    _text: str

    @property
    def text(self) -> str:
        """The canonical text; computed once."""
        try:
            return self._text
        except AttributeError:
            text = self._render(negated=False)
            object.__setattr__(self, "_text", text)
            return text

    @property
    def fingerprint(self) -> str:
        """32 hex digits that depend on the canonical text alone; the same in every process."""
        text = self.text.encode("utf-8", "surrogatepass")
        import hashlib  # here, since importing it takes longer than most programs need it

        return hashlib.blake2b(text, digest_size=16).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[Filter], tuple[object, ...]]:
        # Copies go through construction, so that they are checked and measured too.
        return type(self), tuple(getattr(self, name) for name in self.__slots__)

    @abstractmethod
    def _render(self, *, negated: bool) -> str:
        """The text of it, or of its opposite."""

    def _measure(self, parts: tuple[Filter, ...] = ()) -> None:
        """Set depth and size; LimitError beyond the bounds, so recursion over nodes is safe."""
        depth = 1 + max((part._depth for part in parts), default=0)
        nodes = 1 + sum([part._nodes for part in parts])
        if depth > FILTER_DEPTH_MAX:
            raise LimitError(too_deep(depth))
        if nodes > FILTER_NODES_MAX:
            raise LimitError(too_many_nodes(nodes))
        object.__setattr__(self, "_depth", depth)
        object.__setattr__(self, "_nodes", nodes)


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Filter):
    """Every point, or none."""

    value: bool

    def __post_init__(self) -> None:
        self._measure()

    def _render(self, *, negated: bool) -> str:
        return "true" if self.value != negated else "false"


@dataclass(frozen=True, slots=True, eq=False)
class Compare(Filter):
    """The field, or any element of it where it is a list, compares so with the value."""

    path: Path
    operator: Operator
    value: Scalar

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise FilterError(
                f"unknown operator {self.operator!r}; known are {' '.join(OPERATORS)}"
            )
        _set(self, path=check_path(self.path), value=scalar(self.value))
        self._measure()

    def _render(self, *, negated: bool) -> str:
        operator = self.operator
        head = ""
        if negated:
            operator, head = ("!=", "") if operator == "=" else (operator, "not ")
        return f"{head}{path_text(self.path)} {operator} {literal_text(self.value)}"


@dataclass(frozen=True, slots=True, eq=False)
class In(Filter):
    """The field, or any element of it, equals one of the values. No values: never."""

    path: Path
    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if len(self.values) > FILTER_LIST_MAX:
            raise LimitError(list_too_long(len(self.values)))
        unique: dict[tuple[Kind, Scalar], Scalar] = {}
        for value in map(scalar, self.values):
            unique.setdefault((kind_of(value), value), value)
        _set(self, path=check_path(self.path), values=tuple(unique.values()))
        self._measure()

    def _render(self, *, negated: bool) -> str:
        values = ", ".join(map(literal_text, self.values))
        return f"{path_text(self.path)} {'not ' * negated}in ({values})"


@dataclass(frozen=True, slots=True, eq=False)
class Between(Filter):
    """low <= field <= high; of a list field one element must satisfy both."""

    path: Path
    low: Scalar
    high: Scalar

    def __post_init__(self) -> None:
        _set(self, path=check_path(self.path), low=scalar(self.low), high=scalar(self.high))
        if kind_of(self.low) is not kind_of(self.high):
            raise FilterError(
                f"between compares with a {kind_of(self.low).value} and a "
                f"{kind_of(self.high).value}; both bounds must be of one kind"
            )
        self._measure()

    def _render(self, *, negated: bool) -> str:
        low, high = literal_text(self.low), literal_text(self.high)
        return f"{path_text(self.path)} {'not ' * negated}between {low} and {high}"


@dataclass(frozen=True, slots=True, eq=False)
class Like(Filter):
    r"""The string, or any string of the list, matches a pattern of % (any run), _ (one), \\."""

    path: Path
    pattern: str

    def __post_init__(self) -> None:
        _set(self, path=check_path(self.path), pattern=normal_pattern(self.pattern))
        self._measure()

    def _render(self, *, negated: bool) -> str:
        return f"{path_text(self.path)} {'not ' * negated}like {literal_text(self.pattern)}"


@dataclass(frozen=True, slots=True, eq=False)
class Contains(Filter):
    """The list has an element equal to the value; or the string has the value as a substring."""

    path: Path
    value: Scalar

    def __post_init__(self) -> None:
        _set(self, path=check_path(self.path), value=scalar(self.value))
        self._measure()

    def _render(self, *, negated: bool) -> str:
        return f"{path_text(self.path)} {'not ' * negated}contains {literal_text(self.value)}"


@dataclass(frozen=True, slots=True, eq=False)
class IsNull(Filter):
    """The field is missing, or JSON null."""

    path: Path

    def __post_init__(self) -> None:
        _set(self, path=check_path(self.path))
        self._measure()

    def _render(self, *, negated: bool) -> str:
        return f"{path_text(self.path)} is {'not ' * negated}null"


@dataclass(frozen=True, slots=True, eq=False)
class And(Filter):
    """All of two or more parts, none of which is an And."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _check_parts(self.parts, And, "all_of")
        self._measure(self.parts)

    def _render(self, *, negated: bool) -> str:
        texts = (f"({p.text})" if isinstance(p, Or) else p.text for p in self.parts)
        text = " and ".join(texts)
        return f"not ({text})" if negated else text


@dataclass(frozen=True, slots=True, eq=False)
class Or(Filter):
    """Any of two or more parts, none of which is an Or."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _check_parts(self.parts, Or, "any_of")
        self._measure(self.parts)

    def _render(self, *, negated: bool) -> str:
        text = " or ".join(part.text for part in self.parts)
        return f"not ({text})" if negated else text


@dataclass(frozen=True, slots=True, eq=False)
class Not(Filter):
    """The complement of a part, which is neither a Not nor a Constant."""

    part: Filter

    def __post_init__(self) -> None:
        if isinstance(self.part, (Not, Constant)):
            raise FilterError("build negations with negate(), which keeps filters in normal form")
        self._measure((self.part,))

    def _render(self, *, negated: bool) -> str:
        return self.part._render(negated=not negated)


Leaf = Compare | In | Between | Like | Contains | IsNull


def all_of(parts: Iterable[Filter]) -> Filter:
    """Return the filter that all parts must pass; every point where there are none."""
    flat = _flat(parts, And)
    return flat[0] if len(flat) == 1 else And(flat) if flat else Constant(True)


def any_of(parts: Iterable[Filter]) -> Filter:
    """Return the filter that one of the parts must pass; no point where there are none."""
    flat = _flat(parts, Or)
    return flat[0] if len(flat) == 1 else Or(flat) if flat else Constant(False)


def negate(part: Filter) -> Filter:
    """Return the complement of part."""
    if isinstance(part, Not):
        return part.part
    return Constant(not part.value) if isinstance(part, Constant) else Not(part)


def equals(path: Path, value: object) -> Filter:
    """Return `path = value`; None means `path is null`."""
    return IsNull(path) if value is None else Compare(path, "=", scalar(value))


def one_of(path: Path, values: Iterable[object]) -> Filter:
    """Return `path in (values)`; a None among them adds `or path is null`."""
    listed = list(values)
    if len(listed) > FILTER_LIST_MAX:
        raise LimitError(list_too_long(len(listed)))
    member = In(path, tuple(scalar(value) for value in listed if value is not None))
    if not any(value is None for value in listed):
        return member
    return any_of([member, IsNull(path)]) if member.values else IsNull(path)


def leaves(where: Filter) -> Iterator[Leaf]:
    """Yield the conditions on fields, from left to right."""
    if isinstance(where, (And, Or)):
        for part in where.parts:
            yield from leaves(part)
    elif isinstance(where, Not):
        yield from leaves(where.part)
    elif isinstance(where, (Compare, In, Between, Like, Contains, IsNull)):
        yield where


def fields(where: Filter) -> tuple[Path, ...]:
    """Return the paths that the filter reads, each once, in order of appearance."""
    return tuple(dict.fromkeys(leaf.path for leaf in leaves(where)))


def to_text(where: Filter) -> str:
    """Return the canonical text, which the parser reads back as an equal filter."""
    return where.text


def too_deep(depth: int) -> str:
    """Return the message for a filter nested too deep."""
    return (
        f"filter is nested {depth} or more deep, the limit is {FILTER_DEPTH_MAX}; "
        "drop redundant parentheses and nots"
    )


def too_many_nodes(nodes: int) -> str:
    """Return the message for a filter of too many conditions."""
    return (
        f"filter has {nodes} or more conditions and connectives, the limit is "
        f"{FILTER_NODES_MAX}; join equalities on one field into in (...)"
    )


def list_too_long(values: int) -> str:
    """Return the message for a list of too many values."""
    return (
        f"list has {values} or more values, the limit is {FILTER_LIST_MAX}; "
        "store a field that says what these values have in common"
    )


def _set(node: Filter, **attributes: object) -> None:
    for name, value in attributes.items():
        object.__setattr__(node, name, value)


def _flat(parts: Iterable[Filter], kind: type[And | Or]) -> tuple[Filter, ...]:
    flat: list[Filter] = []
    for part in parts:
        if isinstance(part, kind):
            flat.extend(part.parts)
        else:
            flat.append(part)
    return tuple(flat)


def _check_parts(parts: tuple[Filter, ...], kind: type[Filter], builder: str) -> None:
    if len(parts) < 2 or any(isinstance(part, kind) for part in parts):
        raise FilterError(f"build connectives with {builder}(), which keeps filters in normal form")
