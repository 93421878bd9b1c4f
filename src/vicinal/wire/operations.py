"""The operations: each one's name, messages, needed role, HTTP method and path, and whether trying twice is harmless.

Routes, the OpenAPI document, clients and access checks are all made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from vicinal.wire import messages as m


class Role(IntEnum):
    """What a key may do; each role includes the ones before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API.

    Attributes
    ----------
    path : below `/v1/collections/{collection}` where the operation concerns a collection, else below `/v1`.
    repeatable : carrying it out twice leaves the same state and gives the same answer as once.
    every_collection : it concerns all collections, and takes a key that is for all of them.
    """

    name: str
    summary: str
    request: type[m.Request]
    answer: type[m.Answer]
    role: Role
    method: str
    path: tuple[str, ...]
    on_collection: bool = True
    repeatable: bool = True
    every_collection: bool = False


INFO = Operation(
    "info", "Version of the server", m.Empty, m.ServerInfo, Role.READ, "GET", ("info",), False
)
LIST = Operation(
    "list",
    "Names of the collections",
    m.Empty,
    m.CollectionNames,
    Role.READ,
    "GET",
    ("collections",),
    False,
)
STATUS = Operation(
    "status", "How each collection is", m.Empty, m.Statuses, Role.READ, "GET", ("status",), False
)
SNAPSHOT = Operation(
    "snapshot",
    "Keep this moment of the collections, in the server's directory",
    m.TakeSnapshot,
    m.SnapshotTaken,
    Role.ADMIN,
    "POST",
    ("snapshots",),
    False,
    repeatable=False,
    every_collection=True,
)
SNAPSHOTS = Operation(
    "snapshots",
    "The snapshots there are",
    m.Empty,
    m.Snapshots,
    Role.ADMIN,
    "GET",
    ("snapshots",),
    False,
    every_collection=True,
)
DROP_SNAPSHOT = Operation(
    "drop_snapshot",
    "Delete a snapshot",
    m.DropSnapshot,
    m.Done,
    Role.ADMIN,
    "POST",
    ("snapshots", "delete"),
    False,
    repeatable=False,
    every_collection=True,
)
KEYS = Operation(
    "keys",
    "The API keys there are",
    m.Empty,
    m.Keys,
    Role.ADMIN,
    "GET",
    ("keys",),
    False,
    every_collection=True,
)
CREATE_KEY = Operation(
    "create_key",
    "Make an API key; the first one is for an admin of all collections",
    m.CreateKey,
    m.KeyCreated,
    Role.ADMIN,
    "POST",
    ("keys",),
    False,
    repeatable=False,
    every_collection=True,
)
REVOKE_KEY = Operation(
    "revoke_key",
    "Take an API key away",
    m.RevokeKey,
    m.KeyInfo,
    Role.ADMIN,
    "POST",
    ("keys", "revoke"),
    False,
    repeatable=False,
    every_collection=True,
)
OPEN = Operation(
    "open",
    "Find a collection, or make it where it does not exist (which needs the admin role)",
    m.OpenCollection,
    m.CollectionInfo,
    Role.READ,
    "PUT",
    (),
)
DESCRIBE = Operation(
    "describe", "A collection's configuration", m.Empty, m.CollectionInfo, Role.READ, "GET", ()
)
DROP = Operation(
    "drop",
    "Delete a collection with all its points",
    m.Empty,
    m.Dropped,
    Role.ADMIN,
    "DELETE",
    (),
    repeatable=False,
)
UPSERT = Operation(
    "upsert",
    "Insert or replace points; all or nothing up to 20,000 points, conditions for any number",
    m.Upsert,
    m.Counted,
    Role.WRITE,
    "POST",
    ("points",),
    repeatable=False,
)
UPDATE = Operation(
    "update",
    "Change the payload of points by id, by filter, or of all",
    m.Update,
    m.Counted,
    Role.WRITE,
    "PATCH",
    ("points",),
    repeatable=False,
)
DELETE = Operation(
    "delete",
    "Delete points by id, by filter, or all",
    m.Delete,
    m.Counted,
    Role.WRITE,
    "POST",
    ("points", "delete"),
    repeatable=False,
)
GET = Operation("get", "Points by id", m.Get, m.Points, Role.READ, "POST", ("points", "get"))
SCROLL = Operation(
    "scroll", "Points page by page", m.Scroll, m.PageOut, Role.READ, "POST", ("points", "scroll")
)
COUNT = Operation(
    "count",
    "How many points pass a filter",
    m.Count,
    m.Counted,
    Role.READ,
    "POST",
    ("points", "count"),
)
SEARCH = Operation(
    "search", "The k nearest points", m.Search, m.HitsOut, Role.READ, "POST", ("search",)
)
SEARCH_BATCH = Operation(
    "search_batch",
    "The k nearest points of each query",
    m.SearchBatch,
    m.BatchOut,
    Role.READ,
    "POST",
    ("search", "batch"),
)
SEARCH_MANY = Operation(
    "search_many",
    "Searches of different kinds, in the time they are given",
    m.SearchMany,
    m.ManyOut,
    Role.READ,
    "POST",
    ("search", "many"),
)
EXPLAIN = Operation(
    "explain", "How a search is done", m.Explain, m.Explained, Role.READ, "POST", ("explain",)
)
PROJECT = Operation(
    "project",
    "A sample of the points as places on a plane, for a picture",
    m.Project,
    m.Projected,
    Role.READ,
    "POST",
    ("project",),
)
STATS = Operation(
    "stats", "Figures of a collection", m.Empty, m.StatsOut, Role.READ, "GET", ("stats",)
)
OPTIMIZE = Operation(
    "optimize",
    "Bring everything into one graph",
    m.Optimize,
    m.Done,
    Role.ADMIN,
    "POST",
    ("optimize",),
)
CALIBRATE = Operation(
    "calibrate",
    "Measure recall over the beam width",
    m.Calibrate,
    m.Done,
    Role.ADMIN,
    "POST",
    ("calibrate",),
)

OPERATIONS: tuple[Operation, ...] = (
    INFO,
    LIST,
    STATUS,
    SNAPSHOT,
    SNAPSHOTS,
    DROP_SNAPSHOT,
    KEYS,
    CREATE_KEY,
    REVOKE_KEY,
    OPEN,
    DESCRIBE,
    DROP,
    UPSERT,
    UPDATE,
    DELETE,
    GET,
    SCROLL,
    COUNT,
    SEARCH,
    SEARCH_BATCH,
    SEARCH_MANY,
    EXPLAIN,
    PROJECT,
    STATS,
    OPTIMIZE,
    CALIBRATE,
)
