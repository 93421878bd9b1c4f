"""The messages of the client API: one msgspec Struct for each request and each answer.

REST bodies (JSON and MessagePack), the OpenAPI document and every later protocol are made from these. A request has
no unknown fields, so a misspelt option is refused and never ignored. The collection is not part of a body: it stands in
the path.

Ids keep their type: a str is a string, an int a number, a UUID is `{"uuid": "..."}`. A vector is a list of
numbers or its little-endian bytes in the collection's dtype (base64 in JSON); queries of an f16 collection are
f32. A time is seconds since 1970, or RFC 3339 text with its zone, or "never"; answers have the text.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from vicinal.model.config import CollectionConfig
from vicinal.model.snapshot import Snapshot
from vicinal.model.status import Status

JSON_TYPE, MSGPACK_TYPE = "application/json", "application/msgpack"


class UuidId(Struct, frozen=True, forbid_unknown_fields=True):
    """An id that is a UUID."""

    uuid: uuid.UUID


WireId: TypeAlias = str | int | UuidId
Vector: TypeAlias = bytes | list[float]
Vectors: TypeAlias = bytes | list[list[float]]
Where: TypeAlias = str | dict[str, Any] | None
Time: TypeAlias = float | str
NEVER = "never"
IfVersion: TypeAlias = int | list[int | None] | None
Scalar: TypeAlias = str | int | float | bool | None
Payload: TypeAlias = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
"""A JSON object, decoded only when it is needed."""


def left_out() -> Any:
    """The field is absent: msgspec writes no UNSET. (Not `Raw | None`: msgspec knows no union with Raw.)"""
    return msgspec.UNSET


class Request(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all requests."""


class Answer(Struct, kw_only=True):
    """Base of all answers. A client ignores fields that it does not know, so answers may grow."""


class Empty(Request):
    """A request without options."""


class ServerInfo(Answer):
    """What answers: its version, whether it takes writes, and what the key that asks may do (`role` is null where no
    keys are asked for, `collections` where they are all)."""

    version: str
    read_only: bool
    protocol: int = 1
    role: str | None = None
    collections: list[str] | None = None


class CollectionNames(Answer):
    """Names of the collections that the key may see, sorted."""

    names: list[str]


class OpenCollection(Request):
    """Options of a collection, as in `Database.collection`: made where it does not exist and dim is given."""

    dim: int | None = None
    metric: str | None = None
    dtype: str | None = None
    strict: bool | None = None
    M: int | None = None
    ef_construction: int | None = None
    ttl: float | None = None


class CollectionInfo(Answer):
    """A collection's name and configuration."""

    name: str
    config: CollectionConfig


class Dropped(Answer):
    """The collection is gone."""

    name: str


class NewPoint(Request):
    """One point to write."""

    id: WireId
    vector: Vector
    payload: Payload = msgspec.field(default_factory=left_out)


class Upsert(Request):
    """Points to insert or replace: `points`, or the columns `ids`, `vectors` and `payloads`.

    `mode` is upsert, insert_only or update_only. `if_version` and `expires_at` are one value, or a list parallel to the
    points.
    """

    points: list[NewPoint] | None = None
    ids: list[WireId] | None = None
    vectors: Vectors | None = None
    payloads: list[Payload] | None = None
    mode: str = "upsert"
    if_version: IfVersion = None
    expires_at: Time | list[Time | None] | None = None


class Update(Request):
    """Points to change, exactly one of ids, where and all; fields to set (with `replace`: the whole payload), fields
    to take away."""

    ids: list[WireId] | None = None
    where: Where = None
    all: bool = False
    payload: Payload = msgspec.field(default_factory=left_out)
    replace: bool = False
    delete_keys: list[str] | None = None
    if_version: IfVersion = None
    expires_at: Time | None = None
    dry_run: bool = False


class Delete(Request):
    """Points to delete: exactly one of ids, where and all."""

    ids: list[WireId] | None = None
    where: Where = None
    all: bool = False
    if_version: IfVersion = None
    dry_run: bool = False


class Counted(Answer):
    """How many points there are, were written, changed or deleted."""

    count: int


class Get(Request):
    """Points by id."""

    ids: list[WireId]
    with_vectors: bool = False


class PointOut(Answer, omit_defaults=True):
    """A stored point."""

    id: WireId
    version: int
    payload: Payload
    vector: Vector | None = None
    expires_at: dt.datetime | None = None


class Points(Answer):
    """Points in the order of the ids asked for, null where there is none."""

    points: list[PointOut | None]


class Search(Request):
    """One query."""

    vector: Vector
    k: int = 10
    where: Where = None
    ef_search: int | None = None
    recall: float | None = None
    exact: bool = False
    with_payload: bool = True
    with_vectors: bool = False


class SearchBatch(Request):
    """Many queries with the same options."""

    vectors: Vectors
    k: int = 10
    where: Where = None
    ef_search: int | None = None
    recall: float | None = None
    exact: bool = False
    with_payload: bool = True
    with_vectors: bool = False
    threads: int | None = None


