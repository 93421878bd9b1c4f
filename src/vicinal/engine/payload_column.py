"""Reads columns out of payloads: for some fields, the value of each row.

Where payloads are at hand as MessagePack, only the wanted top-level fields are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from vicinal.model.filter import Path, PointId
from vicinal.model.filter.path import ID_PATH, descend, steps
from vicinal.model.filter.predicate import id_value

PayloadAt = Callable[[int], Mapping[str, object] | None]
RawAt = Callable[[int], bytes | memoryview | None]
IdAt = Callable[[int], PointId]

_decode = msgspec.msgpack.Decoder().decode


def read_columns(
    paths: Sequence[Path],
    rows: Sequence[int],
    payload_at: PayloadAt,
    raw_at: RawAt | None,
    id_at: IdAt,
) -> dict[Path, list[object]]:
    """Return for each path the value of each row, None where it is missing; one pass over rows."""
    columns: dict[Path, list[object]] = {path: [] for path in paths}
    wanted = [path for path in paths if path[0] != ID_PATH[0]]
    for path in paths:
        if path == ID_PATH:
            columns[path] = [id_value(id_at(row)) for row in rows]
        elif path[0] == ID_PATH[0]:  # an id has no parts
            columns[path] = [None] * len(rows)
    names = list(dict.fromkeys(path[0] for path in wanted))
    if len(wanted) == 1 and len(wanted[0]) == 1:
        # The common case, kept free of inner loops: one field over a whole segment.
        columns[wanted[0]] = [*_values(names[0], rows, payload_at, raw_at)]
    elif wanted:
        targets = [
            (columns[path].append, names.index(path[0]), tuple(steps(path[1:]))) for path in wanted
        ]
        for values in _tuples(names, rows, payload_at, raw_at):
            # Objects are left at once: keeping them would keep the garbage collector busy.
            for add, top, rest in targets:
                add(descend(values[top], rest) if rest else values[top])
    return columns


def _values(
    name: str, rows: Sequence[int], payload_at: PayloadAt, raw_at: RawAt | None
) -> Iterator[object]:
    """Yield the value of one top-level field in each row."""
    if raw_at is None:
        for row in rows:
            payload = payload_at(row)
            yield None if payload is None else payload.get(name)
        return
    decode = _partial_decoder((name,))
    for row in rows:
        raw = raw_at(row)
        yield None if raw is None else decode(raw).f0


def _tuples(
    names: list[str], rows: Sequence[int], payload_at: PayloadAt, raw_at: RawAt | None
) -> Iterator[Sequence[object]]:
    """Yield the values of some top-level fields in each row."""
    missing = (None,) * len(names)
    if raw_at is None:
        for row in rows:
            payload = payload_at(row)
            yield missing if payload is None else [payload.get(name) for name in names]
        return
    decode = _partial_decoder(tuple(names))
    for row in rows:
        raw = raw_at(row)
        yield missing if raw is None else msgspec.structs.astuple(decode(raw))


@lru_cache(maxsize=256)
def _partial_decoder(names: tuple[str, ...]) -> Callable[[bytes | memoryview], Any]:
    """Return a decoder of MessagePack maps into structs of these fields only.

    Attributes are called f0, f1, ... since a field may have any name.
    """
    fields: list[tuple[str, Any, Any]] = [(f"f{i}", Any, None) for i in range(len(names))]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    try:
        struct = msgspec.defstruct("Fields", fields, rename=rename, gc=False)
    except ValueError:  # a name with a quote, a backslash or a control character
        struct = msgspec.defstruct("Fields", fields, gc=False)
        partial = None
    else:
        partial = msgspec.msgpack.Decoder(struct).decode

    def decode_whole(raw: bytes | memoryview) -> Any:
        payload = _decode(raw)
        return struct(*[payload.get(name) for name in names])

    if partial is None:
        return decode_whole

    def decode(raw: bytes | memoryview) -> Any:
        try:
            return partial(raw)
        except msgspec.DecodeError:  # a map with keys that are no strings
            return decode_whole(raw)

    return decode
