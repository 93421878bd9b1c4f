"""Byte strings that lie one behind the other in a block, with the offsets where they begin: several taken at once."""

from __future__ import annotations

from vicinal.native import take_pieces

__all__ = ["take_pieces"]
