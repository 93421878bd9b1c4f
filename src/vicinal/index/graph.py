"""The vector index: exact rows, one-byte codes and a proximity graph, searchable while it changes.

Promises: a search sees every appended row at once; it returns min(k, live rows that pass the filter) results, always;
distances are exact; searches run beside append, link, remove and repair; removed rows never come back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from vicinal.index.calibration import Beam, Calibration, CalibrationPoint
from vicinal.model.errors import ClosedError, DimensionError, InvalidArgumentError, LimitError
from vicinal.model.limits import (
    CALIBRATION_QUERIES_MAX,
    CALIBRATION_QUERIES_MIN,
    DIM_MAX,
    EF_CONSTRUCTION_MAX,
    EF_MAX,
    M_MAX,
    M_MIN,
    THREADS_MAX,
)
from vicinal.model.metric import Metric, VectorType, check_pair, parse_metric, parse_vector_type
from vicinal.model.recall import check_recall
from vicinal.native import Graph

EF_DEFAULT_MIN = 200
"""Recall@10 of 0.98 on 100,000 text embeddings of 25 local dimensions, the hardest set measured; 100 gives 0.96."""

EF_PER_K = 4

MISS_OF_DEFAULT = 0.02
"""What the default beam width may miss; where nothing is calibrated, fewer misses take that much wider a beam."""

GRAPH_ROWS_MIN = 1000
"""Below so many rows `build` and `add` leave rows pending: an exact scan answers as fast."""

Progress = Callable[[int, int], bool | None]
Rows = NDArray[Any]
Filter = NDArray[np.uint64] | NDArray[np.bool_]
Strategy = Literal["auto", "scan", "filter", "gate"]
Format = Literal["auto", "sq8", "rabitq"]


class GraphIndex:
    """Nearest-neighbour index over rows 0..n-1, numbered in order of appending.

    Rows [0, n_linked) are in the graph, the others are pending and scanned exactly by each search.
    All methods may be called from several threads; native work releases the GIL.

    Parameters
    ----------
    dim : dimensions of a vector, 1 to 65536; a multiple of 8 for dtype "bit".
    metric : "l2" (squared), "ip" (negated), "cosine" (1 - cos), "manhattan"; "hamming" with "bit".
    dtype : how rows are stored: "f32", "f16", "i8", "bit" (packed, most significant bit first).
    M : neighbours of a row, 4 to 128. 32 suits most data; more raises recall, memory and cost.
    ef_construction : beam width while linking, 8 to 4096.
    seed : of every random choice; a build with threads=1 is reproducible, but for the trial of format "auto".
    format : how nodes are laid out for searching. "sq8": one-byte codes apart from the graph. "rabitq": codes of a
        node's neighbours beside it, one row a hop, with 1 bit a dimension, or 2 up to 128 dimensions; l2, ip and cosine
        over f32 and f16. "auto": the faster one in a trial on the index's own rows whenever a bulk of rows is linked. A
        named format holds.

    Raises
    ------
    InvalidArgumentError : a value outside its range, or a metric that does not fit the dtype.

    Notes
    -----
    A flat graph pruned as in Subramanya et al., DiskANN (NeurIPS 2019), searched as in Malkov & Yashunin
    (arXiv:1603.09320, Algorithm 2) over one-byte codes, with exact rerank. "rabitq" estimates distances as Gao & Long
    (arXiv:2405.12497) in the layout of Gou et al., SymphonyQG (arXiv:2411.12229).
    """

    def __init__(
        self,
        dim: int,
        metric: str | Metric = "l2",
        dtype: str | VectorType = "f32",
        M: int = 32,
        ef_construction: int = 256,
        seed: int = 0,
        format: Format = "auto",
    ) -> None:
        kind, stored = parse_metric(metric), parse_vector_type(dtype)
        check_pair(kind, stored)
        _check_range("dim", dim, 1, DIM_MAX)
        _check_range("M", M, M_MIN, M_MAX)
        _check_range("ef_construction", ef_construction, 8, EF_CONSTRUCTION_MAX)
        _check_range("seed", seed, 0, 2**64 - 1)
        self._native: Graph | None = Graph(
            dim, kind.value, stored.value, M, ef_construction, seed, format
        )
        self._dtype = stored

    def build(
        self, X: Rows, *, threads: int = 0, progress: Progress | None = None, copy: bool = True
    ) -> None:
        """Load n rows at once into an empty index and link them (from 1000 rows on).

        Parameters
        ----------
        X : (n, dim) rows in the index's dtype; other real dtypes are converted to it (float rows only).
        threads : 0 means all.
        progress : called with (rows done, n) about every 0.2 s; returning False stops the work.
        copy : False keeps a reference to X, which must have the stored dtype, be C-contiguous and
            stay unchanged (a np.memmap, say).

        Raises
        ------
        CancelledError : progress returned False; the index is empty again.
        VectorValueError : NaN or infinity, or a zero vector under cosine. DimensionError : X.shape[1] is wrong.
        """
        _check_range("threads", threads, 0, THREADS_MAX)
        rows = self._rows(X, "X")
        if not copy and not np.shares_memory(rows, X):
            raise InvalidArgumentError(
                f"copy=False needs a C-contiguous array of {self._dtype.numpy}, X is {X.dtype}; "
                "convert it first or leave copy=True"
            )
        self._open.build(rows if copy else X, threads, copy, progress)

    def append(self, X: Rows) -> int:
        """Append (n, dim) rows, which searches see at once as pending; return the first new row."""
        return self._open.append(self._rows(X, "X"))

    def link(
        self, max_rows: int | None = None, *, threads: int = 1, progress: Progress | None = None
    ) -> int:
        """Move up to max_rows pending rows into the graph; return how many. Searches and append go on."""
        _check_range("threads", threads, 0, THREADS_MAX)
        if max_rows is not None and max_rows < 0:
            raise InvalidArgumentError(f"max_rows is {max_rows}; pass 0 or more, or None for all")
        return self._open.link(max_rows, threads, progress)

    def add(self, X: Rows, ids: None = None, *, threads: int = 0) -> NDArray[np.int64]:
        """Append rows and link them (from 1000 rows on); return their rows (n,) int64.

        The index numbers rows itself: `ids` must be None. Keep a map of your own ids beside it.
        """
        if ids is not None:
            raise InvalidArgumentError(
                "ids= is not taken: rows are numbered in order; map ids yourself"
            )
        _check_range("threads", threads, 0, THREADS_MAX)
        native = self._open
        rows = self._rows(X, "X")
        first = native.append(rows)
        if native.n >= GRAPH_ROWS_MIN:
            native.link(None, threads, None)
        return np.arange(first, first + len(rows), dtype=np.int64)

    def remove(self, rows: NDArray[np.integer[Any]] | list[int] | int) -> int:
        """Remove rows at once and for good; return how many were not removed before.

        Raises InvalidArgumentError, and removes nothing, where a row does not exist.
        """
        return self._open.remove(_row_numbers(rows))

    def repair(self, *, threads: int = 1) -> int:
        """Reconnect the graph around removed rows, in place; return how many rows got new edges."""
        _check_range("threads", threads, 0, THREADS_MAX)
        return self._open.repair(threads)

    def compact(
        self,
        *,
        keep: NDArray[np.int64] | None = None,
        vectors: Rows | None = None,
        threads: int = 1,
    ) -> tuple[GraphIndex, NDArray[np.int64]]:
        """Return a copy of some rows, and the rows (n,) int64 that its rows 0..n-1 have here.

        Nothing is linked anew: it costs about one pass over the memory, and rows that lose neighbours get new ones.
        This index stays as it is, and searches of it go on; close it when the copy has taken its place.

        Parameters
        ----------
        keep : (n,) int64, ascending rows to take; None: all live rows. Those that are removed, or are removed
            meanwhile, are removed in the copy.
        vectors : (n or more, dim) rows in the stored dtype, C-contiguous: the kept rows in their order, any new ones
            behind them, which are pending in the copy. Referenced, not copied, and not checked for NaN again. None: the
            copy owns its rows.
        threads : 0 means all.

        Raises
        ------
        InvalidArgumentError : keep is not ascending or names a row that does not exist; vectors has too few rows.
        """
        _check_range("threads", threads, 0, THREADS_MAX)
        native, rows = self._open.compact(
            None if keep is None else _row_numbers(keep), vectors, threads
        )
        index = type(self).__new__(type(self))
        index._native, index._dtype = native, self._dtype
        return index, rows

    def search(
        self,
        queries: Rows,
        k: int = 10,
        ef_search: int | None = None,
        threads: int = 1,
        filter: Filter | None = None,
        exact: bool = False,
        strategy: Strategy = "auto",
        recall: float | None = None,
        near_part: float | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the k nearest live rows of each query, with their exact distances.

        Parameters
        ----------
        queries : (dim,) or (n_queries, dim), C-contiguous: float32 for f32 and f16 rows, int8 for i8,
            packed uint8 for bit. Nothing is converted.
        k : results wanted, 1 to 10000.
        ef_search : work to do, k or more: as much as a beam of that width; with a filter, no less than finds
            2.5 k matches. Where the index is calibrated, a search
            ends when its results are settled, and is the longer where they are not (see `same_work`). Larger raises
            recall and latency. None: max(64, 2 k).
        threads : of this call, 0 means all.
        filter : rows allowed: (ceil(n / 64),) uint64 with bit r of word r // 64 for row r, or (n,) bool.
            Rows past its end do not match.
        exact : scan all rows instead of traversing the graph.
        strategy : "auto", or how to combine graph and filter: "scan" compares the codes of all matches, then the
            best exactly; "filter" traverses filtered rows only (two hops); "gate" traverses all and keeps matches. A
            traversal becomes a scan for a query that lies far from all matches.
        recall : instead of ef_search and exact: the share of the true nearest rows to find, above 0 and at most 1, for
            k up to 100. The beam width comes from the table that the index measured on its own rows (see
            `calibration`), and so does `near_part`; 1.0 is exact.
        near_part : ends a walk early, see `Beam`; beside ef_search, which is the beam's width then, not recall. 0:
            never. None: as said under ef_search and recall.

        Returns
        -------
        rows (n_queries, k) int64, -1 padded, and distances (n_queries, k) float32, +inf padded; ascending,
        ties by row. There are always min(k, live rows that pass the filter) results. A query alone walks in another
        order than among others, so that of approximate results a few may differ.

        Raises
        ------
        InvalidArgumentError : k or ef_search out of range (ef_search below k is not raised silently),
            another dtype or layout. DimensionError, VectorValueError : of the queries.
        """
        native = self._native
        if native is None:
            raise ClosedError("the index was closed")
        if filter is not None and filter.dtype == np.bool_:
            filter = _pack(cast("NDArray[np.bool_]", filter), native.n)
        if recall is not None:
            asked = check_recall(recall, k=k, ef_search=ef_search, exact=exact)
            if asked < 1:
                share = None if filter is None else _share(filter, native.n_live)
                ef_search, _, near_part = self.choose_beam(k, asked, share)
            exact = asked == 1 or ef_search == 0
            ef_search = ef_search or None
        if ef_search is None:
            ef_search = 64 if k <= 32 else 2 * k
        return native.search(
            queries,
            k,
            ef_search,
            threads,
            filter,
            exact,
            strategy,
            near_part,
        )

    def walk(
        self,
        queries: Rows,
        k: int,
        ef_search: int,
        threads: int = 1,
        labels: NDArray[np.int64] | None = None,
        near_part: float | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], int, float | None] | None:
        """`search` without a filter, in one call that does no more than it must; for those who call it often.

        Parameters
        ----------
        queries, k, ef_search, threads, near_part : as for `search`.
        labels : (n or more,) int64, what to return instead of each row.

        Returns
        -------
        labels (n_queries, k) int64, or rows where there are none, -1 padded; distances (n_queries, k) float32, +inf
        padded; how many results the query with the fewest has; the recall to expect, None where near_part was given or
        nothing was measured. Of one query (dim,) labels and distances are (k,).

        None where queries are no array that `search` takes, are none or more than BATCH_QUERIES_MAX, or one holds NaN
        or infinity or, under cosine, has a length that loses its direction to rounding (`NORM_SQUARED_MIN`,
        `NORM_SQUARED_MAX`). It says nothing of what is wrong.

        Raises as `search` does for the rest. InvalidArgumentError : a row has no label.
        """
        native = self._native
        if native is None:
            raise ClosedError("the index was closed")
        return native.walk(queries, k, ef_search, threads, labels, near_part)

    def calibrate(self, queries: Rows, *, threads: int = 0) -> None:
        """Measure recall over the beam width with queries of your own, (n, dim) as for `search`.

        They replace the rows that the index holds back while it is built, and asks for before it links them. Where
        queries are unlike the rows, only they tell the truth. The table stays until the graph has doubled.

        Raises
        ------
        LimitError, InvalidArgumentError : fewer than 25 queries, or more than 2,000.
        """
        _check_range("threads", threads, 0, THREADS_MAX)
        _check_range(
            "number of queries", len(queries), CALIBRATION_QUERIES_MIN, CALIBRATION_QUERIES_MAX
        )
        self._open.calibrate(queries, threads)

    def choose_beam(self, k: int, recall: float, share: float | None = None) -> Beam:
        """The cheapest walk that is expected to reach the recall, 0 < recall < 1, for k of 1 to 100.

        share : of the rows that match a filter, of which it is assumed that it has nothing to do with the query; None
            is no filter. Where nothing was measured for it, the walk is that without a filter, over as many
            matches, and recall is None.

        Where the index is not calibrated, it is the default beam, wider for a recall above 0.98.
        """
        chosen = self._open.choose(k, recall, share)
        if chosen is not None:
            return Beam(*chosen)
        if share is not None:
            ef = self.choose_beam(k, recall).ef_search
            if ef and self.filtered_walk(k, ef, share) == "gate":
                ef = min(EF_MAX, math.ceil(ef / share))  # as many matches as that beam holds rows
            return Beam(ef, None)
        ef = default_ef(k) * max(1.0, MISS_OF_DEFAULT / (1 - recall))
        return Beam(min(EF_MAX, math.ceil(ef)), None)

    def same_work(self, k: int, ef_search: int, share: float | None = None) -> Beam:
        """A search that expands, on average, about as many nodes as a beam of that width; share as for `choose_beam`.

        One beam for all queries does too much for those whose neighbours are near and too little for those in the void.
        This walk has a wider beam and an early end (see `Beam.near_part`), of the pair that the calibration found best
        for so many nodes; where it found none that is worth it, or nothing was measured, it is the beam itself.
        """
        return Beam(*self._open.same_work(k, ef_search, share))

    def expected_recall(self, k: int, ef_search: int, share: float | None = None) -> float | None:
        """The recall to expect of a traversal, share as for `choose_beam`; None where k is above 100 or nothing was
        measured."""
        return self._open.expected(k, ef_search, share)

    def scan_matches_max(self, k: int, ef_search: int, share: float) -> int:
        """Up to so many matches of a filter are compared one by one faster than a walk of that width is done.

        share : of the rows that match, above 0 and at most 1.
        """
        return self._open.scan_matches_max(k, ef_search, share)

    def filtered_walk(self, k: int, ef_search: int, share: float) -> Literal["filter", "gate"]:
        """The strategy of the walk that is faster where that share of the rows match."""
        return self._open.filtered_walk(k, ef_search, share)

    @property
    def calibration(self) -> Calibration | None:
        """The table of recall over the beam width; None before 500 rows are linked at once, or read from an older
        file."""
        table = self._open.calibration
        if table is None:
            return None
        n_rows, given, points = table
        return Calibration(
            n_rows,
            given,
            tuple(CalibrationPoint(e, n, tuple(r), tuple(x)) for e, n, r, x in points),
        )

    @property
    def calibration_bytes(self) -> bytes | None:
        """The table as bytes, for `restore_calibration`."""
        return self._open.calibration_bytes()

    def restore_calibration(self, table: bytes) -> None:
        """Put a table back that was measured on this very index. CorruptionError : it is none."""
        self._open.set_calibration(table)

    def replay(
        self, queries: Rows, k: int = 10, ef_search: int = 64, *, passes: int = 5
    ) -> tuple[int, int, float]:
        """Time the memory accesses of a batch of searches by themselves, on one thread; of format "rabitq" only.

        The searches run once and are recorded; then the same bytes are read in the same order, with the same
        prefetches, and nothing is computed. What a search takes beyond that is arithmetic that memory does not hide.

        Returns
        -------
        nodes expanded and rows compared exactly, over all queries, and the seconds of the best pass.

        Raises
        ------
        InvalidArgumentError : the index has another format, or ef_search is too large for it.
        """
        _check_range("passes", passes, 1, 1000)
        beam = self.same_work(k, ef_search)
        return self._open.replay(queries, k, beam.ef_search, passes, beam.near_part)

    def vectors(self, rows: NDArray[np.integer[Any]] | list[int] | int) -> Rows:
        """Return the rows' exact stored values, (len(rows), dim) (dim / 8 bytes for bit), removed ones too."""
        return self._open.rows_bytes(_row_numbers(rows)).view(self._dtype.numpy)

    def edges(self) -> NDArray[np.uint32]:
        """Return a copy of the graph, (n_linked, M); an unused slot holds the row's own number."""
        return self._open.edges()

    def save(self, path: str | os.PathLike[str], *, vectors: bool = True) -> None:
        """Write the index to one file, atomically and durably; searches and append go on.

        vectors=False leaves the rows out (they are kept elsewhere) and load() must be given them.
        """
        self._open.save(os.fspath(path), vectors)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, mmap: bool = True, vectors: Rows | None = None
    ) -> GraphIndex:
        """Open a saved index, checked in full before use.

        Parameters
        ----------
        mmap : keep the data in the file, which must not be truncated meanwhile; changes stay in memory.
        vectors : (n, dim) rows in the stored dtype for an index saved without them; kept, not copied.

        Raises
        ------
        CorruptionError : size, checksum or contents are wrong. FormatVersionError : written by a newer release.
        StorageError : the file cannot be read.
        """
        native = Graph.load(os.fspath(path), mmap, vectors)
        index = cls.__new__(cls)
        index._native = native
        index._dtype = VectorType(native.config[2])
        return index

    def close(self) -> None:
        """Drop the index's memory once running searches are done; every later call raises ClosedError."""
        self._native = None

    @property
    def n(self) -> int:
        """Rows appended, removed ones included."""
        return self._open.n

    @property
    def n_linked(self) -> int:
        """Rows in the graph."""
        return self._open.n_linked

    @property
    def n_live(self) -> int:
        """Rows that are not removed."""
        return self._open.n_live

    @property
    def memory_bytes(self) -> int:
        """Memory of rows, codes, graph and tombstones; mapped files count, a referenced X does not."""
        return self._open.memory_bytes

    @property
    def mapped_bytes(self) -> int:
        """How much of `memory_bytes` a file backs: pages that the system takes back when it needs memory."""
        return self._open.mapped_bytes

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._open.config[0]

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._open.config[1]

    @property
    def dtype(self) -> str:
        """Name of the stored type."""
        return self._open.config[2]

    @property
    def format(self) -> str:
        """The layout that searches use now: "sq8" or "rabitq"."""
        return self._open.format

    @property
    def M(self) -> int:
        """Neighbours of a row."""
        return self._open.config[3]

    @property
    def ef_construction(self) -> int:
        """Beam width while linking."""
        return self._open.config[4]

    def __len__(self) -> int:
        return self.n_live

    def __repr__(self) -> str:
        if self._native is None:
            return "GraphIndex(closed)"
        dim, metric, dtype, m, _, _ = self._native.config
        return f"GraphIndex(dim={dim}, metric={metric!r}, dtype={dtype!r}, M={m}, n={self.n}, n_live={self.n_live})"

    @property
    def _open(self) -> Graph:
        if self._native is None:
            raise ClosedError("the index was closed")
        return self._native

    def _rows(self, X: Rows, name: str) -> Rows:
        """X as a C-contiguous matrix of the stored dtype; only float types are converted into one another."""
        array = np.asarray(X)
        wanted = self._dtype.numpy
        if array.ndim != 2:
            raise DimensionError(f"{name} has shape {array.shape}; pass a matrix (n, dim)")
        if array.dtype != wanted and not (array.dtype.kind in "f" and wanted.kind == "f"):
            raise InvalidArgumentError(
                f"{name} is {array.dtype}, the index stores {self._dtype.value}; pass {wanted.name}"
            )
        return np.ascontiguousarray(array, dtype=wanted)


