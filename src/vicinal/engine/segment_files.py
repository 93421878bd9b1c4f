"""Segments on disk: how one is written from live rows of others, and how one is opened.

A segment is a folder: vectors.bin (primary once the log behind it is trimmed), rows.bin (row
numbers and ids, likewise), payload.bin and graph.bin (derived: rebuilt when damaged). It is
written under a temporary name and renamed when whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from vicinal.engine.memory import MemoryBudget
from vicinal.engine.planner import FLAT_MAX
from vicinal.engine.records import HEADER_BYTES
from vicinal.engine.segment import SealedSegment, Segment
from vicinal.index import GraphIndex
from vicinal.index.footprint import grown, index_bytes
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import CorruptionError
from vicinal.model.ids import IdColumn
from vicinal.model.payload import EMPTY
from vicinal.storage.files import REAL, make_dirs, os_errors
from vicinal.storage.sections import Chunks, Sections, open_sections, write_sections
from vicinal.storage.store import Store
from vicinal.telemetry.log import get_logger

VECTORS, ROWS, PAYLOAD, GRAPH = "vectors.bin", "rows.bin", "payload.bin", "graph.bin"

CHUNK_ROWS = 8_192
GATHERED_BYTES = 160
"""What a row takes while a segment is written, beside its payload: its number, its id's key, pointers."""

Progress = Callable[[int, int], bool | None]

_DAMAGE = (CorruptionError, OSError)

REUSE_LINKED_MIN = 0.9
REUSE_SHARE_MIN = 0.5
"""A graph is grown, not built anew, from a whole one that holds this share of the new rows: linking is what costs."""

_log = get_logger("engine.segments")


def segment_path(collection: Path, number: int) -> Path:
    """The folder of a segment."""
    return collection / "segments" / str(number)


def write_segment(
    collection: Path,
    number: int,
    config: CollectionConfig,
    sources: Sequence[tuple[Segment, npt.NDArray[np.int64]]],
    *,
    threads: int,
    progress: Progress | None = None,
    queries: npt.NDArray[Any] | None = None,
) -> None:
    """Write segment `number` from the given local rows of sources, whose global rows ascend.

    queries : what calibrates its graph; None: the rows themselves.

    Raises StorageError where the disk refuses, CancelledError where progress returned False;
    either way nothing of it stays.
    """
    target = segment_path(collection, number)
    temporary = target.with_name(f"{number}.tmp")
    remove_tree(temporary)
    try:
        with os_errors(f"making {temporary}"):
            make_dirs(REAL, temporary)
        _write_rows(temporary / ROWS, sources)
        _write_payload(temporary / PAYLOAD, sources)
        n = sum(len(local) for _, local in sources)
        write_sections(
            temporary / VECTORS,
            "vectors",
            {"vectors": Chunks(config.dtype.numpy, (n, config.columns), _vectors(sources))},
            {"dim": config.dim, "dtype": config.dtype.value},
        )
        with open_sections(temporary / VECTORS, "vectors", verify=False) as files:
            vectors = files["vectors"]
            if queries is None and lacks_own_table(sources[0][0].index):
                index = build_graph(config, vectors, threads=threads, progress=progress)
            else:
                index = _graph_of(config, vectors, sources, threads=threads, progress=progress)
            if queries is not None and index.n_linked:
                index.calibrate(queries, threads=threads)
            index.save(temporary / GRAPH, vectors=False)
        with os_errors(f"renaming {temporary}"):
            REAL.rename(temporary, target)
            REAL.fsync_dir(target.parent)
    except BaseException:
        remove_tree(temporary)
        raise


def _graph_of(
    config: CollectionConfig,
    vectors: npt.NDArray[Any],
    sources: Sequence[tuple[Segment, npt.NDArray[np.int64]]],
    *,
    threads: int,
    progress: Progress | None,
) -> GraphIndex:
    """The index of a new segment: grown from the first source's graph if that holds most rows, else built anew."""
    first, local = sources[0]
    if first.index.n_linked < REUSE_LINKED_MIN * first.index.n or len(
        local
    ) < REUSE_SHARE_MIN * len(vectors):
        return build_graph(config, vectors, threads=threads, progress=progress)
    index, _ = first.index.compact(keep=local, vectors=vectors, threads=threads)
    index.link(threads=threads, progress=progress)
    return index


def build_graph(
    config: CollectionConfig,
    vectors: npt.NDArray[Any],
    *,
    threads: int,
    progress: Progress | None = None,
) -> GraphIndex:
    """An index over vectors, which it keeps a reference to; small ones stay without a graph."""
    index = GraphIndex(
        dim=config.dim,
        metric=config.metric.value,
        dtype=config.dtype.value,
        M=config.M,
        ef_construction=config.ef_construction,
    )
    if len(vectors) <= FLAT_MAX:
        index.append(vectors)
    else:
        index.build(vectors, threads=threads, progress=progress, copy=False)
    return index


