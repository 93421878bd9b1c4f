"""The slow-query log: a line for each search that took longer than a threshold, with its plan and what it cost.

No vector and no payload is written; the filter is, as text, since without it nobody can tell what was slow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from vicinal.engine.watch import SearchRecord
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.filter import to_text
from vicinal.telemetry.log import LineLimit, event, get_logger

LINES_PER_S_MAX = 20
FILTER_CHARS_MAX = 2_000
SEGMENTS_MAX = 20

_log = get_logger("slow")


class SlowLog:
    """A watcher that writes slow searches to the logger `vicinal.slow`, at most LINES_PER_S_MAX a second.

    Raises InvalidArgumentError where threshold_ms is not a number of 0 or more.
    """

    def __init__(self, threshold_ms: float, clock: Callable[[], float] = time.monotonic) -> None:
        if (
            isinstance(threshold_ms, bool)
            or not isinstance(threshold_ms, int | float)  # pyright: ignore[reportUnnecessaryIsInstance]
            or not 0 <= threshold_ms < 1e9
        ):
            raise InvalidArgumentError(
                f"slow_query_ms is {threshold_ms!r}; it is a number of milliseconds, 0 or more"
            )
        self._threshold_s = threshold_ms / 1000
        self._limit = LineLimit(LINES_PER_S_MAX, clock)

    def __call__(self, record: SearchRecord) -> None:
        """Write the search down if it was slow."""
        if record.seconds >= self._threshold_s and _log.isEnabledFor(logging.WARNING):
            left_out = self._limit.turn()
            if left_out is not None:
                self._write(record, left_out)

    def _write(self, record: SearchRecord, left_out: int) -> None:
        options = record.options
        where = None if options.where is None else to_text(options.where)
        plans = [run.plan for run in record.runs]
        fields = {
            "collection": record.collection.name,
            "ms": round(record.seconds * 1e3, 3),
            "queries": len(record.queries),
            "k": options.k,
            "ef_search": max((plan.ef_search for plan in plans), default=None),
            "exact": options.exact,
            "where": None if where is None else where[:FILTER_CHARS_MAX],
            "matches": sum(plan.n_matches for plan in plans),
            "estimated_distances": sum(plan.estimated_distances for plan in plans),
            "segments": [
                {
                    "strategy": run.plan.strategy,
                    "reason": run.plan.reason,
                    "rows": run.plan.n_rows,
                    "matches": run.plan.n_matches,
                    "estimated_distances": run.plan.estimated_distances,
                    "actual_ms": round(run.seconds * 1e3, 3),
                }
                for run in record.runs[:SEGMENTS_MAX]
            ],
        }
        if len(plans) > SEGMENTS_MAX:
            fields["segments_left_out"] = len(plans) - SEGMENTS_MAX
        if left_out:
            fields["lines_left_out"] = left_out
        event(_log, logging.WARNING, "slow search", **fields)
