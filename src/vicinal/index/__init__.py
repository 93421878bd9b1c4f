"""Vector indexes over rows of one type."""

from __future__ import annotations

from vicinal.index.flat import FlatIndex

__all__ = ["FlatIndex"]
