"""Vicinal: a vector database. `open` a directory, `upsert` points, `search` them.

    import vicinal

    db = vicinal.open("./my.db")
    docs = db.collection("docs", dim=3)
    docs.upsert([{"id": "a1", "vector": [1.0, 0.0, 0.0], "lang": "en"}])
    hits = docs.search([0.9, 0.1, 0.0], k=1, where="lang = 'en'")

For an index without a database see `vicinal.index`.
"""

from vicinal.client.asynchronous import AsyncCollection, AsyncDatabase, open_async
from vicinal.client.collection import Collection
from vicinal.client.database import Database, open, restore
from vicinal.client.explanation import Explanation
from vicinal.client.many import ManyHits
from vicinal.engine.estimate import estimate_memory
from vicinal.model.errors import (
    AlreadyExistsError,
    CancelledError,
    ClosedError,
    CollectionMismatchError,
    CorruptionError,
    DeadlineError,
    DimensionError,
    DuplicateIdError,
    FilterError,
    ForbiddenError,
    FormatVersionError,
    InternalError,
    InvalidArgumentError,
    LimitError,
    LockedError,
    MemoryLimitError,
    NotADatabaseError,
    NotFoundError,
    OverloadedError,
    QuotaError,
    ReadOnlyError,
    RequestTooLargeError,
    StorageError,
    UnauthenticatedError,
    UnavailableError,
    UnknownFieldError,
    VectorValueError,
    VersionConflictError,
    VicinalError,
)
from vicinal.model.filter import F
from vicinal.model.hits import Hit, Hits, HitsBatch, Page, Point
from vicinal.model.memory import MemoryEstimate
from vicinal.model.snapshot import Snapshot
from vicinal.model.status import Health, Status
from vicinal.model.version import VERSION as __version__  # noqa: N811 - the name that Python asks for

__all__ = [
    "AlreadyExistsError",
    "AsyncCollection",
    "AsyncDatabase",
    "CancelledError",
    "ClosedError",
    "Collection",
    "CollectionMismatchError",
    "CorruptionError",
    "Database",
    "DeadlineError",
    "DimensionError",
    "DuplicateIdError",
    "Explanation",
    "F",
    "FilterError",
    "ForbiddenError",
    "FormatVersionError",
    "Health",
    "Hit",
    "Hits",
    "HitsBatch",
    "InternalError",
    "InvalidArgumentError",
    "LimitError",
    "LockedError",
    "ManyHits",
    "MemoryEstimate",
    "MemoryLimitError",
    "NotADatabaseError",
    "NotFoundError",
    "OverloadedError",
    "Page",
    "Point",
    "QuotaError",
    "ReadOnlyError",
    "RequestTooLargeError",
    "Snapshot",
    "Status",
    "StorageError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownFieldError",
    "VectorValueError",
    "VersionConflictError",
    "VicinalError",
    "__version__",
    "estimate_memory",
    "open",
    "open_async",
    "restore",
]
