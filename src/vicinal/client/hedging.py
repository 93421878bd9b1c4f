"""Hedged reads: when an answer takes unusually long, the same question goes out again, and the first answer wins.

Only reads are asked twice, and only HEDGE_SHARE of them, whatever happens: each read pays that much of a token, each
second question costs a whole one. (Dean & Barroso, "The Tail at Scale", 2013.)
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Literal, TypeAlias

import numpy as np

from vicinal.model.errors import InvalidArgumentError
from vicinal.wire import operations as ops
from vicinal.wire.operations import Operation

HEDGED = frozenset({ops.SEARCH, ops.SEARCH_BATCH, ops.GET, ops.SCROLL, ops.COUNT})
HEDGE_SHARE = 0.03
TOKENS_MAX = 10.0
HEDGE_MS_MAX = 60_000.0

RECENT, RECENT_MIN, RECENT_EVERY = 256, 32, 16
"""Times that "auto" looks at, how many it needs before it asks twice, and after how many it looks again."""

PERCENTILE = 95

HedgeMs: TypeAlias = float | Literal["auto"]


def check_hedge_ms(value: object) -> HedgeMs:
    """A valid hedge_ms; InvalidArgumentError where it is none."""
    if value == "auto":
        return "auto"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= HEDGE_MS_MAX
    ):
        raise InvalidArgumentError(
            f"hedge_ms is {value!r}; it is a number of milliseconds above 0, up to {HEDGE_MS_MAX:g}, or 'auto'"
        )
    return float(value)


class Hedger:
    """When a channel asks twice. Thread-safe."""

    def __init__(self, hedge_ms: HedgeMs) -> None:
        self._fixed_s = None if hedge_ms == "auto" else hedge_ms / 1000
        self._lock = threading.Lock()
        self._tokens = 1.0
        self._recent: dict[str, _Recent] = {}

    def delay_s(self, operation: Operation) -> float | None:
        """How long an answer is waited for before the question goes out again; None where that is not known yet. Each
        read calls it once, which is what fills the budget."""
        with self._lock:
            self._tokens = min(TOKENS_MAX, self._tokens + HEDGE_SHARE)
            if self._fixed_s is not None:
                return self._fixed_s
            recent = self._recent.get(operation.name)
            return None if recent is None else recent.percentile_s

    def spend(self) -> bool:
        """Whether the budget has a second question; it is spent."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def note(self, operation: Operation, seconds: float) -> None:
        """A read was answered."""
        if self._fixed_s is None:
            with self._lock:
                self._recent.setdefault(operation.name, _Recent()).add(seconds)


class _Recent:
    """The last times of one operation, and their percentile, None while there are few."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=RECENT)
        self._since = 0
        self.percentile_s: float | None = None

    def add(self, seconds: float) -> None:
        self._times.append(seconds)
        self._since += 1
        if len(self._times) >= RECENT_MIN and self._since >= RECENT_EVERY:
            self._since = 0
            self.percentile_s = float(np.percentile(list(self._times), PERCENTILE))
