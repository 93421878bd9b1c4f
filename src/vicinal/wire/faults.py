"""Errors on the wire: every class of the tree in `model/errors.py` has one stable code, and comes back as the
same class.

The code is the class's name in snake case without `Error`. A client that meets a code it does not know (of a
newer server) raises the nearest thing it has: VicinalError.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any, cast

from vicinal.model.errors import (
    AlreadyExistsError,
    ClosedError,
    CollectionMismatchError,
    CorruptionError,
    DeadlineError,
    ForbiddenError,
    InvalidArgumentError,
    LimitError,
    LockedError,
    MemoryLimitError,
    NotFoundError,
    OverloadedError,
    QuotaError,
    ReadOnlyError,
    RequestTooLargeError,
    UnauthenticatedError,
    UnavailableError,
    VersionConflictError,
    VicinalError,
)
from vicinal.wire.messages import Fault

_STATUSES: dict[type[VicinalError], tuple[int, str]] = {
    RequestTooLargeError: (413, "RESOURCE_EXHAUSTED"),
    InvalidArgumentError: (400, "INVALID_ARGUMENT"),
    LimitError: (400, "INVALID_ARGUMENT"),
    UnauthenticatedError: (401, "UNAUTHENTICATED"),
    ForbiddenError: (403, "PERMISSION_DENIED"),
    ReadOnlyError: (403, "FAILED_PRECONDITION"),
    NotFoundError: (404, "NOT_FOUND"),
    CollectionMismatchError: (409, "FAILED_PRECONDITION"),
    AlreadyExistsError: (409, "ALREADY_EXISTS"),
    VersionConflictError: (409, "ABORTED"),
    LockedError: (409, "FAILED_PRECONDITION"),
    ClosedError: (410, "FAILED_PRECONDITION"),
    CorruptionError: (500, "DATA_LOSS"),
    OverloadedError: (503, "UNAVAILABLE"),
    UnavailableError: (503, "UNAVAILABLE"),
    DeadlineError: (504, "DEADLINE_EXCEEDED"),
    MemoryLimitError: (507, "RESOURCE_EXHAUSTED"),
    QuotaError: (507, "RESOURCE_EXHAUSTED"),
    VicinalError: (500, "INTERNAL"),
}
"""HTTP status and the name of the gRPC status."""


def code_of(kind: type[VicinalError]) -> str:
    """The stable code of an error class: `DimensionError` is `dimension`."""
    while kind.__name__.startswith("_"):  # a private class is told as its public base
        kind = kind.__bases__[0]
    words = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    return words.removesuffix("_error")


def codes() -> dict[str, type[VicinalError]]:
    """Every code and its class."""
    public = (kind for kind in _tree(VicinalError) if not kind.__name__.startswith("_"))
    return {code_of(kind): kind for kind in public}


def http_status(error: VicinalError) -> int:
    """The HTTP status that an error answers with."""
    if isinstance(error, OverloadedError) and error.rate_limited:
        return 429
    return _statuses(error)[0]


def grpc_status(error: VicinalError) -> str:
    """The name of the gRPC status that an error answers with."""
    if isinstance(error, OverloadedError) and error.rate_limited:
        return "RESOURCE_EXHAUSTED"
    return _statuses(error)[1]


def to_fault(error: VicinalError) -> Fault:
    """The message of an error; its public attributes travel as details."""
    details = {
        name: {"uuid": str(value)} if isinstance(value, uuid.UUID) else value
        for name, value in vars(error).items()
        if not name.startswith("_") and isinstance(value, str | int | float | uuid.UUID | None)
    }
    return Fault(code=code_of(type(error)), message=str(error), details=details)


def from_fault(fault: Fault) -> VicinalError:
    """The error of a message, with its attributes, as if it had been raised here."""
    kind = codes().get(fault.code, VicinalError)
    error = kind.__new__(kind, fault.message)  # attributes come from the details
    error.args = (fault.message,)
    vars(error).update({name: _value(detail) for name, detail in fault.details.items()})
    return error


def _statuses(error: VicinalError) -> tuple[int, str]:
    kind = next(kind for kind in type(error).__mro__ if kind in _STATUSES)
    return _STATUSES[kind]


def _value(detail: Any) -> Any:
    """A detail as the attribute it was: a UUID travels as ids do."""
    if isinstance(detail, dict) and "uuid" in detail:
        return uuid.UUID(cast("dict[str, str]", detail)["uuid"])
    return cast("object", detail)


def _tree(kind: type[VicinalError]) -> Iterator[type[VicinalError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
