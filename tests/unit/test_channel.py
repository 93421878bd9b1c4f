"""The channel to a server, over a fake one whose answers and whose time the test controls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from vicinal.client.breaker import FAILURES_MAX, PAUSE_S, PAUSE_S_MAX
from vicinal.client.channel import ChannelOptions, NotSentError, RetryingChannel
from vicinal.client.hedging import HEDGE_SHARE, RECENT_MIN, TOKENS_MAX
from vicinal.model.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from vicinal.wire import messages as m
from vicinal.wire import operations as ops


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


@dataclass(eq=False)
class Try:
    """One request that is on its way: what comes of it, and after how many seconds."""

    comes_at: float
    result: m.Counted | Exception
    second: bool
    cancelled: bool = False


class FakeChannel(RetryingChannel[m.Request]):
    """script(n) says what becomes of the n-th request: (seconds, an answer or an error)."""

    def __init__(
        self, script: Callable[[int], tuple[float, int | Exception]], **options: Any
    ) -> None:
        self.time, self.script = Clock(), script
        self.tries: list[Try] = []
        given = ChannelOptions(**{"api_key": None, "timeout_s": 30.0, "retries": 0} | options)
        given.check(secure=False)
        super().__init__("fake://server", given, clock=self.time, pause=self.time.pause)

    def count(self) -> int:
        return self.call(ops.COUNT, "docs", m.Count(), m.Counted).count

    def close(self) -> None:
        """Nothing is held."""

    def _prepare(self, operation: Any, collection: str | None, request: m.Request) -> m.Request:
        return request

    def _send(self, operation: Any, prepared: m.Request, left_s: float, answer: Any) -> Any:
        begun = self._begin(operation, prepared, left_s, second=False)
        self._ready([begun], left_s)
        return self._finish(operation, begun, left_s, answer)

    def _begin(self, operation: Any, prepared: m.Request, left_s: float, *, second: bool) -> Any:
        after_s, result = self.script(len(self.tries))
        came = result if isinstance(result, Exception) else m.Counted(count=result)
        self.tries.append(Try(self.time() + after_s, came, second))
        if isinstance(came, NotSentError):
            raise came
        return self.tries[-1]

    def _ready(self, begun: Sequence[Any], timeout_s: float) -> Any:
        first = min(begun, key=lambda t: t.comes_at)
        if first.comes_at <= self.time.now + timeout_s:
            self.time.now = max(self.time.now, first.comes_at)
            return first
        self.time.now += timeout_s
        return None

    def _finish(self, operation: Any, begun: Any, left_s: float, answer: Any) -> Any:
        if isinstance(begun.result, Exception):
            raise begun.result
        return begun.result

    def _cancel(self, begun: Any) -> None:
        begun.cancelled = True


def broken(n: int) -> tuple[float, Exception]:
    return 0.0, UnavailableError("the connection broke")


def opened(**options: Any) -> FakeChannel:
    """A channel whose breaker is open since now."""
    channel = FakeChannel(broken, **options)
    for _ in range(FAILURES_MAX):
        with pytest.raises(UnavailableError, match="broke"):
            channel.count()
    return channel


# ---------------------------------------------------------------- circuit breaker


def test_after_enough_failures_in_a_row_nothing_is_sent_and_the_error_says_until_when() -> None:
    channel = opened()
    with pytest.raises(UnavailableError) as caught:
        channel.count()
    assert len(channel.tries) == FAILURES_MAX
    for word in ("fake://server", str(FAILURES_MAX), f"in {PAUSE_S:.1f} s", "connection broke"):
        assert word in str(caught.value)
    assert channel.time.now == 1000.0, "it fails at once"


def test_an_answer_between_failures_starts_the_count_anew() -> None:
    channel = FakeChannel(lambda n: broken(n) if n != FAILURES_MAX - 1 else (0.0, 7))
    for n in range(2 * FAILURES_MAX - 1):
        if n == FAILURES_MAX - 1:
            assert channel.count() == 7
            continue
        with pytest.raises(UnavailableError, match="broke"):
            channel.count()
    assert len(channel.tries) == 2 * FAILURES_MAX - 1


def test_after_the_pause_a_probe_that_is_answered_closes_the_breaker() -> None:
    channel = opened()
    channel.time.pause(PAUSE_S)
    channel.script = lambda n: (0.0, 7)
    assert [channel.count() for _ in range(3)] == [7, 7, 7]


def test_a_probe_that_fails_makes_the_pause_twice_as_long_up_to_a_bound() -> None:
    channel, pause_s = opened(), PAUSE_S
    for _ in range(8):
        channel.time.pause(pause_s)
        sent = len(channel.tries)
        with pytest.raises(UnavailableError, match="broke"):
            channel.count()
        assert len(channel.tries) == sent + 1
        pause_s = min(PAUSE_S_MAX, 2 * pause_s)
        with pytest.raises(UnavailableError, match=rf"in {pause_s:.1f} s"):
            channel.count()
        assert len(channel.tries) == sent + 1
    assert pause_s == PAUSE_S_MAX


def test_while_the_probe_is_under_way_other_calls_fail_at_once() -> None:
    channel = opened()
    channel.time.pause(PAUSE_S)
    entered, go_on = threading.Event(), threading.Event()

    def script(n: int) -> tuple[float, int]:
        entered.set()
        assert go_on.wait(30)
        return 0.0, 7

    channel.script = script
    found: list[int] = []
    probe = threading.Thread(target=lambda: found.append(channel.count()))
    probe.start()
    assert entered.wait(30)
    with pytest.raises(UnavailableError, match="by another call"):
        channel.count()
    go_on.set()
    probe.join(30)
    assert found == [7]
    assert channel.count() == 7


def test_a_probe_that_proves_nothing_leaves_its_place_to_the_next_call() -> None:
    channel = opened()
    channel.time.pause(PAUSE_S)
    channel.script = lambda n: (0.0, DeadlineError("too late"))
    with pytest.raises(DeadlineError):
        channel.count()
    channel.script = lambda n: (0.0, 7)
    assert channel.count() == 7


@pytest.mark.parametrize(
    ("fault", "counts"),
    [
        (OverloadedError("503", 1.0), True),
        (NotSentError("nobody"), True),
        (OverloadedError("429", 1.0, rate_limited=True), False),
        (NotFoundError("no such collection"), False),
    ],
)
def test_what_shows_that_somebody_serves_is_no_failure(fault: Exception, counts: bool) -> None:
    channel = FakeChannel(lambda n: (0.0, fault))
    for _ in range(FAILURES_MAX):
        with pytest.raises(type(fault)):
            channel.count()
    with pytest.raises(UnavailableError if counts else type(fault)):
        channel.count()
    assert len(channel.tries) == FAILURES_MAX + (not counts)


def test_a_call_that_tries_again_stops_when_the_breaker_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vicinal.client.channel.PAUSE_S", 0.0)
    channel = FakeChannel(broken, retries=20)
    with pytest.raises(UnavailableError, match="nothing was sent"):
        channel.count()
    assert len(channel.tries) == FAILURES_MAX


# ---------------------------------------------------------------- hedged reads


def test_a_slow_read_is_asked_again_and_the_first_answer_wins() -> None:
    channel = FakeChannel(lambda n: (9.0, 1) if n == 0 else (0.02, 2), hedge_ms=50)
    assert channel.count() == 2
    assert [(t.second, t.cancelled) for t in channel.tries] == [(False, True), (True, False)]
    assert channel.time.now == pytest.approx(1000.07)


def test_the_first_question_may_still_win() -> None:
    channel = FakeChannel(lambda n: (0.06, 1) if n == 0 else (9.0, 2), hedge_ms=50)
    assert channel.count() == 1
    assert [t.cancelled for t in channel.tries] == [False, True]


def test_a_read_that_is_quick_enough_is_asked_once() -> None:
    channel = FakeChannel(lambda n: (0.049, n), hedge_ms=50)
    assert [channel.count() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_a_write_is_never_asked_twice() -> None:
    channel = FakeChannel(lambda n: (9.0, 1), hedge_ms=50)
    channel.call(ops.DELETE, "docs", m.Delete(all=True), m.Counted)
    assert len(channel.tries) == 1


def test_where_one_question_fails_the_other_is_waited_for() -> None:
    fault = UnavailableError("the connection broke")
    for script in (
        lambda n: (0.06, fault) if n == 0 else (1.0, 2),
        lambda n: (1.0, 2) if n == 0 else (0.01, fault),
        lambda n: (1.0, 2) if n == 0 else (0.0, NotSentError("no second connection")),
    ):
        channel = FakeChannel(script, hedge_ms=50)
        assert channel.count() == 2
        assert len(channel.tries) == 2


def test_an_error_that_the_server_sent_is_an_answer() -> None:
    channel = FakeChannel(
        lambda n: (9.0, 1) if n == 0 else (0.0, NotFoundError("none")), hedge_ms=50
    )
    with pytest.raises(NotFoundError):
        channel.count()
    assert channel.tries[0].cancelled


def test_both_are_given_up_when_the_time_is_over() -> None:
    channel = FakeChannel(lambda n: (99.0, 1), hedge_ms=50, timeout_s=2.0)
    with pytest.raises(DeadlineError):
        channel.count()
    assert [t.cancelled for t in channel.tries] == [True, True]
    assert channel.time.now == pytest.approx(1002.0)


def test_however_slow_all_are_only_a_few_per_cent_are_asked_twice() -> None:
    channel = FakeChannel(lambda n: (1.0, n), hedge_ms=50)
    n = 2_000
    for _ in range(n):
        channel.count()
    twice = sum(t.second for t in channel.tries)
    assert n * HEDGE_SHARE - 1 <= twice <= n * HEDGE_SHARE + 1


def test_a_budget_that_was_not_used_is_bounded() -> None:
    channel = FakeChannel(lambda n: (0.0, n), hedge_ms=50)
    for _ in range(2_000):
        channel.count()
    channel.script = lambda n: (1.0, n)
    for _ in range(50):
        channel.count()
    assert sum(t.second for t in channel.tries) <= TOKENS_MAX + 50 * HEDGE_SHARE


def test_auto_asks_twice_what_is_slower_than_nearly_all_before_and_nothing_until_it_knows() -> None:
    usual_s = 1 / 16
    channel = FakeChannel(lambda n: (5.0 if n == 3 else usual_s, n), hedge_ms="auto")
    for _ in range(2 * RECENT_MIN):
        channel.count()
    assert not any(t.second for t in channel.tries), "none of them was slower than the others"
    began, slow = channel.time.now, len(channel.tries)
    channel.script = lambda n: (5.0, n) if n == slow else (0.001, n)
    assert channel.count() == slow + 1
    assert channel.time.now - began == pytest.approx(usual_s + 0.001)


@pytest.mark.parametrize("given", [0, -1, float("nan"), True, "fast", 1e9])
def test_a_wrong_hedge_ms_is_an_error_that_names_it(given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"hedge_ms is .*'auto'"):
        FakeChannel(broken, hedge_ms=given)
