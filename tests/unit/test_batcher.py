"""Where single searches are carried out: together in a search thread, or, alone and quick, at once."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vicinal.model.search import SearchOptions
from vicinal.server import batcher
from vicinal.server.batcher import SearchBatcher, Waiting
from vicinal.telemetry.log import REQUEST_ID

OPTIONS = SearchOptions(k=10)


@dataclass
class Fake:
    """A collection that notes which thread searches it, and for how many queries."""

    calls: list[tuple[bool, int]] = field(default_factory=list)
    fault: Exception | None = None

    @property
    def engine(self) -> Any:
        return SimpleNamespace(version=1, incarnation=1, held_since=lambda version: True)

    def search(self, queries: Any, options: SearchOptions, *, threads: int) -> str:
        self.calls.append((threading.current_thread() is threading.main_thread(), len(queries)))
        if self.fault is not None:
            raise self.fault
        return "found"


class Clock:
    """Each look at it is so much later than the one before."""

    def __init__(self) -> None:
        self.now, self.step_s = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def waiting(kept: list[bytes] | None = None) -> Waiting:
    return Waiting(
        np.zeros((1, 2), np.float32),
        float("inf"),
        lambda found, place: f"{found} {place}".encode(),
        lambda body, version: None if kept is None else kept.append(body),
        asyncio.get_running_loop().create_future(),
        "id",
        None,
    )


def run(fake: Any, *alone: bool, options: Any = OPTIONS) -> tuple[list[bytes], list[float]]:
    """The answers of searches one after the other, and the times that were noted of them."""
    worked: list[float] = []

    async def search() -> list[bytes]:
        made = SearchBatcher(2, 64, lambda taken: None, lambda: None, worked.append)
        try:
            answers: list[bytes] = []
            for is_alone in alone:
                one = waiting()
                made.submit(fake, options, one, alone=is_alone)
                answers.append(await asyncio.wait_for(one.future, 30))
            return answers
        finally:
            made.close()

    return asyncio.run(search()), worked


def test_a_search_that_is_alone_stays_in_its_thread_once_its_like_was_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher, "INLINE_S_MAX", 60.0)
    fake = Fake()
    answers, worked = run(fake, True, True, False, True)
    assert fake.calls == [(False, 1), (True, 1), (False, 1), (True, 1)]
    assert answers == [b"found 0"] * 4
    assert len(worked) == 4


def test_a_slow_one_goes_to_a_search_thread_though_it_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher, "INLINE_S_MAX", 0.0)
    fake = Fake()
    run(fake, True, True, True)
    assert fake.calls == [(False, 1)] * 3


def test_an_error_reaches_the_one_who_waits_and_the_next_search_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher, "INLINE_S_MAX", 60.0)
    fake = Fake()

    async def search() -> None:
        made = SearchBatcher(1, 64, lambda taken: None, lambda: None, lambda seconds: None)
        try:
            for fault in (None, ValueError("a fault"), None):
                fake.fault, one = fault, waiting()
                made.submit(fake, OPTIONS, one, alone=True)  # type: ignore[arg-type]
                if fault is None:
                    assert await asyncio.wait_for(one.future, 30) == b"found 0"
                else:
                    with pytest.raises(ValueError, match="a fault"):
                        await asyncio.wait_for(one.future, 30)
        finally:
            made.close()

    asyncio.run(search())
    assert [here for here, _ in fake.calls] == [False, True, True]


def test_only_so_many_usual_times_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "INLINE_S_MAX", 60.0)
    monkeypatch.setattr(batcher, "USUAL_MAX", 2)
    fake = Fake()

    async def search() -> None:
        made = SearchBatcher(1, 64, lambda taken: None, lambda: None, lambda seconds: None)
        try:
            for k in (1, 2, 3, 1, 3):
                one = waiting()
                options = SearchOptions(k=k)
                made.submit(fake, options, one, alone=True)  # type: ignore[arg-type]
                await asyncio.wait_for(one.future, 30)
        finally:
            made.close()

    asyncio.run(search())
    assert [here for here, _ in fake.calls] == [False, False, False, False, True]


def test_while_others_are_to_begin_no_batch_does_and_then_they_go_together() -> None:
    fake, hold = Fake(), [True]

    async def search() -> tuple[int, list[bytes]]:
        made = SearchBatcher(
            1, 64, lambda taken: None, lambda: None, lambda seconds: None, lambda: hold[0]
        )
        try:
            several = [waiting() for _ in range(3)]
            for one in several:
                made.submit(fake, OPTIONS, one)  # type: ignore[arg-type]
            held = made.waiting
            hold[0] = False
            made.dispatch()
            futures = [one.future for one in several]
            return held, await asyncio.wait_for(asyncio.gather(*futures), 30)
        finally:
            made.close()

    held, found = asyncio.run(search())
    assert held == 3
    assert len(found) == 3
    assert len(fake.calls) == 1, "one native call"


def holding(hold: list[bool], *, pressed: bool) -> SearchBatcher:
    """One with a thread, which begins nothing while hold[0]."""
    return SearchBatcher(
        1,
        64,
        lambda taken: None,
        lambda: None,
        lambda seconds: None,
        lambda: hold[0],
        lambda: pressed,
    )


@pytest.mark.parametrize(
    ("pressed", "at_once_s_max", "here"),
    [(True, 60.0, [False, True, True]), (True, 0.0, [False] * 3), (False, 60.0, [False] * 3)],
)
def test_a_batch_stays_in_its_thread_where_the_one_core_is_pressed_and_its_like_was_quick(
    monkeypatch: pytest.MonkeyPatch, pressed: bool, at_once_s_max: float, here: list[bool]
) -> None:
    monkeypatch.setattr(batcher, "INLINE_BATCHES_S_MAX", at_once_s_max)
    fake, hold, ids = Fake(), [False], list[str]()

    async def search() -> list[list[bytes]]:
        made = holding(hold, pressed=pressed)
        try:
            found = list[list[bytes]]()
            for _ in range(3):
                several, hold[0] = [waiting() for _ in range(3)], True
                for one in several:
                    made.submit(fake, OPTIONS, one)  # type: ignore[arg-type]
                hold[0] = False
                made.dispatch()
                ids.append(REQUEST_ID.get())
                futures = [one.future for one in several]
                found.append(await asyncio.wait_for(asyncio.gather(*futures), 30))
            return found
        finally:
            made.close()

    REQUEST_ID.set("mine")
    assert asyncio.run(search()) == [[b"found 0", b"found 1", b"found 2"]] * 3
    assert fake.calls == [(is_here, 3) for is_here in here]
    assert ids == ["mine"] * 3, "the log goes on with the id of whose turn it is"


def test_of_batches_at_the_same_time_as_many_stay_in_their_thread_as_are_quick_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher, "INLINE_BATCHES_S_MAX", 1.0)
    monkeypatch.setattr(batcher.time, "perf_counter", clock := Clock())
    fake, hold = Fake(), [False]

    async def search() -> None:
        made = holding(hold, pressed=True)
        try:
            for _ in range(2):
                several, hold[0] = [waiting() for _ in range(6)], True
                for place, one in enumerate(several):
                    made.submit(fake, SearchOptions(k=1 + place // 2), one)  # type: ignore[arg-type]
                hold[0] = False
                made.dispatch()
                await asyncio.wait_for(asyncio.gather(*(one.future for one in several)), 30)
        finally:
            made.close()

    clock.step_s = 0.12  # a batch looks three times
    asyncio.run(search())
    assert [is_here for is_here, _ in fake.calls] == [False, False, False, True, True, False]
