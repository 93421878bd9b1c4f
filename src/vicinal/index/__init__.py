"""Vector indexes over rows of one type, for those who want no database around them."""

from __future__ import annotations

from vicinal.index.flat import FlatIndex
from vicinal.index.graph import GraphIndex

__all__ = ["FlatIndex", "GraphIndex"]
