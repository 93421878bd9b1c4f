"""Who may come in: bounds on requests and bytes under way, and a rate for each key. What is refused was not begun.

The bound on requests adapts: where even the luckiest search of a tenth of a second waited longer than WAIT_S_MAX, a
queue is standing that more requests only lengthen, so no more are let in than are done in such a time (Little's law);
where none stands and somebody was refused, more are.
(Nichols & Jacobson, "Controlling Queue Delay", 2012, whose measure this is.)
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from vicinal.model.errors import OverloadedError, RequestTooLargeError
from vicinal.server.config import ServerConfig
from vicinal.server.keys import Key

BUCKETS_MAX = 10_000
"""Keys whose rate is remembered; a key forgotten starts with a full bucket, which is what idleness would give it."""

RETRY_AFTER_S = 1.0

WAIT_S_MAX = 0.03
"""What a search may wait in the server, beside WAIT_WORKS times the work of one native call. A longer queue answers
none the sooner, and each search that waits in it makes all others dearer: what they need of memory is cold by then."""

WAIT_WORKS = 4.0
INTERVAL_S = 0.1
RUSH_S = 0.1
"""How long connections are said to rush in after several were made at once."""

STARTS_MAX, RUSH_STARTS_MAX = 64, 4
"""Held searches that begin in one turn of the event loop, and while connections rush in; each takes it about 0.1 ms.
Longer turns read, and refuse, more at a time, which makes a refusal cheaper; shorter ones answer it sooner."""

HELD_S_MAX = 0.25
"""A search that was held so long begins though its lane is full: those before it are slow, and its time may be short,
which nobody knows before it is parsed."""

LANE_BATCHES = 2
"""Of batches that searches of a lane may be under way: one is searched while the next is made ready."""

LANE_ONE_CORE_MAX = 32
"""Searches of a lane that may be under way where the server has one core: nothing is made ready there while something
is searched, and so many stay in its caches from their parsing to their answers."""

REQUESTS_MIN = 256
"""The bound on requests never adapts to less (that many connections of clients that wait for each answer are a usual
load), unless it was configured to be less."""

MORE = 1.1
WORK_SHARE = 0.05
"""Of the newest native call in the mean."""


@dataclass(slots=True)
class _Lane:
    """Searches that begin in their order: how many are under way, and since when which are held."""

    under_way: int = 0
    held: deque[tuple[float, Callable[[], object]]] = field(
        default_factory=deque[tuple[float, Callable[[], object]]]
    )


class Admission:
    """Counts what is under way. Used from the event loop's thread only, so it needs no lock."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self.requests, self.body_bytes = 0, 0
        self._read, self._starting = 0, 0
        self.held, self._lane_max = 0, LANE_BATCHES * config.threads * config.batch_max
        self._one_core = config.one_core
        if self._one_core:
            self._lane_max = min(self._lane_max, LANE_ONE_CORE_MAX)
        self._lanes: dict[bytes, _Lane] = {}
        self._holds: deque[_Lane] = deque()
        """Lanes that hold requests; whose turn it is comes first."""
        self._turning, self._watching, self._rush_until = False, False, 0.0
        self.begun: Callable[[], None] = lambda: None
        """Called when nothing is `holding` any more."""
        self.together = 0
        """How many requests with room were read in the latest turn of the event loop in which any were."""
        self.requests_max = config.requests_max
        """The bound as it is now."""
        self._work_s = 0.0
        self._begin_interval(clock())
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.closing = False

    def enter(self, key: Key | None) -> None:
        """Let one request in, before its body is read; `leave` when it is done.

        key : who asks; its own rate, where it has one, goes before that of the configuration.

        Raises
        ------
        OverloadedError : too many requests are under way, the key's rate is used up, or the server is stopping.
        """
        if self.closing:
            raise OverloadedError(
                "the server is stopping; try again, or another one", RETRY_AFTER_S
            )
        if self.requests >= self.requests_max:
            self._refused = True
            raise self.refusal()
        if key is not None:
            rate = key.requests_per_s or self._config.key_requests_per_s_max
            if rate:
                self._spend(key.id, rate)
        if not (self.requests or self.held or self._starting):
            self._begin_interval(self._clock())  # how much is done in an idle time says nothing
        self.requests += 1

    @property
    def pressed(self) -> bool:
        """Whether the server has one core, and more to do than that can."""
        return self._one_core and self.held > 0

    def room(self) -> bool:
        """Whether a request that was read just now may go on to `enter`. It takes its room at once: what comes in one
        turn of the event loop enters in the next, and as much of it as there is no room for would be refused only then,
        when that is dear."""
        if self.requests + self._read + self._starting + self.held >= self.requests_max:
            self._refused = True
            return False
        self._read += 1
        self._turn_soon()
        return True

    def start(self, lane: bytes, begin: Callable[[], object]) -> None:
        """Begin a search that found room, now or in a later turn of the event loop; `ended` when it is over.

        It is held while connections rush in, when RUSH_STARTS_MAX begin in each turn, so that what comes meanwhile is
        read, and refused, before all of them have begun; and while as many of its lane are under way as the next
        batches take. What is held is the bytes that came and no more: with hundreds of half-done requests in memory
        each step of each finds its memory cold, and a search takes a third longer. Batches wait for those that may
        begin: they go together, and the event loop has the core.
        """
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = _Lane()
        rushes = self._read > RUSH_STARTS_MAX and self._rushes
        if self.closing or not (rushes or found.held or found.under_way >= self._lane_max):
            found.under_way += 1
            begin()
            return
        self._read -= 1
        self.held += 1
        if not found.held:
            self._holds.append(found)
        found.held.append((self._clock(), begin))
        if not self._watching:
            self._watch()

    def close(self) -> None:
        """Let nothing in from now on; what is held is told so."""
        self.closing = True
        self._turn_soon()

    def ended(self, lane: bytes) -> None:
        """A search that was begun is over, however it ended."""
        found = self._lanes[lane]
        found.under_way -= 1
        if found.held:
            self._turn_soon()
        elif not found.under_way:
            del self._lanes[lane]

    def rushed(self) -> None:
        """Several connections were made at once."""
        self._rush_until = self._clock() + RUSH_S

    @property
    def _rushes(self) -> bool:
        return self._clock() < self._rush_until

    @property
    def holding(self) -> bool:
        """Whether requests are still to begin that may."""
        return self._starting > 0 or (self.held > 0 and any(map(self._open, self._holds)))

    def _open(self, lane: _Lane) -> bool:
        """Whether the first that it holds may begin."""
        if self.closing or lane.under_way < self._lane_max:
            return True
        return self._clock() - lane.held[0][0] >= HELD_S_MAX

    def _watch(self) -> None:
        """Look for what was held too long, as long as anything is held."""
        self._watching = self.held > 0
        if self._watching:
            self._turn_soon()
            asyncio.get_running_loop().call_later(HELD_S_MAX, self._watch)

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """What was read or begun in the turn before has entered by the end of this one."""
        self._turning, held = False, self.holding
        if self._read:
            self.together = self._read + self.held
        self._read = self._starting = 0
        begins = self._take(RUSH_STARTS_MAX if self._rushes else STARTS_MAX) if self.held else []
        self._starting = len(begins)
        try:
            for begin in begins:
                begin()
        finally:
            if self._starting:
                self._turn_soon()
            elif held:
                self.begun()

    def _take(self, most: int) -> list[Callable[[], object]]:
        """Held requests that begin now: each lane's first, in turns."""
        taken, closed = list[Callable[[], object]](), 0
        while len(taken) < most and closed < len(self._holds):
            lane = self._holds.popleft()
            if not self._open(lane):
                self._holds.append(lane)
                closed += 1
                continue
            closed = 0
            lane.under_way += 1
            taken.append(lane.held.popleft()[1])
            if lane.held:
                self._holds.append(lane)
        self.held -= len(taken)
        return taken

    def refusal(self) -> OverloadedError:
        """What a request is refused with while the server is full."""
        return OverloadedError(
            f"as many requests are under way as the server takes now, {self.requests_max}; try again later",
            RETRY_AFTER_S,
        )

    def searched(self, seconds: float) -> None:
        """One native call for searches took so long."""
        self._work_s += WORK_SHARE * (seconds - self._work_s)

    def answered(self, seconds: float) -> None:
        """A search was answered so long after it came; adapts the bound when it is time."""
        now = self._clock()
        self._least_s = min(self._least_s, seconds)
        if now < self._since + INTERVAL_S:
            return
        highest, wait_s = self._config.requests_max, WAIT_S_MAX + WAIT_WORKS * self._work_s
        if self._least_s > wait_s:
            done_within = int(wait_s * self._done / (now - self._since))
            least = min(REQUESTS_MIN, highest)
            self.requests_max = max(least, min(self.requests_max, done_within))
        elif self._refused:
            self.requests_max = min(highest, int(MORE * self.requests_max) + 1)
        self._begin_interval(now)

    def _begin_interval(self, now: float) -> None:
        self._since, self._done = now, 0
        self._least_s, self._refused = float("inf"), False

    def take_bytes(self, count: int, total: int) -> None:
        """Count bytes of a body that is coming in, `total` of them with these; `leave` gives them back.

        Raises RequestTooLargeError, or OverloadedError where all bodies together are too much.
        """
        config = self._config
        if total > config.request_bytes_max:
            raise RequestTooLargeError(
                f"request body has {total} bytes or more, the limit is {config.request_bytes_max}; "
                "send fewer points at a time"
            )
        if self.body_bytes + count > config.request_bytes_total_max:
            raise OverloadedError(
                f"the bodies of the requests under way have {self.body_bytes} bytes, the limit is "
                f"{config.request_bytes_total_max}; try again later",
                RETRY_AFTER_S,
            )
        self.body_bytes += count

    def give_back(self, count: int) -> None:
        """Bytes that were counted are not held any more, though their request is under way, or is none yet."""
        self.body_bytes -= count

    def leave(self, body_bytes: int) -> None:
        """A request is done; body_bytes is what take_bytes counted for it."""
        self.requests -= 1
        self._done += 1
        self.body_bytes -= body_bytes

    def _spend(self, key: str, rate: float) -> None:
        """A token bucket: `rate` tokens a second, at most one second's worth of them, at least one."""
        now, burst = self._clock(), max(1.0, rate)
        tokens, since = self._buckets.pop(key, (burst, now))
        tokens = min(burst, tokens + (now - since) * rate)
        if tokens < 1.0:
            self._buckets[key] = (tokens, now)
            raise OverloadedError(
                f"this key may make {rate:g} requests a second; try again later",
                (1.0 - tokens) / rate,
                rate_limited=True,
            )
        self._buckets[key] = (tokens - 1.0, now)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
