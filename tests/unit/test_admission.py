"""Admission: the bound that adapts to how long searches wait, and what a full HTTP server refuses unparsed."""

from __future__ import annotations

import asyncio

import pytest

from vicinal.model.errors import OverloadedError
from vicinal.server import admission as admission_module
from vicinal.server.admission import (
    INTERVAL_S,
    LANE_BATCHES,
    LANE_ONE_CORE_MAX,
    REQUESTS_MIN,
    RUSH_STARTS_MAX,
    WAIT_S_MAX,
    WAIT_WORKS,
    Admission,
)
from vicinal.server.config import ServerConfig
from vicinal.server.http import is_whole_request

HEAD = b"POST /v1/collections/docs/search HTTP/1.1\r\nHost: localhost\r\n"


class Server:
    """An admission whose time the test moves."""

    def __init__(self, requests_max: int = 1000) -> None:
        self.now = 0.0
        self.admission = Admission(ServerConfig(requests_max=requests_max), lambda: self.now)

    def fill(self) -> int:
        """Let in as many as there is room for; how many are under way then."""
        try:
            while True:
                self.admission.enter(None)
        except OverloadedError:
            return self.admission.requests

    def interval(self, *waits_s: float, done: int = 0) -> None:
        """A time in which searches waited so long, and so many requests were done and followed by others."""
        for wait_s in waits_s:
            self.admission.answered(wait_s)
        for _ in range(done):
            self.admission.leave(0)
            self.admission.requests += 1
        self.now += INTERVAL_S
        self.admission.answered(waits_s[-1])


def test_a_standing_queue_lets_in_what_is_done_in_the_longest_wait() -> None:
    server = Server()
    assert server.fill() == 1000
    server.interval(WAIT_S_MAX * 1.1, done=1_500)
    assert server.admission.requests_max == pytest.approx(1_500 * WAIT_S_MAX / INTERVAL_S, abs=1)


def test_a_standing_queue_never_lets_in_fewer_than_the_least_nor_more_than_before() -> None:
    server = Server()
    server.fill()
    server.interval(10.0, done=5_000)
    assert server.admission.requests_max == 1000
    server.interval(10.0, done=1)
    assert server.admission.requests_max == REQUESTS_MIN


def test_what_was_done_before_an_idle_time_is_not_counted() -> None:
    server = Server()
    server.admission.enter(None)
    server.admission.leave(0)
    server.now += 1_000.0
    server.fill()
    server.interval(WAIT_S_MAX * 1.1, done=1_500)
    assert server.admission.requests_max == pytest.approx(1_500 * WAIT_S_MAX / INTERVAL_S, abs=1)


def test_one_search_that_did_not_wait_shows_that_no_queue_stands() -> None:
    server = Server()
    server.fill()
    for _ in range(20):
        server.interval(10.0, 0.001, 10.0)
    assert server.admission.requests_max == 1000


def test_where_somebody_was_refused_and_nobody_waits_more_are_let_in_up_to_the_bound() -> None:
    server = Server()
    server.fill()
    for _ in range(50):
        server.interval(10.0)
    assert server.admission.requests_max == REQUESTS_MIN
    server.admission.requests = 0
    for _ in range(5):
        server.interval(0.001)
    assert server.admission.requests_max == REQUESTS_MIN, "nobody wanted more"
    for _ in range(50):
        server.fill()
        server.interval(0.001)
    assert server.admission.requests_max == 1000


def test_searches_that_are_slow_by_themselves_are_no_queue() -> None:
    server = Server()
    for _ in range(1_000):
        server.admission.searched(0.2)
    server.fill()
    for _ in range(20):
        server.interval(WAIT_WORKS * 0.19)
    assert server.admission.requests_max == 1000


def test_a_bound_below_the_least_stays_as_it_was_configured() -> None:
    server = Server(requests_max=2)
    assert server.fill() == 2
    for _ in range(5):
        server.interval(10.0)
    assert server.admission.requests_max == 2


def test_what_is_read_in_one_turn_of_the_loop_takes_its_room_before_it_enters() -> None:
    async def turns() -> None:
        admission = Admission(ServerConfig(requests_max=3))
        admission.enter(None)
        assert [admission.room() for _ in range(4)] == [True, True, False, False]
        admission.enter(None)
        await asyncio.sleep(0)
        assert admission.together == 2
        assert [admission.room() for _ in range(2)] == [True, False], "one of the two went away"
        await asyncio.sleep(0)
        assert admission.together == 1
        admission.enter(None)
        assert not admission.room()
        with pytest.raises(OverloadedError):
            admission.enter(None)
        admission.leave(0)
        assert admission.room()

    asyncio.run(turns())


def test_while_connections_rush_in_some_requests_begin_in_each_turn_and_all_have_their_room() -> (
    None
):
    begun, under_way, held, places = list[int](), list[int](), list[int](), 3 * RUSH_STARTS_MAX

    async def read_together() -> list[bool]:
        admission = Admission(ServerConfig(requests_max=places))
        admission.rushed()
        loop = asyncio.get_running_loop()

        def begin(number: int) -> None:
            begun.append(number)
            loop.call_soon(admission.enter, None)  # as a task does, in the next turn

        def all_begun() -> None:
            held.append(admission.requests)

        admission.begun = all_begun
        refused: list[bool] = []
        for number in range(places):
            assert admission.room()
            admission.start(b"docs", lambda number=number: begin(number))
        for _ in range(6):
            refused.append(not admission.room())
            under_way.append(len(begun))
            await asyncio.sleep(0)
        assert admission.requests == places
        return refused

    assert asyncio.run(read_together()) == [True] * 6
    assert begun == list(range(places)), "in the order in which they came"
    assert held == [places], "searches are let go once, when all have entered"
    assert under_way[:4] == [RUSH_STARTS_MAX, RUSH_STARTS_MAX * 2, places, places]


