"""Point ids: str, 64-bit int or UUID, kept as given, and their order-preserving key bytes.

A key is one tag byte and a body: `i` and eight big-endian bytes with the sign bit flipped, `s` and UTF-8, `u` and
the sixteen bytes of the UUID. Different ids have different keys, and the int 1 is not the string "1".
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from vicinal.model.errors import DuplicateIdError, InvalidArgumentError, LimitError
from vicinal.model.limits import ID_BYTES_MAX, INT_ID_MAX, INT_ID_MIN

PointId: TypeAlias = str | int | uuid.UUID

_SIGN = 1 << 63
_PACK_INT = struct.Struct(">cQ")


def encode_id(id_: object) -> bytes:
    """Return the key of one id.

    Raises
    ------
    InvalidArgumentError : not a str, int or UUID, or an int outside 64 bits.
    LimitError : a string of more than ID_BYTES_MAX bytes, or an empty one.
    """
    kind = type(id_)
    if kind is str:
        return _encode_str(cast("str", id_))
    if kind is int:
        return _encode_int(cast("int", id_))
    if isinstance(id_, uuid.UUID):
        return b"u" + id_.bytes
    if isinstance(id_, np.integer):
        return _encode_int(int(cast("Any", id_)))
    if isinstance(id_, str):
        return _encode_str(str(id_))
    if isinstance(id_, int) and not isinstance(id_, bool):
        return _encode_int(int(id_))
    raise InvalidArgumentError(
        f"id {id_!r} is of type {type(id_).__name__}; an id is a str, a 64-bit int or a uuid.UUID"
    )


def decode_id(key: bytes | memoryview) -> PointId:
    """Return the id of a key made by `encode_id`."""
    tag = key[0]
    if tag == 0x69:
        return int.from_bytes(key[1:], "big") - _SIGN
    if tag == 0x73:
        return str(key[1:], "utf-8")
    return uuid.UUID(bytes=bytes(key[1:]))


def encode_ids(ids: Iterable[object]) -> list[bytes]:
    """Return the keys of ids, in order; an id that stands twice raises DuplicateIdError."""
    if isinstance(ids, np.ndarray) and cast("npt.NDArray[Any]", ids).dtype.kind in "iu":
        keys = _encode_int_array(cast("npt.NDArray[np.int64]", ids))
    elif isinstance(ids, range):
        keys = _encode_int_array(np.arange(ids.start, ids.stop, ids.step, dtype=np.int64))
    else:
        keys = [encode_id(i) for i in ids]
    if len(set(keys)) != len(keys):
        seen: set[bytes] = set()
        for key in keys:
            if key in seen:
                raise DuplicateIdError(
                    f"id {decode_id(key)!r} stands more than once in the batch; a batch holds each id once"
                )
            seen.add(key)
    return keys


class IdColumn:
    """The ids of consecutive rows: an int64 array where all are ints, else keys and their offsets.

    Rows are never changed after they were written, so readers need no lock.
    """

    __slots__ = ("_blob", "_ints", "_offsets")

    def __init__(
        self,
        *,
        ints: npt.NDArray[np.int64] | None = None,
        offsets: npt.NDArray[np.uint64] | None = None,
        blob: npt.NDArray[np.uint8] | bytes | None = None,
    ) -> None:
        self._ints = ints
        self._offsets = offsets
        self._blob = memoryview(cast("Any", blob)) if blob is not None else None

    @classmethod
    def from_keys(cls, keys: Sequence[bytes]) -> IdColumn:
        """Pack keys; the compact form is used where every key is an int's."""
        if all(key[0] == 0x69 for key in keys):
            raw = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 9)[:, 1:]
            values = np.ascontiguousarray(raw).view(">u8").reshape(-1).astype(np.uint64)
            return cls(ints=(values ^ np.uint64(_SIGN)).view(np.int64))
        offsets = np.zeros(len(keys) + 1, np.uint64)
        np.cumsum([len(k) for k in keys], out=offsets[1:])
        return cls(offsets=offsets, blob=b"".join(keys))

    @classmethod
    def from_sections(cls, sections: dict[str, npt.NDArray[Any]]) -> IdColumn:
        """Rebuild from what `sections` returned."""
        if "ints" in sections:
            return cls(ints=sections["ints"])
        return cls(offsets=sections["offsets"], blob=sections["blob"])

    def sections(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays to store: {"ints"} or {"offsets", "blob"}."""
        if self._ints is not None:
            return {"ints": self._ints}
        if self._offsets is None or self._blob is None:
            return {"ints": np.empty(0, np.int64)}
        return {"offsets": self._offsets, "blob": np.frombuffer(self._blob, np.uint8)}

    def __len__(self) -> int:
        if self._ints is not None:
            return len(self._ints)
        return len(self._offsets) - 1 if self._offsets is not None else 0

    @property
    def ints(self) -> npt.NDArray[np.int64] | None:
        """(n,) the ids, where all are ints."""
        return self._ints

    @property
    def all_ints(self) -> bool:
        """Whether `take_ints` may be called."""
        return self._ints is not None

    def take_ints(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Ids of rows, any shape, as int64; only where all_ints."""
        if self._ints is None:
            raise InvalidArgumentError("this column holds ids that are not ints")
        return self._ints[rows]

    def take(self, rows: Iterable[int]) -> list[PointId]:
        """Ids of rows as Python values."""
        if self._ints is not None:
            ints = self._ints
            return [int(ints[row]) for row in rows]
        return [decode_id(key) for key in self.keys(rows)]

    def keys(self, rows: Iterable[int]) -> list[bytes]:
        """Keys of rows."""
        if self._ints is not None:
            ints = self._ints
            return [_encode_int(int(ints[row])) for row in rows]
        offsets, blob = self._offsets, self._blob
        if offsets is None or blob is None:
            return []
        return [bytes(blob[int(offsets[row]) : int(offsets[row + 1])]) for row in rows]


def _encode_int(value: int) -> bytes:
    if not INT_ID_MIN <= value <= INT_ID_MAX:
        raise InvalidArgumentError(f"id {value} does not fit 64 bits; use a str id")
    return _PACK_INT.pack(b"i", value + _SIGN)


def _encode_str(value: str) -> bytes:
    try:
        body = value.encode("utf-8")
    except UnicodeEncodeError as fault:
        raise InvalidArgumentError(f"id {value!r} is not valid Unicode: {fault.reason}") from None
    if not 0 < len(body) <= ID_BYTES_MAX:
        raise LimitError(
            f"a str id has 1 to {ID_BYTES_MAX} bytes in UTF-8; this one has {len(body)}"
        )
    return b"s" + body


def _encode_int_array(values: npt.NDArray[np.int64]) -> list[bytes]:
    if values.dtype == np.uint64 and len(values) and int(values.max()) > INT_ID_MAX:
        raise InvalidArgumentError(f"id {int(values.max())} does not fit 64 bits; use a str id")
    flat = np.ascontiguousarray(values, dtype=np.int64).reshape(-1)
    packed = np.empty((len(flat), 9), np.uint8)
    packed[:, 0] = 0x69
    packed[:, 1:] = (
        (flat.view(np.uint64) ^ np.uint64(_SIGN)).astype(">u8").view(np.uint8).reshape(-1, 8)
    )
    raw = packed.tobytes()
    return [raw[i : i + 9] for i in range(0, len(raw), 9)]
