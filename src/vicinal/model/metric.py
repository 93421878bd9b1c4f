"""Metrics and vector types: the meaning of `distance`, defined once.

`distance` is always smaller-is-nearer: l2 is the squared Euclidean distance, ip the negated inner product, cosine
1 - cos, hamming the number of differing bits, manhattan the L1 distance.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from vicinal.model.errors import InvalidArgumentError
from vicinal.model.naming import member


class Metric(StrEnum):
    """How two vectors are compared."""

    L2 = "l2"
    IP = "ip"
    COSINE = "cosine"
    HAMMING = "hamming"
    MANHATTAN = "manhattan"


class VectorType(StrEnum):
    """How a vector's elements are stored. `bit` is packed, eight dimensions a byte, most significant first."""

    F32 = "f32"
    F16 = "f16"
    I8 = "i8"
    BIT = "bit"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype of a stored row."""
        return _NUMPY[self]

    def columns(self, dim: int) -> int:
        """Elements of a stored row of dim dimensions (bytes for bit)."""
        return dim // 8 if self is VectorType.BIT else dim


_NUMPY: dict[VectorType, np.dtype[np.generic]] = {
    VectorType.F32: np.dtype(np.float32),
    VectorType.F16: np.dtype(np.float16),
    VectorType.I8: np.dtype(np.int8),
    VectorType.BIT: np.dtype(np.uint8),
}


def parse_metric(name: str | Metric) -> Metric:
    """Return the metric of that name; InvalidArgumentError lists the known ones."""
    return member(Metric, name, "metric")


def parse_vector_type(name: str | VectorType) -> VectorType:
    """Return the vector type of that name; InvalidArgumentError lists the known ones."""
    return member(VectorType, name, "dtype")


def check_pair(metric: Metric, dtype: VectorType) -> None:
    """Raise InvalidArgumentError where the metric does not apply to the vector type."""
    if (metric is Metric.HAMMING) != (dtype is VectorType.BIT):
        raise InvalidArgumentError(
            f"metric {metric.value!r} does not apply to dtype {dtype.value!r}; "
            "hamming goes with bit, the other metrics with f32, f16 or i8"
        )
