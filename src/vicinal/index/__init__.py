"""Vector indexes over rows of one type."""

from __future__ import annotations

from vicinal.index.graph import GraphIndex

__all__ = ["GraphIndex"]
