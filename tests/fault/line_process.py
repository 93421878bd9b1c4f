"""Processes that are told and that answer line by line: one that has imported everything forks one for each task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class LineProcess:
    """A script under way, by its pipes.

    errors : the file that gets its standard error.
    """

    def __init__(self, script: Path, *words: str, errors: Path) -> None:
        self.errors = errors
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(script), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def tell(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """The next line; RuntimeError where the process is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process is gone: {self.errors.read_text()[-3000:]}")
        return line

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def serve(session: Callable[[dict[str, Any]], object]) -> None:
    """In the process: fork a session for each line of options; say when it is born, and how it died."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            session(json.loads(line))
        say(pid, "born")
        _, status = os.waitpid(pid, 0)
        say(pid, f"dead {os.waitstatus_to_exitcode(status)}")


def say(pid: int, what: str) -> None:
    """One line to the parent, unbuffered."""
    os.write(1, f"{pid} {what}\n".encode())
