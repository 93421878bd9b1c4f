"""Payload: any JSON object, kept as MessagePack bytes from the door to the disk and back.

NumPy scalars become Python numbers, datetimes ISO-8601 text, UUIDs text; anything else that JSON does not know raises.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import msgspec
import numpy as np

from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.limits import PAYLOAD_BYTES_MAX

Payload: TypeAlias = dict[str, Any]

EMPTY = b"\x80"


def encode_payload(payload: Mapping[str, Any] | None) -> bytes:
    """Return the bytes of a payload; None is the empty payload.

    Raises
    ------
    InvalidArgumentError : not a mapping with str keys, or a value that JSON does not know.
    LimitError : more than PAYLOAD_BYTES_MAX bytes.
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
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as fault:
        raise InvalidArgumentError(f"payload {_shorten(payload)}: {fault}") from None
    if len(raw) > PAYLOAD_BYTES_MAX:
        raise LimitError(f"payload has {len(raw)} bytes; the limit is {PAYLOAD_BYTES_MAX}")
    return raw


def decode_payload(raw: bytes | memoryview) -> Payload:
    """Return the payload of bytes made by `encode_payload`."""
    return _DECODER.decode(raw)


def _hook(value: object) -> object:
    if isinstance(value, np.generic):
        return cast("Any", value).item()
    if isinstance(value, np.ndarray):
        return cast("Any", value).tolist()
    raise InvalidArgumentError(
        f"value {value!r} of type {type(value).__name__} is not JSON; "
        "use str, int, float, bool, None, list or dict"
    )


def _iso(payload: object) -> object:
    """Turn datetimes into text, since MessagePack's timestamp would come back as another type."""
    if isinstance(payload, dt.datetime | dt.date):
        return payload.isoformat()
    if isinstance(payload, dict):
        return {k: _iso(v) for k, v in cast("dict[object, object]", payload).items()}
    if isinstance(payload, list | tuple):
        return [_iso(v) for v in cast("list[object]", payload)]
    return payload


class _PayloadEncoder:
    """msgspec's encoder; payloads with aware datetimes are rare and pay a second pass."""

    def __init__(self) -> None:
        self._fast = msgspec.msgpack.Encoder(enc_hook=_hook, decimal_format="number")

    def encode(self, payload: dict[str, Any]) -> bytes:
        for value in payload.values():
            if isinstance(value, dt.datetime | dict | list):
                return self._fast.encode(_iso(payload))
        return self._fast.encode(payload)


_ENCODER = _PayloadEncoder()
_DECODER: msgspec.msgpack.Decoder[Payload] = msgspec.msgpack.Decoder(dict[str, Any])


def _shorten(payload: object) -> str:
    text = repr(payload)
    return text if len(text) <= 80 else text[:77] + "..."
