"""Why searches of a collection may be slower, or less even, than they should be: what `vicinal doctor --speed` says.

Some of its points are searched twice, one call each. The first round is cold as far as the machine left it so; the
second shows what is left when everything was touched once. What is seen is judged apart from the looking.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

import vicinal
from vicinal.cli.console import CliError, bytes_text

SEARCHES = 500
"""At most."""

CANDIDATES_MAX = 10_000
"""Points among which those are chosen that are searched."""

COLD_RATIO = 1.5
"""The first round takes so many times as long as the second, and it counts as cold."""

UNEVEN_RATIO = 5.0
"""p99 over p50: more is uneven. An idle machine shows 1.5 to 3."""

SWITCHES_MAX = 0.1
"""Times for each search that another program took the processor away, above which it is to blame for the tail."""

INDEXED_MIN = 0.9


class Round(msgspec.Struct, frozen=True):
    """One round of searches: microseconds of each, and what the system did meanwhile.

    Attributes
    ----------
    faults : pages that were read from the disk.
    switches : times that another program took the processor away.
    """

    us: list[float]
    faults: int
    switches: int

    def percentile(self, q: float) -> float:
        """Microseconds below which q percent of the searches are."""
        return float(np.percentile(self.us, q))


class Seen(msgspec.Struct, frozen=True):
    """What there is to judge; free_bytes is None where the system does not tell."""

    first: Round
    again: Round
    own_bytes: int
    mapped_bytes: int
    free_bytes: int | None
    budget_bytes: int | None
    indexed_ratio: float
    load_per_core: float


class Check(msgspec.Struct, frozen=True):
    """One judgement; a remedy where it is not good."""

    name: str
    good: bool
    what: str
    remedy: str = ""


def look(
    docs: vicinal.Collection,
    *,
    budget_bytes: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Seen:
    """Search points of the collection twice and note what the machine did. Raises CliError where it is empty."""
    page = docs.scroll(limit=CANDIDATES_MAX, with_vectors=True)
    vectors = [point.vector for point in page if point.vector is not None]
    if not vectors:
        raise CliError(f"collection {docs.name!r} has no points; there is nothing to measure")
    queries = vectors[:: -(-len(vectors) // SEARCHES)]
    first, again = (_round(docs, queries, clock) for _ in range(2))
    stats = docs.stats()
    return Seen(
        first=first,
        again=again,
        own_bytes=sum(stats["memory_bytes"].values()),
        mapped_bytes=sum(stats["mapped_bytes"].values()),
        free_bytes=_free_bytes(),
        budget_bytes=budget_bytes,
        indexed_ratio=stats["indexed_ratio"],
        load_per_core=os.getloadavg()[0] / (os.cpu_count() or 1),
    )


def judge(seen: Seen) -> list[Check]:
    """Warm-up, memory, index and evenness, in this order."""
    return [_warm_up(seen), _memory(seen), _index(seen), _evenness(seen)]


def _warm_up(seen: Seen) -> Check:
    first, again = seen.first, seen.again
    ratio = sum(first.us) / sum(again.us)
    what = (
        f"the first {len(first.us)} searches took p50 {first.percentile(50):.0f} us, "
        f"the same again {again.percentile(50):.0f} us; {first.faults} pages came from the disk"
    )
    if ratio < COLD_RATIO:
        return Check("warm-up", True, what)
    return Check(
        "warm-up",
        False,
        f"{what}: the first round took {ratio:.1f} times as long",
        "send searches like your own before traffic comes or a clock starts; filters too, since the first one on a "
        "field indexes it",
    )


def _memory(seen: Seen) -> Check:
    own, mapped = bytes_text(seen.own_bytes), bytes_text(seen.mapped_bytes)
    what = f"{own} of its own, {mapped} of mapped files"
    needed = seen.own_bytes + seen.mapped_bytes
    smaller = "choose M=16 or dtype f16 for less, or give it more memory: `vicinal estimate` says how much"
    if seen.budget_bytes is not None:
        what += f", {bytes_text(seen.budget_bytes)} wanted"
        if needed > seen.budget_bytes:
            return Check("memory", False, f"{what}: that is too much", smaller)
    if seen.free_bytes is None:
        return Check("memory", True, f"{what}; this system does not say what is free")
    what += f", {bytes_text(seen.free_bytes)} available"
    if seen.mapped_bytes > seen.free_bytes:
        return Check(
            "memory", False, f"{what}: files will be read from the disk again and again", smaller
        )
    return Check("memory", True, what)


def _index(seen: Seen) -> Check:
    what = f"the graph holds {seen.indexed_ratio:.0%} of the rows"
    if seen.indexed_ratio >= INDEXED_MIN:
        return Check("index", True, what)
    return Check(
        "index",
        False,
        f"{what}: the others are compared one by one",
        "wait for the background of the process that writes, or run `vicinal optimize`",
    )


def _evenness(seen: Seen) -> Check:
    again = seen.again
    ratio = again.percentile(99) / again.percentile(50)
    spread = ", ".join(f"p{q} {again.percentile(q):.0f} us" for q in (50, 95, 99))
    what = f"{spread}: p99 is {ratio:.1f} times p50"
    if ratio <= UNEVEN_RATIO:
        return Check("evenness", True, what)
    causes: list[str] = []
    if again.faults:
        causes.append(f"{again.faults} pages came from the disk: files do not stay in memory")
    if again.switches > SWITCHES_MAX * len(again.us):
        causes.append(
            f"other programs took the processor {again.switches} times (load {seen.load_per_core:.1f} a core): "
            "move them, or pin this one"
        )
    return Check(
        "evenness",
        False,
        what,
        "; ".join(causes)
        or "neither the disk nor other programs are to blame: `vicinal explain` shows what a slow search did, "
        "docs/profiling.md how to look deeper",
    )


def _round(
    docs: vicinal.Collection, queries: list[npt.NDArray[Any]], clock: Callable[[], float]
) -> Round:
    before = resource.getrusage(resource.RUSAGE_SELF)
    us: list[float] = []
    for query in queries:
        started = clock()
        docs.search(query, k=10)
        us.append(1e6 * (clock() - started))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Round(us, after.ru_majflt - before.ru_majflt, after.ru_nivcsw - before.ru_nivcsw)


def _free_bytes() -> int | None:
    """What the system could give without swapping, cached files included; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else int(kib) * 1024
