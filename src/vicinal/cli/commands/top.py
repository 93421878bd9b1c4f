"""`vicinal top`: what a server does right now, in the terminal, from its /metrics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vicinal.cli.options import JsonOption

if TYPE_CHECKING:
    from vicinal.cli.prometheus import Reading

READ_S_MAX = 10.0
SLOW_OPERATIONS = frozenset({"optimize", "snapshot", "calibrate"})
"""Left out of the latency, which they would hide."""


def top(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the server.")] = (
        "http://127.0.0.1:7333"
    ),
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="VICINAL_API_KEY", help="A key of the server."),
    ] = None,
    every: Annotated[float, typer.Option("--every", help="Seconds between two readings.")] = 2.0,
    count: Annotated[
        int, typer.Option("--count", help="Show so many and stop; 0 goes on until Ctrl-C.")
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Show what a server does: requests, latency, cache, recall, collections."""
    from vicinal.cli.console import CliError, print_json

    if not 0.1 <= every <= 3600 or count < 0:
        raise CliError("--every is 0.1 to 3600 seconds, --count 0 or more")
    before = _read(url, api_key)
    shown = 0
    while not count or shown < count:
        time.sleep(every)
        now = _read(url, api_key)
        figures = summary(before, now)
        if json:
            print_json(figures)
        else:
            _show(url, figures, clear=not count)
        before, shown = now, shown + 1


def summary(before: Reading, now: Reading) -> dict[str, Any]:
    """The figures of the time between two readings; None for what did not happen."""
    from vicinal.cli.prometheus import quantile, rate

    name = "vicinal_request_seconds"
    latency = {
        f"p{round(100 * share)}_ms": None if found is None else found * 1e3
        for share in (0.5, 0.95, 0.99)
        for found in [
            quantile(
                before, now, name, share, lambda labels: labels["operation"] not in SLOW_OPERATIONS
            )
        ]
    }
    looks = rate(before, now, "vicinal_result_cache_total")
    hits = rate(before, now, "vicinal_result_cache_total", lambda of: of["outcome"] == "hit")
    calls = rate(before, now, "vicinal_search_batch_count")
    expected = now.total("vicinal_recall_expected_total")
    return {
        "requests_per_s": rate(before, now, "vicinal_requests_total"),
        "failed_per_s": rate(before, now, "vicinal_requests_total", lambda of: of["code"] != "ok")
        + rate(before, now, "vicinal_refused_total"),
        **latency,
        "under_way": now.total("vicinal_requests_under_way"),
        "searches_waiting": now.total("vicinal_searches_waiting"),
        "cache_hit_ratio": hits / looks if looks else None,
        "searches_per_call": rate(before, now, "vicinal_search_batch_sum") / calls
        if calls
        else None,
        "recall": now.total("vicinal_recall_found_total") / expected if expected else None,
        "resident_bytes": now.total("process_resident_memory_bytes"),
        "cpu_cores": rate(before, now, "process_cpu_seconds_total"),
        "operations": {
            operation: rate(
                before, now, "vicinal_requests_total", lambda of, o=operation: of["operation"] == o
            )
            for operation in now.labelled("vicinal_requests_total", "operation")
        },
        "collections": [
            _collection(before, now, name) for name in now.labelled("vicinal_points", "collection")
        ],
    }


def _collection(before: Reading, now: Reading, name: str) -> dict[str, Any]:
    from vicinal.cli.prometheus import rate

    def fits(labels: dict[str, str]) -> bool:
        return labels["collection"] == name

    return {
        "name": name,
        "points": now.total("vicinal_points", fits),
        "indexed_ratio": now.total("vicinal_indexed_ratio", fits),
        "memory_bytes": now.total("vicinal_memory_bytes", fits),
        "syncs_per_s": rate(before, now, "vicinal_syncs_total", fits),
    }


def _read(url: str, api_key: str | None) -> Reading:
    import urllib.error
    import urllib.request

    from vicinal.cli.console import CliError
    from vicinal.cli.prometheus import read_page

    if not url.startswith(("http://", "https://")):
        raise CliError(f"{url!r} is no address of a server, such as http://127.0.0.1:7333")
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    request = urllib.request.Request(f"{url.rstrip('/')}/metrics", headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=READ_S_MAX) as answer:  # noqa: S310
            return read_page(answer.read().decode(), time.monotonic())
    except urllib.error.HTTPError as fault:
        fault.close()
        hint = "; give a key with --api-key" if fault.code == 401 else ""
        raise CliError(f"{url} answers /metrics with status {fault.code}{hint}") from None
    except (OSError, ValueError) as fault:
        raise CliError(f"{url}: no answer ({fault}); is `vicinal serve` running there?") from None


def _show(url: str, figures: dict[str, Any], *, clear: bool) -> None:
    """One screen of figures; below one another where stdout is no terminal."""
    import sys

    from vicinal.cli.console import bytes_text, heading, print_table

    def figure(value: float | None, form: str = "{:,.1f}", missing: str = "-") -> str:
        return missing if value is None else form.format(value)

    if clear and sys.stdout.isatty():
        print("\x1b[2J\x1b[H", end="")
    heading(f"{url}  {time.strftime('%H:%M:%S')}")
    print_table(
        ["#requests/s", "#failed/s", "#p50 ms", "#p95 ms", "#p99 ms", "#under way", "#waiting"],
        [
            (
                figure(figures["requests_per_s"]),
                figure(figures["failed_per_s"]),
                figure(figures["p50_ms"], "{:.2f}"),
                figure(figures["p95_ms"], "{:.2f}"),
                figure(figures["p99_ms"], "{:.2f}"),
                figure(figures["under_way"], "{:.0f}"),
                figure(figures["searches_waiting"], "{:.0f}"),
            )
        ],
    )
    print_table(
        ["#cache", "#searches/call", "#recall", "#cores", "#memory"],
        [
            (
                figure(figures["cache_hit_ratio"], "{:.0%}"),
                figure(figures["searches_per_call"]),
                figure(figures["recall"], "{:.4f}"),
                figure(figures["cpu_cores"], "{:.2f}"),
                bytes_text(int(figures["resident_bytes"])),
            )
        ],
    )
    busy = {name: per_s for name, per_s in figures["operations"].items() if per_s}
    if busy:
        ordered = sorted(busy.items(), key=lambda item: -item[1])
        print_table(["operation", "#per s"], [(name, figure(per_s)) for name, per_s in ordered])
    print_table(
        ["collection", "#points", "#in the graph", "#memory", "#syncs/s"],
        [
            (
                c["name"],
                f"{c['points']:,.0f}",
                f"{c['indexed_ratio']:.0%}",
                bytes_text(int(c["memory_bytes"])),
                figure(c["syncs_per_s"]),
            )
            for c in figures["collections"]
        ],
    )
    sys.stdout.flush()