def calibrate_given(index: GraphIndex, queries: npt.NDArray[Any] | None, *, threads: int) -> None:
    """Calibrate a graph with the user's queries, if there are any and they have not done so."""
    if queries is not None and lacks_own_table(index, given=False):
        index.calibrate(queries, threads=threads)


def lacks_own_table(index: GraphIndex, *, given: bool = True) -> bool:
    """Whether a graph has no calibration, or the other kind: `given` by the user where that is True."""
    table = index.calibration
    return index.n_linked > 0 and (table is None or table.given == given)


def open_segment(
    collection: Path,
    number: int,
    config: CollectionConfig,
    store: Store,
    *,
    verify: bool = True,
    repair: bool = True,
    threads: int = 0,
    budget: MemoryBudget | None = None,
) -> SealedSegment:
    """Open a segment; damaged derived files are set aside and made anew, in memory only where repair is False.

    Raises CorruptionError naming the file where vectors.bin or rows.bin is damaged, MemoryLimitError where the budget
    has no room to make a graph anew.
    """
    budget = budget or MemoryBudget()
    path = segment_path(collection, number)
    rebuilt: list[str] = []
    payload: Mapping[str, npt.NDArray[Any]] | Sections
    # The arrays outlive the files' descriptors, of which a process has few.
    with ExitStack() as files:
        rows = files.enter_context(open_sections(path / ROWS, "rows", verify=verify))
        vectors = files.enter_context(open_sections(path / VECTORS, "vectors", verify=verify))
        try:
            payload = files.enter_context(open_sections(path / PAYLOAD, "payload", verify=verify))
            _check_payload(path / PAYLOAD, payload, len(rows["rows"]))
        except _DAMAGE as fault:
            _check_damage(path / PAYLOAD, fault)
            rebuilt.append(PAYLOAD)
            pieces = _payload_of_store(rows, store)
            if repair:
                _set_aside(path / PAYLOAD, fault)
                _save_payload(path / PAYLOAD, pieces)
                payload = files.enter_context(
                    open_sections(path / PAYLOAD, "payload", verify=verify)
                )
            else:
                payload = _payload_arrays(pieces)
        try:
            index = GraphIndex.load(path / GRAPH, mmap=True, vectors=vectors["vectors"])
        except _DAMAGE as fault:
            _check_damage(path / GRAPH, fault)
            rebuilt.append(GRAPH)
            n = len(rows["rows"])
            with budget.reserve(f"making {path / GRAPH} anew", lambda: graph_memory(config, n)):
                index = build_graph(config, vectors["vectors"], threads=threads)
            if repair:
                _set_aside(path / GRAPH, fault)
                index.save(path / GRAPH, vectors=False)
        return SealedSegment(number, index, store, rows, payload, rebuilt, budget=budget)


def graph_memory(config: CollectionConfig, n: int) -> int:
    """Bytes of memory that a graph over n mapped rows takes while it is made."""
    linked = n if n > FLAT_MAX else 0
    found = index_bytes(
        n, linked=linked, dim=config.dim, metric=config.metric, dtype=config.dtype, M=config.M
    )
    return found.graph_held + (grown(found.rows) if linked == 0 else 0)


