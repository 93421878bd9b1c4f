"""The recall monitor: a small share of live searches is answered again, exactly, in the background, and compared.

Its cost is bounded: one search at a time, at most one a second, and pauses between them so long that it takes
BUSY_SHARE_MAX of one core. A search is left out where points changed before it could be repeated.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from msgspec.structs import replace

from vicinal.engine.watch import SearchRecord
from vicinal.model.errors import VicinalError
from vicinal.telemetry.log import get_logger

PAUSE_S_MIN = 1.0
BUSY_SHARE_MAX = 0.02
DISTANCE_SLACK = 1e-5
"""A result is right when it is no farther than the last true one: points at equal distance stand for each other."""

Report = Callable[[str, int, int], None]
"""(collection, results that are right, results there should be)."""

_log = get_logger("server.recall")


class RecallMonitor:
    """A watcher that samples searches.

    Parameters
    ----------
    share : of the searches, 0 to 1.
    report : told the outcome of each one, in a background thread.
    """

    def __init__(
        self,
        share: float,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._share, self._report, self._clock, self._chance = share, report, clock, chance
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vicinal-recall")
        self._lock = threading.Lock()
        self._next_s, self._busy = 0.0, False

    def __call__(self, record: SearchRecord) -> None:
        """Take the search for a sample, now and then."""
        if record.options.exact or self._chance() >= self._share or not len(record.queries):
            return
        with self._lock:
            if self._busy or self._clock() < self._next_s:
                return
            self._busy = True
        place = int(self._chance() * len(record.queries))
        query = np.array(record.queries[place : place + 1])
        found = np.array(record.found.distances[place])
        try:
            self._thread.submit(self._repeat, record, query, found)
        except RuntimeError:  # closed meanwhile
            self._busy = False

    def close(self) -> None:
        """Finish the one under way."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _repeat(self, record: SearchRecord, query: Any, found: Any) -> None:
        began = self._clock()
        try:
            self._compare(record, query, found)
        except VicinalError as fault:  # such as a collection that was dropped
            _log.debug("a search could not be repeated: %s", fault)
        except Exception:
            _log.exception("a search could not be repeated")
        finally:
            took = self._clock() - began
            self._next_s = began + max(PAUSE_S_MIN, took / BUSY_SHARE_MAX)
            self._busy = False

    def _compare(self, record: SearchRecord, query: Any, found: Any) -> None:
        collection = record.collection
        if not collection.held_since(record.version):
            return
        exactly = replace(record.options, exact=True, with_payload=False, with_vectors=False)
        true = collection.reader.search(query, exactly, threads=1).distances[0]
        if not collection.held_since(record.version) or not len(true):
            return
        farthest = float(true[-1])
        limit = farthest + DISTANCE_SLACK * max(1.0, abs(farthest))
        self._report(collection.name, min(int((found <= limit).sum()), len(true)), len(true))