def _share(filter: Filter, n_live: int) -> float:
    """The share of live rows that a filter of uint64 words lets pass, removed rows taken to be spread evenly."""
    matches = int.from_bytes(filter.tobytes(), "little").bit_count()
    return min(1.0, max(1, matches) / max(1, n_live))


def default_ef(k: int) -> int:
    """A beam width that suits most data, for where nothing is calibrated."""
    return min(EF_MAX, max(EF_DEFAULT_MIN, EF_PER_K * k))


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        error = LimitError if value > high else InvalidArgumentError
        raise error(f"{name} is {value}; choose {low} to {high}")


def _row_numbers(rows: NDArray[np.integer[Any]] | list[int] | int) -> NDArray[np.int64]:
    array = np.atleast_1d(np.asarray(rows))
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InvalidArgumentError(
            f"rows are {array.dtype} of shape {array.shape}; pass integers (n,)"
        )
    return np.ascontiguousarray(array, dtype=np.int64)


def _pack(mask: NDArray[np.bool_], n: int) -> NDArray[np.uint64]:
    if mask.shape != (n,):
        raise DimensionError(f"the filter mask has shape {mask.shape}, the index has {n} rows")
    packed = np.zeros((n + 63) // 64 * 8, dtype=np.uint8)
    bits = np.packbits(mask, bitorder="little")
    packed[: len(bits)] = bits
    return packed.view(np.uint64)
