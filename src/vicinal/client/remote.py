"""The transport to a served database: each call becomes a message of `wire`, sent through a channel.

A channel carries one request and brings one answer, or raises the error that the server sent; HTTP is one
(`client/http.py`), gRPC another (`client/rpc.py`). What a call means, how large ones are split, and what an answer
becomes here is the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
import numpy as np
import numpy.typing as npt

from vicinal.client.batch import Batch, Progress
from vicinal.client.channel import ChannelOptions
from vicinal.client.convert import batches
from vicinal.client.explanation import Explanation
from vicinal.client.many import OneSearch
from vicinal.client.pacing import Pacer, Upload
from vicinal.model.change import Change, Conditions
from vicinal.model.clock import NEVER_MS, expiry_ms
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import ClosedError, InvalidArgumentError, NotFoundError, invariant
from vicinal.model.filter import Filter
from vicinal.model.hits import Hits, HitsBatch, Page, Point, id_array
from vicinal.model.ids import decode_id
from vicinal.model.memory import pick_memory
from vicinal.model.payload import encode_payload
from vicinal.model.recall import mean_recall
from vicinal.model.search import SearchOptions
from vicinal.model.snapshot import Snapshot
from vicinal.model.status import Health, Status
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.codec import from_wire_id, stored_dtype, to_wire_id, to_wire_time
from vicinal.wire.operations import Operation

A = TypeVar("A", bound=m.Answer)
R = TypeVar("R")

QUERY_BYTES_MAX = 8 * 2**20
QUERIES_MAX = 4_096
"""More queries of a batch go in several requests of this size."""

IDS_MAX = 50_000
"""More ids of a get, or of a delete without conditions, go in several requests."""


class Channel(Protocol):
    """Carries requests to one server."""

    @property
    def address(self) -> str:
        """The server's address."""
        ...

    def call(
        self, operation: Operation, collection: str | None, request: m.Request, answer: type[A]
    ) -> A:
        """Send a request and return its answer; payloads in it are MessagePack. Raises the server's error."""
        ...

    def upload(self, collection: str, config: CollectionConfig, upload: Upload) -> None:
        """Send an upsert, in its parts. An error leaves those before it done."""
        ...

    def search_batch(
        self,
        collection: str,
        config: CollectionConfig,
        queries: Sequence[npt.NDArray[Any]],
        options: dict[str, Any],
    ) -> HitsBatch | None:
        """Batches of queries by a way of the channel's own; None where messages are the way."""
        ...

    def close(self) -> None:
        """Give connections back. Idempotent."""
        ...


def connect(address: str, options: ChannelOptions) -> RemoteDatabase:
    """Connect to a server and ask who it is.

    Raises
    ------
    InvalidArgumentError : a scheme that is not known, or an option out of range.
    UnavailableError, UnauthenticatedError : nobody is there, or it wants another key.
    """
    scheme = urlsplit(address).scheme
    make = _channel(scheme)
    options.check(secure=scheme.endswith("s"))
    channel = make(address, options)
    try:
        info = channel.call(ops.INFO, None, m.Empty(), m.ServerInfo)
    except BaseException:
        channel.close()
        raise
    return RemoteDatabase(channel, info)


def _channel(scheme: str) -> Callable[[str, ChannelOptions], Channel]:
    """The channel of a scheme. Each is imported when it is asked for, and may need what is not installed."""
    try:
        if scheme in ("http", "https"):
            from vicinal.client.http import HttpChannel

            return HttpChannel
        if scheme in ("grpc", "grpcs"):
            from vicinal.client.rpc import GrpcChannel

            return GrpcChannel
        if scheme in ("flight", "flights"):
            from vicinal.client.flight import FlightChannel

            return FlightChannel
    except ImportError as fault:
        raise InvalidArgumentError(
            f"{scheme}:// needs {fault.name}: pip install 'vicinal[{scheme.removesuffix('s')}]'"
        ) from fault
    raise InvalidArgumentError(f"an address has the scheme http, https or grpc, not {scheme!r}")


