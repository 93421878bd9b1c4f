"""What a Flight ticket, descriptor or action says: an operation, its collection and its request, as MessagePack or
JSON. What travels as Arrow columns (vectors, points) is left out of the request."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, cast

import msgspec

from vicinal.model.errors import InvalidArgumentError
from vicinal.wire import messages as m
from vicinal.wire.codec import Codec, codec_by_look
from vicinal.wire.operations import OPERATIONS, Operation

R = TypeVar("R", bound=m.Request)
BY_NAME = {operation.name: operation for operation in OPERATIONS}


class Command(m.Request):
    """An operation to carry out.

    `payload` says how payloads of an answer in Arrow columns are shown: msgpack (binary) or json (text).
    """

    operation: str | None = None
    collection: str | None = None
    request: m.Payload = msgspec.field(default_factory=m.left_out)
    payload: Literal["msgpack", "json"] = "msgpack"

    @property
    def json(self) -> bool:
        """Whether payloads are shown as JSON."""
        return self.payload == "json"


def read_command(body: bytes | memoryview) -> tuple[Command, Codec]:
    """A command, and the codec that it and its request are in."""
    codec = codec_by_look(body)
    return codec.decode(body, Command), codec


def operation_of(name: str | None) -> Operation:
    """The operation of a name."""
    found = BY_NAME.get(name or "")
    if found is None:
        raise InvalidArgumentError(
            f"operation is {(name or '')[:40]!r}; known are {', '.join(sorted(BY_NAME))}"
        )
    return found


def collection_name(command: Command) -> str:
    """The collection of a command that takes one."""
    if command.collection is None:
        raise InvalidArgumentError("the command names no collection; give collection")
    return command.collection


def body_of(command: Command) -> bytes:
    """The bytes of a command's request."""
    return b"" if command.request is msgspec.UNSET else bytes(command.request)


def read_request(command: Command, codec: Codec, kind: type[R], **columns: Any) -> R:
    """The request of a command, with what travels as columns filled in; giving that in the command is an error."""
    fields: Any = {} if command.request is msgspec.UNSET else codec.load(command.request)
    if not isinstance(fields, dict):
        raise InvalidArgumentError("the command's request is no object")
    twice = sorted(set(columns) & set(cast("dict[str, Any]", fields)))
    if twice:
        raise InvalidArgumentError(
            f"{', '.join(twice)}: these travel as Arrow columns; leave them out"
        )
    try:
        return msgspec.convert({**fields, **columns}, kind)
    except msgspec.ValidationError as fault:
        raise InvalidArgumentError(f"request: {fault}") from None
