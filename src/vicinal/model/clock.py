"""Wall-clock time as the engine sees it: a function that tests replace, and expiry in milliseconds.

A point's expiry is an absolute time, resolved when it is written: no duration is stored, and nothing
asks a clock when a log is replayed.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.limits import EXPIRES_AT_S_MAX, TTL_S_MAX

Clock: TypeAlias = Callable[[], float]
"""Returns seconds since the epoch."""

ExpiresAt: TypeAlias = dt.datetime | float

SYSTEM_CLOCK: Clock = time.time

NEVER_MS = 0
"""The expiry of a point that has none."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS = dt.timedelta(milliseconds=1)


def expiry_ms(value: object) -> int:
    """Milliseconds since the epoch of an expiry: an aware datetime, or seconds; math.inf is never.

    Raises InvalidArgumentError for a datetime without a time zone and for what is no time, LimitError
    for a time after the year 9999.
    """
    if isinstance(value, np.datetime64 | np.generic):
        value = cast("Any", value).item()
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            raise InvalidArgumentError(
                f"expires_at {value!r} has no time zone; give it one, as in "
                "datetime.now(timezone.utc) + timedelta(hours=1)"
            )
        # In whole numbers: as a float, a datetime of a millisecond may come out as the next one.
        ms = -((_EPOCH - value) // _MS)
        seconds = ms / 1000
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds, ms = float(value), None
    else:
        raise InvalidArgumentError(
            f"expires_at is {value!r}; give a datetime with a time zone, or seconds since the epoch"
        )
    if seconds == math.inf:
        return NEVER_MS
    if not seconds > 0:
        raise InvalidArgumentError(
            f"expires_at is {value!r}; it is a time after 1970, or math.inf for never"
        )
    if seconds > EXPIRES_AT_S_MAX:
        raise LimitError(
            f"expires_at is {value!r}, after the year 9999; times are seconds, not milliseconds, "
            f"up to {EXPIRES_AT_S_MAX}, and math.inf is never"
        )
    return max(1, math.ceil(seconds * 1000) if ms is None else ms)


def expiries_ms(
    expires_at: ExpiresAt | Iterable[ExpiresAt | None] | None, n: int
) -> Sequence[int | None] | None:
    """The expiry of each of n points, given as one for all or as a list parallel to them.

    None, for a point or for all of them, is whatever the collection gives its points.
    """
    if expires_at is None:
        return None
    if isinstance(expires_at, str | bytes):
        raise InvalidArgumentError(
            f"expires_at is {expires_at!r}; give a datetime, seconds, or a list of them"
        )
    if isinstance(expires_at, Iterable):
        given = list(expires_at)
        if len(given) != n:
            raise InvalidArgumentError(f"expires_at has {len(given)} entries for {n} ids")
        return [None if value is None else expiry_ms(value) for value in given]
    return [expiry_ms(expires_at)] * n


def to_datetime(ms: int) -> dt.datetime | None:
    """The expiry as a UTC datetime, None for never."""
    return None if ms == NEVER_MS else _EPOCH + ms * _MS


def ttl_seconds(ttl: float | dt.timedelta) -> float:
    """A time to live in seconds; InvalidArgumentError or LimitError where it is none."""
    seconds = ttl.total_seconds() if isinstance(ttl, dt.timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(cast("object", seconds), int | float):
        raise InvalidArgumentError(f"ttl is {ttl!r}; give seconds or a timedelta")
    if not 0 < seconds <= TTL_S_MAX:
        raise LimitError(f"ttl is {ttl!r}; it is more than 0 and at most {TTL_S_MAX} seconds")
    return float(seconds)
