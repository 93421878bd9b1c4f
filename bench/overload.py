"""Searches that come at their own times, whether or not the server keeps up: an open loop, with Poisson arrivals.

A search is good when its answer came within a second of the time at which it was due, so that waiting before it could
even be sent counts too. What the server refuses (429, 503) is counted with the time that refusing took. The load sheds
nothing itself: a search that finds no connection free makes one, up to CONNECTIONS_MAX, and waits beyond.

Overload is one run without a pause, since what it does to a server may build up. The most that the server can do is
measured right before it and right after it, in short pieces at several rates around saturation that take turns. A
machine whose speed drifts by a third within minutes makes anything else the ratio of two speeds: a single peak, found
once, says what the machine was then. So each half of the run is held against the pieces next to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from bench.load import Load

CONNECTIONS_MAX = 3_000
CALM_SHARE = 0.25
"""Of what the server can do: the load before and after."""

CALM_P99_FACTOR = 1.5
"""It is back when a second's p99 is no more than so many times that of before."""

PEAK_FROM, PEAK_STEP, PEAK_STEPS_MAX, KEPT_SHARE = 0.6, 1.15, 12, 0.95
"""About where saturation is is looked for in steps, from a share of what a closed loop got to the second rate in a row
of which so much is not answered in time: one may be the machine's."""

TURN_S = 3
"""Of the phases at and below saturation."""

PIECE_RATES, PIECE_TURNS, PIECE_S = (0.9, 1.0, 1.1, 1.25), 3, 2
"""The most is measured at these shares of about where saturation is, in turns. Of a piece, as of the overload, count
the good answers that came in its whole seconds: what a full server still has under way at the end, up to a thousand
searches, would make short pieces look a tenth better than long ones."""

BURSTS = 3
"""Times that as much comes at once, from a load without connections."""

ASKED = 200
"""Searches whose answers under load are compared with those they have alone."""


def overload(
    port: int, server: int, requests: list[bytes], factor: float, seconds: float
) -> dict[str, Any]:
    """A closed loop, bursts that find no connections, then calm, then the most that is answered, then factor times
    that, then calm again until it is as quick as before, then the most again."""
    with Load(port, requests, server=server) as load:
        able = load.closed(64, 5.0)["per_s"]
    bursts = list[dict[str, Any]]()
    for turn in range(BURSTS):
        with Load(port, requests, server=server) as load:
            bursts.append(load.open(able * factor, TURN_S, turn, CONNECTIONS_MAX))

    def ids(raw: bytes) -> list[Any]:
        return [hit["id"] for hit in json.loads(raw)["hits"]]

    with Load(port, requests, server=server, ids=ids) as load:
        calm = able * CALM_SHARE
        load.ask(ASKED)
        load.open(calm, 2.0, 1, CONNECTIONS_MAX)
        before = load.open(calm, 5.0, 2, CONNECTIONS_MAX)
        limit = CALM_P99_FACTOR * before["good_p99_us"]
        about = _saturation(load, able)
        pieces_before = _pieces(load, about, 200)
        most_before = most(pieces_before)
        over = load.open(most_before * factor, seconds, 10, CONNECTIONS_MAX)
        back: int | None = None
        for second in range(1, 31):
            after = load.open(calm, 1.0, 10 + second, CONNECTIONS_MAX)
            if after["good"] == after["due"] and after["good_p99_us"] <= limit:
                back = second
                break
        pieces_after = _pieces(load, about, 300)
        most_after = most(pieces_after)
    good = over.pop("good_in")[: int(seconds)]
    return {
        "closed_loop_per_s": round(able),
        "saturation_about_per_s": round(about),
        "pieces_before": pieces_before,
        "pieces_after": pieces_after,
        "peak_before_per_s": round(most_before),
        "peak_after_per_s": round(most_after),
        "offered_per_s": round(over["due"] / seconds),
        "goodput_per_s": round(mean(good)),
        "goodput_of_peak": round(share_of(good, most_before, most_after), 3),
        "refused_share": round(over["refused"] / over["due"], 3),
        "over": over,
        "good_by_second": good,
        "first_bursts": bursts,
        "calm_p99_us_before": before["good_p99_us"],
        "seconds_until_calm_again": back,
    }


def most(pieces: dict[float, list[int]]) -> float:
    """What the best of the rates gives: the median of its pieces."""
    return max(median(of_rate) for of_rate in pieces.values())


def share_of(good: Sequence[int], before: float, after: float) -> float:
    """Good answers of each second as a share of what could be done: each half against what is next to it."""
    half = len(good) // 2
    if not half:
        raise ValueError("an overload of less than 2 s has no halves; give --seconds 2 or more")
    return mean((mean(good[:half]) / before, mean(good[half:]) / after))


def _saturation(load: Load, able: float) -> float:
    """About the most that is answered in time."""
    peak, per_s, missed = 0.0, able * PEAK_FROM, 0
    for place in range(PEAK_STEPS_MAX):
        found = load.open(per_s, TURN_S, 100 + place, CONNECTIONS_MAX)
        peak = max(peak, mean(found["good_in"][: int(TURN_S)]))
        missed = missed + 1 if found["good"] < KEPT_SHARE * found["due"] else 0
        if missed == 2:
            break
        per_s *= PEAK_STEP
    return peak


def _pieces(load: Load, about: float, seed: int) -> dict[float, list[int]]:
    """Good answers a second at rates around saturation, of each turn."""
    found: dict[float, list[int]] = {share: [] for share in PIECE_RATES}
    for turn in range(PIECE_TURNS):
        for place, share in enumerate(PIECE_RATES):
            number = seed + turn * len(PIECE_RATES) + place
            piece = load.open(about * share, PIECE_S, number, CONNECTIONS_MAX)
            found[share].append(round(mean(piece["good_in"][:PIECE_S])))
    return found
