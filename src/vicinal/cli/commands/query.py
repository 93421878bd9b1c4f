"""`vicinal query`: search a collection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vicinal.cli.options import (
    CollectionOption,
    DatabaseArgument,
    EfOption,
    ExactOption,
    JsonOption,
    KOption,
    QueryArgument,
    RecallOption,
    TextOption,
    VectorsOption,
    WhereOption,
)

if TYPE_CHECKING:
    from vicinal import Hits


def query(
    database: DatabaseArgument,
    query: QueryArgument = None,
    collection: CollectionOption = None,
    k: KOption = 10,
    where: WhereOption = None,
    exact: ExactOption = False,
    ef_search: EfOption = None,
    recall: RecallOption = None,
    text: TextOption = None,
    fields: Annotated[
        str | None, typer.Option("--fields", help="Payload fields to show, separated by commas.")
    ] = None,
    with_vectors: VectorsOption = False,
    json: JsonOption = False,
) -> None:
    """Find the points nearest to a query."""
    from vicinal.cli.console import print_json, remark
    from vicinal.cli.opening import choose, opened, read_note
    from vicinal.cli.queries import query_vector

    with opened(database) as db:
        chosen = choose(db, collection)
        vector = query_vector(db, chosen, query, text)
        started = time.perf_counter()
        found = chosen.search(
            vector,
            k=k,
            where=where,
            exact=exact,
            ef_search=ef_search,
            recall=recall,
            with_vectors=with_vectors,
        )
        seconds = time.perf_counter() - started
        results = [found] if vector.ndim == 1 else list(found)
        if json:
            rows = [[_record(hit) for hit in hits] for hits in results]
            print_json(rows[0] if vector.ndim == 1 else rows)
            return
        show = read_note(db.path, chosen.name).show if fields is None else fields.split(",")
        for hits in results:
            print_hits(hits, [name.strip() for name in show if name.strip()])
        expected = found.recall_estimate
        told = "" if expected is None else f", expected recall {expected:.4f}"
        remark(f"{sum(map(len, results))} results in {seconds * 1e3:.2f} ms{told}")


def print_hits(hits: Hits, fields: list[str]) -> None:
    """Print hits as a table with the given payload fields, or the whole payload."""
    from vicinal.cli.console import compact, print_table

    vectors = any(hit.vector is not None for hit in hits)
    columns = ["#distance", "id", *(fields or ["payload"]), *(["vector"] if vectors else [])]
    rows: list[list[Any]] = []
    for hit in hits:
        payload = hit.payload or {}
        values = [payload.get(name, "") for name in fields] if fields else [compact(payload)]
        vector = [hit.vector] if vectors else []
        rows.append([f"{hit.distance:.4f}", str(hit.id), *values, *vector])
    print_table(columns, rows, one_line=bool(fields))


def _record(hit: Any) -> dict[str, Any]:
    record = {"id": hit.id, "distance": hit.distance, "payload": hit.payload}
    return record if hit.vector is None else record | {"vector": hit.vector}
