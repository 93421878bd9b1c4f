"""The invariants of one collection, checked over all of its data: each check yields what does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from vicinal.engine.collection import Collection
from vicinal.engine.expiry import due_key
from vicinal.engine.loss import homeless
from vicinal.engine.maintenance import MANIFEST_KEY
from vicinal.engine.records import HEADER_BYTES, POINT_HEADER, decode_manifest
from vicinal.engine.segment import Rows, SealedSegment, Segment
from vicinal.engine.segment_files import GRAPH, PAYLOAD
from vicinal.index import GraphIndex
from vicinal.model.decoding import UNDECODABLE
from vicinal.model.findings import Finding, Level
from vicinal.model.ids import decode_id
from vicinal.model.payload import decode_payload

CHUNK = 8_192
SHOWN_MAX = 5
ROOT_QUERIES = 64
DOUBTFUL_MAX = 10_000
"""Rows looked for by a search of their own before they count as unreachable."""

RESTORE = "restore the collection from a backup or snapshot; its other points can still be read"
REBUILD = "run `vicinal doctor --repair`, which makes it anew from the data"


class Checks:
    """The checks of one open collection, whose background work is not running."""

    def __init__(self, collection: Collection) -> None:
        self._name = collection.name
        self._state = collection.state
        self._segments = [s for s in collection.state.view.segments if s.n]

    def all(self) -> Iterator[Finding]:
        """Every finding, the cheap checks first."""
        yield from self.orphans()
        yield from self.rebuilt()
        yield from self.manifest()
        yield from self.records()
        for segment in self._segments:
            yield from self.vectors(segment)
            yield from self.graph(segment)

    def rebuilt(self) -> Iterator[Finding]:
        """Derived files that opening could not use."""
        for segment in self._segments:
            if isinstance(segment, SealedSegment):
                for name in segment.rebuilt:
                    what = "is damaged, missing, or fails its checksums"
                    yield self._derived(_place(segment, name), what)

    def orphans(self) -> Iterator[Finding]:
        """Segments that the manifest does not name."""
        folder = self._state.path / "segments"
        live = {str(s.number) for s in self._segments if isinstance(s, SealedSegment)}
        live |= {str(each.entry.number) for each in self._state.lost}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in live:
                what = "belongs to no live segment: a crash left it, or a writer is at work"
                remedy = "it goes when the database is opened for writing"
                yield Finding(Level.NOTE, self._name, f"segments/{path.name}", what, remedy)

    def manifest(self) -> Iterator[Finding]:
        """The manifest against the log and the rows of segments."""
        store = self._state.store
        raw = store.get_meta(MANIFEST_KEY)
        if raw is None:
            return
        manifest = decode_manifest(raw, self._name)
        if not store.trimmed_through <= manifest.sequence <= store.last_seq:
            yield self._damage(
                "store",
                f"the manifest is of log record {manifest.sequence}, the log is trimmed through "
                f"{store.trimmed_through} and ends at {store.last_seq}",
            )
        top = -1
        for segment in self._segments:
            if isinstance(segment, SealedSegment):
                rows = segment.global_rows(np.arange(segment.n))
                ascending = bool((rows[1:] > rows[:-1]).all()) and segment.row_min > top
                if not ascending or segment.row_max >= manifest.next_row:
                    what = f"rows {segment.row_min} to {segment.row_max} overlap others or do not ascend"
                    yield self._damage(_place(segment, "rows.bin"), what)
                top = segment.row_max

    def records(self) -> Iterator[Finding]:
        """The id map against the rows, payload files against the store, the index of what is due against both."""
        wrong: Counter[tuple[str, str]] = Counter()
        shown: dict[tuple[str, str], list[str]] = {}

        def note(place: str, what: str, key: bytes) -> None:
            wrong[place, what] += 1
            if wrong[place, what] <= SHOWN_MAX:
                shown.setdefault((place, what), []).append(repr(decode_id(key)))

        due = dict(self._state.store.scan_due())
        seen = {id(segment): BitMap() for segment in self._segments}
        for points in self._points():
            rows = np.array([POINT_HEADER.unpack_from(raw)[0] for _, raw in points], np.int64)
            nowhere = set(range(len(points)))
            for segment, places, local in self._state.view.locate(rows):
                nowhere.difference_update(places.tolist())
                seen[id(segment)].update(local.tolist())
                keys = segment.keys(local.tolist())
                for place, row, key in zip(places.tolist(), local.tolist(), keys, strict=True):
                    point_key, raw = points[int(place)]
                    found = self._of_row(segment, row, key, point_key, raw)
                    if found is not None:
                        note(*found, point_key)
            for place in nowhere - self._given_up(rows):
                note("store", "ids whose row no segment and no log record holds", points[place][0])
            for (key, raw), row in zip(points, rows.tolist(), strict=True):
                _, version, expires_ms = POINT_HEADER.unpack_from(raw)
                if version < 1:
                    note("store", "points of version 0", key)
                if expires_ms and due.pop(due_key(expires_ms, row), None) != key:
                    note("due", "points that expire and are not in the index of what is due", key)
        for (place, what), count in wrong.items():
            text = f"{count} {what}: {', '.join(shown[place, what])}{', ...' * (count > SHOWN_MAX)}"
            derived = place == "due" or place.endswith(PAYLOAD)
            yield self._derived(place, text) if derived else self._damage(place, text)
        if due:
            yield self._derived("due", f"{len(due)} entries of what is due belong to no point")
        for segment in self._segments:
            lost = BitMap(range(segment.n)) - segment.dead - seen[id(segment)]
            if lost:
                ids = ", ".join(map(repr, segment.ids(list(lost[:SHOWN_MAX]))))
                what = f"{len(lost)} rows are alive and no id leads to them: {ids}"
                yield self._damage(_place(segment, "rows.bin"), what)

    def vectors(self, segment: Segment) -> Iterator[Finding]:
        """Stored vectors are finite."""
        if self._state.config.dtype.numpy.kind != "f":
            return
        bad = 0
        for start in range(0, segment.n, CHUNK):
            rows = np.arange(start, min(start + CHUNK, segment.n))
            bad += int((~np.isfinite(segment.index.vectors(rows))).any(axis=1).sum())
        if bad:
            what = f"{bad} vectors hold NaN or infinity, which no write accepts"
            yield self._damage(_place(segment, "vectors.bin"), what)

    def graph(self, segment: Segment) -> Iterator[Finding]:
        """Edges lead to rows of the graph, and every live row of it can be reached by a search."""
        index = segment.index
        linked = index.n_linked
        if linked == 0:
            return
        edges = index.edges()
        wild = int((edges >= linked).sum())
        if wild:
            yield self._derived(
                _place(segment, GRAPH), f"{wild} edges lead to rows that are not there"
            )
            return
        live = np.asarray((segment.live() & BitMap(range(linked))).to_array(), np.int64)
        lost = unreachable(index, edges, live)
        if len(lost):
            ids = ", ".join(map(repr, segment.ids(lost[:SHOWN_MAX].tolist())))
            what = f"{len(lost)} of {len(live)} live points cannot be reached by a search: {ids}"
            yield self._derived(_place(segment, GRAPH), what)

    def _given_up(self, rows: Rows) -> set[int]:
        """Places of rows that lost segments had, which are told of by themselves."""
        return set(np.flatnonzero(homeless(rows, self._state.lost)).tolist())

    def _of_row(
        self, segment: Segment, row: int, held: bytes, key: bytes, raw: bytes
    ) -> tuple[str, str] | None:
        """What is wrong with a point in its row: the place and the sentence."""
        if held != key:
            return _place(segment, "rows.bin"), "ids whose row belongs to another id"
        if row in segment.dead:
            return _place(segment, "rows.bin"), "ids whose row is dead"
        payload = raw[HEADER_BYTES:]
        try:
            decode_payload(payload)
        except UNDECODABLE:
            return "store", "payloads that do not decode"
        sealed = isinstance(segment, SealedSegment) and row not in segment.dirty
        if sealed and bytes(segment.raw(row)) != payload:
            return _place(segment, PAYLOAD), "payloads differ from the store's"
        return None

    def _points(self) -> Iterator[list[tuple[bytes, bytes]]]:
        chunk: list[tuple[bytes, bytes]] = []
        for point in self._state.store.scan_points():
            chunk.append(point)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _damage(self, place: str, what: str) -> Finding:
        return Finding(Level.DAMAGE, self._name, place, what, RESTORE)

    def _derived(self, place: str, what: str) -> Finding:
        return Finding(Level.DERIVED, self._name, place, what, REBUILD)


def unreachable(index: GraphIndex, edges: npt.NDArray[np.uint32], live: Rows) -> Rows:
    """Live rows of the graph that no search reaches, ascending.

    What searches find is reachable by definition, and so is whatever edges lead to from there. A row that is not
    among those gets a search of its own before it counts as lost.
    """
    reached = np.zeros(len(edges), bool)
    sample = live[:: max(1, len(live) // ROOT_QUERIES)]
    doubtful = live
    queries = sample
    while len(doubtful) and len(queries):
        before = int(reached.sum())
        _spread(edges, _found(index, queries), reached)
        doubtful = live[~reached[live]]
        if queries is not sample and int(reached.sum()) == before:
            break
        queries = doubtful[:DOUBTFUL_MAX]
    return doubtful


def _found(index: GraphIndex, rows: Rows) -> Rows:
    """Rows of the graph that searches for the vectors of rows find by walking it."""
    vectors = index.vectors(rows)
    queries = vectors.astype(np.float32) if vectors.dtype == np.float16 else vectors
    found, _ = index.search(
        np.ascontiguousarray(queries), k=1, ef_search=256, strategy="gate", threads=0
    )
    return np.unique(found[(found >= 0) & (found < index.n_linked)])


def _spread(edges: npt.NDArray[np.uint32], roots: Rows, reached: npt.NDArray[np.bool_]) -> None:
    """Mark everything that edges lead to from the roots."""
    frontier = roots[~reached[roots]]
    while len(frontier):
        reached[frontier] = True
        ahead = np.unique(edges[frontier].reshape(-1)).astype(np.int64)
        frontier = ahead[~reached[ahead]]


def _place(segment: Segment, name: str) -> str:
    return f"segments/{segment.number}/{name}" if isinstance(segment, SealedSegment) else "log"