class RemoteDatabase:
    """A served database; see `DatabaseTransport`."""

    def __init__(self, channel: Channel, info: m.ServerInfo) -> None:
        self._channel = channel
        self._info = info
        self._closed = False

    @property
    def address(self) -> str:
        """Its URL."""
        return self._channel.address

    @property
    def read_only(self) -> bool:
        """Whether the server refuses writes."""
        return self._info.read_only

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return self._closed

    def collection(
        self, name: str, config: CollectionConfig | None, changes: dict[str, object]
    ) -> RemoteCollection:
        """Find or make a collection."""
        del config  # the server makes it from the options
        options = cast("dict[str, Any]", msgspec.to_builtins(changes))
        found = self.call(ops.OPEN, _sendable(name), m.OpenCollection(**options), m.CollectionInfo)
        return RemoteCollection(self, found)

    def collections(self) -> list[str]:
        """Names, sorted."""
        return self.call(ops.LIST, None, m.Empty(), m.CollectionNames).names

    def drop(self, name: str) -> None:
        """Delete a collection."""
        self.call(ops.DROP, _sendable(name), m.Empty(), m.Dropped)

    def status(self) -> dict[str, Status]:
        """How each collection is."""
        return self.call(ops.STATUS, None, m.Empty(), m.Statuses).collections

    def stats(self) -> dict[str, Any]:
        """Memory of the database and of its collections, which are asked one by one."""
        budget: dict[str, Any] = {}
        held: dict[str, dict[str, Any]] = {}
        for name, status in self.status().items():
            if status.health is Health.QUARANTINED:
                held[name] = {"status": status.health.value, "reason": status.reason}
                continue
            stats = self.collection(name, None, {}).stats()
            held[name], budget = pick_memory(stats), stats["memory_budget"]
        return {"memory_budget": budget, "collections": held}

    def snapshot(
        self, name: str | None, collections: Sequence[str] | None, progress: Progress | None
    ) -> Snapshot:
        """Keep this moment of the collections, at the server. A server tells no bytes done meanwhile: progress is
        called once, at the end."""
        request = m.TakeSnapshot(
            name=None if name is None else _sendable(name, "snapshot name"),
            collections=None if collections is None else [_sendable(c) for c in collections],
        )
        taken = self.call(ops.SNAPSHOT, None, request, m.SnapshotTaken).snapshot
        if progress is not None:
            progress(taken.bytes, taken.bytes)
        return taken

    def snapshots(self) -> list[Snapshot]:
        """The snapshots there are."""
        return self.call(ops.SNAPSHOTS, None, m.Empty(), m.Snapshots).snapshots

    def drop_snapshot(self, name: str) -> None:
        """Delete a snapshot."""
        request = m.DropSnapshot(name=_sendable(name, "snapshot name"))
        self.call(ops.DROP_SNAPSHOT, None, request, m.Done)

    def backup(
        self, target: str | Path, collections: Sequence[str] | None, progress: Progress | None
    ) -> Snapshot:
        """Refused: a server writes no files where a client says."""
        del collections, progress
        raise InvalidArgumentError(
            f"{self.address} is served elsewhere and makes no backup at {str(target)!r}; call snapshot(), and on "
            "its machine copy the snapshot's folder, from which vicinal.restore makes a database"
        )

    def close(self) -> None:
        """Close the connections; the server goes on. Idempotent."""
        self._closed = True
        self._channel.close()

    def call(
        self, operation: Operation, collection: str | None, request: m.Request, answer: type[A]
    ) -> A:
        """Send one request."""
        return self.channel.call(operation, collection, request, answer)

    @property
    def channel(self) -> Channel:
        """The way to the server; ClosedError where the database is closed."""
        if self._closed:
            raise ClosedError(f"database {self.address!r} is closed; call vicinal.open again")
        return self._channel


