"""`vicinal keys`: make, list and revoke the API keys of a served database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vicinal.cli.options import DatabaseArgument, JsonOption

if TYPE_CHECKING:
    from vicinal.server.keys import Key, KeyStore

keys = typer.Typer(help="API keys of a served database.", no_args_is_help=True)

DURATION = re.compile(r"(\d+)([smhdw])\Z")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@keys.command()
def create(
    database: DatabaseArgument,
    role: Annotated[str, typer.Option("--role", help="read, write or admin.")] = "read",
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", help="Only this one; may be given several times."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Whose key it is.")] = "",
    expires: Annotated[
        str | None, typer.Option("--expires", help="How long it is valid: 12h, 30d, 4w.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Requests a second of this key; the server's, where left out."),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option("--points", help="Points that its collections may hold together."),
    ] = None,
    bytes_: Annotated[
        str | None,
        typer.Option("--bytes", help="What their files may hold together, such as 10GiB."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a key and show it, this once."""
    from vicinal.cli.console import print_json, remark
    from vicinal.model.memory import parse_bytes

    store = _store(database)
    text, key = store.create(
        name=name,
        role=role,
        collections=tuple(collection) if collection else None,
        valid_s=None if expires is None else _seconds(expires),
        requests_per_s=rate,
        points_max=points,
        bytes_max=None if bytes_ is None else parse_bytes(bytes_, "--bytes"),
    )
    _note(database, "create_key", key)
    if json:
        print_json(_record(key) | {"key": text})
        return
    print(text)
    remark(f"keep it: it is not stored and cannot be shown again (id {key.id}, role {key.role})")


@keys.command(name="list")
def list_(database: DatabaseArgument, json: JsonOption = False) -> None:
    """List the keys; their secrets are not stored."""
    from vicinal.cli.console import print_json, print_table

    records = [_record(key) for key in _store(database).list()]
    if json:
        print_json(records)
        return
    print_table(
        ["id", "name", "role", "collections", "created", "expires"],
        [
            (
                r["id"],
                r["name"],
                r["role"],
                "all" if r["collections"] is None else ", ".join(r["collections"]),
                r["created"],
                r["expires"] or "never",
            )
            for r in records
        ],
    )


@keys.command()
def revoke(
    database: DatabaseArgument,
    id: Annotated[str, typer.Argument(metavar="ID", help="As `vicinal keys list` shows it.")],
    json: JsonOption = False,
) -> None:
    """Take a key away; a server that runs refuses it within a second."""
    from vicinal.cli.console import print_json

    gone = _store(database).revoke(id)
    _note(database, "revoke_key", gone)
    if json:
        print_json(_record(gone))
    else:
        print(f"revoked {gone.id}")


def _store(database: Path) -> KeyStore:
    import vicinal
    from vicinal.cli.console import CliError
    from vicinal.server.keys import KeyStore

    if not database.is_dir():
        raise CliError(f"{database}: there is no database; `vicinal serve {database}` makes one")
    vicinal.open(database, read_only=True).close()  # raises where it is something else
    return KeyStore(database)


def _note(database: Path, action: str, key: Key) -> None:
    """Into the audit log of the database, as a server's keys are."""
    from vicinal.server.audit import AuditLog

    AuditLog(database).write(
        action,
        "ok",
        source="command line",
        concerns=key.id,
        role=key.role,
        collections=key.collections,
    )


def _record(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "collections": None if key.collections is None else list(key.collections),
        "created": _time(key.created),
        "expires": None if key.expires is None else _time(key.expires),
        "requests_per_s": key.requests_per_s,
        "points_max": key.points_max,
        "bytes_max": key.bytes_max,
    }


def _time(seconds: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")


def _seconds(text: str) -> float:
    from vicinal.cli.console import CliError

    found = DURATION.match(text)
    if found is None:
        raise CliError(f"{text!r} is no duration; write 12h, 30d or 4w")
    return int(found[1]) * SECONDS[found[2]]
