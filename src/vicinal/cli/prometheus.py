"""Reading a server's /metrics: its samples, and what changed between two readings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")

Labels: TypeAlias = dict[str, str]
Fits: TypeAlias = Callable[[Labels], bool]


def _all(labels: Labels) -> bool:
    del labels
    return True


@dataclass(frozen=True, slots=True)
class Reading:
    """The samples of one page, and when it was read, in seconds of a clock that only goes forward."""

    at_s: float
    samples: dict[str, list[tuple[Labels, float]]]

    def total(self, name: str, fits: Fits = _all) -> float:
        """The sum of a metric's samples whose labels fit; 0 where there is none."""
        return sum(value for labels, value in self.samples.get(name, ()) if fits(labels))

    def labelled(self, name: str, label: str) -> list[str]:
        """The values of a label, each once, in order."""
        found = (labels[label] for labels, _ in self.samples.get(name, ()) if label in labels)
        return list(dict.fromkeys(found))


def read_page(text: str, at_s: float) -> Reading:
    """The samples of a page in Prometheus' text form; lines that are none are left out."""
    samples: dict[str, list[tuple[Labels, float]]] = {}
    for line in text.splitlines():
        found = None if line.startswith("#") else _LINE.match(line)
        if found is None:
            continue
        labels = {
            name: _ESCAPED.sub(lambda m: "\n" if m[1] == "n" else m[1], value)
            for name, value in _LABEL.findall(found[2] or "")
        }
        try:
            samples.setdefault(found[1], []).append((labels, float(found[3])))
        except ValueError:
            continue
    return Reading(at_s, samples)


def rate(before: Reading, now: Reading, name: str, fits: Fits = _all) -> float:
    """How much a counter grew in a second; 0 where the server was started anew."""
    seconds = max(now.at_s - before.at_s, 1e-9)
    return max(0.0, now.total(name, fits) - before.total(name, fits)) / seconds


def quantile(
    before: Reading, now: Reading, name: str, share: float, fits: Fits = _all
) -> float | None:
    """A quantile of what a histogram counted meanwhile, by straight lines between its bounds; None for nothing."""
    counts: dict[float, float] = {}
    for reading, sign in ((now, 1), (before, -1)):
        for labels, value in reading.samples.get(f"{name}_bucket", ()):
            if fits(labels):
                bound = float(labels["le"])
                counts[bound] = counts.get(bound, 0.0) + sign * value
    ordered = sorted(counts.items())
    every = ordered[-1][1] if ordered else 0.0
    if every <= 0:
        return None
    low = under = 0.0
    for bound, count in ordered:
        if count >= share * every:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (share * every - under) / max(count - under, 1e-9)
        low, under = bound, count
    return low
