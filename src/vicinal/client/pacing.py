"""The parts that a large upsert is sent in: their size follows how long the server takes to acknowledge one.

A part that is acknowledged sooner than PART_S_MIN lets the next be larger (twice as large until one was too slow, then
by ROWS_STEP); one that takes longer than PART_S_MAX, is refused, or gets no answer in time, halves the next (additive
increase, multiplicative decrease: Chiu & Jain, 1989). Parts go in order. Each is all or nothing, and is cut only when
it is its turn; an error leaves those before it done.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from vicinal.client.batch import Batch, Progress
from vicinal.wire import messages as m

PART_S_MIN, PART_S_MAX = 0.2, 0.5
ROWS_FIRST, ROWS_STEP = 4_000, 1_000


class Pacer:
    """How many points the next part of an upload has; kept from one upload to the next of a collection. Thread-safe,
    since each change is one assignment."""

    def __init__(self) -> None:
        self.rows = ROWS_FIRST
        self._rows_max: int | None = None
        self._doubling = True

    def acknowledged(self, rows: int, seconds: float) -> None:
        """A part of so many points took so long."""
        if seconds > PART_S_MAX:
            self.slower(rows)
        elif seconds < PART_S_MIN and rows >= self.rows:
            larger = 2 * rows if self._doubling else rows + ROWS_STEP
            self.rows = larger if self._rows_max is None else min(self._rows_max, larger)

    def slower(self, rows: int) -> None:
        """A part of so many points took too long, or was refused for the time being."""
        self.rows, self._doubling = max(1, min(self.rows, rows // 2)), False

    def too_large(self, rows: int) -> bool:
        """A part of so many points is more than the server takes at all; whether there is a smaller one."""
        if rows <= 1:
            return False
        self._rows_max = rows // 2
        self.slower(rows)
        return True


class Upload:
    """One upsert on its way. `cut` may be called from another thread than the rest.

    request : makes the message of the points from a start to an end.
    """

    def __init__(
        self,
        batch: Batch,
        pacer: Pacer,
        progress: Progress | None,
        request: Callable[[int, int], m.Upsert],
        clock: Callable[[], float],
    ) -> None:
        self._batch, self._pacer, self._progress = batch, pacer, progress
        self._request, self._clock = request, clock
        self._n = len(batch.keys)
        self._rows_max = batch.rows_max
        self.whole = batch.conditions.any or self._n <= self._rows_max
        """Whether it is one part, whatever its size: the call is all or nothing."""
        self.plain = not batch.conditions.any and batch.expires_ms is None
        """Whether it has nothing but points."""
        self._lock = threading.Lock()
        self._run, self._cut_to = 0, 0
        self._under_way: deque[tuple[int, float]] = deque()
        self._done = 0
        self._acknowledged_at = clock()

    @property
    def finished(self) -> bool:
        """Whether all points are written."""
        return self._done == self._n

    @property
    def reports(self) -> bool:
        """Whether somebody wants to hear of each part."""
        return self._progress is not None

    @property
    def parts_left(self) -> int:
        """How many parts of the present size are to come."""
        return 1 if self.whole else -(-(self._n - self._done) // self._size)

    def begin(self) -> int:
        """Start a run from the first part that is not acknowledged; a number for `cut`, which ends the runs before."""
        with self._lock:
            self._run += 1
            self._cut_to = self._done
            self._under_way.clear()
            self._acknowledged_at = self._clock()
            return self._run

    def cut(self, run: int) -> m.Upsert | None:
        """The next part of a run; None where there is no more, or another run has begun."""
        with self._lock:
            if run != self._run or self._cut_to == self._n:
                return None
            start = self._cut_to
            self._cut_to = self._n if self.whole else min(self._n, start + self._size)
            end = self._cut_to
            self._under_way.append((end, self._clock()))
        return self._request(start, end)

    def acknowledged(self) -> None:
        """The first part under way is written. Calls progress, and raises CancelledError where that wants no more."""
        with self._lock:
            end, sent_at = self._under_way.popleft()
            now = self._clock()
            rows, seconds = end - self._done, now - max(sent_at, self._acknowledged_at)
            self._done, self._acknowledged_at = end, now
        if not self.whole:
            self._pacer.acknowledged(rows, seconds)
        self._batch.report(end, self._progress)

    def refused(self) -> None:
        """The first part under way was refused for now, or got no answer in time."""
        if self._under_way and not self.whole:
            self._pacer.slower(self._under_way[0][0] - self._done)

    def too_large(self) -> bool:
        """The first part under way is more than the server takes; whether it goes in smaller ones."""
        return (
            not self.whole
            and bool(self._under_way)
            and self._pacer.too_large(self._under_way[0][0] - self._done)
        )

    @property
    def _size(self) -> int:
        return min(self._rows_max, self._pacer.rows)
