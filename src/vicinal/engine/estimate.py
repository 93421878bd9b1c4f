"""What a collection will take, before anything is loaded; `docs/guide.md` says how near it comes.

The figures are the layouts of segment files and of native indexes, multiplied out. A graph is counted in both node
formats where both can be, since which one wins is decided by a trial on the data.
"""

from __future__ import annotations

from vicinal.engine.maintenance import SEAL_ROWS_HARD
from vicinal.engine.planner import FLAT_MAX
from vicinal.engine.segment import held_bytes
from vicinal.engine.segment_files import GATHERED_BYTES, graph_memory
from vicinal.engine.state import ENTRY_BYTES
from vicinal.index.footprint import IndexBytes, index_bytes
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.ids import encode_id
from vicinal.model.limits import ID_BYTES_MAX, PAYLOAD_BYTES_MAX
from vicinal.model.memory import MemoryEstimate
from vicinal.model.metric import parse_metric, parse_vector_type
from vicinal.storage.rocks import BLOCK_CACHE_BYTES, BUFFERS_AT_REST_BYTES, MEMTABLES_TOTAL_BYTES

POINTS_MAX = 2**32 - 2
"""Rows that one index numbers."""

BATCH_BYTES = 64 * 2**20
"""What one batch under way takes: its vectors and payloads as the caller has them, as a record, and in RocksDB."""

_INT_ID_BYTES = len(encode_id(0))
_HEADER_BYTES = 24
"""Of a point's record in the store."""


def estimate_memory(
    points: int,
    dim: int,
    *,
    metric: str = "cosine",
    dtype: str = "f32",
    M: int = 32,
    payload_bytes: int = 0,
    id_bytes: int | None = None,
) -> MemoryEstimate:
    """Say what a collection takes, in memory and on disk, before it is loaded.

    Parameters
    ----------
    points, dim : how many points, of how many dimensions.
    metric, dtype, M : as for `Database.collection`; "bit" goes with "hamming".
    payload_bytes : of one point's payload, on average, as MessagePack: about what it has as JSON, or a little less.
    id_bytes : of one point's id, on average, where ids are strings; None where they are ints.

    Returns
    -------
    MemoryEstimate : `.resident_bytes`, `.mapped_bytes`, `.loading` and `.disk`; nothing is allocated. Field indexes
        come on top: for each field that filters name about 12 bytes a point, and its distinct values.

    Raises
    ------
    InvalidArgumentError, LimitError : a value out of range.
    """
    if metric == "cosine" and dtype == "bit":
        metric = "hamming"
    config = CollectionConfig(
        dim=dim,
        metric=parse_metric(metric),
        dtype=parse_vector_type(dtype),
        M=M,
        ef_construction=max(M, 256),
    )
    config.check()
    _check("points", points, 0, POINTS_MAX)
    _check("payload_bytes", payload_bytes, 0, PAYLOAD_BYTES_MAX)
    if id_bytes is not None:
        _check("id_bytes", id_bytes, 1, ID_BYTES_MAX)
    key = _INT_ID_BYTES if id_bytes is None else 1 + id_bytes
    payload = max(1, payload_bytes)

    linked = points if points > FLAT_MAX else 0
    whole = _index(config, points, linked)
    mapped = {
        "vectors": whole.rows,
        "graph": whole.file,
        "rows": points * (8 + (8 if id_bytes is None else 8 + key)),
        "payload": points * (8 + payload),
    }
    resident = {
        "index": whole.working + (0 if linked else whole.rows + whole.norms),
        "store": BUFFERS_AT_REST_BYTES,
        "block_cache": min(BLOCK_CACHE_BYTES, points * (key + _HEADER_BYTES + payload)),
    }
    # At most the tail waits to be sealed while the segments before it are made into one.
    tail = min(points, SEAL_ROWS_HARD)
    waiting = _index(config, tail, tail if tail > FLAT_MAX else 0)
    objects = held_bytes((bytes(key), bytes(payload)))
    buffers = points * (2 * (key + payload) + waiting.rows // max(1, tail) + ENTRY_BYTES)
    loading = (
        waiting.rows
        + waiting.norms
        + waiting.linked
        + tail * objects
        + graph_memory(config, points)
        + points * (GATHERED_BYTES + payload)
        + min(MEMTABLES_TOTAL_BYTES, buffers)
        + min(BATCH_BYTES, 4 * points * (key + payload) + 2 * waiting.rows)
        + resident["block_cache"]
    )
    store = points * (key + _HEADER_BYTES + payload)
    return MemoryEstimate(
        points=points,
        dim=dim,
        resident=resident,
        mapped=mapped,
        loading=loading,
        disk=sum(mapped.values()) + store,
    )


def _index(config: CollectionConfig, n: int, linked: int) -> IndexBytes:
    return index_bytes(
        n, linked=linked, dim=config.dim, metric=config.metric, dtype=config.dtype, M=config.M
    )


def _check(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or value < low:
        raise InvalidArgumentError(f"{name} is {value!r}; it is an int from {low} to {high}")
    if value > high:
        raise LimitError(f"{name} is {value}; it is at most {high}")
