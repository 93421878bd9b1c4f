"""Searches of different kinds in one request: taken apart, so that each goes the way of a single one, and joined."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vicinal.model.errors import DeadlineError, InvalidArgumentError, LimitError
from vicinal.model.limits import SEARCHES_MANY_MAX, TIME_MS_MAX
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.codec import MSGPACK

if TYPE_CHECKING:
    from vicinal.server.gateway import Call


def split(call: Call, request: m.SearchMany, now_s: float) -> tuple[list[Call], float]:
    """(a call for each search, when what was found is answered, on the monotonic clock). Raises LimitError or
    InvalidArgumentError where there are none, or too many, or the time is none."""
    count, time_ms = len(request.searches), request.time_ms
    if not 1 <= count <= SEARCHES_MANY_MAX:
        raise LimitError(f"number of searches is {count}; it is 1 to {SEARCHES_MANY_MAX}")
    end = call.deadline
    if time_ms is not None:
        if not 0 <= time_ms <= TIME_MS_MAX:  # NaN is neither
            raise InvalidArgumentError(f"time_ms is {time_ms!r}; it is 0 to {TIME_MS_MAX}")
        end = min(end, now_s + time_ms / 1000)
    parts = [
        replace(
            call,
            operation=ops.SEARCH,
            body=MSGPACK.encode(search),
            codec=MSGPACK,
            deadline=end,
            trace=None,
            among_many=True,
        )
        for search in request.searches
    ]
    return parts, end


def outcome(task: asyncio.Task[bytes]) -> bytes | None:
    """The answer of a search; None where its time was over. Raises what it raised."""
    if not task.done() or task.cancelled():
        return None
    fault = task.exception()
    if isinstance(fault, TimeoutError | DeadlineError):
        return None
    return task.result()


def join(call: Call, found: Sequence[bytes | None]) -> bytes:
    """One answer of many."""
    codec = call.answer_codec
    results = [m.HitsOut(hits=[]) if b is None else codec.decode(b, m.HitsOut) for b in found]
    missing = [i for i, body in enumerate(found) if body is None]
    return codec.encode(m.ManyOut(results=results, missing=missing))
