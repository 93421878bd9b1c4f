"""The circuit breaker of a channel: a server that fails again and again is left alone for a while.

Closed, every try goes out. After FAILURES_MAX failures in a row (no connection, a broken one, 503) it opens: calls
fail at once and say when the next try is made. After the pause one call goes out as a probe while the others still
fail at once (half-open): its success closes the breaker, its failure makes the pause twice as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from vicinal.model.errors import DeadlineError, OverloadedError, UnavailableError, VicinalError

T = TypeVar("T")

FAILURES_MAX = 10
"""Failures in a row, of all calls of the channel together. One call has four tries if nothing else is said, so that no
single one opens it."""

PAUSE_S, PAUSE_S_MAX = 0.5, 15.0


class OpenCircuitError(UnavailableError):
    """Nothing was sent, since the tries before failed; the message says when the next one is made."""


class Breaker:
    """The breaker of one address. Thread-safe.

    clock : seconds that only grow.
    """

    def __init__(self, address: str, clock: Callable[[], float]) -> None:
        self._address, self._clock = address, clock
        self._lock = threading.Lock()
        self._failures, self._last = 0, ""
        self._pause_s = PAUSE_S
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> str:
        """ "closed", "open" or "half-open"."""
        with self._lock:
            if self._open_until is None:
                return "closed"
            return "half-open" if self._probing or self._clock() >= self._open_until else "open"

    def attempt(self, send: Callable[[], T]) -> T:
        """What send gives. Raises OpenCircuitError without a call of send while the breaker is open."""
        probe = self._admit()
        try:
            found = send()
        except BaseException as fault:
            self._note(_answered(fault), probe, fault)
            raise
        self._note(True, probe, None)
        return found

    def _admit(self) -> bool:
        """Whether this try is the probe."""
        with self._lock:
            if self._open_until is None:
                return False
            left_s = self._open_until - self._clock()
            if left_s <= 0 and not self._probing:
                self._probing = True
                return True
            when = f"in {left_s:.1f} s" if left_s > 0 else "now, by another call"
            raise OpenCircuitError(
                f"{self._address}: {self._failures} tries in a row failed, so nothing was sent; the next "
                f"try is made {when}. The last failure: {self._last}"
            )

    def _note(self, answered: bool | None, probe: bool, fault: BaseException | None) -> None:
        with self._lock:
            if probe:
                self._probing = False
            if answered is None:
                return  # neither proves anything; a probe's place is free for the next call
            if answered:
                self._failures, self._pause_s, self._open_until = 0, PAUSE_S, None
                return
            self._failures += 1
            self._last = str(fault)
            if probe:
                self._pause_s = min(PAUSE_S_MAX, 2 * self._pause_s)
            if probe or (self._open_until is None and self._failures >= FAILURES_MAX):
                self._open_until = self._clock() + self._pause_s


def _answered(fault: BaseException) -> bool | None:
    """Whether a try that ended so shows that somebody serves; None where it shows neither."""
    if isinstance(fault, OverloadedError):
        return fault.rate_limited  # the key's own rate is no weakness of the server
    if isinstance(fault, UnavailableError):
        return False
    if isinstance(fault, DeadlineError) or not isinstance(fault, VicinalError):
        return None
    return True
