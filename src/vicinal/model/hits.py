"""What a search answers: Hit, Hits (one query) and HitsBatch (many). Payloads are decoded when first looked at."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast, overload

import msgspec
import numpy as np
import numpy.typing as npt

from vicinal.model.clock import NEVER_MS, to_datetime
from vicinal.model.ids import PointId
from vicinal.model.payload import Payload, decode_payload

if TYPE_CHECKING:
    import pandas
    import polars


class Hit:
    """One result.

    Attributes
    ----------
    id : the point's id as it was given.
    distance : smaller is nearer; see `vicinal.model.metric`.
    vector : (dim,) in the stored dtype, or None where vectors were not asked for.
    """

    __slots__ = ("_payload", "_raw", "distance", "id", "vector")

    def __init__(
        self,
        id: PointId,
        distance: float,
        raw: bytes | None = None,
        vector: npt.NDArray[Any] | None = None,
    ) -> None:
        self.id = id
        self.distance = distance
        self.vector = vector
        self._raw = raw
        self._payload: Payload | None = None

    @property
    def payload(self) -> Payload | None:
        """The payload as it was when the search ran; None where it was not asked for."""
        if self._payload is None and self._raw is not None:
            self._payload = decode_payload(self._raw)
        return self._payload

    def __repr__(self) -> str:
        tail = f", payload={self.payload!r}" if self._raw is not None else ""
        return f"Hit(id={self.id!r}, distance={self.distance:.6g}{tail})"


class _SequenceStructMeta(ABCMeta, msgspec.StructMeta):
    """Of sequences that are Structs: one is made for every search, in less than half of the time of an `__init__`."""


class Hits(msgspec.Struct, Sequence[Hit], metaclass=_SequenceStructMeta, eq=False, gc=False):
    """The results of one query, nearest first.

    Attributes
    ----------
    recall_estimate : the share of the true nearest points that a search like this one is expected to find: 1.0 where
        every match was compared, None where nothing was measured for it.
    """

    # Arrays become lists when the first hit is looked at: many callers only want the arrays.
    _ids: list[PointId] | npt.NDArray[Any]
    _distances: list[float] | npt.NDArray[np.float32]
    _raws: list[bytes] | None = None
    _vectors: npt.NDArray[Any] | None = None
    recall_estimate: float | None = None

    @property
    def ids(self) -> npt.NDArray[Any]:
        """(n,) int64 where every id is an int, else object."""
        ids = self._ids
        if isinstance(ids, list):
            return id_array(ids)
        return id_array(ids.tolist()) if ids.dtype == object else ids

    @property
    def distances(self) -> npt.NDArray[np.float32]:
        """(n,) float32, ascending."""
        return np.asarray(self._distances, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        raws, vectors = self._raws, self._vectors
        if isinstance(index, slice):
            return Hits(
                self._ids[index],
                self._distances[index],
                None if raws is None else raws[index],
                None if vectors is None else vectors[index],
                self.recall_estimate,
            )
        if not isinstance(self._ids, list):
            self._ids = cast("list[PointId]", self._ids.tolist())
        if not isinstance(self._distances, list):
            self._distances = cast("list[float]", self._distances.tolist())
        return Hit(
            self._ids[index],
            self._distances[index],
            None if raws is None else raws[index],
            None if vectors is None else vectors[index],
        )

    def __iter__(self) -> Iterator[Hit]:
        for i in range(len(self._ids)):
            yield self[i]

    def __repr__(self) -> str:
        return f"Hits({list(self)!r})"

    def to_dicts(self) -> list[dict[str, Any]]:
        """One flat dict a hit: id, distance, then the payload's fields; vector where asked for.

        A payload field called id, distance or vector is named `payload.id` and so on.
        """
        rows: list[dict[str, Any]] = []
        for hit in self:
            row: dict[str, Any] = {"id": hit.id, "distance": hit.distance}
            if hit.vector is not None:
                row["vector"] = hit.vector
            for field, value in (hit.payload or {}).items():
                row[f"payload.{field}" if field in _RESERVED else field] = value
            rows.append(row)
        return rows

    def to_arrow(self) -> Any:
        """An Arrow table of `to_dicts` (needs pyarrow: `pip install 'vicinal[arrow]'`)."""
        import pyarrow as pa

        return cast("Any", pa).Table.from_pydict(self._columns(as_text=True))

    def to_pandas(self) -> pandas.DataFrame:
        """A pandas DataFrame of `to_dicts`."""
        import pandas as pd

        return pd.DataFrame(self._columns())

    def to_polars(self) -> polars.DataFrame:
        """A polars DataFrame of `to_dicts`."""
        import polars as pl

        return pl.DataFrame(self._columns(as_text=True), strict=False)

    def _columns(self, *, as_text: bool = False) -> dict[str, list[Any]]:
        rows = self.to_dicts()
        names: dict[str, None] = {"id": None, "distance": None}
        for row in rows:
            names.update(dict.fromkeys(row))
        columns = {name: [row.get(name) for row in rows] for name in names}
        if as_text and not all(isinstance(i, int) for i in columns["id"]):
            # A typed column has one type; ids of several kinds meet in text.
            columns["id"] = [str(i) for i in columns["id"]]
        return columns


class HitsBatch(msgspec.Struct, Sequence[Hits], metaclass=_SequenceStructMeta, eq=False, gc=False):
    """The results of many queries.

    Attributes
    ----------
    ids : (n_queries, k) int64 where every id is an int, else object; k is the smaller of the k asked for and the
        number of points that match.
    distances : (n_queries, k) float32, ascending along rows.
    raw_payloads : MessagePack bytes of the payloads, as they are stored; None where they were not asked for.
    vectors : (n_queries, k, columns) in the stored dtype, or None where they were not asked for.
    recall_estimate : as in `Hits`, over all queries.
    """

    ids: npt.NDArray[Any]
    distances: npt.NDArray[np.float32]
    raw_payloads: list[list[bytes]] | None = None
    vectors: npt.NDArray[Any] | None = None
    recall_estimate: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Hits: ...
    @overload
    def __getitem__(self, index: slice) -> HitsBatch: ...
    def __getitem__(self, index: int | slice) -> Hits | HitsBatch:
        raws, vectors = self.raw_payloads, self.vectors
        if isinstance(index, slice):
            return HitsBatch(
                self.ids[index],
                self.distances[index],
                None if raws is None else raws[index],
                None if vectors is None else vectors[index],
                self.recall_estimate,
            )
        return Hits(
            self.ids[index],
            self.distances[index],
            None if raws is None else raws[index],
            None if vectors is None else vectors[index],
            self.recall_estimate,
        )

    def __repr__(self) -> str:
        return f"HitsBatch({len(self)} queries, k={self.ids.shape[1]})"


class Point:
    """A stored point: id, payload, version (grows by one at each change), and its vector where asked for.

    `expires_at` is a UTC datetime, None where the point stays.
    """

    __slots__ = ("_payload", "_raw", "expires_at", "id", "vector", "version")

    def __init__(
        self,
        id: PointId,
        version: int,
        raw: bytes,
        vector: npt.NDArray[Any] | None = None,
        expires_ms: int = NEVER_MS,
    ) -> None:
        self.id = id
        self.version = version
        self.vector = vector
        self.expires_at = to_datetime(expires_ms)
        self._raw = raw
        self._payload: Payload | None = None

    @property
    def payload(self) -> Payload:
        """The payload; decoded when first looked at."""
        if self._payload is None:
            self._payload = decode_payload(self._raw)
        return self._payload

    @property
    def raw_payload(self) -> bytes:
        """MessagePack bytes of the payload, as they are stored."""
        return self._raw

    def __repr__(self) -> str:
        return f"Point(id={self.id!r}, version={self.version}, payload={self.payload!r})"


class Page(list[Point]):
    """One page of a scroll. `cursor` continues after it; None where there is no more."""

    def __init__(self, points: list[Point], cursor: str | None) -> None:
        super().__init__(points)
        self.cursor = cursor


def id_array(ids: Sequence[PointId]) -> npt.NDArray[Any]:
    """(n,) int64 where every id is an int, else object (strings and UUIDs stay Python values)."""
    if all(type(i) is int for i in ids):
        return np.asarray(ids, dtype=np.int64)
    out = np.empty(len(ids), dtype=object)
    out[:] = ids
    return out


_RESERVED = frozenset({"id", "distance", "vector"})
