"""The public face of a collection: checks what the user gave, and speaks to the transport in the engine's terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np

from vicinal.client.arguments import (
    Where,
    check_selection,
    compile_where,
    id_values,
    keys_and_conditions,
    keys_of,
    out_of_range,
    search_options,
    to_queries,
)
from vicinal.client.batch import Batch, Progress
from vicinal.client.conditions import IfVersion, parse_mode, to_change, to_versions
from vicinal.client.convert import (
    rows_to_columns,
    to_matrix,
    to_payloads,
    to_query,
)
from vicinal.client.explanation import Explanation
from vicinal.client.many import ManyHits, OneSearch, given_options
from vicinal.client.transport import CollectionTransport
from vicinal.model.change import Conditions, WriteMode
from vicinal.model.clock import ExpiresAt, expiries_ms
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.hits import Hits, HitsBatch, Page, Point
from vicinal.model.ids import PointId, encode_ids
from vicinal.model.limits import (
    CALIBRATION_QUERIES_MAX,
    CALIBRATION_QUERIES_MIN,
    SCROLL_LIMIT_MAX,
    SEARCHES_MANY_MAX,
    THREADS_MAX,
    TIME_MS_MAX,
)
from vicinal.model.snapshot import Snapshot

TakeSnapshot: TypeAlias = Callable[[str | None, Sequence[str] | None, Progress | None], Snapshot]


class Collection:
    """A named set of points with one vector each. Made by `Database.collection`; thread-safe."""

    def __init__(self, transport: CollectionTransport, snapshot: TakeSnapshot) -> None:
        self._transport = transport
        self._config = transport.config
        self._snapshot = snapshot

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._transport.name

    @property
    def config(self) -> CollectionConfig:
        """Everything that was fixed when it was made."""
        return self._transport.config

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._transport.config.dim

    @property
    def metric(self) -> str:
        """l2, ip, cosine, hamming or manhattan."""
        return self._transport.config.metric.value

    @property
    def dtype(self) -> str:
        """f32, f16, i8 or bit."""
        return self._transport.config.dtype.value

    def upsert(
        self,
        points: Iterable[Mapping[str, Any]] | None = None,
        *,
        ids: Iterable[PointId] | Any | None = None,
        vectors: Any = None,
        payload: Any = None,
        mode: str | WriteMode = WriteMode.UPSERT,
        if_version: IfVersion | None = None,
        expires_at: ExpiresAt | Iterable[ExpiresAt | None] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Insert points, or replace those whose id exists.

        Parameters
        ----------
        points : dicts with `id`, `vector` and any other fields, which become the payload; or else
        ids : n ids (str, int, UUID; a list, array, Arrow or pandas column),
        vectors : (n, dim), NumPy or anything that turns into it; (n, dim / 8) uint8 for bit,
        payload : n dicts, an Arrow table, or a pandas or polars frame; None for no payload.
        mode : "upsert"; "insert_only", where an id that exists is an error; "update_only", where one that does
            not exist is.
        if_version : the version that the point must have for the write to happen, 0 where it must not exist: an
            int for one id, or a list parallel to the ids, None in it for any.
        expires_at : when the points expire, one time for all or a list parallel to the ids: a datetime with a time
            zone, or seconds since the epoch; math.inf is never. None: as the collection's ttl says. From that
            time on no search, count, filter or look-up sees the point, and its id is free.
        progress : called with (points done, points in all); returning False stops after the part under way.

        Returns
        -------
        The number of points written. Up to 20,000 points (16 MiB of vectors) are one batch, all or nothing; more are
        committed in parts of that size. When the call returns they are durable as the database's durability says, and
        every search that begins later sees them.

        Raises
        ------
        DimensionError, VectorValueError, DuplicateIdError, InvalidArgumentError, LimitError : nothing was written.
        AlreadyExistsError, NotFoundError, VersionConflictError : mode or if_version forbids it; nothing was written,
            of a call of any size.
        CancelledError : progress returned False; the parts before are written.
        """
        if points is not None:
            if ids is not None or vectors is not None or payload is not None:
                raise InvalidArgumentError("give either points, or ids= and vectors=, not both")
            if isinstance(points, Mapping):
                raise InvalidArgumentError("points is one dict; give a list of dicts")
            ids, vectors, payload = rows_to_columns(points)
        elif ids is None or vectors is None:
            raise InvalidArgumentError("give points, or both ids= and vectors=")
        keys = encode_ids(id_values(ids))
        if not keys:
            raise InvalidArgumentError("batch is empty; give at least one point")
        matrix = to_matrix(vectors, self._transport.config, "vectors")
        if len(matrix) != len(keys):
            raise InvalidArgumentError(f"{len(keys)} ids for {len(matrix)} vectors")
        batch = Batch(
            keys,
            matrix,
            to_payloads(payload, len(keys)),
            Conditions(parse_mode(mode), to_versions(if_version, len(keys))),
            expiries_ms(expires_at, len(keys)),
        )
        self._transport.upsert(batch, progress)
        return len(keys)

    @overload
    def search(
        self,
        query: Sequence[float],
        *,
        k: int = ...,
        where: Where | None = ...,
        ef_search: int | None = ...,
        recall: float | None = ...,
        exact: bool = ...,
        with_payload: bool = ...,
        with_vectors: bool = ...,
        threads: int | None = ...,
    ) -> Hits: ...
    @overload
    def search(
        self,
        query: Any,
        *,
        k: int = ...,
        where: Where | None = ...,
        ef_search: int | None = ...,
        recall: float | None = ...,
        exact: bool = ...,
        with_payload: bool = ...,
        with_vectors: bool = ...,
        threads: int | None = ...,
    ) -> Any: ...
    def search(
        self,
        query: Any,
        *,
        k: int = 10,
        where: Where | None = None,
        ef_search: int | None = None,
        recall: float | None = None,
        exact: bool = False,
        with_payload: bool = True,
        with_vectors: bool = False,
        threads: int | None = None,
    ) -> Hits | HitsBatch:
        """Find the k points nearest to a query, or to each of many.

        Parameters
        ----------
        query : (dim,) for one, (n, dim) for many; (dim / 8) uint8 for bit.
        k : results wanted, 1 to K_MAX. There are k of them whenever k points match.
        where : filter as text, dict or expression (see `vicinal.model.filter`); exact.
        ef_search : beam width; larger raises recall and latency. Default: max(200, 4 k).
        recall : instead of ef_search: the share of the true nearest points to find, above 0 and at most 1, for k up to
            100; 1.0 is exact search. The beam follows from what each graph measured on its own points (or on your
            queries, see `calibrate`). `hits.recall_estimate` says what to expect.
        exact : compare with every matching point instead of walking the graph.
        threads : for many queries; None uses every core. One query always runs on one.

        Returns
        -------
        Hits for one query, HitsBatch for many; nearest first, distances exact.

        Raises
        ------
        DimensionError, VectorValueError, FilterError, LimitError, UnknownFieldError (strict collections).
        """
        options = search_options(k, where, ef_search, recall, exact, with_payload, with_vectors)
        if threads is not None and (type(threads) is not int or not 1 <= threads <= THREADS_MAX):
            raise out_of_range("threads", threads, 1, THREADS_MAX)
        if type(query) is np.ndarray:
            hits = self._transport.search_given(query, options, threads or 0)
            if hits is not None:
                return hits
        queries, single = to_queries(self._config, query)
        found = self._transport.search(queries, options, threads=threads or (1 if single else 0))
        return found[0] if single else found

    def search_many(
        self, searches: Iterable[Mapping[str, Any]], *, time_ms: float | None = None
    ) -> ManyHits:
        """Carry out searches of different kinds in one call.

        Parameters
        ----------
        searches : dicts of `query`, (dim,), and any of the options k, where, ef_search, recall, exact, with_payload and
            with_vectors, as of `search`; up to SEARCHES_MANY_MAX. Queries with equal options are faster as the matrix
            that `search` takes.
        time_ms : after so many milliseconds what was found is returned: a search that was not begun by then is not
            carried out, and one that is under way on a server not waited for. None waits for all.

        Returns
        -------
        ManyHits: Hits for each search; None for those that are `missing`, and `complete` says whether none is.

        Raises what `search` raises, where one of the searches does.
        """
        if time_ms is not None and (
            type(time_ms) not in (int, float) or not 0 <= time_ms <= TIME_MS_MAX
        ):
            raise out_of_range("time_ms", time_ms, 0, TIME_MS_MAX)
        given = [given_options(search, i) for i, search in enumerate(searches)]
        if not 1 <= len(given) <= SEARCHES_MANY_MAX:
            raise out_of_range("number of searches", len(given), 1, SEARCHES_MANY_MAX)
        many: list[OneSearch] = []
        for i, o in enumerate(given):
            query = o.pop("query")
            options = search_options(**o)
            queries, single = to_queries(self._config, query)
            if not single:
                raise InvalidArgumentError(f"search {i} has {len(queries)} queries; give it one")
            many.append(OneSearch(queries, options))
        found = self._transport.search_many(many, time_ms)
        return ManyHits([None if one is None else one[0] for one in found])

    def get(
        self, ids: PointId | Iterable[PointId], *, with_vectors: bool = False
    ) -> list[Point | None]:
        """The points of ids, in their order, None where there is none."""
        return self._transport.get(keys_of(ids), with_vectors=with_vectors)

    def update(
        self,
        ids: PointId | Iterable[PointId] | None = None,
        payload: Mapping[str, Any] | None = None,
        *,
        where: Where | None = None,
        all: bool = False,
        replace: bool = False,
        delete_keys: Iterable[str] | None = None,
        if_version: IfVersion | None = None,
        expires_at: ExpiresAt | None = None,
        dry_run: bool = False,
    ) -> int:
        """Change the payload of points by id, by filter, or of all of them; their vectors stay.

        Parameters
        ----------
        payload : fields to set; others stay, unless
        replace : these fields become the whole payload.
        delete_keys : top-level fields to take away, in the same step; a point need not have them.
        if_version : as for `upsert`; applies to ids.
        expires_at : a new time for all of them, math.inf for never; otherwise an update leaves it as it is.
        dry_run : count what would be updated, and change nothing.

        Returns
        -------
        How many points were (or would be) updated; ids that do not exist are not counted. By id the call is one
        batch, all or nothing; by filter it is one for every 50,000 points, and which points is fixed when it begins.

        Raises
        ------
        VersionConflictError : a point has another version; nothing was updated.
        InvalidArgumentError, FilterError, LimitError : nothing was updated.
        """
        check_selection(ids, where, all, if_version)
        change = to_change(payload, replace=replace, delete_keys=delete_keys, expires_at=expires_at)
        if ids is not None:
            keys, conditions = keys_and_conditions(ids, if_version)
            if dry_run:
                return self._count_ids(keys, conditions)
            return self._transport.update(keys, change, conditions)
        compiled = None if where is None else compile_where(where)
        if dry_run:
            return self._transport.count(compiled)
        return self._transport.update_where(compiled, change)

    def delete(
        self,
        ids: PointId | Iterable[PointId] | None = None,
        *,
        where: Where | None = None,
        all: bool = False,
        if_version: IfVersion | None = None,
        dry_run: bool = False,
    ) -> int:
        """Delete points by id, by filter, or all of them.

        Parameters
        ----------
        if_version : as for `upsert`; applies to ids.
        dry_run : count what would be deleted, and delete nothing.

        Returns
        -------
        How many points were (or would be) deleted; ids that do not exist are not counted.

        Raises
        ------
        VersionConflictError : a point has another version; nothing was deleted.
        """
        check_selection(ids, where, all, if_version)
        if ids is not None:
            keys, conditions = keys_and_conditions(ids, if_version)
            if dry_run:
                return self._count_ids(keys, conditions)
            return self._transport.delete(keys, conditions)
        compiled = None if where is None else compile_where(where)
        if dry_run:
            return self._transport.count(compiled)
        return self._transport.delete_where(compiled)

    def count(self, where: Where | None = None) -> int:
        """How many points pass the filter (all, where there is none); exact."""
        return self._transport.count(None if where is None else compile_where(where))

    def scroll(
        self,
        *,
        where: Where | None = None,
        order_by: str | None = None,
        descending: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        with_vectors: bool = False,
    ) -> Page:
        """Read points page by page.

        Parameters
        ----------
        order_by : payload field (dotted path); None is the order of writing. Points without the field come last.
        limit : points of a page, 1 to SCROLL_LIMIT_MAX.
        cursor : `page.cursor` of the page before; None is the first page.

        Returns
        -------
        Page : a list of Point with `.cursor`, None on the last page. A point written between two
        pages may be missed or, when its place moves, come again; no other point is.
        """
        if type(limit) is not int or not 1 <= limit <= SCROLL_LIMIT_MAX:
            raise out_of_range("limit", limit, 1, SCROLL_LIMIT_MAX)
        if descending and order_by is None:
            raise InvalidArgumentError("descending applies to order_by; give a field")
        return self._transport.scroll(
            where=None if where is None else compile_where(where),
            order_by=order_by,
            descending=descending,
            limit=limit,
            cursor=cursor,
            with_vectors=with_vectors,
        )

    def explain(
        self,
        query: Any,
        *,
        k: int = 10,
        where: Where | None = None,
        ef_search: int | None = None,
        recall: float | None = None,
        exact: bool = False,
    ) -> Explanation:
        """Run one search and say how it was done: for each segment the strategy, why, the recall to expect, the
        estimated and the actual cost."""
        options = search_options(k, where, ef_search, recall, exact, with_payload=False)
        queries, single = to_queries(self._config, query)
        if not single:
            raise InvalidArgumentError("explain takes one query; give a vector of shape (dim,)")
        return self._transport.explain(queries, options)

    def stats(self) -> dict[str, Any]:
        """Points, segments, the share of rows that the graph holds, memory and disk in bytes."""
        return self._transport.stats()

    def snapshot(self, name: str | None = None, *, progress: Progress | None = None) -> Snapshot:
        """Keep this moment of the collection; as `Database.snapshot` of it alone."""
        return self._snapshot(name, [self.name], progress)

    def optimize(
        self, *, wait: bool = True, threads: int | None = None, progress: Progress | None = None
    ) -> None:
        """Bring everything into one graph without deleted rows. Searches and writes go on meanwhile.

        Parameters
        ----------
        wait : return when it is done; False leaves it to the background thread.
        threads : None uses every core.
        progress : called with (rows done, rows in all); returning False stops, and nothing has changed.
        """
        if threads is not None and (type(threads) is not int or not 1 <= threads <= THREADS_MAX):
            raise out_of_range("threads", threads, 1, THREADS_MAX)
        if wait:
            self._transport.optimize(threads=threads or 0, progress=progress)
            return
        if progress is not None or threads is not None:
            raise InvalidArgumentError("threads and progress apply to wait=True")
        self._transport.request_optimize()

    def calibrate(self, queries: Any = None, *, threads: int | None = None) -> None:
        """Measure what recall each beam width gives, for `search(recall=)` and `hits.recall_estimate`.

        Every graph measures itself while it is built, with points that it does not hold yet. That is right where
        queries are like the points; where they are not, give real ones.

        Parameters
        ----------
        queries : (n, dim) queries as for `search`, 25 to 2,000 of them. They are kept, over a reopening too, and
            measure every graph that is built later. None: forget them; each graph is built anew and measures itself.
        threads : None uses every core.
        """
        if threads is not None and (type(threads) is not int or not 1 <= threads <= THREADS_MAX):
            raise out_of_range("threads", threads, 1, THREADS_MAX)
        matrix = None
        if queries is not None:
            matrix, single = to_query(queries, self._transport.config)
            low, high = CALIBRATION_QUERIES_MIN, CALIBRATION_QUERIES_MAX
            if single or not low <= len(matrix) <= high:
                raise LimitError(
                    f"number of queries is {len(matrix)}; give a matrix of {low} to {high}, drawn at random"
                )
        self._transport.calibrate(matrix, threads=threads or 0)

    def __len__(self) -> int:
        return self.count()

    def __repr__(self) -> str:
        c = self._transport.config
        return f"Collection({self.name!r}, dim={c.dim}, metric={c.metric.value!r}, dtype={c.dtype.value!r})"

    def _count_ids(self, keys: list[bytes], conditions: Conditions) -> int:
        """How many of the ids exist; the conditions are checked as a write would."""
        found = self._transport.get(keys, with_vectors=False)
        conditions.check(keys, [0 if point is None else point.version for point in found])
        return sum(point is not None for point in found)
