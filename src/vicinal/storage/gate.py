"""Counts the calls inside an object: closing waits for them, later calls are refused."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from vicinal.model.errors import ClosedError

CLOSE_WAIT_S = 60.0


class _Process:
    """Counts the forks that led to this process: asking the system for its number would be a call for each entry."""

    forks = 0


def _forked() -> None:
    _Process.forks += 1


os.register_at_fork(after_in_child=_forked)


class Gate:
    """A context manager that callers pass through; `shut` waits until the last one is out.

    After a fork the child is refused: RocksDB's threads and locks did not come along.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._empty = threading.Event()
        self._inside = 0
        self._shut = False
        self._forks = _Process.forks

    @property
    def is_shut(self) -> bool:
        """Whether new callers are refused."""
        return self._shut

    def __enter__(self) -> None:
        if self._forks != _Process.forks:
            raise ClosedError(f"{self._name} was opened before a fork; open it again in the child")
        with self._lock:
            if self._shut:
                raise ClosedError(f"{self._name} is closed; open it again")
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._shut and self._inside == 0:
                self._empty.set()

    def shut(self) -> bool:
        """Refuse new callers and wait for those inside, a minute at most; False if shut before."""
        with self._lock:
            if self._shut:
                return False
            self._shut = True
            if self._inside == 0:
                self._empty.set()
        # The wait is bounded because an interrupted caller may never report back; going on is
        # safe, since whoever is still inside keeps its own references.
        self._empty.wait(CLOSE_WAIT_S)
        return True