def rewrite_memory(
    config: CollectionConfig, sources: Sequence[Segment], more: Sequence[bytes] = ()
) -> int:
    """Bytes of memory that writing a segment of their live rows takes beside them.

    more : payloads of rows that are about to be added.
    """
    n = sum(s.n - len(s.dead) for s in sources) + len(more)
    payload = sum(s.payload_bytes * (s.n - len(s.dead)) // max(1, s.n) for s in sources)
    payload += sum(map(len, more))
    # Row numbers, id keys and payloads are gathered before they are written.
    return graph_memory(config, n) + payload + GATHERED_BYTES * n


def link_memory(config: CollectionConfig, index: GraphIndex, rows: int) -> int:
    """Bytes of memory that linking so many more rows of an index takes."""
    n, linked = index.n, min(index.n, index.n_linked + rows)
    after = index_bytes(
        n, linked=linked, dim=config.dim, metric=config.metric, dtype=config.dtype, M=config.M
    )
    held = index.memory_bytes - index.mapped_bytes - after.rows
    return max(0, after.graph_held - held)


def segment_bytes(
    config: CollectionConfig, sources: Sequence[tuple[Segment, npt.NDArray[np.int64]]]
) -> int:
    """About how many bytes of disk a segment of these rows takes, rather more than less."""
    row = config.columns * config.dtype.numpy.itemsize
    node = 4 * config.M + config.dim + 64
    total = 0
    for segment, local in sources:
        share = segment.payload_bytes * len(local) // max(1, segment.n)
        total += len(local) * (row + node) + share
    return total


def remove_segment(collection: Path, number: int) -> None:
    """Delete a segment's folder; readers that map its files keep them until they let go."""
    remove_tree(segment_path(collection, number))


def remove_orphans(collection: Path, live: set[int]) -> None:
    """Delete what a crash left: folders that the manifest does not name."""
    folder = collection / "segments"
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if not entry.name.isdigit() or int(entry.name) not in live:
            remove_tree(entry)


def remove_tree(path: Path) -> None:
    """Delete a folder as far as that is possible; what stays is an orphan of the next opening."""
    import shutil  # here, since it imports every compression module

    shutil.rmtree(path, ignore_errors=True)


def live_rows(segment: Segment, dead: BitMap) -> npt.NDArray[np.int64]:
    """Local rows of a segment that are not in dead, ascending."""
    rows = BitMap()
    rows.add_range(0, segment.n)
    return np.asarray((rows - dead).to_array(), dtype=np.int64)


def _vectors(
    sources: Sequence[tuple[Segment, npt.NDArray[np.int64]]],
) -> Iterator[npt.NDArray[Any]]:
    for segment, local in sources:
        for start in range(0, len(local), CHUNK_ROWS):
            yield segment.index.vectors(local[start : start + CHUNK_ROWS])


def _write_rows(path: Path, sources: Sequence[tuple[Segment, npt.NDArray[np.int64]]]) -> None:
    rows = np.concatenate([s.global_rows(local) for s, local in sources]).astype(np.uint64)
    keys = [key for s, local in sources for key in s.keys(local.tolist())]
    write_sections(path, "rows", {"rows": rows, **IdColumn.from_keys(keys).sections()}, {})


def _write_payload(path: Path, sources: Sequence[tuple[Segment, npt.NDArray[np.int64]]]) -> None:
    pieces: list[bytes] = []
    for segment, local in sources:
        for start in range(0, len(local), CHUNK_ROWS):
            pieces.extend(segment.payloads(local[start : start + CHUNK_ROWS].tolist()))
    _save_payload(path, pieces)


def _save_payload(path: Path, pieces: list[bytes]) -> None:
    offsets = np.zeros(len(pieces) + 1, np.uint64)
    np.cumsum([len(p) for p in pieces], out=offsets[1:])

    def blocks() -> Iterator[npt.NDArray[np.uint8]]:
        for start in range(0, len(pieces), CHUNK_ROWS):
            yield np.frombuffer(b"".join(pieces[start : start + CHUNK_ROWS]), np.uint8)

    blob = Chunks(np.dtype(np.uint8), (int(offsets[-1]),), blocks())
    write_sections(path, "payload", {"offsets": offsets, "blob": blob}, {})


def _payload_arrays(pieces: list[bytes]) -> dict[str, npt.NDArray[Any]]:
    """The sections of a payload file in memory."""
    offsets = np.zeros(len(pieces) + 1, np.uint64)
    np.cumsum([len(p) for p in pieces], out=offsets[1:])
    return {"offsets": offsets, "blob": np.frombuffer(b"".join(pieces), np.uint8)}


def _payload_of_store(rows: Sections, store: Store) -> list[bytes]:
    """The payloads of a segment from the store, which holds every live point's."""
    column = IdColumn.from_sections({k: rows[k] for k in rows.names if k != "rows"})
    pieces: list[bytes] = []
    for start in range(0, len(column), CHUNK_ROWS):
        keys = column.keys(range(start, min(start + CHUNK_ROWS, len(column))))
        found = store.get_points(keys)
        pieces.extend(EMPTY if raw is None else raw[HEADER_BYTES:] for raw in found)
    return pieces


def _check_damage(path: Path, fault: Exception) -> None:
    """Raise the fault again unless it is damage or a missing file, which a rebuild mends."""
    if isinstance(fault, OSError) and path.exists():
        raise fault


def _set_aside(path: Path, fault: Exception) -> None:
    """Move a damaged derived file out of the way; it stays for whoever wants to look, until the segment goes."""
    _log.warning("%s is damaged and is made anew: %s", path, fault)
    if path.exists():
        path.replace(path.with_name(path.name + ".damaged"))


def _check_payload(path: Path, payload: Sections, n: int) -> None:
    offsets = payload["offsets"]
    if len(offsets) != n + 1 or int(offsets[-1]) != len(payload["blob"]):
        raise CorruptionError(
            f"{path}: {len(offsets)} offsets for {n} rows and {len(payload['blob'])} bytes"
        )
    if len(offsets) > 1 and bool((offsets[1:] < offsets[:-1]).any()):
        raise CorruptionError(f"{path}: offsets do not ascend")
