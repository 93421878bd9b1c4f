"""How searches are measured: recall against exact truth, time of batches and of single calls.

`vicinal bench` and the harness in `bench/` measure through these functions, so that their figures mean the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vicinal.index import FlatIndex
from vicinal.model.errors import InvalidArgumentError

TIE_TOLERANCE = 1e-6
"""Relative, and absolute below 1: distances that differ by float32 rounding are one distance."""

Distances = npt.NDArray[np.floating[Any]]
Search = Callable[[npt.NDArray[Any]], Distances]
"""Queries (n, columns) to the distances (n, k) of what was found."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Exact neighbours: rows (n_queries, k) int64, -1 padded, and distances (n_queries, k), ascending."""

    rows: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Setting:
    """What one beam width gives.

    Attributes
    ----------
    ef : the beam width.
    recall : recall@k over all queries.
    batch_qps : queries per second of one batched call, one figure for each pass.
    single_us : microseconds of single calls, all passes, unsorted.
    """

    ef: int
    recall: float
    batch_qps: list[float]
    single_us: npt.NDArray[np.float64]

    @property
    def qps(self) -> float:
        """Median of the passes."""
        return float(np.median(self.batch_qps))

    @property
    def spread(self) -> float:
        """(highest - lowest) / median of the passes: how much of a difference may be chance."""
        return (max(self.batch_qps) - min(self.batch_qps)) / self.qps


def exact_truth(
    queries: npt.NDArray[Any],
    batches: Iterable[npt.NDArray[Any]],
    *,
    k: int,
    dim: int,
    metric: str,
    dtype: str = "f32",
    threads: int = 0,
) -> Truth:
    """The k nearest rows of each query among all batches, rows numbered across them.

    Holds one batch at a time, so that data need not fit twice.
    """
    rows = np.full((len(queries), k), -1, np.int64)
    distances = np.full((len(queries), k), np.inf, np.float32)
    start = 0
    for batch in batches:
        flat = FlatIndex(dim=dim, metric=metric, dtype=dtype)
        flat.add(batch)
        found, near = flat.search(queries, k=k, threads=threads)
        found = np.where(found >= 0, found + start, -1)
        both = np.concatenate([distances, near], axis=1)
        # Stable: of equal distances the earlier row stays first, as in one index.
        order = np.argsort(both, axis=1, kind="stable")[:, :k]
        distances = np.take_along_axis(both, order, axis=1)
        rows = np.take_along_axis(np.concatenate([rows, found], axis=1), order, axis=1)
        start += len(batch)
    return Truth(rows, distances)


def recall_at_k(found: Distances, truth: Distances) -> float:
    """Share of the k true neighbours that were found, by distance: of equally near rows any is as good as the other.

    Parameters
    ----------
    found : (n_queries, k or fewer) distances of what was found, infinity where nothing was.
    truth : (n_queries, k) exact distances, ascending, infinity where there are fewer.
    """
    hits, wanted = hits_at_k(found, truth)
    return float(hits.sum() / wanted.sum())


def hits_at_k(found: Distances, truth: Distances) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """What `recall_at_k` counts, of each query: true neighbours that were found, and all of them."""
    if len(found) != len(truth):
        raise InvalidArgumentError(f"{len(found)} results for {len(truth)} queries")
    there = np.isfinite(truth)
    wanted = there.sum(axis=1)
    if not wanted.sum():
        raise InvalidArgumentError("no query has a true neighbour; there is nothing to measure")
    last = np.where(there, truth, -np.inf).max(axis=1)
    limit = last + TIE_TOLERANCE * np.maximum(1.0, np.abs(last))
    return np.minimum((np.isfinite(found) & (found <= limit[:, None])).sum(axis=1), wanted), wanted


def time_batch(search: Search, queries: npt.NDArray[Any]) -> tuple[float, Distances]:
    """Seconds of one batched call, and what it found."""
    started = time.perf_counter()
    found = search(queries)
    return time.perf_counter() - started, found


def time_singles(
    search: Search, queries: npt.NDArray[Any], *, threads: int = 1
) -> tuple[float, npt.NDArray[np.float64]]:
    """Seconds in all, and of each call, of one call a query, shared out over threads that call at the same time."""
    seconds = np.empty(len(queries))
    failures: list[BaseException] = []
    # Slices are made beforehand: they are the caller's cost, not the search's.
    singles = [queries[i : i + 1] for i in range(len(queries))]
    barrier = threading.Barrier(threads + 1)

    def work(first: int) -> None:
        barrier.wait()
        try:
            for i in range(first, len(singles), threads):
                started = time.perf_counter()
                search(singles[i])
                seconds[i] = time.perf_counter() - started
        except BaseException as fault:  # raised again below, in the caller's thread
            failures.append(fault)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    begun = time.perf_counter()
    for worker in workers:
        worker.join()
    total = time.perf_counter() - begun
    if failures:
        raise failures[0]
    return total, seconds


def sweep(
    search_at: Callable[[int], tuple[Search, Search]],
    queries: npt.NDArray[Any],
    truth: Truth,
    efs: Sequence[int],
    *,
    passes: int,
    progress: Callable[[int, int], object] | None = None,
) -> list[Setting]:
    """Measure each beam width: recall, batches and single calls.

    Parameters
    ----------
    search_at : from a beam width to the batched search and the search for single calls.
    passes : the settings take turns this often, so that a machine that slows down slows all of them.
    """
    qps: dict[int, list[float]] = {ef: [] for ef in efs}
    singles: dict[int, list[npt.NDArray[np.float64]]] = {ef: [] for ef in efs}
    recalls: dict[int, float] = {}
    for turn in range(passes):
        for place, ef in enumerate(efs):
            batch, single = search_at(ef)
            if turn == 0:  # first touch, not measured
                recalls[ef] = recall_at_k(batch(queries), truth.distances)
            seconds, _ = time_batch(batch, queries)
            qps[ef].append(len(queries) / seconds)
            singles[ef].append(time_singles(single, queries)[1] * 1e6)
            if progress is not None:
                progress(turn * len(efs) + place + 1, passes * len(efs))
    return [Setting(ef, recalls[ef], qps[ef], np.concatenate(singles[ef])) for ef in efs]
