"""`vicinal ls`: the collections of a database."""

from __future__ import annotations

from vicinal.cli.options import DatabaseArgument, JsonOption


def ls(database: DatabaseArgument, json: JsonOption = False) -> None:
    """List the collections of a database."""
    from vicinal.cli.console import bytes_text, print_json, print_table
    from vicinal.cli.opening import opened

    with opened(database) as db:
        stats = [db.collection(name).stats() for name in db.collections()]
    if json:
        keys = ("name", "points", "dim", "metric", "dtype", "indexed_ratio", "disk_bytes")
        print_json([{key: s[key] for key in keys} for s in stats])
        return
    print_table(
        ["collection", "#points", "#dim", "metric", "dtype", "#indexed", "#disk"],
        [
            (
                s["name"],
                f"{s['points']:,}",
                str(s["dim"]),
                s["metric"],
                s["dtype"],
                f"{s['indexed_ratio']:.0%}",
                bytes_text(sum(s["disk_bytes"].values())),
            )
            for s in stats
        ],
    )
