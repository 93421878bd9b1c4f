"""The points of one upsert, checked and in the engine's terms, and the parts that a large one is written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from vicinal.model.change import ANY, Conditions
from vicinal.model.clock import NEVER_MS
from vicinal.model.errors import CancelledError

Progress: TypeAlias = Callable[[int, int], bool | None]
"""Called with (done, in all); returning False asks to stop."""

BATCH_BYTES_MAX = 16 * 2**20
BATCH_ROWS_MAX = 20_000
"""A larger upsert is committed in parts of this size, each all or nothing."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Points to insert or replace.

    Attributes
    ----------
    keys : id keys, each once.
    vectors : (n, columns), C order, in the collection's dtype.
    payloads : their payload bytes; None is empty ones.
    conditions : what must hold for all of them.
    expires_ms : when each expires, NEVER_MS for never; None, of one or of all, is as the collection's ttl says.
    """

    keys: list[bytes]
    vectors: npt.NDArray[Any]
    payloads: Sequence[bytes] | None
    conditions: Conditions = ANY
    expires_ms: Sequence[int | None] | None = None

    def parts(self) -> list[tuple[int, int]]:
        """(start, end) of each part."""
        n, step = len(self.keys), self.rows_max
        return [(start, min(n, start + step)) for start in range(0, n, step)]

    @property
    def rows_max(self) -> int:
        """Points of a part at most."""
        row_bytes = self.vectors.shape[1] * self.vectors.dtype.itemsize
        return max(1, min(BATCH_ROWS_MAX, BATCH_BYTES_MAX // row_bytes))

    def part(self, start: int, end: int) -> Batch:
        """The points from start to end."""
        payloads, expires_ms = self.payloads, self.expires_ms
        return Batch(
            self.keys[start:end],
            self.vectors[start:end],
            None if payloads is None else payloads[start:end],
            self.conditions.part(start, end),
            None if expires_ms is None else expires_ms[start:end],
        )

    def expiries(self, default_ms: int) -> Sequence[int] | None:
        """When each point expires, where those that do not say expire at default_ms; None where none does."""
        if self.expires_ms is None:
            return None if default_ms == NEVER_MS else [default_ms] * len(self.keys)
        each = [default_ms if ms is None else ms for ms in self.expires_ms]
        return each if any(each) else None

    def report(self, done: int, progress: Progress | None) -> None:
        """Tell progress that the points up to done are written; CancelledError where it wants no more of them."""
        n = len(self.keys)
        if progress is not None and progress(done, n) is False and done < n:
            raise CancelledError(
                f"stopped by the progress callback after {done} of {n} points, which are written"
            )
