"""Vector indexes over rows of one type, for those who want no database around them."""

from __future__ import annotations

from vicinal.index.calibration import Beam, Calibration, CalibrationPoint
from vicinal.index.flat import FlatIndex
from vicinal.index.graph import GraphIndex, default_ef
from vicinal.native import (
    NORM_SQUARED_MAX,
    NORM_SQUARED_MIN,
    release_free_memory,
    usual_queries,
)

__all__ = [
    "NORM_SQUARED_MAX",
    "NORM_SQUARED_MIN",
    "Beam",
    "Calibration",
    "CalibrationPoint",
    "FlatIndex",
    "GraphIndex",
    "default_ef",
    "release_free_memory",
    "usual_queries",
]
