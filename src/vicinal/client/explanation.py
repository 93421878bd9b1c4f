"""What `explain` answers: the plan of a search, segment by segment, with its estimated and actual cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from vicinal.engine.collection import Collection
from vicinal.engine.reader import SegmentRun
from vicinal.index import default_ef
from vicinal.model.filter import to_text
from vicinal.model.search import SearchOptions


@dataclass(frozen=True, slots=True)
class Explanation:
    """A search explained; `str()` is for people, `to_dict()` for programs.

    Attributes
    ----------
    where : the filter as it was understood, or None.
    matches : points that pass it, exactly.
    ef_search : the widest beam of any segment.
    recall : what was asked for, None where it was not.
    recall_estimate : the share of the true nearest points that is expected to be found, None where that is not known.
    segments : for each segment its rows, matches, strategy, reason, ef_search, recall estimate, estimated distance
    computations, milliseconds.
    """

    collection: str
    points: int
    k: int
    ef_search: int
    where: str | None
    matches: int
    total_ms: float
    segments: tuple[dict[str, Any], ...]
    recall: float | None = None
    recall_estimate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "segments": list(self.segments)
        }

    def __str__(self) -> str:
        lines = [
            f"search of {self.collection!r}: {self.points} points, k={self.k}, ef_search={self.ef_search}",
            f"  where: {self.where or 'no filter'} -> {self.matches} matches",
        ]
        lines += [
            f"  segment of {s['rows']} rows, {s['matches']} matches: {s['strategy']} ({s['reason']}); "
            f"about {s['estimated_distances']} distances, {s['actual_ms']:.3f} ms"
            for s in self.segments
        ]
        expected = "not known" if self.recall_estimate is None else f"{self.recall_estimate:.4f}"
        asked = "" if self.recall is None else f", {self.recall} asked for"
        lines.append(f"  expected recall {expected}{asked}")
        lines.append(f"  total {self.total_ms:.3f} ms")
        return "\n".join(lines)


def explain(
    engine: Collection,
    queries: npt.NDArray[Any],
    options: SearchOptions,
) -> Explanation:
    """Run the search with a record of what each segment did."""
    runs: list[SegmentRun] = []
    found = engine.reader.search(queries, options, threads=1, runs=runs)
    segments = tuple(
        {
            "rows": run.plan.n_rows,
            "matches": run.plan.n_matches,
            "strategy": run.plan.strategy,
            "reason": run.plan.reason,
            "ef_search": run.plan.ef_search,
            "recall_estimate": run.plan.recall,
            "estimated_distances": run.plan.estimated_distances,
            "actual_ms": run.seconds * 1e3,
        }
        for run in runs
    )
    widths = [run.plan.ef_search for run in runs]
    return Explanation(
        collection=engine.name,
        points=engine.reader.count(None),
        k=options.k,
        ef_search=max(widths, default=options.ef_search or default_ef(options.k)),
        where=None if options.where is None else to_text(options.where),
        matches=sum(run.plan.n_matches for run in runs),
        total_ms=sum(run.seconds for run in runs) * 1e3,
        segments=segments,
        recall=options.recall,
        recall_estimate=found.recall_estimate,
    )
