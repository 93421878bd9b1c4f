"""The background thread of a database: it looks after each collection in turn, one unit of work at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vicinal.telemetry.log import get_logger

POLL_S = 0.05
REST_AFTER_S = 1.0
"""Idle time after which the thread sleeps until it is woken."""

RETRY_S_MAX = 30.0

_log = get_logger("engine.background")


class Background:
    """Calls `step` until it returns False, then waits for `wake` or a while.

    A step that fails is logged and tried again later, each time after a longer wait; searches and writes go on.
    """

    def __init__(self, step: Callable[[], bool]) -> None:
        self._step = step
        self._event = threading.Event()
        self._stop = False
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="vicinal-background", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be work."""
        self._event.set()

    def stop(self) -> None:
        """End after the unit of work under way; idempotent."""
        self._stop = True
        self._event.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        retry_s = POLL_S
        idle_since: float | None = None
        while not self._stop:
            try:
                if self._step():
                    idle_since = None
                    continue
                self.last_error, retry_s = None, POLL_S
            except Exception as fault:
                # Whatever it is: a thread that died here would leave the tail to grow for ever.
                self.last_error = f"{type(fault).__name__}: {fault}"
                _log.warning("background work failed, trying again in %.1f s: %s", retry_s, fault)
                retry_s = min(RETRY_S_MAX, 2 * retry_s)
            now = time.monotonic()
            idle_since = idle_since or now
            resting = self.last_error is None and now - idle_since > REST_AFTER_S
            if self._event.wait(None if resting else retry_s) and not self._stop:
                idle_since = None
            self._event.clear()
