"""`vicinal serve`: a database over the network, until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from vicinal.cli.options import DatabaseArgument, JsonOption


def serve(
    database: DatabaseArgument,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is all of them.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option("--http-port", help="Port of REST; 0 is any free one.")
    ] = 7333,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            "--grpc-port",
            help="Port of gRPC; the one after REST's if not said, 0 is any free one.",
        ),
    ] = None,
    rest_only: Annotated[bool, typer.Option("--rest-only", help="Serve no gRPC.")] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask nobody for a key, whoever can reach the port.")
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse writes.")] = False,
    durability: Annotated[
        str, typer.Option("--durability", help="sync, interval or none.")
    ] = "sync",
    cache_mb: Annotated[
        int, typer.Option("--cache-mb", help="Memory for results, in MB; 0 is no cache.")
    ] = 64,
    requests_max: Annotated[
        int, typer.Option("--requests-max", help="Requests under way; more are refused with 503.")
    ] = 1024,
    key_rate: Annotated[
        float, typer.Option("--key-rate", help="Requests a second of one key; 0 is no limit.")
    ] = 0.0,
    json: JsonOption = False,
) -> None:
    """Serve a database over REST and gRPC: the same API for every `vicinal.open("http://...")` or `"grpc://..."`."""
    from json import dumps

    import vicinal
    from vicinal.cli.console import remark
    from vicinal.server.config import server_config
    from vicinal.server.running import Running

    config = server_config(
        {
            "host": host,
            "http_port": http_port,
            "grpc_port": None if rest_only else _port(grpc_port, http_port, 1),
            "auth": False if no_auth else None,
            "cache_bytes_max": cache_mb * 1_000_000,
            "requests_max": requests_max,
            "key_requests_per_s_max": key_rate,
        }
    )
    mode = None if read_only else durability
    with vicinal.open(database, read_only=read_only, durability=mode) as db:
        running = Running(db.engine, config)

        def started() -> None:
            keys = "keys are asked for" if running.asks_for_keys else "no keys are asked for"
            if json:
                record = {
                    "url": running.url,
                    "grpc_url": running.grpc_url,
                    "database": db.address,
                    "keys": running.asks_for_keys,
                }
                print(dumps(record), flush=True)
                return
            places = " and ".join(url for url in (running.url, running.grpc_url) if url)
            print(f"serving {db.address} at {places} ({keys}); Ctrl-C stops", flush=True)
            remark(f"a page to look at it: {running.url}/ui")

        running.run(started)
        remark("stopped; every acknowledged write is kept")


def _port(given: int | None, http_port: int, place: int) -> int:
    """The port that was given; else `place` after REST's, or any free one where that is."""
    if given is not None:
        return given
    return 0 if http_port == 0 else http_port + place
