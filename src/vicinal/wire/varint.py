"""Numbers of protobuf: seven bits a byte, the lowest first, the eighth bit set in all but the last."""

from __future__ import annotations

from vicinal.model.errors import InvalidArgumentError


def read_varint(body: bytes | memoryview, at: int, bits: int, refusal: str) -> tuple[int, int]:
    """(the number at a place, the place behind it). Raises InvalidArgumentError, saying refusal, where it does not end
    within so many bits or within the body."""
    value = 0
    for shift in range(0, bits, 7):
        if at >= len(body):
            break
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise InvalidArgumentError(refusal)


def varint(value: int) -> bytes:
    """The bytes of a number of 0 or more."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