class RemoteCollection:
    """A collection of a served database; see `CollectionTransport`."""

    def __init__(self, database: RemoteDatabase, info: m.CollectionInfo) -> None:
        self._database = database
        self._info = info
        self._pacer = Pacer()

    @property
    def name(self) -> str:
        """Its name."""
        return self._info.name

    @property
    def config(self) -> CollectionConfig:
        """Its configuration."""
        return self._info.config

    def upsert(self, batch: Batch, progress: Progress | None) -> None:
        """Insert or replace points; with conditions, or where they fit one part, in one request."""
        upload = Upload(batch, self._pacer, progress, partial(_upsert, batch), time.monotonic)
        self._of_collection(lambda: self._database.channel.upload(self.name, self.config, upload))

    def search_given(
        self, query: npt.NDArray[Any], options: SearchOptions, threads: int
    ) -> Hits | HitsBatch | None:
        """None: what is sent is checked."""
        del query, options, threads
        return None

    def search(
        self,
        queries: npt.NDArray[Any],
        options: SearchOptions,
        *,
        threads: int,
    ) -> HitsBatch:
        """The k nearest of each query."""
        fields = _fields(options)
        results: list[m.HitsOut] = []
        if len(queries) == 1:
            request = m.Search(vector=queries[0].tobytes(), **fields)
            results.append(self._call(ops.SEARCH, request, m.HitsOut))
        else:
            fields["threads"] = threads or None
            row_bytes = queries.shape[1] * queries.dtype.itemsize
            cuts = batches(len(queries), row_bytes, QUERY_BYTES_MAX, QUERIES_MAX)
            parts = [queries[start:end] for start, end in cuts]
            found = self._of_collection(
                lambda: self._database.channel.search_batch(self.name, self.config, parts, fields)
            )
            if found is not None:
                return found
            for part in parts:
                request = m.SearchBatch(vectors=part.tobytes(), **fields)
                results += self._call(ops.SEARCH_BATCH, request, m.BatchOut).results
        return self._found(results, options)

    def search_many(
        self, searches: list[OneSearch], time_ms: float | None
    ) -> list[HitsBatch | None]:
        """In one request."""
        wanted = [
            m.Search(vector=one.query[0].tobytes(), **_fields(one.options)) for one in searches
        ]
        request = m.SearchMany(searches=wanted, time_ms=time_ms)
        answer = self._call(ops.SEARCH_MANY, request, m.ManyOut)
        missing = set(answer.missing)
        return [
            None if i in missing else self._found([hits], one.options)
            for i, (one, hits) in enumerate(zip(searches, answer.results, strict=True))
        ]

    def get(self, keys: list[bytes], *, with_vectors: bool) -> list[Point | None]:
        """Points of keys."""
        points: list[Point | None] = []
        for start, end in _parts(keys):
            request = m.Get(ids=_wire_ids(keys[start:end]), with_vectors=with_vectors)
            answer = self._call(ops.GET, request, m.Points)
            points += [None if p is None else self._point(p) for p in answer.points]
        return points

    def update(self, keys: list[bytes], change: Change, conditions: Conditions) -> int:
        """Change payloads, in one request."""
        request = _update(change)
        request.ids, request.if_version = _wire_ids(keys), _versions(conditions)
        return self._call(ops.UPDATE, request, m.Counted).count

    def update_where(self, where: Filter | None, change: Change) -> int:
        """Change the payloads of what passes."""
        request = _update(change)
        request.where, request.all = _text(where), where is None
        return self._call(ops.UPDATE, request, m.Counted).count

    def delete(self, keys: list[bytes], conditions: Conditions) -> int:
        """Delete by key. With conditions the keys go in one request."""
        count = 0
        for start, end in [(0, len(keys))] if conditions.any else _parts(keys):
            versions = _versions(conditions.part(start, end))
            request = m.Delete(ids=_wire_ids(keys[start:end]), if_version=versions)
            count += self._call(ops.DELETE, request, m.Counted).count
        return count

    def delete_where(self, where: Filter | None) -> int:
        """Delete what passes."""
        request = m.Delete(all=True) if where is None else m.Delete(where=_text(where))
        return self._call(ops.DELETE, request, m.Counted).count

    def count(self, where: Filter | None) -> int:
        """How many pass."""
        return self._call(ops.COUNT, m.Count(where=_text(where)), m.Counted).count

    def scroll(
        self,
        *,
        where: Filter | None,
        order_by: str | None,
        descending: bool,
        limit: int,
        cursor: str | None,
        with_vectors: bool,
    ) -> Page:
        """One page."""
        request = m.Scroll(
            where=_text(where),
            order_by=order_by,
            descending=descending,
            limit=limit,
            cursor=cursor,
            with_vectors=with_vectors,
        )
        page = self._call(ops.SCROLL, request, m.PageOut)
        return Page([self._point(p) for p in page.points], page.cursor)

    def explain(self, queries: npt.NDArray[Any], options: SearchOptions) -> Explanation:
        """Run one search and say how."""
        request = m.Explain(
            vector=queries[0].tobytes(),
            k=options.k,
            where=_text(options.where),
            ef_search=options.ef_search,
            recall=options.recall,
            exact=options.exact,
        )
        answer = self._call(ops.EXPLAIN, request, m.Explained)
        fields: dict[str, Any] = msgspec.structs.asdict(answer)
        fields["segments"] = tuple(answer.segments)
        return Explanation(**fields)

    def stats(self) -> dict[str, Any]:
        """Figures."""
        return self._call(ops.STATS, m.Empty(), m.StatsOut).stats

    def calibrate(self, queries: npt.NDArray[Any] | None, *, threads: int) -> None:
        """Measure recall over the beam width."""
        request = m.Calibrate(
            queries=None if queries is None else queries.tobytes(), threads=threads or None
        )
        self._call(ops.CALIBRATE, request, m.Done)

    def optimize(self, *, threads: int, progress: Progress | None) -> None:
        """Bring everything into one graph. A server tells no rows done meanwhile: progress is called once, at the
        end."""
        self._call(ops.OPTIMIZE, m.Optimize(threads=threads or None), m.Done)
        if progress is not None:
            rows = self.count(None)
            progress(rows, rows)

    def request_optimize(self) -> None:
        """Leave that to the background."""
        self._call(ops.OPTIMIZE, m.Optimize(wait=False), m.Done)

    def _call(self, operation: Operation, request: m.Request, answer: type[A]) -> A:
        return self._of_collection(
            lambda: self._database.call(operation, self.name, request, answer)
        )

    def _of_collection(self, call: Callable[[], R]) -> R:
        try:
            return call()
        except NotFoundError as fault:
            if fault.id is not None:
                raise  # a point is missing, not the collection
            raise ClosedError(
                f"collection {self.name!r} was dropped; open it again with db.collection"
            ) from None

    def _point(self, point: m.PointOut) -> Point:
        vector = self._row(point.vector)
        expires_at = point.expires_at
        return Point(
            from_wire_id(point.id),
            point.version,
            bytes(point.payload),
            vector,
            NEVER_MS if expires_at is None else expiry_ms(expires_at),
        )

    def _row(self, vector: m.Vector | None) -> npt.NDArray[Any] | None:
        return None if vector is None else _row(vector, self.config)

    def _found(self, results: list[m.HitsOut], options: SearchOptions) -> HitsBatch:
        n, width = len(results), min(len(r.hits) for r in results)
        flat = [hit for result in results for hit in result.hits[:width]]
        vectors = payloads = None
        if options.with_payload:
            payloads = [[bytes(hit.payload) for hit in result.hits[:width]] for result in results]
        if options.with_vectors:
            shape = (n, width, self.config.columns)
            vectors = np.empty(shape, self.config.dtype.numpy)
            rows = vectors.reshape(n * width, self.config.columns)
            for i, hit in enumerate(flat):
                rows[i] = _row(hit.vector or b"", self.config)
        return HitsBatch(
            id_array([from_wire_id(hit.id) for hit in flat]).reshape(n, width),
            np.asarray([hit.distance for hit in flat], np.float32).reshape(n, width),
            payloads,
            vectors,
            recall_estimate=mean_recall([r.recall_estimate for r in results], [1] * len(results)),
        )


