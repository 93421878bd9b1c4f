"""Reads columns out of payloads: for some fields, the value of each row.

Where payloads are at hand as MessagePack, only the wanted top-level fields are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from vicinal.model.filter import Path, PointId
from vicinal.model.filter.path import ID_PATH, descend, steps
from vicinal.model.filter.predicate import id_value

PayloadAt = Callable[[int], Mapping[str, object] | None]
RawAt = Callable[[int], bytes | memoryview | None]
IdAt = Callable[[int], PointId]

_decode = msgspec.msgpack.Decoder().decode
_NOTHING: dict[str, object] = {}


def read_columns(
    paths: Sequence[Path],
    rows: Iterable[int],
    payload_at: PayloadAt,
    raw_at: RawAt | None,
    id_at: IdAt,
) -> dict[Path, list[object]]:
    """Return for each path the value of each row, None where it is missing; one pass over rows."""
    rows = list(rows)
    columns: dict[Path, list[object]] = {}
    names = list(dict.fromkeys(path[0] for path in paths if path[0] != ID_PATH[0]))
    tops = _read_tops(names, rows, payload_at, raw_at) if names else {}
    for path in paths:
        if path == ID_PATH:
            columns[path] = [id_value(id_at(row)) for row in rows]
        elif path[0] == ID_PATH[0]:  # an id has no parts
            columns[path] = [None] * len(rows)
        elif len(path) == 1:
            columns[path] = tops[path[0]]
        else:
            rest = tuple(steps(path[1:]))
            columns[path] = [descend(value, rest) for value in tops[path[0]]]
    return columns


def _read_tops(
    names: list[str], rows: list[int], payload_at: PayloadAt, raw_at: RawAt | None
) -> dict[str, list[object]]:
    if raw_at is None:
        payloads = [payload_at(row) or _NOTHING for row in rows]
        return {name: [payload.get(name) for payload in payloads] for name in names}
    decode = _partial_decoder(names)
    columns: dict[str, list[object]] = {name: [] for name in names}
    if len(names) == 1:
        # The common case, kept free of inner loops: one field over a whole segment.
        add = columns[names[0]].append
        for row in rows:
            raw = raw_at(row)
            add(None if raw is None else decode(raw).f0)
        return columns
    adders = [column.append for column in columns.values()]
    empty = (None,) * len(names)
    for row in rows:
        raw = raw_at(row)
        values = empty if raw is None else msgspec.structs.astuple(decode(raw))
        for add, value in zip(adders, values, strict=True):
            add(value)
    return columns


def _partial_decoder(names: list[str]) -> Callable[[bytes | memoryview], Any]:
    """Return a decoder of MessagePack maps into structs of these fields only.

    Attributes are called f0, f1, ... since a field may have any name.
    """
    fields: list[tuple[str, Any, Any]] = [(f"f{i}", Any, None) for i in range(len(names))]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    struct = msgspec.defstruct("Fields", fields, rename=rename, gc=False)
    partial = msgspec.msgpack.Decoder(struct).decode

    def decode(raw: bytes | memoryview) -> Any:
        try:
            return partial(raw)
        except msgspec.DecodeError:
            # Maps with keys that are no strings do not decode into structs.
            payload = _decode(raw)
            return struct(*[payload.get(name) for name in names])

    return decode
