"""The error tree. Every error names the value, the limit and the remedy.

VicinalError
├── InvalidArgumentError (also ValueError)    a value outside its documented range
│   ├── DimensionError                        a vector of the wrong dimension
│   ├── VectorValueError                      NaN, infinity, or a zero vector under cosine
│   ├── DuplicateIdError                      one id twice in a batch
│   ├── FilterError                           a filter that does not parse or does not apply; has .column
│   ├── UnknownFieldError                     a field that strict mode does not know
│   └── LimitError                            above a bound of model/limits.py
│       └── RequestTooLargeError              a request body above what a server takes
├── CollectionMismatchError                   an existing collection has another configuration
├── NotFoundError                             no such collection, or no such point where it must exist
├── AlreadyExistsError                        a point that an insert found in its place; has .id
├── VersionConflictError                      a point has another version; has .id, .expected, .found
├── ClosedError                               the database or collection was closed
├── ReadOnlyError                             a write to a database opened read-only
├── LockedError                               another process is the writer; names its pid and host
├── NotADatabaseError                         the directory is something else
├── FormatVersionError                        written by a newer Vicinal
├── CorruptionError                           a file failed its checks; names the file
├── StorageError                              the operating system refused (disk full, I/O error)
├── MemoryLimitError                        the memory budget has no room; has .needed, .used, .limit
├── QuotaError                                a limit on what a key or a collection may hold; has .needed, .used, .limit
├── CancelledError                            the caller's progress callback asked to stop
├── UnauthenticatedError                      a server wants a key, or does not know this one
├── ForbiddenError                            the key does not allow it
├── OverloadedError                           a server has too much to do; has .retry_after_s
├── DeadlineError                             the time that the caller gave was over
└── UnavailableError                          the server cannot be reached, or went away
"""

from __future__ import annotations


class VicinalError(Exception):
    """Base of every error that Vicinal raises on purpose."""


class InvalidArgumentError(VicinalError, ValueError):
    """A value is outside its documented range."""


class DimensionError(InvalidArgumentError):
    """A vector has another dimension than the collection."""


class VectorValueError(InvalidArgumentError):
    """A vector holds NaN or infinity, or is zero under the cosine metric."""


class DuplicateIdError(InvalidArgumentError):
    """One id stands twice in a batch."""


class FilterError(InvalidArgumentError):
    """A filter does not parse or does not apply.

    Attributes
    ----------
    column : 1-based column of the fault in a text filter, or None.
    """

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column


class UnknownFieldError(InvalidArgumentError):
    """A field is not known to the collection in strict mode."""


class LimitError(InvalidArgumentError):
    """A value is above a bound of `vicinal.model.limits`."""


class RequestTooLargeError(LimitError):
    """A request body is larger than the server takes."""


class CollectionMismatchError(VicinalError):
    """An existing collection has another configuration than the one asked for."""


class NotFoundError(VicinalError, KeyError):
    """There is no such collection, or no such point where it must exist.

    Attributes
    ----------
    id : the point that is missing; None where something else is.
    """

    def __init__(self, message: str, id: object = None) -> None:
        super().__init__(message)
        self.id = id

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0]) if self.args else ""


class AlreadyExistsError(VicinalError):
    """An insert met a point with its id; nothing of the batch was written.

    Attributes
    ----------
    id : the first such id.
    """

    def __init__(self, id: object, more: int = 0) -> None:
        others = f" (as do {more} more)" if more else ""
        super().__init__(
            f"id {id!r} exists{others}; nothing was written: mode='insert_only' makes new points, "
            "mode='upsert' also replaces existing ones"
        )
        self.id = id


class VersionConflictError(VicinalError):
    """A point has another version than the writer expected; nothing of the batch was done.

    Attributes
    ----------
    id : the first such id.
    expected : the version that if_version named; 0 means that it must not exist.
    found : the version that it has, 0 where it does not exist.
    """

    def __init__(self, id: object, expected: int, found: int) -> None:
        has = f"has version {found}" if found else "does not exist"
        wanted = f"version {expected}" if expected else "that it does not exist"
        super().__init__(
            f"id {id!r} {has}, if_version expects {wanted}; nothing was done: "
            "read the point again and repeat the change on what it is now"
        )
        self.id = id
        self.expected = expected
        self.found = found


class ClosedError(VicinalError):
    """The database or collection was closed."""


class ReadOnlyError(VicinalError):
    """The database was opened read-only."""


class LockedError(VicinalError):
    """Another process holds the database for writing."""


class NotADatabaseError(VicinalError):
    """The path is not a Vicinal database."""


class FormatVersionError(VicinalError):
    """The database was written by a newer version."""


class CorruptionError(VicinalError):
    """A file failed its magic, version, size or checksum."""


class StorageError(VicinalError, OSError):
    """The operating system refused an operation."""


class MemoryLimitError(VicinalError):
    """The memory budget of the database has no room for it; nothing was changed.

    Attributes
    ----------
    needed : bytes that it needs beyond what is used.
    used : bytes that the database uses now.
    limit : the budget, in bytes.
    """

    def __init__(self, what: str, needed: int, used: int, limit: int) -> None:
        super().__init__(
            f"{what} needs {needed} bytes of memory; {used} of the memory_budget of {limit} are used and "
            "nothing was changed. Reading and deleting go on; call optimize(), delete points, drop a collection, "
            "or open the database with a larger memory_budget"
        )
        self.needed = needed
        self.used = used
        self.limit = limit


class QuotaError(VicinalError):
    """A key or a collection of a server may hold no more; nothing was written.

    Attributes
    ----------
    unit : points or bytes.
    needed : of them, beyond what is used.
    used : of them, now.
    limit : of them, at most.
    """

    def __init__(self, what: str, unit: str, needed: int, used: int, limit: int) -> None:
        super().__init__(
            f"{what} holds {used} {unit}, the limit is {limit}, and this write needs {needed} more; "
            "nothing was written: delete points (their bytes are given back in the background, or by optimize()), or "
            "ask for a higher limit"
        )
        self.unit = unit
        self.needed = needed
        self.used = used
        self.limit = limit


class CancelledError(VicinalError):
    """A progress callback returned False, so the work stopped; nothing is half done."""


class UnauthenticatedError(VicinalError):
    """The server wants an API key, and this request has none that it knows."""


class ForbiddenError(VicinalError):
    """The API key does not allow this operation on this collection."""


class OverloadedError(VicinalError):
    """The server has more to do than it can; nothing was done.

    Attributes
    ----------
    retry_after_s : seconds after which trying again makes sense.
    rate_limited : whether the key's own rate is used up, rather than the server's capacity.
    """

    def __init__(
        self, message: str, retry_after_s: float = 1.0, *, rate_limited: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.rate_limited = rate_limited


class DeadlineError(VicinalError):
    """The time allowed for a request was over before its answer was there."""


class UnavailableError(VicinalError):
    """The server cannot be reached, or the connection broke; the message says whether a write may have happened."""


class InternalError(VicinalError):
    """A bug in Vicinal; please report it."""


def invariant(condition: object, message: str) -> None:
    """Raise InternalError unless condition holds; survives `python -O`."""
    if not condition:
        raise InternalError(f"invariant broken: {message}")
