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
    flight_port: Annotated[
        int | None,
        typer.Option(
            "--flight-port",
            help="Port of Arrow Flight; the second after REST's if not said, 0 is any free one.",
        ),
    ] = None,
    rest_only: Annotated[
        bool, typer.Option("--rest-only", help="Serve neither gRPC nor Flight.")
    ] = False,
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
    cache_url: Annotated[
        str | None,
        typer.Option(
            "--cache-url",
            envvar="VICINAL_CACHE_URL",
            show_envvar=True,
            help="Redis or Valkey that servers share results in: redis://[[user]:password@]host[:port][/number].",
        ),
    ] = None,
    requests_max: Annotated[
        int, typer.Option("--requests-max", help="Requests under way; more are refused with 503.")
    ] = 1024,
    key_rate: Annotated[
        float, typer.Option("--key-rate", help="Requests a second of one key; 0 is no limit.")
    ] = 0.0,
    collection_points: Annotated[
        int,
        typer.Option(
            "--collection-points", help="Points that a collection may hold; 0 is no limit."
        ),
    ] = 0,
    collection_bytes: Annotated[
        str | None,
        typer.Option(
            "--collection-bytes", help="What the files of a collection may hold, such as 10GiB."
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option("--memory-budget", help="The most its collections hold, such as 2GiB."),
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option("--tls-cert", help="PEM file of a certificate: speak TLS.")
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option("--tls-key", help="PEM file of the certificate's key.")
    ] = None,
    tls_client_ca: Annotated[
        str | None,
        typer.Option("--tls-client-ca", help="PEM file: clients need a certificate it signed."),
    ] = None,
    jwt_key: Annotated[
        str | None,
        typer.Option(
            "--jwt-key", help="File of the key of tokens (JWT) to accept beside API keys."
        ),
    ] = None,
    jwt_algorithm: Annotated[
        str, typer.Option("--jwt-algorithm", help="RS256, ES256 or HS256.")
    ] = "RS256",
    jwt_audience: Annotated[
        str | None, typer.Option("--jwt-audience", help="Whom tokens must be for.")
    ] = None,
    jwt_issuer: Annotated[
        str | None, typer.Option("--jwt-issuer", help="Who must have made them.")
    ] = None,
    slow_query_ms: Annotated[
        float | None,
        typer.Option("--slow-query-ms", help="Log searches that take longer, with their plan."),
    ] = None,
    recall_share: Annotated[
        float,
        typer.Option(
            "--recall-share",
            help="Of the searches, how many are repeated exactly to measure recall; 0 is none.",
        ),
    ] = 0.001,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            "--otlp-endpoint",
            help="Send traces to this collector, such as http://localhost:4318; nowhere if not said.",
        ),
    ] = None,
    trace_share: Annotated[
        float,
        typer.Option("--trace-share", help="Of the requests without a trace, how many get one."),
    ] = 1.0,
    log_format: Annotated[
        str, typer.Option("--log-format", help="Of the lines on stderr: text or json.")
    ] = "text",
    log_level: Annotated[
        str,
        typer.Option(
            "--log-level", help="From which level on: debug (each request), info, warning, error."
        ),
    ] = "warning",
    json: JsonOption = False,
) -> None:
    """Serve a database over REST, gRPC and Arrow Flight: the same API for every `vicinal.open("http://...")`,
    `"grpc://..."` and `"flight://..."`."""
    import sys
    from json import dumps

    import vicinal
    from vicinal.cli.console import remark
    from vicinal.model.memory import parse_bytes
    from vicinal.server.config import server_config
    from vicinal.server.running import Running
    from vicinal.telemetry.log import configure

    config = server_config(
        {
            "host": host,
            "http_port": http_port,
            "grpc_port": None if rest_only else _port(grpc_port, http_port, 1),
            "flight_port": None if rest_only else _port(flight_port, http_port, 2),
            "auth": False if no_auth else None,
            "cache_bytes_max": cache_mb * 1_000_000,
            "cache_url": cache_url,
            "requests_max": requests_max,
            "key_requests_per_s_max": key_rate,
            "collection_points_max": collection_points,
            "collection_bytes_max": 0
            if collection_bytes is None
            else parse_bytes(collection_bytes, "--collection-bytes"),
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "tls_client_ca": tls_client_ca,
            "jwt_key": jwt_key,
            "jwt_algorithm": jwt_algorithm,
            "jwt_audience": jwt_audience,
            "jwt_issuer": jwt_issuer,
            "slow_query_ms": slow_query_ms,
            "recall_share": recall_share,
            "otlp_endpoint": otlp_endpoint,
            "trace_share": trace_share,
        }
    )
    configure(log_format, log_level, sys.stderr)
    mode = None if read_only else durability
    with vicinal.open(
        database, read_only=read_only, durability=mode, memory_budget=memory_budget
    ) as db:
        running = Running(db.engine, config)

        def started() -> None:
            keys = "keys are asked for" if running.asks_for_keys else "no keys are asked for"
            if json:
                record = {
                    "url": running.url,
                    "grpc_url": running.grpc_url,
                    "flight_url": running.flight_url,
                    "database": db.address,
                    "keys": running.asks_for_keys,
                }
                print(dumps(record), flush=True)
                return
            urls = (running.url, running.grpc_url, running.flight_url)
            places = " ".join(url for url in urls if url)
            print(f"serving {db.address} at {places} ({keys}); Ctrl-C stops", flush=True)
            remark(f"a page to look at it: {running.url}/ui")

        running.run(started)
        remark("stopped; every acknowledged write is kept")


def _port(given: int | None, http_port: int, place: int) -> int:
    """The port that was given; else `place` after REST's, or any free one where that is."""
    if given is not None:
        return given
    return 0 if http_port == 0 else http_port + place
