"""`vicinal ls`: the collections of a database."""

from __future__ import annotations

from vicinal.cli.options import DatabaseArgument, JsonOption


def ls(database: DatabaseArgument, json: JsonOption = False) -> None:
    """List the collections of a database."""
    from vicinal.cli.console import bytes_text, print_json, print_table, remark
    from vicinal.cli.opening import opened
    from vicinal.model.status import Health

    with opened(database) as db:
        status = db.status()
        damaged = {name: s for name, s in status.items() if s.health == Health.QUARANTINED}
        stats = [db.collection(name).stats() for name in status if name not in damaged]
    if json:
        keys = ("name", "status", "points", "dim", "metric", "dtype", "indexed_ratio", "disk_bytes")
        listed = [{key: s[key] for key in keys} for s in stats]
        for name, s in damaged.items():
            listed.append({"name": name, "status": s.health.value, "reason": s.reason})
        print_json(sorted(listed, key=lambda entry: entry["name"]))
        return
    for name, s in status.items():
        if s.health in (Health.QUARANTINED, Health.DEGRADED):
            remark(f"{name} is {s.health.value}: {s.reason}")
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
