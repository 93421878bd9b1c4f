"""What a search may ask for instead of a beam width: the share of the true nearest neighbours that it finds."""

from __future__ import annotations

from collections.abc import Sequence

from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.limits import RECALL_K_MAX


def check_recall(recall: object, *, k: int, ef_search: int | None, exact: bool) -> float:
    """The recall asked for as a float, above 0 and at most 1; 1 means exact search.

    Raises
    ------
    InvalidArgumentError : something else, or ef_search or exact besides. LimitError : k is past what is calibrated.
    """
    if isinstance(recall, bool) or not isinstance(recall, int | float) or not 0 < recall <= 1:
        raise InvalidArgumentError(
            f"recall is {recall!r}; give a number above 0 and at most 1, as 0.95 (1.0 is exact search)"
        )
    if ef_search is not None:
        raise InvalidArgumentError(
            f"recall={recall} and ef_search={ef_search} both say how wide to search; give one of them"
        )
    if exact:
        raise InvalidArgumentError(
            f"recall={recall} does not apply to exact=True, whose recall is 1; give one of them"
        )
    if recall < 1 and k > RECALL_K_MAX:
        raise LimitError(
            f"recall is calibrated for k of 1 to {RECALL_K_MAX}, k is {k}; give ef_search=, or recall=1.0"
        )
    return float(recall)


def mean_recall(recalls: Sequence[float | None], counts: Sequence[int]) -> float | None:
    """Of several answers, to so many queries each, whose graphs may have changed in between; None where one is."""
    known = [r for r in recalls if r is not None]
    if len(known) < len(recalls):
        return None
    if len(set(known)) == 1:
        return known[0]  # a mean of equal numbers may be off by a rounding
    return sum(r * n for r, n in zip(known, counts, strict=True)) / sum(counts)
