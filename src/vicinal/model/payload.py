"""Payload: any JSON object, kept as MessagePack bytes from the door to the disk and back.

NumPy scalars become Python numbers, datetimes ISO-8601 text, UUIDs text; anything else that JSON does not know raises.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias, cast
from uuid import UUID

import msgspec
import numpy as np

from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.limits import PAYLOAD_BYTES_MAX, PAYLOAD_DEPTH_MAX

Payload: TypeAlias = dict[str, Any]

EMPTY = b"\x80"


def encode_payload(payload: Mapping[str, Any] | None) -> bytes:
    """Return the bytes of a payload; None is the empty payload.

    Raises
    ------
    InvalidArgumentError : not a mapping with str keys, or a value that JSON does not know.
    LimitError : more than PAYLOAD_BYTES_MAX bytes, or nested more than PAYLOAD_DEPTH_MAX deep.
    """
    if payload is None:
        return EMPTY
    if not isinstance(payload, dict):
        if not isinstance(cast("object", payload), Mapping):
            raise InvalidArgumentError(
                f"payload is of type {type(payload).__name__}; a payload is a dict of JSON values"
            )
        payload = dict(payload)
    for key in payload:
        if type(key) is not str and not isinstance(cast("object", key), str):
            raise InvalidArgumentError(f"payload key {key!r} is not a str")
    try:
        raw = _ENCODER.encode(payload)
    except InvalidArgumentError:
        raise
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as fault:
        raise InvalidArgumentError(f"payload {_shorten(payload)}: {fault}") from None
    if len(raw) > PAYLOAD_BYTES_MAX:
        raise LimitError(f"payload has {len(raw)} bytes; the limit is {PAYLOAD_BYTES_MAX}")
    return raw


def decode_payload(raw: bytes | memoryview) -> Payload:
    """Return the payload of bytes made by `encode_payload`."""
    return _DECODER.decode(raw)


def _plain(value: object, depth: int) -> object:
    """Return value in the types of JSON, or raise; MessagePack itself would take more than JSON knows."""
    if depth > PAYLOAD_DEPTH_MAX:
        raise LimitError(
            f"payload is nested more than {PAYLOAD_DEPTH_MAX} deep; store the inner part as text"
        )
    if value is None or isinstance(value, str | bool | int | float | Decimal):
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        for key, _ in items:
            if not isinstance(key, str):
                raise InvalidArgumentError(f"payload key {key!r} is not a str")
        return {key: _plain(inner, depth + 1) for key, inner in items}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in cast("Sequence[object]", value)]
    if isinstance(value, np.generic | np.ndarray):
        plain = cast("Any", value).tolist()
        if not isinstance(plain, np.generic):
            return _plain(plain, depth)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    other = cast("object", value)
    raise InvalidArgumentError(
        f"value {_shorten(other)} of type {type(other).__name__} is not JSON; "
        "use str, int, float, bool, None, list or dict"
    )


class _PayloadEncoder:
    """msgspec's encoder. A payload of plain values goes straight to it, others are made plain first."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder(decimal_format="number").encode

    def encode(self, payload: dict[str, Any]) -> bytes:
        for value in payload.values():
            if type(value) not in _SCALARS:
                return self._encode(_plain(payload, 0))
        return self._encode(payload)


_SCALARS = frozenset({str, int, float, bool, type(None)})
_ENCODER = _PayloadEncoder()
_DECODER: msgspec.msgpack.Decoder[Payload] = msgspec.msgpack.Decoder(dict[str, Any])


def _shorten(payload: object) -> str:
    text = repr(payload)
    return text if len(text) <= 80 else text[:77] + "..."
