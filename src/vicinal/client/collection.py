"""The public face of a collection: checks what the user gave, and speaks to the transport in the engine's terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from vicinal.client.convert import (
    batches,
    rows_to_columns,
    to_matrix,
    to_payloads,
    to_query,
)
from vicinal.client.explanation import Explanation
from vicinal.client.transport import CollectionTransport, Progress
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import CancelledError, InvalidArgumentError, LimitError
from vicinal.model.filter import Expression, Filter, compile_filter
from vicinal.model.hits import Hits, HitsBatch, Page, Point
from vicinal.model.ids import PointId, encode_id, encode_ids
from vicinal.model.limits import (
    BATCH_QUERIES_MAX,
    EF_MAX,
    K_MAX,
    SCROLL_LIMIT_MAX,
    THREADS_MAX,
)
from vicinal.model.payload import encode_payload

Where: TypeAlias = str | Mapping[str, Any] | Expression | Filter

BATCH_BYTES_MAX = 16 * 2**20
BATCH_ROWS_MAX = 20_000
"""A larger upsert is committed in parts of this size, each all or nothing."""


class Collection:
    """A named set of points with one vector each. Made by `Database.collection`; thread-safe."""

    def __init__(self, transport: CollectionTransport) -> None:
        self._transport = transport

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
        progress: Progress | None = None,
    ) -> int:
        """Insert points, or replace those whose id exists.

        Parameters
        ----------
        points : dicts with `id`, `vector` and any other fields, which become the payload; or else
        ids : n ids (str, int, UUID; a list, array, Arrow or pandas column),
        vectors : (n, dim), NumPy or anything that turns into it; (n, dim / 8) uint8 for bit,
        payload : n dicts, an Arrow table, or a pandas or polars frame; None for no payload.
        progress : called with (points done, points in all); returning False stops after the part under way.

        Returns
        -------
        The number of points written. Up to 20,000 points (16 MiB of vectors) are one batch, all or nothing; more are
        committed in parts of that size. When the call returns they are durable as the database's durability says, and
        every search that begins later sees them.

        Raises
        ------
        DimensionError, VectorValueError, DuplicateIdError, InvalidArgumentError, LimitError : nothing was written.
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
        keys = encode_ids(_id_values(ids))
        if not keys:
            raise InvalidArgumentError("batch is empty; give at least one point")
        matrix = to_matrix(vectors, self._transport.config, "vectors")
        if len(matrix) != len(keys):
            raise InvalidArgumentError(f"{len(keys)} ids for {len(matrix)} vectors")
        raws = to_payloads(payload, len(keys))
        row_bytes = matrix.shape[1] * matrix.dtype.itemsize
        for start, end in batches(len(keys), row_bytes, BATCH_BYTES_MAX, BATCH_ROWS_MAX):
            part = None if raws is None else raws[start:end]
            self._transport.upsert(keys[start:end], matrix[start:end], part)
            if progress is not None and progress(end, len(keys)) is False and end < len(keys):
                raise CancelledError(
                    f"stopped by the progress callback after {end} of {len(keys)} points, which are written"
                )
        return len(keys)

    @overload
    def search(
        self,
        query: Sequence[float],
        *,
        k: int = ...,
        where: Where | None = ...,
        ef_search: int | None = ...,
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
        exact : compare with every matching point instead of walking the graph.
        threads : for many queries; None uses every core. One query always runs on one.

        Returns
        -------
        Hits for one query, HitsBatch for many; nearest first, distances exact.

        Raises
        ------
        DimensionError, VectorValueError, FilterError, LimitError, UnknownFieldError (strict collections).
        """
        queries, single = check_query(self._transport.config, query, k, ef_search, exact=exact)
        if threads is None:
            threads = 1 if single else 0
        elif type(threads) is not int or not 1 <= threads <= THREADS_MAX:
            raise _out_of_range("threads", threads, 1, THREADS_MAX)
        found = self._transport.search(
            queries,
            k=k,
            where=None if where is None else compile_where(where),
            ef_search=ef_search,
            exact=exact,
            threads=threads,
            with_payload=with_payload,
            with_vectors=with_vectors,
        )
        if not single:
            return HitsBatch(found.ids, found.distances, found.payloads, found.vectors)
        return Hits(
            found.ids[0].tolist(),
            found.distances[0].tolist(),
            None if found.payloads is None else found.payloads[0],
            None if found.vectors is None else found.vectors[0],
        )

    def get(
        self, ids: PointId | Iterable[PointId], *, with_vectors: bool = False
    ) -> list[Point | None]:
        """The points of ids, in their order, None where there is none."""
        return self._transport.get(_keys(ids), with_vectors=with_vectors)

    def update(self, ids: PointId | Iterable[PointId], payload: Mapping[str, Any]) -> int:
        """Merge fields into the payload of points; other fields stay. Returns how many of the ids exist."""
        if not isinstance(cast("object", payload), Mapping):
            raise InvalidArgumentError(
                f"payload is of type {type(payload).__name__}; give a dict of the fields to set"
            )
        encode_payload(payload)
        return self._transport.update(_unique(_keys(ids)), dict(payload))

    def delete(
        self,
        ids: PointId | Iterable[PointId] | None = None,
        *,
        where: Where | None = None,
        all: bool = False,
        dry_run: bool = False,
    ) -> int:
        """Delete points by id, by filter, or all of them.

        Parameters
        ----------
        dry_run : count what would be deleted, and delete nothing.

        Returns
        -------
        How many points were (or would be) deleted; ids that do not exist are not counted.
        """
        if (ids is not None) + (where is not None) + bool(all) != 1:
            raise InvalidArgumentError("give exactly one of ids, where= and all=True")
        if ids is not None:
            keys = _unique(_keys(ids))
            if dry_run:
                return sum(p is not None for p in self._transport.get(keys, with_vectors=False))
            return self._transport.delete(keys)
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
            raise _out_of_range("limit", limit, 1, SCROLL_LIMIT_MAX)
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
        exact: bool = False,
    ) -> Explanation:
        """Run one search and say how it was done: for each segment the strategy, why, the
        estimated and the actual cost."""
        queries, single = check_query(self._transport.config, query, k, ef_search, exact=exact)
        if not single:
            raise InvalidArgumentError("explain takes one query; give a vector of shape (dim,)")
        compiled = None if where is None else compile_where(where)
        return self._transport.explain(
            queries, k=k, where=compiled, ef_search=ef_search, exact=exact
        )

    def stats(self) -> dict[str, Any]:
        """Points, segments, the share of rows that the graph holds, memory and disk in bytes."""
        return self._transport.stats()

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
            raise _out_of_range("threads", threads, 1, THREADS_MAX)
        if wait:
            self._transport.optimize(threads=threads or 0, progress=progress)
            return
        if progress is not None or threads is not None:
            raise InvalidArgumentError("threads and progress apply to wait=True")
        self._transport.request_optimize()

    def __len__(self) -> int:
        return self.count()

    def __repr__(self) -> str:
        c = self._transport.config
        return f"Collection({self.name!r}, dim={c.dim}, metric={c.metric.value!r}, dtype={c.dtype.value!r})"


def check_query(
    config: CollectionConfig, query: Any, k: int, ef_search: int | None, *, exact: bool
) -> tuple[npt.NDArray[Any], bool]:
    """((n, columns) queries, whether a single one was given), after a look at the options of a search."""
    if type(k) is not int or not 1 <= k <= K_MAX:
        raise _out_of_range("k", k, 1, K_MAX)
    if ef_search is not None:
        if exact:
            raise InvalidArgumentError("ef_search does not apply to exact=True; give one of them")
        if type(ef_search) is not int or not k <= ef_search <= EF_MAX:
            raise _out_of_range("ef_search", ef_search, k, EF_MAX, " (it is at least k)")
    queries, single = to_query(query, config)
    if len(queries) > BATCH_QUERIES_MAX:
        raise _out_of_range("number of queries", len(queries), 1, BATCH_QUERIES_MAX)
    return queries, single


def compile_where(where: Where) -> Filter:
    """The filter of any of its forms; texts are remembered."""
    return _parse(where) if isinstance(where, str) else compile_filter(where)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Filter:
    return compile_filter(text)


def _id_values(ids: Any) -> Iterable[object]:
    """Python or NumPy ids from whatever column they came in."""
    if isinstance(ids, np.ndarray):
        array = cast("np.ndarray[Any, np.dtype[Any]]", ids)
        if array.ndim != 1:
            raise InvalidArgumentError(f"ids have shape {array.shape}; give one id a point")
        return array if array.dtype.kind in "iu" else array.tolist()
    if isinstance(ids, list):
        return cast("list[object]", ids)
    if isinstance(ids, str | bytes):
        raise InvalidArgumentError(f"ids is one value, {ids!r}; give a list of ids")
    for name in ("to_pylist", "to_list", "tolist"):
        if hasattr(ids, name):
            return getattr(ids, name)()
    return ids


def _keys(ids: Any) -> list[bytes]:
    """Keys of one id or several, in order, repetitions kept."""
    if isinstance(ids, str | int) or not isinstance(ids, Iterable):
        return [encode_id(ids)]
    return [encode_id(i) for i in _id_values(ids)]


def _unique(keys: list[bytes]) -> list[bytes]:
    return list(dict.fromkeys(keys))


def _out_of_range(name: str, value: object, low: int, high: int, note: str = "") -> LimitError:
    return LimitError(f"{name} is {value!r}; it is an int of {low} to {high}{note}")