class HitOut(Answer, omit_defaults=True, gc=False):
    """One result; a smaller distance is nearer."""

    id: WireId
    distance: float
    payload: Payload = msgspec.field(default_factory=left_out)
    vector: Vector | None = None


class SearchMany(Request):
    """Searches of different kinds. After `time_ms` milliseconds the answer has what was found by then; null waits for
    all."""

    searches: list[Search]
    time_ms: float | None = None


class HitsOut(Answer, omit_defaults=True):
    """Results of one query, nearest first; `recall_estimate` is the share of the true nearest that are expected to be
    among them, absent where that is not known."""

    hits: list[HitOut]
    recall_estimate: float | None = None


class BatchOut(Answer):
    """Results of each query."""

    results: list[HitsOut]


class ManyOut(Answer):
    """Results of each search, in their order; those of the places in `missing` are empty, since the time was over."""

    results: list[HitsOut]
    missing: list[int]


class Count(Request):
    """How many points pass a filter."""

    where: Where = None


class Scroll(Request):
    """One page of points."""

    where: Where = None
    order_by: str | None = None
    descending: bool = False
    limit: int = 100
    cursor: str | None = None
    with_vectors: bool = False


class PageOut(Answer):
    """A page; `cursor` is null on the last one."""

    points: list[PointOut]
    cursor: str | None = None


class Explain(Request):
    """A query to explain."""

    vector: Vector
    k: int = 10
    where: Where = None
    ef_search: int | None = None
    recall: float | None = None
    exact: bool = False


class Explained(Answer):
    """How a search was done; see `vicinal.Explanation`."""

    collection: str
    points: int
    k: int
    ef_search: int
    where: str | None
    matches: int
    total_ms: float
    segments: list[dict[str, Any]]
    recall: float | None = None
    recall_estimate: float | None = None


class StatsOut(Answer):
    """Figures of a collection."""

    stats: dict[str, Any]


class Optimize(Request):
    """Bring everything into one graph; `wait` answers when it is done."""

    wait: bool = True
    threads: int | None = None


class Calibrate(Request):
    """Measure recall over the beam width with these queries, which are kept; null: with the points themselves."""

    queries: Vectors | None = None
    threads: int | None = None


class Done(Answer):
    """It was done, or left to the background where that was asked for."""

    done: bool = True


class Statuses(Answer):
    """How each collection is that the key may see."""

    collections: dict[str, Status]


class TakeSnapshot(Request):
    """A snapshot to make: named after the time, and of all collections, unless it says otherwise."""

    name: str | None = None
    collections: list[str] | None = None


class SnapshotTaken(Answer):
    """The snapshot; its path is one of the server's machine."""

    snapshot: Snapshot


class Snapshots(Answer):
    """The snapshots there are, oldest first."""

    snapshots: list[Snapshot]


class DropSnapshot(Request):
    """A snapshot to delete."""

    name: str


class Project(Request):
    """A random sample of up to `sample` points that pass the filter (and up to 64 MiB of vectors), as places on a
    plane; the same seed draws the same points of a collection that stays as it is. `color_by` is a payload field."""

    where: Where = None
    sample: int = 2_000
    color_by: str | None = None
    seed: int = 0


class FieldFound(Answer):
    """A top-level payload field of the sample with scalar values: how many different ones, and whether all are
    numbers."""

    name: str
    distinct: int
    numeric: bool


class Projected(Answer):
    """The sample as columns: ids, places, and the values of `color_by` where they are scalars (text cut to 200
    characters). `matches` is how many points passed, `explained` the share of the variance along x and y."""

    matches: int
    ids: list[WireId]
    x: list[float]
    y: list[float]
    values: list[Scalar]
    explained: list[float]
    fields: list[FieldFound]


class CreateKey(Request):
    """A key to make; `collections` null is all, `valid_s` null is for ever, `requests_per_s` null is the server's
    rate. `points_max` and `bytes_max` limit what its collections may hold together; null is no limit."""

    name: str = ""
    role: str = "read"
    collections: list[str] | None = None
    valid_s: float | None = None
    requests_per_s: float | None = None
    points_max: int | None = None
    bytes_max: int | None = None


class KeyInfo(Answer):
    """What is known of a key; its secret is not stored. Times are ISO 8601, in UTC."""

    id: str
    name: str
    role: str
    collections: list[str] | None
    created: str
    expires: str | None
    requests_per_s: float | None
    points_max: int | None = None
    bytes_max: int | None = None


class KeyCreated(Answer):
    """The key to give to its user, shown this once, and what is kept of it."""

    key: str
    info: KeyInfo


class Keys(Answer):
    """The keys there are, oldest first."""

    keys: list[KeyInfo]


class RevokeKey(Request):
    """A key to take away."""

    id: str


class Fault(Answer):
    """An error: a stable code, a message that says what to do, and values for programs."""

    code: str
    message: str
    details: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class Failed(Answer):
    """The body of every answer that is not a success."""

    error: Fault
