"""Uploads in parts: their size follows the time that a part takes; what was written is never sent again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_channel import Clock, FakeChannel

from vicinal.client.batch import BATCH_ROWS_MAX, Batch
from vicinal.client.pacing import PART_S_MAX, PART_S_MIN, ROWS_FIRST, ROWS_STEP, Pacer, Upload
from vicinal.model.change import Conditions
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import (
    CancelledError,
    DeadlineError,
    OverloadedError,
    RequestTooLargeError,
    UnavailableError,
)
from vicinal.wire import messages as m

N = 100_000


class Uploading(FakeChannel):
    """Notes the parts that came, as (start, end). script(rows) says what a part of so many points meets."""

    def __init__(self, script: Callable[[int], tuple[float, int | Exception]]) -> None:
        self.came: list[tuple[int, int]] = []
        self.written: list[tuple[int, int]] = []
        self.meets = script
        super().__init__(lambda n: self.meets(self.came[-1][1] - self.came[-1][0]), retries=3)
        self.pacer = Pacer()

    def _prepare(self, operation: Any, collection: str | None, request: Any) -> Any:
        self.came.append(request.if_version)
        return request

    def _finish(self, operation: Any, begun: Any, left_s: float, answer: Any) -> Any:
        found = super()._finish(operation, begun, left_s, answer)
        self.written.append(self.came[-1])
        return found

    def put(self, n: int = N, progress: Any = None, **fields: Any) -> None:
        batch = Batch([b""] * n, np.zeros((n, 2), np.float32), None)
        batch = dataclasses.replace(batch, **fields)

        def request(start: int, end: int) -> m.Upsert:
            made = m.Upsert()
            made.if_version = (start, end)  # type: ignore[assignment]
            return made

        upload = Upload(batch, self.pacer, progress, request, self.time)
        self.upload("docs", CollectionConfig(dim=2), upload)

    @property
    def sizes(self) -> list[int]:
        return [end - start for start, end in self.came]


def whole(parts: list[tuple[int, int]], n: int = N) -> bool:
    """Whether parts are 0 to n, in order, each once."""
    starts, ends = [s for s, _ in parts], [e for _, e in parts]
    return starts == [0, *ends[:-1]] and ends[-1] == n


def test_quick_parts_grow_twice_as_large_up_to_the_bound() -> None:
    channel = Uploading(lambda rows: (PART_S_MIN / 2, 1))
    channel.put()
    assert channel.sizes[:4] == [ROWS_FIRST, 2 * ROWS_FIRST, 4 * ROWS_FIRST, BATCH_ROWS_MAX]
    assert max(channel.sizes) == BATCH_ROWS_MAX
    assert whole(channel.written)


def test_parts_settle_where_one_takes_the_time_that_is_wanted() -> None:
    channel = Uploading(lambda rows: (rows / 10_000, 1))  # 10,000 points a second
    channel.put()
    settled = channel.sizes[3:-1]
    assert all(PART_S_MIN <= rows / 10_000 <= PART_S_MAX for rows in settled), settled
    channel.meets = lambda rows: (rows / 2_000, 1)
    channel.came.clear()
    channel.put()
    assert all(rows / 2_000 <= PART_S_MAX for rows in channel.sizes[3:]), channel.sizes
    channel.meets = lambda rows: (0.001, 1)
    channel.came.clear()
    channel.put()
    assert channel.sizes[1] - channel.sizes[0] == ROWS_STEP, "it grows slowly once it was too much"
    assert whole(channel.written[-len(channel.came) :])


def test_what_is_too_large_for_the_server_goes_in_smaller_parts_from_then_on() -> None:
    def script(rows: int) -> tuple[float, int | Exception]:
        return 0.01, RequestTooLargeError("413") if rows > 1_500 else 1

    channel = Uploading(script)
    channel.put()
    assert whole(channel.written)
    assert max(end - start for start, end in channel.written) <= 1_500
    refused = len(channel.came) - len(channel.written)
    assert refused == 2, "4,000 and 2,000, and nothing as large again"
    channel.put()
    assert len(channel.came) - len(channel.written) == refused


def test_a_single_point_that_is_too_large_is_the_callers_to_hear_of() -> None:
    channel = Uploading(lambda rows: (0.0, RequestTooLargeError("413")))
    with pytest.raises(RequestTooLargeError):
        channel.put()
    assert channel.sizes[-1] == 1


def test_a_refused_part_is_tried_again_in_half() -> None:
    faults = iter([OverloadedError("503", 1.0), OverloadedError("429", 1.0, rate_limited=True)])
    channel = Uploading(lambda rows: (0.01, next(faults, 1)))
    channel.put()
    assert channel.sizes[:3] == [ROWS_FIRST, ROWS_FIRST // 2, ROWS_FIRST // 4]
    assert whole(channel.written)


@pytest.mark.parametrize("fault", [DeadlineError("late"), UnavailableError("broken")])
def test_a_part_that_may_have_happened_is_not_sent_again_and_those_before_it_stay(
    fault: Exception,
) -> None:
    channel = Uploading(lambda rows: (0.01, fault if rows == 2 * ROWS_FIRST else 1))
    with pytest.raises(type(fault)):
        channel.put()
    assert channel.came == [(0, ROWS_FIRST), (ROWS_FIRST, 3 * ROWS_FIRST)]
    assert channel.written == [(0, ROWS_FIRST)]
    if isinstance(fault, DeadlineError):
        assert channel.pacer.rows == ROWS_FIRST, "the next upload is more careful"


@pytest.mark.parametrize(
    "fields", [{"n": BATCH_ROWS_MAX}, {"n": N, "conditions": Conditions(versions=(1,) * N)}]
)
def test_what_is_all_or_nothing_goes_whole(fields: dict[str, Any]) -> None:
    channel = Uploading(lambda rows: (9.0, 1))
    channel.put(**fields)
    channel.put(**fields)
    assert channel.came == [(0, fields["n"])] * 2
    channel.meets = lambda rows: (0.0, RequestTooLargeError("413"))
    with pytest.raises(RequestTooLargeError):
        channel.put(**fields)


def test_progress_hears_of_each_part_and_may_stop_after_one() -> None:
    heard: list[int] = []

    def progress(done: int, n: int) -> bool:
        assert n == N
        heard.append(done)
        return len(heard) < 2

    channel = Uploading(lambda rows: (0.3, 1))
    with pytest.raises(CancelledError, match=f"after {2 * ROWS_FIRST} of {N}"):
        channel.put(progress=progress)
    assert heard == [ROWS_FIRST, 2 * ROWS_FIRST]
    assert channel.written == [(0, ROWS_FIRST), (ROWS_FIRST, 2 * ROWS_FIRST)]


def test_a_run_that_another_has_replaced_sends_nothing_more() -> None:
    batch = Batch([b""] * N, np.zeros((N, 2), np.float32), None)
    cuts: list[tuple[int, int]] = []

    def request(start: int, end: int) -> m.Upsert:
        cuts.append((start, end))
        return m.Upsert()

    upload = Upload(batch, Pacer(), None, request, Clock())
    first = upload.begin()
    assert upload.cut(first) is not None
    assert upload.cut(first) is not None
    upload.acknowledged()
    second = upload.begin()
    assert upload.cut(first) is None
    assert upload.cut(second) is not None
    assert cuts[-1][0] == ROWS_FIRST, "from the first that was not acknowledged"
