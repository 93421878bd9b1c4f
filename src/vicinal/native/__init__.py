"""The one door to the C++ extension.

Only this module imports `_ext`, and only vicinal.index imports this module.

Every call checks dtype, shape and layout and casts nothing; long calls release the GIL.
"""

from __future__ import annotations

from vicinal.native._ext import (
    NORM_SQUARED_MAX,
    NORM_SQUARED_MIN,
    Flat,
    Graph,
    best_isa,
    check_rows,
    cpu_info,
    crc32c,
    distances,
    hardware_threads,
    inverse_norms,
    release_free_memory,
    supported_isas,
    take_pieces,
    usual_queries,
)

__all__ = [
    "NORM_SQUARED_MAX",
    "NORM_SQUARED_MIN",
    "Flat",
    "Graph",
    "best_isa",
    "check_rows",
    "cpu_info",
    "crc32c",
    "distances",
    "hardware_threads",
    "inverse_norms",
    "release_free_memory",
    "supported_isas",
    "take_pieces",
    "usual_queries",
]
