"""`vicinal explain`: run a search and say how it was done."""

from __future__ import annotations

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
    WhereOption,
)


def explain(
    database: DatabaseArgument,
    query: QueryArgument = None,
    collection: CollectionOption = None,
    k: KOption = 10,
    where: WhereOption = None,
    exact: ExactOption = False,
    ef_search: EfOption = None,
    recall: RecallOption = None,
    text: TextOption = None,
    json: JsonOption = False,
) -> None:
    """Run a search and show its plan: strategy, reason and cost of each segment."""
    from vicinal.cli.console import print_json
    from vicinal.cli.opening import choose, opened
    from vicinal.cli.queries import query_vector

    with opened(database) as db:
        chosen = choose(db, collection)
        vector = query_vector(db, chosen, query, text)
        found = chosen.explain(
            vector, k=k, where=where, exact=exact, ef_search=ef_search, recall=recall
        )
    if json:
        print_json(found.to_dict())
    else:
        print(found)