def _row(vector: m.Vector, config: CollectionConfig) -> npt.NDArray[Any]:
    dtype = stored_dtype(config, query=False)
    if isinstance(vector, bytes):
        row = np.frombuffer(vector, dtype).copy()
        invariant(len(row) == config.columns, "a server sends whole vectors")
        return row
    return np.asarray(vector, dtype)


def _upsert(batch: Batch, start: int, end: int) -> m.Upsert:
    """The request of a part of a batch."""
    part = batch.part(start, end)
    payloads, expires_ms = part.payloads, part.expires_ms
    return m.Upsert(
        ids=_wire_ids(part.keys),
        vectors=part.vectors.tobytes(),
        payloads=None if payloads is None else [msgspec.Raw(raw) for raw in payloads],
        mode=part.conditions.mode.value,
        if_version=_versions(part.conditions),
        expires_at=None if expires_ms is None else _times(expires_ms),
    )


def _wire_ids(keys: list[bytes]) -> list[m.WireId]:
    return [to_wire_id(decode_id(key)) for key in keys]


def _parts(keys: list[bytes]) -> list[tuple[int, int]]:
    return [(i, min(len(keys), i + IDS_MAX)) for i in range(0, len(keys), IDS_MAX)] or [(0, 0)]


def _text(where: Filter | None) -> str | None:
    return None if where is None else where.text


def _fields(options: SearchOptions) -> dict[str, Any]:
    """The options as a request has them."""
    return msgspec.structs.asdict(options) | {"where": _text(options.where)}


def _update(change: Change) -> m.Update:
    """The request of a change, without its points."""
    return m.Update(
        payload=msgspec.Raw(encode_payload(change.fields)),
        replace=change.replace,
        delete_keys=[_sendable(f, "field name") for f in change.remove] or None,
        expires_at=None if change.expires_ms is None else to_wire_time(change.expires_ms),
    )


def _versions(conditions: Conditions) -> m.IfVersion:
    return None if conditions.versions is None else list(conditions.versions)


def _times(expires_ms: Sequence[int | None]) -> m.Time | list[m.Time | None]:
    first = expires_ms[0]
    if first is not None and all(ms == first for ms in expires_ms):
        return to_wire_time(first)
    return [None if ms is None else to_wire_time(ms) for ms in expires_ms]


def _sendable(name: str, what: str = "collection name") -> str:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(f"{what} {name!r} is of type {type(name).__name__}, not str")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as fault:
        raise InvalidArgumentError(
            f"{what} {name!r} is not valid Unicode: {fault.reason}"
        ) from None
    return name
