"""`vicinal doctor`: is everything in this database as it should be, and if not, what can be done?"""

from __future__ import annotations

from typing import Annotated

import typer

from vicinal.cli.options import DatabaseArgument, JsonOption

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
    json: JsonOption = False,
) -> None:
    """Check every file and invariant of a database, and explain what is wrong. Exits with 1 where something is."""
    import msgspec

    from vicinal.cli.console import print_json, remark
    from vicinal.engine.doctor import examine
    from vicinal.model.findings import Level

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
