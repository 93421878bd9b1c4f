"""What `vicinal bench` measures: vectors of a file in an index made for the purpose, or a collection as it stands.

Each comes with queries and their exact answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vicinal.cli.console import CliError, progress
from vicinal.cli.measuring import Distances, Search, Truth, exact_truth
from vicinal.cli.vectors import Vectors, load_vectors, stored
from vicinal.index import GraphIndex
from vicinal.index.arrays import query_rows, stored_rows
from vicinal.model.config import CollectionConfig
from vicinal.model.memory import index_bytes
from vicinal.model.metric import parse_vector_type

if TYPE_CHECKING:
    import vicinal

TRUTH_BATCH = 100_000
PAGE = 10_000
ROWS_MIN = 100
"""Below so many rows none are held out as queries."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: how to search it, with which queries, and the exact answers."""

    search_at: Callable[[int], tuple[Search, Search]]
    queries: npt.NDArray[Any]
    truth: Truth
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to measure.

    Attributes
    ----------
    queries : a file of them; None holds some out of a file, or draws points of a collection.
    n_queries : at most so many.
    threads : of batched searches; 0 means all.
    vector_column, id_column : where vectors and ids are in files.
    seed : of the choice of queries.
    """

    queries: Path | None
    n_queries: int
    k: int
    threads: int
    vector_column: str | None
    id_column: str | None
    seed: int


@dataclass(frozen=True, slots=True)
class Build:
    """What index to make of a file; None leaves it to the file, and to the index's defaults.

    Attributes
    ----------
    limit : take only the first rows.
    """

    limit: int | None
    metric: str | None
    dtype: str | None
    M: int | None
    ef_construction: int | None


def of_file(path: Path, wanted: Wanted, build: Build) -> Subject:
    """An index of the file's vectors, in memory, without those held out as queries."""
    loaded = _load(path, wanted, build.limit)
    vectors, name, kind, dim = stored(loaded, build.metric, build.dtype, path)
    rows, asked, origin = vectors.rows, vectors.queries, "of the file"
    if wanted.queries is not None:
        given = _load(wanted.queries, wanted)
        asked, origin = stored(given, name, kind, wanted.queries)[0].rows, "given"
    rng = np.random.default_rng(wanted.seed)
    if asked is None:
        n_held = min(wanted.n_queries, len(rows) // 10)
        if len(rows) < ROWS_MIN:
            raise CliError(
                f"{path}: {len(rows)} rows are too few to hold queries out of; give {ROWS_MIN} or more, "
                "or --queries"
            )
        held = np.zeros(len(rows), np.bool_)
        held[rng.choice(len(rows), n_held, replace=False)] = True
        asked, rows, origin = rows[held], rows[~held], "held out"
    elif len(asked) > wanted.n_queries:
        asked = asked[np.sort(rng.choice(len(asked), wanted.n_queries, replace=False))]
    element = parse_vector_type(kind)
    X = stored_rows(rows, dim, element, str(path))
    Q = query_rows(asked, dim, element, "queries")
    defaults = CollectionConfig(dim=dim)
    index = GraphIndex(
        dim,
        name,
        kind,
        M=defaults.M if build.M is None else build.M,
        ef_construction=(
            defaults.ef_construction if build.ef_construction is None else build.ef_construction
        ),
    )
    started = time.perf_counter()
    with progress("building the graph") as update:
        index.build(X, progress=lambda done, n: update(done, n) is None)
    build_s = time.perf_counter() - started
    k = wanted.k
    parts = (X[i : i + TRUTH_BATCH] for i in range(0, len(X), TRUTH_BATCH))
    truth = exact_truth(Q, parts, k=k, dim=dim, metric=name, dtype=kind)

    def search_at(ef: int) -> tuple[Search, Search]:
        def batch(q: npt.NDArray[Any]) -> Distances:
            return index.search(q, k=k, ef_search=ef, threads=wanted.threads)[1]

        def single(q: npt.NDArray[Any]) -> Distances:
            return index.search(q, k=k, ef_search=ef)[1]

        return batch, single

    figures = {
        "source": str(path),
        "points": len(X),
        "dim": dim,
        "metric": name,
        "dtype": kind,
        "queries": len(Q),
        "queries_origin": origin,
        "M": index.M,
        "ef_construction": index.ef_construction,
        "build_s": build_s,
        "bytes_per_vector": index.memory_bytes / len(X),
    }
    return Subject(search_at, Q, truth, figures)


def of_collection(docs: vicinal.Collection, wanted: Wanted) -> Subject:
    """A collection as it stands; without a file of queries, some of its own points, which do not count as found."""
    n = docs.count()
    if n < 2:
        raise CliError(f"collection {docs.name!r} has {n} points; there is nothing to measure")
    rng = np.random.default_rng(wanted.seed)
    own = wanted.queries is None
    if wanted.queries is None:
        places = np.sort(rng.choice(n, min(wanted.n_queries, n), replace=False))
        asked = _at(_pages(docs), places)
    else:
        given = _load(wanted.queries, wanted)
        asked = stored(given, docs.metric, docs.dtype, wanted.queries)[0].rows
        if len(asked) > wanted.n_queries:
            asked = asked[np.sort(rng.choice(len(asked), wanted.n_queries, replace=False))]
    Q = query_rows(asked, docs.dim, parse_vector_type(docs.dtype), "queries")
    # A point finds itself first, and proves nothing by it: one result more is asked for, and that one left out.
    width = wanted.k + own
    truth = exact_truth(
        Q, _pages(docs), k=width, dim=docs.dim, metric=docs.metric, dtype=docs.dtype
    )
    if own:
        truth = type(truth)(truth.rows[:, 1:], truth.distances[:, 1:])

    def search_at(ef: int) -> tuple[Search, Search]:
        def batch(q: npt.NDArray[Any]) -> Distances:
            found: Any = docs.search(
                q, k=width, ef_search=ef, with_payload=False, threads=wanted.threads or None
            )
            return found.distances[:, own:]

        def single(q: npt.NDArray[Any]) -> Distances:
            found: Any = docs.search(q[0], k=width, ef_search=ef, with_payload=False)
            return found.distances[own:]

        return batch, single

    stats = docs.stats()
    figures = {
        "source": docs.name,
        "points": n,
        "dim": docs.dim,
        "metric": docs.metric,
        "dtype": docs.dtype,
        "queries": len(Q),
        "queries_origin": "points of the collection" if own else "given",
        "indexed_ratio": stats["indexed_ratio"],
        "bytes_per_vector": index_bytes(stats) / n,
    }
    return Subject(search_at, Q, truth, figures)


def _load(path: Path, wanted: Wanted, limit: int | None = None) -> Vectors:
    return load_vectors(path, column=wanted.vector_column, id_column=wanted.id_column, limit=limit)


def _pages(docs: vicinal.Collection) -> Iterator[npt.NDArray[Any]]:
    """Every vector of a collection, page by page."""

    cursor = None
    while True:
        page = docs.scroll(limit=PAGE, cursor=cursor, with_vectors=True)
        found = [point.vector for point in page if point.vector is not None]
        if found:
            yield np.stack(found)
        cursor = page.cursor
        if cursor is None:
            return


def _at(pages: Iterator[npt.NDArray[Any]], places: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows at ascending places among all pages."""

    found: list[npt.NDArray[Any]] = []
    start = 0
    for page in pages:
        here = places[(places >= start) & (places < start + len(page))] - start
        found.append(page[here])
        start += len(page)
    return np.concatenate(found)
