"""CRC-32C for everything storage writes: the only module of this layer that calls native code."""

from __future__ import annotations

from vicinal.native import crc32c

__all__ = ["crc32c"]