def test_searches_of_a_lane_beyond_the_next_batches_are_held_and_begin_as_others_end() -> None:
    begun = list[str]()

    async def come() -> list[int]:
        admission = Admission(ServerConfig(search_threads=1, batch_max=1, requests_max=8))
        held = list[int]()
        for lane in (b"a", b"a", b"a", b"a", b"b", b"b", b"b", b"b"):
            assert admission.room()
            name = lane.decode()
            admission.start(lane, lambda name=name: begun.append(name))
        assert begun == ["a"] * LANE_BATCHES + ["b"] * LANE_BATCHES
        for _ in range(LANE_BATCHES):  # those that began have entered
            admission.enter(None)
            admission.enter(None)
        held.append(admission.held)
        await asyncio.sleep(0)
        assert not admission.room(), "what is held has its room"
        assert not admission.holding, "batches do not wait for what may not begin"
        for lane in (b"b", b"a", b"b"):
            admission.leave(0)
            admission.ended(lane)
        await asyncio.sleep(0)
        held.append(admission.held)
        return held

    assert asyncio.run(come()) == [4, 1]
    assert begun[2 * LANE_BATCHES :] == ["a", "b", "b"], "lanes take turns"


def _nine_searches() -> tuple[Admission, list[int]]:
    """They came for a lane in which fewer may be under way; which of them began."""
    admission, begun = Admission(ServerConfig(search_threads=1, batch_max=1)), list[int]()
    for number in range(9):
        assert admission.room()
        admission.start(b"docs", lambda number=number: begun.append(number))
    return admission, begun


def test_what_was_held_too_long_begins_though_its_lane_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission_module, "HELD_S_MAX", 0.01)

    async def come() -> list[int]:
        admission, begun = _nine_searches()
        assert len(begun) == LANE_BATCHES
        while admission.held:
            await asyncio.sleep(0.01)
        return begun

    assert asyncio.run(asyncio.wait_for(come(), 20)) == list(range(9))


def test_what_is_held_begins_when_the_server_closes() -> None:
    async def come() -> list[int]:
        admission, begun = _nine_searches()
        assert len(begun) == LANE_BATCHES
        admission.close()
        await asyncio.sleep(0)
        return begun

    assert asyncio.run(come()) == list(range(9))


def test_on_one_core_few_searches_of_a_lane_are_under_way_whatever_a_batch_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ServerConfig, "one_core", True)

    async def come() -> tuple[int, int]:
        admission, begun = Admission(ServerConfig(search_threads=4, batch_max=64)), list[int]()
        for number in range(2 * LANE_ONE_CORE_MAX):
            assert admission.room()
            admission.start(b"docs", lambda number=number: begun.append(number))
        return len(begun), admission.held

    assert asyncio.run(come()) == (LANE_ONE_CORE_MAX, LANE_ONE_CORE_MAX)


def test_a_queue_that_is_held_stands_though_all_that_was_under_way_is_done() -> None:
    now = [0.0]

    async def come() -> int:
        config = ServerConfig(search_threads=1, batch_max=1, requests_max=1000)
        admission = Admission(config, lambda: now[0])

        def begin() -> None:
            admission.enter(None)
            admission.leave(0)

        for _ in range(LANE_BATCHES):
            admission.start(b"docs", begin)
        assert admission.requests == 0
        for _ in range(10):
            assert admission.room()
            admission.start(b"docs", begin)
        for _ in range(10):
            now[0] += INTERVAL_S / 5
            admission.ended(b"docs")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            admission.answered(10 * WAIT_S_MAX)
        return admission.requests_max

    assert asyncio.run(come()) == REQUESTS_MIN


def test_where_no_connections_rush_in_all_that_is_read_begins_at_once() -> None:
    async def come() -> list[int]:
        admission, begun = Admission(ServerConfig()), list[int]()
        for number in range(3 * RUSH_STARTS_MAX):
            assert admission.room()
            admission.start(b"docs", lambda number=number: begun.append(number))
        return begun

    assert asyncio.run(come()) == list(range(3 * RUSH_STARTS_MAX))


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (HEAD + b"Content-Length: 2\r\n\r\n{}", True),
        (HEAD + b"content-length:  2 \r\nA: b\r\n\r\n{}", True),
        (HEAD + b"Content-Length: 2\r\n\r\n{}POST /v1/", False),
        (HEAD + b"Content-Length: 3\r\n\r\n{}", False),
        (HEAD + b"Content-Length: 2\r\n", False),
        (HEAD + b"\r\n{}", False),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", False),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", False),
        (HEAD + b"Content-Length: -2\r\n\r\n{}", False),
        (HEAD + b"Content-Length: -1\r\n\r\n", False),
        (HEAD + b"A: " + b"b" * 2_048 + b"\r\nContent-Length: 2\r\n\r\n{}", False),
    ],
)
def test_only_a_request_that_is_whole_and_alone_is_refused_unparsed(
    data: bytes, whole: bool
) -> None:
    assert is_whole_request(data) == whole
