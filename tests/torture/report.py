"""What a part of the torture run says at its end: a table, and how to repeat it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Result:
    """One part: what it did, what it found, and the arguments that repeat it."""

    part: str
    replay: str
    figures: dict[str, object] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    skipped: str = ""
    """Why the part could not run here."""

    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the database broke a promise."""
        return bool(self.violations)


def show(result: Result) -> None:
    """Print one part's table."""
    verdict = (
        "FAILED" if result.failed else f"skipped: {result.skipped}" if result.skipped else "ok"
    )
    say(f"== {result.part}: {verdict}, {result.seconds:.0f} s")
    table(result.figures)
    for violation in result.violations:
        say(f"   VIOLATION {violation}")
    say(f"   again: python tests/torture {result.replay}")


def table(figures: Mapping[str, object]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        say(f"   {name:<{width}}  {text}")


def say(text: str) -> None:
    """One line to the reader, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Deadline:
    """A part that has a time budget asks whether it is over."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def __bool__(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end
