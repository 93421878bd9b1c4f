"""The messages of `wire/messages.py` as protobuf sees them: names, fields, numbers and types.

Everything comes from the Structs and the table of operations, but for numbers, which are in `wire/numbers.py`. What
protobuf cannot say by itself has a message of its own: an id of three types, a list that may be left out.
"""

from __future__ import annotations

import datetime as dt
import types
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from vicinal.model.errors import invariant
from vicinal.wire import messages as m
from vicinal.wire.numbers import NUMBERS
from vicinal.wire.operations import OPERATIONS, Operation

PACKAGE, SERVICE = "vicinal.v1", "Vicinal"
COLLECTION = "collection"
"""Field 1 of each request on a collection; over HTTP it stands in the path."""

SCALARS = {str: "string", int: "int64", bool: "bool", float: "double", bytes: "bytes"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes
    ----------
    kind : how its value is written: one of the names of `wire/protobuf.py`, such as "plain", "struct" or "ids".
    type : the scalar or message that protobuf knows.
    label : "" for a field without presence, "optional", "repeated" or "map".
    group : the oneof that it belongs to.
    of : the Struct, Enum or other Python type of it.
    """

    name: str
    number: int
    kind: str
    type: str
    label: str = ""
    group: str | None = None
    of: Any = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `reserved` are names, with their numbers, that it once had."""

    name: str
    fields: tuple[Field, ...]
    about: str
    reserved: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Method:
    """One call of the service."""

    name: str
    request: str
    answer: str
    about: str
    stream_in: bool = False
    stream_out: bool = False


def _one_of(name: str, about: str, *fields: tuple[str, str]) -> Message:
    return Message(
        name,
        tuple(
            Field(field, i, "plain", type_, group="kind")
            for i, (field, type_) in enumerate(fields, 1)
        ),
        about,
    )


def _list_of(name: str, about: str, type_: str) -> Message:
    return Message(name, (Field("values", 1, "plain", type_, "repeated"),), about)


SPECIAL = (
    _one_of(
        "Id",
        "An id keeps its type; a UUID is its 16 bytes.",
        ("number", "sint64"),
        ("text", "string"),
        ("uuid", "bytes"),
    ),
    Message(
        "Ids",
        (
            Field("numbers", 1, "plain", "sint64", "repeated"),
            Field("texts", 2, "plain", "string", "repeated"),
            Field("mixed", 3, "plain", "Id", "repeated"),
        ),
        "Ids of one type, or of several; one of the lists is filled.",
    ),
    _one_of(
        "Time",
        "Seconds since 1970; or RFC 3339, or never.",
        ("seconds", "double"),
        ("text", "string"),
    ),
    _list_of(
        "Times",
        "A time for each point; one that is not set is as the collection's ttl says.",
        "Time",
    ),
    _one_of("ExpiresAt", "When points expire.", ("all", "Time"), ("each", "Times")),
    _list_of(
        "Versions", "A version for each point, 0 for one that must not exist, -1 for any.", "int64"
    ),
    _one_of("IfVersion", "Versions that points must have.", ("all", "int64"), ("each", "Versions")),
    _list_of("Texts", "Texts.", "string"),
    _list_of("Payloads", "Payloads: JSON objects as MessagePack or JSON text.", "bytes"),
    _list_of("NewPoints", "Points to write.", "NewPoint"),
)
"""Messages that no Struct stands for."""

PAYLOAD_NOTE = "a JSON object as MessagePack, or as JSON text"
VECTOR_NOTE = "little-endian values of the collection's dtype; queries of f16 are f32"
JSON_NOTE = "JSON"
WHERE_NOTE = "a filter, as text"

_HINTS: tuple[tuple[Any, str, str, str, str], ...] = (
    (m.WireId, "id", "Id", "", ""),
    (list[m.WireId], "ids", "Ids", "", ""),
    (list[m.WireId] | None, "ids", "Ids", "optional", ""),
    (m.Vector, "vector", "bytes", "", VECTOR_NOTE),
    (m.Vector | None, "vector", "bytes", "optional", VECTOR_NOTE),
    (m.Vectors, "vector", "bytes", "", "rows, one after the other: " + VECTOR_NOTE),
    (m.Vectors | None, "vector", "bytes", "optional", "rows, one after the other: " + VECTOR_NOTE),
    (m.Where, "where", "string", "optional", WHERE_NOTE),
    (m.Payload, "payload", "bytes", "optional", PAYLOAD_NOTE),
    (list[m.Payload] | None, "payloads", "Payloads", "optional", ""),
    (m.IfVersion, "if_version", "IfVersion", "optional", ""),
    (m.Time | None, "time", "Time", "optional", ""),
    (m.Time | list[m.Time | None] | None, "times", "ExpiresAt", "optional", ""),
    (list[str] | None, "texts", "Texts", "optional", ""),
    (list[m.NewPoint] | None, "points", "NewPoints", "optional", ""),
    (dt.datetime | None, "datetime", "string", "optional", "RFC 3339"),
    (dict[str, Any], "json", "string", "", JSON_NOTE),
    (list[m.Scalar], "json", "string", "", "JSON: a list of scalars"),
    (list[dict[str, Any]], "jsons", "string", "repeated", JSON_NOTE + " of each"),
    (
        list[m.PointOut | None],
        "slots",
        "PointOut",
        "repeated",
        "one for each id; without an id where there is none",
    ),
)
"""(type hint, kind, protobuf type, label, note) of what is not plain."""


def request_name(operation: Operation) -> str:
    """The message of an operation's request."""
    return f"{method_name(operation)}Request"


def method_name(operation: Operation) -> str:
    """The operation's name as protobuf writes it: `search_batch` is `SearchBatch`."""
    return "".join(word.capitalize() for word in operation.name.split("_"))


def methods() -> tuple[Method, ...]:
    """The calls of the service: one for each operation, and the streams."""
    plain = [
        Method(method_name(o), request_name(o), o.answer.__name__, o.summary) for o in OPERATIONS
    ]
    return (*plain, *STREAMS)


STREAMS = (
    Method(
        "UpsertStream",
        "UpsertRequest",
        "Counted",
        "Upserts one after the other; each is answered when it is durable, and the next is read then",
        True,
        True,
    ),
    Method(
        "SearchStream",
        "SearchRequest",
        "HitsOut",
        "Searches as they come, several at a time; answers in their order",
        True,
        True,
    ),
    Method(
        "ScrollStream",
        "ScrollRequest",
        "PageOut",
        "Every page from the cursor on, of `limit` points each, as fast as they are read",
        False,
        True,
    ),
)


@lru_cache(maxsize=1)
def messages() -> dict[str, Message]:
    """Every message, in the order of first use."""
    found: dict[str, Message] = {}
    for operation in OPERATIONS:
        _add(found, request_name(operation), operation.request, operation)
        _add(found, operation.answer.__name__, operation.answer)
    _add(found, m.Fault.__name__, m.Fault)
    return {special.name: special for special in SPECIAL} | found


def _add(
    found: dict[str, Message], name: str, struct: Any, operation: Operation | None = None
) -> None:
    """Add the message of a Struct, and those that it holds before it."""
    if name in found:
        return
    on_collection = operation is not None and operation.on_collection
    numbers = NUMBERS.get(name, ())
    own: set[str] = {*struct.__struct_fields__, *([COLLECTION] if on_collection else [])}
    missing = sorted(own - set(numbers))
    invariant(
        not missing, f"message {name} has fields without a number in wire/numbers.py: {missing}"
    )
    hints = get_type_hints(struct, include_extras=True)
    optional = {
        f.encode_name
        for f in msgspec.structs.fields(struct)
        if not f.required and issubclass(struct, m.Request)
    }
    fields: list[Field] = []
    if on_collection:
        fields.append(Field(COLLECTION, numbers.index(COLLECTION) + 1, "plain", "string"))
    for field in struct.__struct_fields__:
        fields.append(
            _field(found, field, numbers.index(field) + 1, hints[field], field in optional)
        )
    gone = tuple((n, i) for i, n in enumerate(numbers, 1) if n not in own)
    about = operation.summary if operation else (struct.__doc__ or "").partition("\n\n")[0]
    fields.sort(key=lambda f: f.number)
    found[name] = Message(name, tuple(fields), " ".join(about.split()), gone)


def _field(found: dict[str, Message], name: str, number: int, hint: Any, optional: bool) -> Field:
    for known, kind, type_, label, note in _HINTS:
        if hint == known:
            if type_ == "NewPoints":
                _add(found, "NewPoint", m.NewPoint)
            elif type_ == "PointOut":
                _add(found, "PointOut", m.PointOut)
            return Field(name, number, kind, type_, label, note=note)
    bare, may_be_none = _without_none(hint)
    label = "optional" if may_be_none or optional else ""
    if bare in SCALARS:
        return Field(name, number, "plain", SCALARS[bare], label, of=bare)
    origin = get_origin(bare)
    if origin is dict:
        key, value = get_args(bare)
        invariant(key is str, f"{name}: maps are by text")
        if value in SCALARS:
            return Field(name, number, "map", SCALARS[value], "map", of=value)
        _add(found, value.__name__, value)
        return Field(name, number, "map_struct", value.__name__, "map", of=value)
    if origin is list:
        (value,) = get_args(bare)
        if value in SCALARS:
            return Field(name, number, "plains", SCALARS[value], "repeated", of=value)
        _add(found, value.__name__, value)
        return Field(name, number, "structs", value.__name__, "repeated", of=value)
    if isinstance(bare, type) and issubclass(bare, StrEnum):
        return Field(name, number, "enum", "string", label, of=bare)
    invariant(
        isinstance(bare, type) and issubclass(bare, msgspec.Struct), f"{name}: {hint} has no form"
    )
    struct = cast("type[msgspec.Struct]", bare)
    _add(found, struct.__name__, struct)
    return Field(name, number, "struct", struct.__name__, label, of=struct)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """(the type beside None, whether None was among it)."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    rest: Sequence[Any] = [arg for arg in get_args(hint) if arg is not type(None)]
    invariant(len(rest) == 1, f"{hint} has no form in protobuf")
    return rest[0], True
