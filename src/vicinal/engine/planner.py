"""How a segment is searched: the exact number of matches decides between three ways.

scan    compare every match: exact distances of few, codes of more and then exact distances of the best.
filter  traverse the graph, stepping over failing nodes to their neighbours: between the two.
gate    traverse the graph as if there were no filter, keep only matches: cheapest when many pass.

The index carries the plan out, and turns a traversal into a scan for a query that lies far from
all matches, where a traversal ends in the wrong place. Costs are in distance computations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from vicinal.index import Beam
from vicinal.model.recall import mean_recall

Strategy = Literal["scan", "filter", "gate"]

MATCHES_PER_RESULT = 2.5
"""A walk that keeps matches goes on until it has so many of them; where more pass, it is one without a filter."""

SCAN_COST_PER_MATCH = 0.25
"""A match's code against a distance on a graph's path: sequential rows, a quarter of the bytes, no visited set."""

DISTANCES_PER_EF = 14.0
"""Distances computed per unit of ef on an unfiltered traversal with M = 32."""

FLAT_MAX = 1_000
"""A segment of no more rows is always scanned: it has no graph."""


class SegmentPlan(msgspec.Struct, frozen=True):
    """What will be done with one segment, and why."""

    strategy: Strategy
    n_rows: int
    n_matches: int
    ef_search: int
    estimated_distances: int
    reason: str
    recall: float | None = 1.0
    """The share of its nearest points that it is expected to find; None where that is not known."""
    near_part: float = 0.0
    """Ends a walk early, see `Beam`."""


def combined_recall(plans: Sequence[SegmentPlan]) -> float | None:
    """The recall to expect of a search of several segments: each holds its share of the true neighbours."""
    counts = [plan.n_matches for plan in plans]
    return mean_recall([plan.recall for plan in plans], counts) if any(counts) else 1.0


def plan_segment(
    *,
    n_rows: int,
    n_live: int,
    n_matches: int,
    n_linked: int,
    filtered: bool,
    scan_max: int,
    walk_by: Literal["filter", "gate"],
    k: int,
    beam: Beam,
    exact: bool,
) -> SegmentPlan:
    """Choose the strategy for a segment.

    n_linked : rows that the graph holds; the others are scanned whatever the strategy.
    scan_max : matches of a filter that are compared faster than a traversal is done.
    walk_by : the faster way to walk with this share of matches.
    beam : the width of a traversal with this share of matches, and the recall to expect of it; width 0 is none.
    """
    ef = max(beam.ef_search, k)
    pending = n_rows - n_linked

    def plan(
        strategy: Strategy, distances: float, reason: str, walk: Beam | None = None
    ) -> SegmentPlan:
        recall, near_part = (1.0, 0.0) if walk is None else (walk.recall, walk.near_part)
        return SegmentPlan(
            strategy, n_rows, n_matches, ef, int(distances), reason, recall, near_part
        )

    if exact:
        return plan("scan", n_matches, "exact search asked for")
    if n_linked == 0:
        return plan("scan", n_matches, "no graph yet")
    if n_rows <= FLAT_MAX:
        return plan("scan", n_matches, f"{n_rows} rows are scanned faster than a graph is walked")
    if k >= n_matches:
        return plan("scan", n_matches, f"all {n_matches} matches are asked for")
    if beam.ef_search == 0:
        return plan("scan", n_matches, "no beam is known to reach the recall asked for")
    walk = ef * DISTANCES_PER_EF + pending
    if not filtered:
        return plan("gate", walk, "no filter: plain traversal", beam)
    selectivity = n_matches / max(n_live, 1)
    two_hop = walk * min(3.0, 1.0 / max(selectivity, 0.1))
    rows = max(ef, min(ef, MATCHES_PER_RESULT * k) / max(selectivity, 1e-9))
    if n_matches <= scan_max:
        distances = n_matches * SCAN_COST_PER_MATCH
        return plan(
            "scan", distances, f"{n_matches} matches are compared faster than a walk is done"
        )
    if walk_by == "gate":
        cost = rows * DISTANCES_PER_EF + pending
        return plan("gate", cost, f"{selectivity:.0%} of the rows match", beam)
    return plan("filter", two_hop, f"{selectivity:.1%} of the rows match", beam)
