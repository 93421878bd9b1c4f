"""Configuration that is stored with a collection, and what a database is opened with."""

from __future__ import annotations

import msgspec

from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.limits import DIM_MAX, EF_CONSTRUCTION_MAX, M_MAX, M_MIN
from vicinal.model.metric import Metric, VectorType, check_pair


class CollectionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection is, fixed when it is made.

    Attributes
    ----------
    dim : dimensions of a vector, 1 to DIM_MAX; a multiple of 8 for bit.
    metric, dtype : see `vicinal.model.metric`.
    strict : filters on a field that no point has raise UnknownFieldError instead of matching nothing.
    M : edges of a node in the graph.
    ef_construction : beam width while the graph is built; larger builds slower and searches better.
    ttl : seconds after which a point expires where its upsert does not say; None is never.
    """

    dim: int
    metric: Metric = Metric.COSINE
    dtype: VectorType = VectorType.F32
    strict: bool = False
    M: int = 32
    ef_construction: int = 256
    ttl: float | None = None

    def check(self) -> None:
        """Raise InvalidArgumentError or LimitError where a value is out of range."""
        if not 1 <= self.dim <= DIM_MAX:
            raise LimitError(f"dim is {self.dim}; it is 1 to {DIM_MAX}")
        if not M_MIN <= self.M <= M_MAX:
            raise LimitError(f"M is {self.M}; it is {M_MIN} to {M_MAX}")
        if not self.M <= self.ef_construction <= EF_CONSTRUCTION_MAX:
            raise LimitError(
                f"ef_construction is {self.ef_construction}; it is M ({self.M}) to {EF_CONSTRUCTION_MAX}"
            )
        if self.dtype is VectorType.BIT and self.dim % 8:
            raise InvalidArgumentError(
                f"dim is {self.dim}; bit vectors are packed, so dim is a multiple of 8"
            )
        check_pair(self.metric, self.dtype)

    @property
    def columns(self) -> int:
        """Elements of a stored row: dim, or dim / 8 bytes for bit."""
        return self.dtype.columns(self.dim)

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row."""
        return self.columns * self.dtype.numpy.itemsize
