"""CRC-32C for everything storage writes: native code, like `storage.pieces` and nothing else here."""

from __future__ import annotations

from vicinal.native import crc32c

__all__ = ["crc32c"]
