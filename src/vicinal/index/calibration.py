"""What an index knows of its own recall: a table over the beam width, measured on its own data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

CALIBRATED_KS = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of results for which recall is measured; between them it is interpolated."""


class Beam(NamedTuple):
    """How wide to search, and what to expect of it.

    Attributes
    ----------
    ef_search : beam width; 0 where none is known to be wide enough, and all rows are to be compared.
    recall : the recall to expect, None where the index is not calibrated.
    near_part : ends a walk before its beam does, as soon as k of the rows it met are nearer than this part of the
        distance to the nearest row it could go on to; 0: never.
    """

    ef_search: int
    recall: float | None
    near_part: float = 0.0


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """Recall at one beam width.

    Attributes
    ----------
    recall : mean recall@k over n_queries, for each of CALIBRATED_KS.
    error : standard error of each.
    """

    ef_search: int
    n_queries: int
    recall: tuple[float, ...]
    error: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Recall over the beam width.

    Attributes
    ----------
    n_rows : rows of the graph when it was measured.
    given : whether the queries were the caller's; else they were rows that the graph did not hold yet.
    points : ascending beam widths.
    """

    n_rows: int
    given: bool
    points: tuple[CalibrationPoint, ...]

    @property
    def n_queries(self) -> int:
        """Queries that measured it."""
        return self.points[0].n_queries
