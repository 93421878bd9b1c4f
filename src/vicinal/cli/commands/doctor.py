"""`vicinal doctor`: is everything in this database as it should be, and if not, what can be done?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vicinal.cli.options import CollectionOption, DatabaseArgument, JsonOption

EXIT_UNHEALTHY = 1


def doctor(
    database: DatabaseArgument,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make damaged derived files anew; drops no data."),
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Drop the points that cannot be read any more, and keep their files; includes --repair.",
        ),
    ] = False,
    speed: Annotated[
        bool,
        typer.Option(
            "--speed",
            help="Instead of its files, examine how fast a collection answers here: warm-up, memory, evenness.",
        ),
    ] = False,
    collection: CollectionOption = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="With --speed: what the collection should fit in, as 2GiB."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check every file and invariant of a database, and explain what is wrong. Exits with 1 where something is."""
    import msgspec

    from vicinal.cli.console import CliError, print_json, remark
    from vicinal.engine.doctor import examine
    from vicinal.model.findings import Level

    if speed:
        if repair or accept_loss:
            raise CliError("--speed changes nothing; run the doctor without it to repair")
        _speed(database, collection, memory, json=json)
        return
    if collection is not None or memory is not None:
        raise CliError("--collection and --memory go with --speed; files are examined all together")
    report = examine(database, repair=repair, accept_loss=accept_loss, tell=remark)
    if json:
        print_json({**msgspec.to_builtins(report), "healthy": report.healthy})
    else:
        for name, points in report.collections.items():
            print(f"{name}: {points:,} points")
        for finding in report.findings:
            place = " ".join(filter(None, (finding.collection, finding.place)))
            state = "mended" if finding.mended else finding.level.value
            print(f"{state}: {place}: {finding.what}")
            if not finding.mended or finding.level is Level.DAMAGE:
                print(f"  {finding.remedy}")
        print("healthy" if report.healthy else "not healthy")
    if not report.healthy:
        raise typer.Exit(EXIT_UNHEALTHY)


def _speed(database: Path, collection: str | None, memory: str | None, *, json: bool) -> None:
    import msgspec

    from vicinal.cli.console import print_json
    from vicinal.cli.opening import choose, opened
    from vicinal.cli.speed import judge, look
    from vicinal.model.memory import parse_bytes

    budget = None if memory is None else parse_bytes(memory, "--memory")
    with opened(database) as db:
        chosen = choose(db, collection)
        seen = look(chosen, budget_bytes=budget)
    checks = judge(seen)
    good = all(check.good for check in checks)
    if json:
        print_json({"collection": chosen.name, "good": good, "checks": msgspec.to_builtins(checks)})
    else:
        for check in checks:
            print(f"{'good' if check.good else 'look'}: {check.name}: {check.what}")
            if check.remedy:
                print(f"  {check.remedy}")
    if not good:
        raise typer.Exit(EXIT_UNHEALTHY)
