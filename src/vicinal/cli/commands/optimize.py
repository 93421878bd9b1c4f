"""`vicinal optimize`: everything into one graph."""

from __future__ import annotations

import time

from vicinal.cli.options import CollectionOption, DatabaseArgument, JsonOption


def optimize(
    database: DatabaseArgument, collection: CollectionOption = None, json: JsonOption = False
) -> None:
    """Bring every point into one graph, without deleted rows. May be interrupted."""
    from vicinal.cli.console import print_json, progress
    from vicinal.cli.opening import choose, opened

    with opened(database, write=True) as db:
        chosen = choose(db, collection)
        started = time.perf_counter()
        with progress("optimizing") as update:
            chosen.optimize(wait=True, progress=update)
        seconds = time.perf_counter() - started
        stats = chosen.stats()
    if json:
        print_json(
            {"seconds": seconds, "points": stats["points"], "indexed_ratio": stats["indexed_ratio"]}
        )
    else:
        print(
            f"{stats['points']:,} points, {stats['indexed_ratio']:.0%} indexed, in {seconds:.1f} s"
        )
