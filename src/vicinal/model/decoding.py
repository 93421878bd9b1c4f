"""What decoding bytes that we did not write, or that were damaged, may raise."""

from __future__ import annotations

import msgspec

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)
"""msgspec says MsgspecError for most faults, and lets through those of the strings and of the depth."""
