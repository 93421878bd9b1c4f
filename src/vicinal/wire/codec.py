"""Bytes of messages, JSON or MessagePack, and the values in them that are not plain: ids, vectors, payloads.

JSON shows vectors as numbers and payloads as objects. MessagePack carries both as they are stored: no float is
printed, no payload decoded, between the disk and the client's first look at it. Both readers take either form.
"""

from __future__ import annotations

import datetime as dt
import math
import sys
import uuid
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt

from vicinal.model.clock import ExpiresAt, to_datetime
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import DimensionError, InvalidArgumentError, LimitError, invariant
from vicinal.model.ids import PointId
from vicinal.model.metric import VectorType
from vicinal.model.payload import decode_payload
from vicinal.wire.messages import (
    JSON_TYPE,
    MSGPACK_TYPE,
    NEVER,
    Time,
    UuidId,
    Vector,
    Vectors,
    WireId,
)

T = TypeVar("T")

invariant(sys.byteorder == "little", "vectors on the wire are little-endian, like this machine")


class Codec:
    """One encoding of messages. `JSON` and `MSGPACK` are the two there are."""

    def __init__(self, name: str, content_type: str) -> None:
        self.name = name
        self.content_type = content_type
        self._json = content_type == JSON_TYPE
        self._encode = msgspec.json.encode if self._json else msgspec.msgpack.encode

    def encode(self, message: Any) -> bytes:
        """The bytes of a message."""
        return self._encode(message)

    def decode(self, body: bytes | memoryview, kind: type[T]) -> T:
        """The message in a body; an empty body is the message without options.

        Raises InvalidArgumentError naming the place in the body, or LimitError where it is nested too deep.
        """
        try:
            return _decoder(kind, self._json).decode(body or (b"{}" if self._json else b"\x80"))
        except msgspec.MsgspecError as fault:
            raise InvalidArgumentError(f"request body: {fault}") from None
        except UnicodeDecodeError as fault:
            raise InvalidArgumentError(f"request body is not UTF-8: {fault.reason}") from None
        except RecursionError:
            raise LimitError(
                "request body is nested too deep; store the inner part as text"
            ) from None

    def load(self, raw: Any) -> Any:
        """The value of a payload in a request."""
        if not isinstance(raw, msgspec.Raw):
            return raw
        try:
            return msgspec.json.decode(raw) if self._json else msgspec.msgpack.decode(raw)
        except msgspec.MsgspecError as fault:
            raise InvalidArgumentError(f"payload: {fault}") from None
        except UnicodeDecodeError as fault:
            raise InvalidArgumentError(f"payload is not UTF-8: {fault.reason}") from None
        except RecursionError:
            raise LimitError("payload is nested too deep; store the inner part as text") from None

    def payload(self, raw: bytes) -> Any:
        """A stored payload as this encoding shows it."""
        return decode_payload(raw) if self._json else msgspec.Raw(raw)

    def vector(self, row: npt.NDArray[Any]) -> Vector:
        """A stored vector as this encoding shows it."""
        return cast("list[float]", row.tolist()) if self._json else row.tobytes()


JSON = Codec("json", JSON_TYPE)
MSGPACK = Codec("msgpack", MSGPACK_TYPE)


HEADERS_KEPT = 16
"""Values of a header that were looked at last; clients send few different ones."""

JSON_FIRST_MAX = b"\x7f"
"""A MessagePack object begins with a byte above; JSON text never does."""


def codec_by_look(body: bytes | memoryview) -> Codec:
    """The codec of a body that says by itself what it is: an object in MessagePack, or as JSON text."""
    return MSGPACK if bytes(body[:1]) > JSON_FIRST_MAX else JSON


@lru_cache(HEADERS_KEPT)
def codec_of(content_type: str | None) -> Codec:
    """The codec of a Content-Type or Accept header; JSON where there is none or any will do."""
    if content_type is None:
        return JSON
    kind = content_type.partition(";")[0].strip().lower()
    if kind in (JSON_TYPE, "*/*", ""):
        return JSON
    if kind in (MSGPACK_TYPE, "application/x-msgpack"):
        return MSGPACK
    raise InvalidArgumentError(
        f"content type {content_type!r} is not known; use {JSON_TYPE} or {MSGPACK_TYPE}"
    )


@lru_cache(HEADERS_KEPT)
def accepted(header: str | None, otherwise: Codec) -> Codec:
    """The codec that an Accept header asks for; `otherwise` where it names neither."""
    if header is None:
        return otherwise
    for part in header.lower().split(","):
        kind = part.partition(";")[0].strip()
        if kind == JSON_TYPE:
            return JSON
        if kind in (MSGPACK_TYPE, "application/x-msgpack"):
            return MSGPACK
    return otherwise


def to_wire_id(id_: PointId) -> WireId:
    """An id as messages hold it."""
    return UuidId(id_) if isinstance(id_, uuid.UUID) else id_


def from_wire_id(id_: WireId) -> PointId:
    """An id as users know it."""
    return id_.uuid if isinstance(id_, UuidId) else id_


def from_wire_ids(ids: Sequence[WireId]) -> list[PointId]:
    """Ids as users know them."""
    return [i.uuid if isinstance(i, UuidId) else i for i in ids]


def to_wire_time(expires_ms: int) -> Time:
    """An expiry as messages hold it."""
    when = to_datetime(expires_ms)
    return NEVER if when is None else when.isoformat()


def from_wire_time(time: Time) -> ExpiresAt:
    """An expiry as users give it; InvalidArgumentError where a text is no time."""
    if not isinstance(time, str):
        return time
    if time == NEVER:
        return math.inf
    try:
        return dt.datetime.fromisoformat(time)
    except ValueError:
        raise InvalidArgumentError(
            f"expires_at {time[:40]!r} is no time; give seconds since 1970, a text such as "
            f"'2030-01-31T12:00:00Z', or {NEVER!r}"
        ) from None


def stored_dtype(config: CollectionConfig, *, query: bool) -> np.dtype[np.generic]:
    """The dtype of vector bytes; queries of f16 collections are f32."""
    if query and config.dtype is VectorType.F16:
        return np.dtype(np.float32)
    return config.dtype.numpy


def one_vector(vector: Vector, config: CollectionConfig, *, query: bool = False) -> Any:
    """(columns,) array of bytes, or the numbers as they came."""
    if not isinstance(vector, bytes):
        return vector
    return _from_bytes(vector, config, query=query).reshape(-1)


def many_vectors(vectors: Vectors, config: CollectionConfig, *, query: bool = False) -> Any:
    """(n, columns) array of bytes, or the lists as they came. DimensionError where bytes do not make whole rows."""
    if not isinstance(vectors, bytes):
        return vectors
    flat = _from_bytes(vectors, config, query=query)
    if len(flat) % config.columns:
        raise DimensionError(
            f"vectors have {len(vectors)} bytes, which are not whole rows of "
            f"{config.columns * flat.dtype.itemsize} bytes ({config.columns} x {flat.dtype})"
        )
    return flat.reshape(-1, config.columns)


def _from_bytes(raw: bytes, config: CollectionConfig, *, query: bool) -> npt.NDArray[Any]:
    dtype = stored_dtype(config, query=query)
    if len(raw) % dtype.itemsize:
        raise DimensionError(
            f"vector has {len(raw)} bytes, which is not a whole number of {dtype} values"
        )
    return np.frombuffer(raw, dtype)


@lru_cache(maxsize=256)
def _decoder(kind: Any, is_json: bool) -> Any:
    return msgspec.json.Decoder(kind) if is_json else msgspec.msgpack.Decoder(kind)
