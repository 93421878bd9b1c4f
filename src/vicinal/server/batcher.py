"""Micro-batching: single searches that wait at the same time, with equal options, become one native call.

Nobody waits for company. A search that finds a free thread begins at once; those that come while all threads
are busy are there together when one becomes free, and go as one batch. So the wait is zero when idle, never
longer than the calls under way, and batches grow with the load by themselves.

A search that is the only request under way or read, and whose like took less than INLINE_S_MAX, does not even go to a
thread: the event loop has nothing else to do meanwhile, and two hand-overs cost as much as the search. Nor does a quick
batch of a server with one core that has more to do than it can: a thread and the event loop would take that core from
each other many times a batch, and find their memory cold each time.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vicinal.client.local import LocalCollection
from vicinal.engine.watch import SearchRecord
from vicinal.model.errors import DeadlineError
from vicinal.model.hits import HitsBatch
from vicinal.model.search import SearchOptions
from vicinal.server.tracing import Trace
from vicinal.telemetry.log import REQUEST_ID

INLINE_S_MAX = 0.0003
INLINE_BATCHES_S_MAX = 0.005
"""Of batches that are carried out on the event loop at once; all others wait for it."""

USUAL_MAX = 512
"""Options of searches whose usual time is known, alone or in batches, the latest."""

USUAL_SHARE = 0.2
"""Of the newest time in the usual one."""

Like: TypeAlias = tuple[int, SearchOptions]
"""What searches must have in common to become one call: the collection, by its incarnation, and their options."""


@dataclass(slots=True)
class Waiting:
    """One search.

    Attributes
    ----------
    query : (1, columns), checked.
    encode : makes the answer of (found, its place in it); runs in the search thread.
    keep : called with the version that the answer belongs to, where it may be kept; None where nothing keeps it.
    trace : the request's, where it is traced.
    came_s : when its request was whole, by `time.perf_counter`.
    """

    query: npt.NDArray[Any]
    deadline: float
    encode: Callable[[HitsBatch, int], bytes]
    keep: Callable[[bytes, Hashable], None] | None
    future: asyncio.Future[bytes]
    request_id: str
    trace: Trace | None
    came_s: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class _Group:
    collection: LocalCollection
    waiting: list[Waiting]


class SearchBatcher:
    """Runs searches in a few threads. `submit` belongs to the event loop's thread."""

    def __init__(
        self,
        threads: int,
        batch_max: int,
        observe: Callable[[list[Waiting]], None],
        last_search: Callable[[], SearchRecord | None],
        worked: Callable[[float], None],
        holding: Callable[[], bool] = lambda: False,
        pressed: Callable[[], bool] = lambda: False,
    ) -> None:
        """observe is told of each batch that begins, worked of the seconds that its native call and answers took;
        last_search knows what the thread searched, for traces. While holding() no batch begins, until `dispatch`.
        While pressed() there is one core and more to do than it can, so that nothing is gained by threads."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="vicinal-search")
        self._free, self._batch_max = threads, batch_max
        self._observe, self._last_search, self._worked = observe, last_search, worked
        self._threads, self._holding, self._pressed = threads, holding, pressed
        self._groups: OrderedDict[Like, _Group] = OrderedDict()
        self._usual_s: OrderedDict[tuple[Like, bool], float] = OrderedDict()
        """Of each search, alone or (True) in a batch."""

    @property
    def waiting(self) -> int:
        """Searches that no thread has taken yet."""
        return sum(len(group.waiting) for group in self._groups.values())

    def submit(
        self,
        collection: LocalCollection,
        options: SearchOptions,
        waiting: Waiting,
        *,
        alone: bool = False,
    ) -> None:
        """Queue a search; its future gets the encoded answer or the error. alone : none else is under way or read."""
        like = (collection.engine.incarnation, options)
        if (
            alone
            and self._free == self._threads
            and self._usual_s.get((like, False), INLINE_S_MAX) < INLINE_S_MAX
        ):
            self._free -= 1
            self._observe([waiting])
            self._finish(like, [waiting], *self._carry_out(collection, options, [waiting]))
            return
        group = self._groups.get(like)
        if group is None:
            self._groups[like] = group = _Group(collection, [])
        group.waiting.append(waiting)
        self.dispatch()

    def close(self) -> None:
        """Finish what is under way."""
        self._executor.shutdown(wait=True)

    def dispatch(self) -> None:
        """Begin what threads are free for."""
        loop, inline_s = asyncio.get_running_loop(), 0.0
        while self._free and self._groups and not self._holding():
            like, group = next(iter(self._groups.items()))
            taken = group.waiting[: self._batch_max]
            del group.waiting[: self._batch_max]
            if group.waiting:
                self._groups.move_to_end(like)  # the others' turn
            else:
                del self._groups[like]
            self._free -= 1
            self._observe(taken)
            usual_s = self._usual_s.get((like, len(taken) > 1), INLINE_BATCHES_S_MAX)
            inline_s += usual_s * len(taken)
            if inline_s < INLINE_BATCHES_S_MAX and self._pressed():
                # In a context of its own: this one may be a request's, whose id the log has.
                found = contextvars.copy_context().run(
                    self._carry_out, group.collection, like[1], taken
                )
                self._note(like, len(taken), found[1])
                _settle(taken, found[0])
            else:
                self._executor.submit(self._run, loop, group.collection, like, taken)

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        collection: LocalCollection,
        like: Like,
        taken: list[Waiting],
    ) -> None:
        """In a search thread."""
        results, seconds = self._carry_out(collection, like[1], taken)
        loop.call_soon_threadsafe(self._finish, like, taken, results, seconds)

    def _carry_out(
        self, collection: LocalCollection, options: SearchOptions, taken: list[Waiting]
    ) -> tuple[list[bytes | BaseException], float]:
        """One native call, and the answers as bytes; and the seconds that it took."""
        began_s = time.perf_counter()
        REQUEST_ID.set(",".join(waiting.request_id for waiting in taken))
        try:
            results: list[bytes | BaseException] = self._search(collection, options, taken)
        except BaseException as fault:  # each waiting request gets it
            results = [fault] * len(taken)
        return results, time.perf_counter() - began_s

    def _finish(
        self,
        like: Like,
        taken: list[Waiting],
        results: list[bytes | BaseException],
        seconds: float,
    ) -> None:
        self._note(like, len(taken), seconds)
        self.dispatch()
        _settle(taken, results)

    def _note(self, like: Like, count: int, seconds: float) -> None:
        """A thread, or the event loop in its place, is done with so many searches."""
        self._free += 1
        self._worked(seconds)
        key, each_s = (like, count > 1), seconds / count
        usual_s = self._usual_s.pop(key, each_s)
        self._usual_s[key] = usual_s + USUAL_SHARE * (each_s - usual_s)
        if len(self._usual_s) > USUAL_MAX:
            self._usual_s.popitem(last=False)

    def _search(
        self, collection: LocalCollection, options: SearchOptions, taken: list[Waiting]
    ) -> list[bytes | BaseException]:
        now = time.monotonic()
        results: dict[int, bytes | BaseException] = {
            i: DeadlineError("the request's time was over before a thread was free; allow it more")
            for i, waiting in enumerate(taken)
            if waiting.deadline <= now
        }
        live = [i for i in range(len(taken)) if i not in results]
        if live:
            engine = collection.engine
            version = engine.version
            queries = taken[live[0]].query
            if len(live) > 1:
                queries = np.concatenate([taken[i].query for i in live])
            began_s = time.perf_counter()
            found = collection.search(queries, options, threads=1)
            settled, found_s = engine.held_since(version), time.perf_counter()
            record = self._last_search()
            for place, i in enumerate(live):
                body = taken[i].encode(found, place)
                results[i] = body
                trace = taken[i].trace
                if trace is not None:
                    trace.stage("wait", taken[i].came_s, began_s)
                    trace.stage("search", began_s, found_s, record, batch=len(live))
                    trace.stage("encode", found_s, time.perf_counter(), bytes=len(body))
                keep = taken[i].keep
                if settled and keep is not None:
                    keep(body, version)
        return [results[i] for i in range(len(taken))]


def _settle(taken: list[Waiting], results: list[bytes | BaseException]) -> None:
    """Give each its answer or its error."""
    for waiting, result in zip(taken, results, strict=True):
        if waiting.future.done():
            continue  # its deadline was over, or its client went away
        if isinstance(result, bytes):
            waiting.future.set_result(result)
        else:
            waiting.future.set_exception(result)
