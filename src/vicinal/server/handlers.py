"""What each operation does: from its request to the client API over the local transport, and back to its answer.

Checks and meaning are those of `vicinal.Collection` itself, so a served database cannot differ from an embedded one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from vicinal.client.collection import Collection
from vicinal.client.database import Database
from vicinal.model.clock import ExpiresAt
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.hits import HitsBatch, Page, Point
from vicinal.model.version import VERSION
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.codec import (
    Codec,
    from_wire_id,
    from_wire_ids,
    from_wire_time,
    many_vectors,
    one_vector,
    to_wire_id,
)
from vicinal.wire.operations import Operation

OnDatabase = Callable[[Database, Any], m.Answer]
OnCollection = Callable[[Collection, CollectionConfig, Any, Codec, Codec], m.Answer]
"""(collection, its configuration, request, codec of the request, codec of the answer)."""


def info(db: Database, request: m.Empty) -> m.ServerInfo:
    """Who answers."""
    del request
    return m.ServerInfo(version=VERSION, read_only=db.read_only)


def list_collections(db: Database, request: m.Empty) -> m.CollectionNames:
    """All names."""
    del request
    return m.CollectionNames(names=db.collections())


def status(db: Database, request: m.Empty) -> m.Statuses:
    """How each is."""
    del request
    return m.Statuses(collections=db.status())


def snapshot(db: Database, request: m.TakeSnapshot) -> m.SnapshotTaken:
    """Make one."""
    return m.SnapshotTaken(snapshot=db.snapshot(request.name, collections=request.collections))


def snapshots(db: Database, request: m.Empty) -> m.Snapshots:
    """All of them."""
    del request
    return m.Snapshots(snapshots=db.snapshots())


def drop_snapshot(db: Database, request: m.DropSnapshot) -> m.Done:
    """Delete one."""
    db.drop_snapshot(request.name)
    return m.Done()


def upsert(
    docs: Collection, config: CollectionConfig, request: m.Upsert, codec: Codec, out: Codec
) -> m.Counted:
    """Points or columns."""
    del out
    columns = (request.ids, request.vectors, request.payloads)
    options: dict[str, Any] = {
        "mode": request.mode,
        "if_version": request.if_version,
        "expires_at": times(request.expires_at),
    }
    if request.points is not None:
        if any(column is not None for column in columns):
            raise InvalidArgumentError("give either points, or ids and vectors, not both")
        count = docs.upsert(
            ids=[from_wire_id(p.id) for p in request.points],
            vectors=[one_vector(p.vector, config) for p in request.points],
            payload=[_given(p.payload, codec) for p in request.points],
            **options,
        )
    elif request.ids is None or request.vectors is None:
        raise InvalidArgumentError("give points, or both ids and vectors")
    else:
        payloads = request.payloads
        count = docs.upsert(
            ids=from_wire_ids(request.ids),
            vectors=many_vectors(request.vectors, config),
            payload=None if payloads is None else [codec.load(raw) for raw in payloads],
            **options,
        )
    return m.Counted(count=count)


def update(
    docs: Collection, config: CollectionConfig, request: m.Update, codec: Codec, out: Codec
) -> m.Counted:
    """Change payloads by id, by filter, or all."""
    del config, out
    count = docs.update(
        None if request.ids is None else from_wire_ids(request.ids),
        _given(request.payload, codec),
        where=request.where,
        all=request.all,
        replace=request.replace,
        delete_keys=request.delete_keys,
        if_version=request.if_version,
        expires_at=None if request.expires_at is None else from_wire_time(request.expires_at),
        dry_run=request.dry_run,
    )
    return m.Counted(count=count)


def delete(
    docs: Collection, config: CollectionConfig, request: m.Delete, codec: Codec, out: Codec
) -> m.Counted:
    """By id, by filter, or all."""
    del config, codec, out
    ids = None if request.ids is None else from_wire_ids(request.ids)
    count = docs.delete(
        ids,
        where=request.where,
        all=request.all,
        if_version=request.if_version,
        dry_run=request.dry_run,
    )
    return m.Counted(count=count)


def get(
    docs: Collection, config: CollectionConfig, request: m.Get, codec: Codec, out: Codec
) -> m.Points:
    """By id."""
    del config, codec
    points = docs.get(from_wire_ids(request.ids), with_vectors=request.with_vectors)
    return m.Points(points=[None if p is None else _point(p, out) for p in points])


def scroll(
    docs: Collection, config: CollectionConfig, request: m.Scroll, codec: Codec, out: Codec
) -> m.PageOut:
    """One page."""
    del config, codec
    page = page_of(docs, request)
    return m.PageOut(points=[_point(p, out) for p in page], cursor=page.cursor)


def count(
    docs: Collection, config: CollectionConfig, request: m.Count, codec: Codec, out: Codec
) -> m.Counted:
    """How many pass."""
    del config, codec, out
    return m.Counted(count=docs.count(request.where))


def search_batch(
    docs: Collection, config: CollectionConfig, request: m.SearchBatch, codec: Codec, out: Codec
) -> m.BatchOut:
    """Many queries."""
    del codec
    queries: Any = many_vectors(request.vectors, config, query=True)
    found = found_by(docs, queries, request)
    return m.BatchOut(results=[hits_out(found, i, out) for i in range(len(found.ids))])


def explain(
    docs: Collection, config: CollectionConfig, request: m.Explain, codec: Codec, out: Codec
) -> m.Explained:
    """One search explained."""
    del codec, out
    explained = docs.explain(
        one_vector(request.vector, config, query=True),
        k=request.k,
        where=request.where,
        ef_search=request.ef_search,
        recall=request.recall,
        exact=request.exact,
    )
    return m.Explained(**explained.to_dict())


def stats(
    docs: Collection, config: CollectionConfig, request: m.Empty, codec: Codec, out: Codec
) -> m.StatsOut:
    """Figures."""
    del config, request, codec, out
    return m.StatsOut(stats=docs.stats())


def optimize(
    docs: Collection, config: CollectionConfig, request: m.Optimize, codec: Codec, out: Codec
) -> m.Done:
    """One graph."""
    del config, codec, out
    docs.optimize(wait=request.wait, threads=request.threads)
    return m.Done(done=request.wait)


def calibrate(
    docs: Collection, config: CollectionConfig, request: m.Calibrate, codec: Codec, out: Codec
) -> m.Done:
    """With queries or without."""
    del codec, out
    given = request.queries
    queries: Any = None if given is None else many_vectors(given, config, query=True)
    docs.calibrate(queries, threads=request.threads)
    return m.Done()


def page_of(docs: Collection, request: m.Scroll) -> Page:
    """The page that is asked for."""
    return docs.scroll(
        where=request.where,
        order_by=request.order_by,
        descending=request.descending,
        limit=request.limit,
        cursor=request.cursor,
        with_vectors=request.with_vectors,
    )


def found_by(docs: Collection, queries: Any, request: m.SearchBatch) -> HitsBatch:
    """What a batch of queries finds, whose vectors are `queries` wherever they came in."""
    found: Any = docs.search(
        queries,
        k=request.k,
        where=request.where,
        ef_search=request.ef_search,
        recall=request.recall,
        exact=request.exact,
        with_payload=request.with_payload,
        with_vectors=request.with_vectors,
        threads=request.threads,
    )
    return found


def hits_out(found: HitsBatch, place: int, codec: Codec) -> m.HitsOut:
    """The answer of one query among those that were found."""
    ids, distances = found.ids[place].tolist(), found.distances[place].tolist()
    hits = [
        m.HitOut(id=to_wire_id(id_), distance=distance)
        for id_, distance in zip(ids, distances, strict=True)
    ]
    if found.raw_payloads is not None:
        for hit, raw in zip(hits, found.raw_payloads[place], strict=True):
            hit.payload = codec.payload(raw)
    if found.vectors is not None:
        for hit, row in zip(hits, found.vectors[place], strict=True):
            hit.vector = codec.vector(row)
    return m.HitsOut(hits=hits, recall_estimate=found.recall_estimate)


ON_COLLECTION: dict[Operation, OnCollection] = {
    ops.UPSERT: upsert,
    ops.UPDATE: update,
    ops.DELETE: delete,
    ops.GET: get,
    ops.SCROLL: scroll,
    ops.COUNT: count,
    ops.SEARCH_BATCH: search_batch,
    ops.EXPLAIN: explain,
    ops.STATS: stats,
    ops.OPTIMIZE: optimize,
    ops.CALIBRATE: calibrate,
}
"""Every operation on a collection but open, describe and drop, which are about its existence, and the single search,
which the gateway hands to the batcher."""

ON_DATABASE: dict[Operation, OnDatabase] = {
    ops.INFO: info,
    ops.LIST: list_collections,
    ops.STATUS: status,
    ops.SNAPSHOT: snapshot,
    ops.SNAPSHOTS: snapshots,
    ops.DROP_SNAPSHOT: drop_snapshot,
}


def _point(point: Point, codec: Codec) -> m.PointOut:
    vector = None if point.vector is None else codec.vector(point.vector)
    payload = codec.payload(point.raw_payload)
    return m.PointOut(
        id=to_wire_id(point.id),
        version=point.version,
        payload=payload,
        vector=vector,
        expires_at=point.expires_at,
    )


def times(
    times: m.Time | list[m.Time | None] | None,
) -> ExpiresAt | list[ExpiresAt | None] | None:
    """When points expire, as `Collection.upsert` takes it."""
    if times is None:
        return None
    if isinstance(times, list):
        return [None if time is None else from_wire_time(time) for time in times]
    return from_wire_time(times)


def _given(payload: Any, codec: Codec) -> Any:
    """The payload of a point; the empty one where it is left out or null."""
    return None if payload is msgspec.UNSET else codec.load(payload)
