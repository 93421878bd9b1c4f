"""Group commit: writers that wait at the same time share one fsync; and the interval timer.

A writer first puts its batch into RocksDB's write-ahead log without syncing, which is short, and
then waits here. The first to wait becomes the leader and syncs everything written so far; those who
come meanwhile wait for the next round. rocksdict holds the GIL during a synced write but not during
`flush_wal`, so searches go on while the disk works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

INTERVAL_BACKOFF_MAX = 4.0
_BACKOFF_STEP = 1.5


class GroupCommit:
    """Lets many threads wait for one sync at a time.

    Parameters
    ----------
    sync : makes everything written before the call safe and returns the highest ticket that it
        covers. It runs in one thread at a time. An exception is final: it is never called again.
    safe : the ticket that is safe at the start.
    """

    def __init__(self, sync: Callable[[], int], safe: int) -> None:
        self._sync = sync
        self._leader = threading.Lock()
        self._safe = safe
        self._failure: Exception | None = None
        self.rounds, self.seconds = 0, 0.0
        """Syncs that were done, and the time they took in all."""

    @property
    def safe(self) -> int:
        """Highest ticket known to be on the disk."""
        return self._safe

    def wait(self, ticket: int) -> None:
        """Return when `ticket` is safe; raise the failure of the sync, the same to every waiter."""
        if self._safe >= ticket:
            return
        # Whoever waits for this lock wrote its batch before; the next leader syncs for all of them,
        # and the others find their ticket safe.
        with self._leader:
            if self._failure is not None:
                raise self._failure
            if self._safe >= ticket:
                return
            began = time.perf_counter()
            try:
                self._safe = self._sync()
            except Exception as error:
                self._failure = error
                raise
            self.seconds += time.perf_counter() - began
            self.rounds += 1


class IntervalTimer:
    """Calls `sync` every `interval_s` seconds while `dirty()`; stretched up to 4x under load.

    One busy tick after another multiplies the pause by 1.5, a clean tick resets it: a lone write is
    safe soon, a bulk load is not held up by fsyncs. The thread ends at the first failure, which
    `sync` itself has to record.
    """

    def __init__(
        self, interval_s: float, dirty: Callable[[], bool], sync: Callable[[], None]
    ) -> None:
        self._interval_s = interval_s
        self._dirty = dirty
        self._sync = sync
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vicinal-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        stretch = 1.0
        while not self._stop.wait(self._interval_s * stretch):
            if not self._dirty():
                stretch = 1.0
                continue
            try:
                self._sync()
            except Exception:  # the store has recorded it, and every write raises it from now on
                return
            stretch = min(INTERVAL_BACKOFF_MAX, stretch * _BACKOFF_STEP)
