"""The one door to the C++ extension: only this module imports `_ext`, and only vicinal.index imports this module.

Every call checks dtype, shape and layout and casts nothing; long calls release the GIL.
"""

from __future__ import annotations

from vicinal.native._ext import cpu_info, crc32c, hardware_threads

__all__ = ["cpu_info", "crc32c", "hardware_threads"]
