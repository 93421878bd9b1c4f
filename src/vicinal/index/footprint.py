"""How many bytes an index will take, before it is built: the native layouts as formulas.

`tests/unit/test_memory.py` holds them to what indexes of all kinds report.
"""

from __future__ import annotations

from dataclasses import dataclass

from vicinal.model.metric import Metric, VectorType

GROW_STEP_BYTES = 2 * 2**20
"""A native block grows by so much once it is that large; smaller ones by SMALL_STEP_BYTES."""

SMALL_STEP_BYTES = 64 * 2**10
_WORKING_BLOCKS = 4
_LINE = 64
_PACKED_DIM_MAX = 16_384
_PACKED_BLOCK = 32
_TWO_BITS_MAX = 128
_UNLUCKY_BYTES = 512  # rows of such a length are kept two lines apart, but for whole pages
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class IndexBytes:
    """Bytes of an index's parts, without what rounding to whole steps adds.

    rows : vectors. norms : their lengths, for cosine. codes, edges, packed : the graph in both node formats;
    packed is 0 where the format cannot be. working : what no file holds.
    """

    rows: int
    norms: int
    codes: int
    edges: int
    packed: int
    working: int

    @property
    def file(self) -> int:
        """Bytes of the graph's file beside the vectors."""
        return self.norms + self.codes + self.edges + self.packed

    @property
    def linked(self) -> int:
        """Bytes that linking adds to an index that holds its rows."""
        return self.codes + self.edges + self.packed + self.working

    @property
    def graph_held(self) -> int:
        """Bytes that the index holds beside the vectors: each block is rounded up to its step."""
        blocks = (self.norms, self.codes, self.edges, self.packed, self.working)
        return sum(map(grown, blocks)) + (_WORKING_BLOCKS - 1) * SMALL_STEP_BYTES


def grown(n: int) -> int:
    """Bytes that a native block of n holds."""
    return _up(n, SMALL_STEP_BYTES if n < GROW_STEP_BYTES else GROW_STEP_BYTES)


def index_bytes(
    n: int, *, linked: int, dim: int, metric: Metric, dtype: VectorType, M: int
) -> IndexBytes:
    """What an index of n rows takes, of which `linked` are in the graph."""
    row = dtype.columns(dim) * dtype.numpy.itemsize
    code = _stride(row if dtype is VectorType.BIT else dim + (metric is Metric.IP))
    can_pack = (
        metric in (Metric.L2, Metric.IP, Metric.COSINE)
        and dtype in (VectorType.F32, VectorType.F16)
        and dim <= _PACKED_DIM_MAX
    )
    return IndexBytes(
        rows=n * row,
        norms=4 * n if metric is Metric.COSINE else 0,
        codes=linked * code,
        edges=linked * 4 * _up(M, 16),
        packed=linked * _packed_row(dim, M) if can_pack else 0,
        # In-degrees, live and changed bits, and the node of each row.
        working=linked * (2 + 4 * can_pack) + n // 4,
    )


def _packed_row(dim: int, M: int) -> int:
    degree, padded = _up(M, _PACKED_BLOCK), _up(dim, 64)
    head = _up(degree * 7 + 32, _LINE)
    row = head + padded + padded // 8 * degree * (2 if dim <= _TWO_BITS_MAX else 1)
    return row + 2 * _LINE if row % _UNLUCKY_BYTES == 0 and row % _PAGE != 0 else row


def _stride(code: int) -> int:
    if code > 32:
        return _up(code, _LINE)
    return max(8, 1 << (code - 1).bit_length())


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
