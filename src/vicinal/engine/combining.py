"""Writers that come at the same time share one sync: one of them carries out the batches of all.

A batch takes effect under the collection's lock, and its sync is most of its time. So a writer that finds another at
work leaves its batch in a queue instead of waiting for the lock. The first of the queue is at work next: it carries out
every batch that came meanwhile, one after the other, and one sync makes all of them durable. This is flat combining
(Hendler, Incze, Shavit, Tzafrir, SPAA 2010). A batch that is refused is refused alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from vicinal.engine.critical import uninterrupted

T = TypeVar("T")

TOGETHER_MAX = 64
"""Batches that share a sync: the first of them waits for the last."""


class Request:
    """A batch that waits to be carried out, and what became of it."""

    __slots__ = ("done", "error", "turn", "value", "write")

    def __init__(self, write: Callable[[], Any]) -> None:
        self.write = write
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.turn = threading.Lock()
        self.turn.acquire()


class Combiner:
    """Lets one of many threads do the work of all that wait.

    carry_out : does so for some requests, in order: sets `value` or `error` of each, and raises nothing.
    """

    def __init__(self, carry_out: Callable[[Sequence[Request]], None]) -> None:
        self._carry_out = carry_out
        self._mutex = threading.Lock()
        self._waiting: deque[Request] = deque()
        self._at_work = False

    def run(self, write: Callable[[], T]) -> T:
        """Have `write` carried out, here or by another thread; return what it returns, or raise what it raises."""
        request = Request(write)
        # An interrupted wait would leave a place in the queue that nobody holds.
        with uninterrupted():
            with self._mutex:
                self._waiting.append(request)
                waits, self._at_work = self._at_work, True
            if waits:
                request.turn.acquire()
            if not request.done:
                self._work()
        if request.error is not None:
            raise request.error
        return cast("T", request.value)

    def _work(self) -> None:
        with self._mutex:
            taken = min(len(self._waiting), TOGETHER_MAX)
            group = [self._waiting.popleft() for _ in range(taken)]
        try:
            self._carry_out(group)
        finally:
            with self._mutex:
                following = self._waiting[0] if self._waiting else None
                self._at_work = following is not None
            for request in group:
                request.done = True
                request.turn.release()
            if following is not None:
                following.turn.release()
