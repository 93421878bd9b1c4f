"""Searches that come at their own times, whether or not the server keeps up: an open loop, with Poisson arrivals.

A search is good when its answer came within a second of the time at which it was due, so that waiting before it could
even be sent counts too. What the server refuses (429, 503) is counted with the time that refusing took. The load sheds
nothing itself: a search that finds no connection free makes one, up to CONNECTIONS_MAX, and waits beyond.
"""

from __future__ import annotations

import json
from typing import Any

from bench.load import Load

CONNECTIONS_MAX = 3_000
CALM_SHARE = 0.25
"""Of what the server can do: the load before and after."""

CALM_P99_FACTOR = 1.5
"""It is back when a second's p99 is no more than so many times that of before."""

PEAK_FROM, PEAK_STEP, PEAK_STEPS_MAX, KEPT_SHARE = 0.6, 1.15, 12, 0.95
"""The most that is answered in time is looked for in steps, from a share of what a closed loop got to the second rate
in a row of which so much is not: one may be the machine's."""

TURN_S = 3.0
"""Of the phases at and below saturation."""

ASKED = 200
"""Searches whose answers under load are compared with those they have alone."""


def overload(
    port: int, server: int, requests: list[bytes], factor: float, seconds: float
) -> dict[str, Any]:
    """A closed loop, a burst that finds no connections, then calm, then the most that is answered, then factor times
    that, then calm again until it is as quick as before."""

    def phase(load: Load, per_s: float, seconds: float, seed: int) -> dict[str, Any]:
        return load.open(per_s, seconds, seed, CONNECTIONS_MAX)

    with Load(port, requests, server=server) as load:
        able = load.closed(64, 5.0)["per_s"]

    def ids(raw: bytes) -> list[Any]:
        return [hit["id"] for hit in json.loads(raw)["hits"]]

    with Load(port, requests, server=server, ids=ids) as load:
        calm = able * CALM_SHARE
        first = phase(load, able * factor, TURN_S, 0)
        load.ask(ASKED)
        phase(load, calm, 2.0, 1)
        before = phase(load, calm, 5.0, 2)
        limit = CALM_P99_FACTOR * before["good_p99_us"]
        peak, per_s, missed = 0.0, able * PEAK_FROM, 0
        for place in range(PEAK_STEPS_MAX):
            found = phase(load, per_s, TURN_S, 100 + place)
            peak = max(peak, found["good"] / TURN_S)
            missed = missed + 1 if found["good"] < KEPT_SHARE * found["due"] else 0
            if missed == 2:
                break
            per_s *= PEAK_STEP
        over = phase(load, peak * factor, seconds, 10)
        back: int | None = None
        for second in range(1, 31):
            after = phase(load, calm, 1.0, 10 + second)
            if after["good"] == after["due"] and after["good_p99_us"] <= limit:
                back = second
                break
    goodput = over["good"] / seconds
    return {
        "closed_loop_per_s": round(able),
        "peak_per_s": round(peak),
        "offered_per_s": round(over["due"] / seconds),
        "goodput_per_s": round(goodput),
        "goodput_of_peak": round(goodput / peak, 3),
        "refused_share": round(over["refused"] / over["due"], 3),
        "over": over,
        "first_burst": first,
        "calm_p99_us_before": before["good_p99_us"],
        "seconds_until_calm_again": back,
    }
