"""What a target of the fuzzer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A parser: `read` takes one input, and may raise our errors."""

    name: str
    corpus: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], object]
    repair: Callable[[bytes], bytes] | None = None
    tokens: list[bytes] = field(default_factory=list)
    reserves: bool = False
    """Address space is reserved far beyond what is used, so only what is used is limited."""
