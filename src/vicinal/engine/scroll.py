"""Reading points page by page, in the order of writing or of a payload field.

A cursor holds the place of the last point given: its row, and its sort key where there is an
order. The next page begins after that place, so points written or deleted meanwhile move no others.
"""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from vicinal.engine.reader import Reader
from vicinal.engine.segment import Segment
from vicinal.engine.state import CollectionState
from vicinal.model.decoding import UNDECODABLE
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.filter import Filter, Path, split_path
from vicinal.model.filter.order import is_order_key, order_key
from vicinal.model.filter.path import ID_PATH, getter
from vicinal.model.filter.predicate import id_value
from vicinal.model.hits import Page, Point


class _Place(NamedTuple):
    """Where a point stands in a scroll; compares as the scroll is ordered."""

    key: Any
    row: int


class _Descending:
    """A sort key whose order is turned around."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key

    def __lt__(self, other: _Descending) -> bool:
        return other.key < self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and self.key == other.key

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class Scroller:
    """Scrolls over one collection."""

    def __init__(self, state: CollectionState, reader: Reader) -> None:
        self._state = state
        self._reader = reader

    def page(
        self,
        *,
        where: Filter | None,
        order_by: str | None,
        descending: bool,
        limit: int,
        cursor: str | None,
        with_vectors: bool,
    ) -> Page:
        """Return up to limit points after the cursor."""
        path = None if order_by is None else split_path(order_by)
        after = None if cursor is None else _decode(cursor, order_by, descending)

        def attempt() -> Page:
            streams = [
                self._stream(segment, where, path, descending, after)
                for segment in self._state.view.segments
                if segment.n
            ]
            merged = heapq.merge(*streams, key=lambda item: item[0])
            points: list[Point] = []
            last: _Place | None = None
            more = False
            for place, segment, local in merged:
                if len(points) == limit:
                    more = True
                    break
                points.extend(self._reader.points(segment, [local], with_vectors=with_vectors))
                last = place
            return Page(points, _encode(last, order_by, descending) if more and last else None)

        return self._reader.consistent(attempt, with_store=True)

    def _stream(
        self,
        segment: Segment,
        where: Filter | None,
        path: Path | None,
        descending: bool,
        after: _Place | None,
    ) -> Iterator[tuple[_Place, Segment, int]]:
        """The segment's points after a place, in order."""
        rows = segment.live() if where is None else segment.match(where).bitmap
        if path is None:
            local = np.asarray(rows.to_array(), dtype=np.int64)
        else:
            local = segment.ordered(path, rows, descending=descending)

        value_at = None if path is None else _value_at(segment, path)

        def place(row: int) -> _Place:
            number = int(segment.global_rows(np.asarray([row], np.int64))[0])
            if value_at is None:
                return _Place(0, number)
            value = value_at(row)
            # Points without the field come last whichever way the others go.
            if value is None:
                return _Place((True, ()), number)
            key = order_key(value)
            return _Place((False, _Descending(key) if descending else key), number)

        start = 0 if after is None else _first_after(local, place, after)
        for row in local[start:].tolist():
            yield place(row), segment, row


def _value_at(segment: Segment, path: Path) -> Callable[[int], object]:
    """The function from a row to the value that it is sorted by."""
    if path == ID_PATH:
        return lambda row: id_value(segment.id_at(row))
    get = getter(path)
    return lambda row: None if path[0] == ID_PATH[0] else get(segment.payload(row))


def _first_after(local: npt.NDArray[np.int64], place: Any, after: _Place) -> int:
    low, high = 0, len(local)
    while low < high:
        middle = (low + high) // 2
        if after < place(int(local[middle])):
            high = middle
        else:
            low = middle + 1
    return low


def _encode(place: _Place, order_by: str | None, descending: bool) -> str:
    missing, key = (False, None) if order_by is None else place.key
    plain = key.key if isinstance(key, _Descending) else key
    raw = msgspec.msgpack.encode(
        [order_by, descending, missing, None if missing else plain, place.row]
    )
    return base64.urlsafe_b64encode(raw).decode("ascii")


def _decode(cursor: str, order_by: str | None, descending: bool) -> _Place:
    try:
        field, turned, missing, plain, row = msgspec.msgpack.decode(
            base64.urlsafe_b64decode(cursor.encode("ascii")),
            type=tuple[str | None, bool, bool, Any, int],
        )
        key: Any = () if missing else _tuples(plain)
        sound = field is None or missing or is_order_key(key)
    except (binascii.Error, UnicodeEncodeError, *UNDECODABLE):
        sound, field, turned, missing, key, row = False, None, False, False, None, 0
    if not sound:
        raise InvalidArgumentError(f"cursor {cursor!r} is not one that scroll returned")
    if (field, turned) != (order_by, descending):
        raise InvalidArgumentError(
            f"cursor belongs to a scroll with order_by={field!r}, descending={turned}; "
            f"this one has order_by={order_by!r}, descending={descending}"
        )
    if order_by is None:
        return _Place(0, row)
    return _Place((missing, _Descending(key) if descending and not missing else key), row)


def _tuples(value: Any) -> Any:
    """MessagePack returns lists where keys are tuples."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)  # pyright: ignore[reportUnknownVariableType]
    return value
