"""Arrow Flight's messages: FlightData, and the record batches in it.

A FlightData is a protobuf message of four fields, written and read here by hand: its body, which is most of it, is
never copied on the way in, and lies in the message so that its values are aligned. What comes in is checked before
Arrow sees it: kinds, lengths, no compression (a small message could not be a large batch), then the arrays in full.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.flight

from vicinal.model.errors import InvalidArgumentError
from vicinal.wire.varint import read_varint, varint

pa: Any = pyarrow  # it has no types
flight: Any = pyarrow.flight

SERVICE = "arrow.flight.protocol.FlightService"
SCHEMA, DICTIONARY, BATCH = 1, 2, 3
"""What the header of a message says that it is."""

CONTINUATION = b"\xff\xff\xff\xff"
ALIGNMENT = 64
DESCRIPTOR_TAG, HEADER_TAG, METADATA_TAG, BODY_TAG = 0x0A, 0x12, 0x1A, (1000 << 3) | 2
DICTIONARY_VALUES_MAX = 1_000_000
_REFUSAL = "the message is no FlightData"


@dataclass(frozen=True, slots=True)
class FlightData:
    """One message of a stream; parts that are not there are empty."""

    descriptor: memoryview
    header: memoryview
    metadata: memoryview
    body: memoryview


def parse(message: bytes) -> FlightData:
    """The parts of a FlightData. Raises InvalidArgumentError where it is none."""
    view, at = memoryview(message), 0
    empty = view[:0]
    descriptor = header = metadata = body = empty
    while at < len(view):
        tag, at = read_varint(view, at, 35, _REFUSAL)
        if tag & 7 != 2:
            raise InvalidArgumentError(_REFUSAL)
        length, at = read_varint(view, at, 35, _REFUSAL)
        part, at = view[at : at + length], at + length
        if len(part) != length:
            raise InvalidArgumentError("the message is a FlightData that was cut short")
        if tag == DESCRIPTOR_TAG:
            descriptor = part
        elif tag == HEADER_TAG:
            header = part
        elif tag == METADATA_TAG:
            metadata = part
        elif tag == BODY_TAG:
            body = part
    return FlightData(descriptor, header, metadata, body)


def data_of(encapsulated: Any, descriptor: bytes = b"", metadata: bytes = b"") -> bytes:
    """The FlightData of an Arrow message (`schema.serialize()`, `batch.serialize()`); its body lies aligned.

    metadata : the application's, as JSON; blanks after it are what aligns the body.
    """
    view = memoryview(encapsulated)
    (length,) = struct.unpack_from("<i", view, 4)
    header, body = view[8 : 8 + length], view[8 + length :]
    parts: list[Any] = []
    if descriptor:
        parts += [varint(DESCRIPTOR_TAG), varint(len(descriptor)), descriptor]
    parts += [varint(HEADER_TAG), varint(length), header]
    if len(body):
        key = varint(BODY_TAG) + varint(len(body))
        before = sum(map(len, parts)) + 3 + len(metadata) + len(key)
        length = len(metadata) + -before % ALIGNMENT
        size = bytes((length & 0x7F | 0x80, length >> 7))  # of two bytes whatever the length
        parts += [varint(METADATA_TAG), size, metadata.ljust(length), key, body]
    elif metadata:
        parts += [varint(METADATA_TAG), varint(len(metadata)), metadata]
    return b"".join(parts)


def fields_of(*parts: bytes) -> bytes:
    """A message whose fields 1, 2, ... are these bytes or texts, such as PutResult and ActionType."""
    return b"".join(
        varint(number << 3 | 2) + varint(len(part)) + part for number, part in enumerate(parts, 1)
    )


def stream_of(schema: Any, batches: Iterator[Any], descriptor: bytes = b"") -> Iterator[bytes]:
    """The messages of a stream: its schema, then each batch."""
    yield data_of(schema.serialize(), descriptor)
    for batch in batches:
        yield data_of(batch.serialize())


class Inbound:
    """The record batches of a stream that comes in message by message. Used by one thread at a time."""

    def __init__(self) -> None:
        self._pieces = _Pieces()
        self._reader: Any = None
        self.metadata = b""
        """Of the last message that was taken: the application's."""

    def take(self, message: bytes) -> Any | None:
        """The record batch that a message completes; None for the schema, a dictionary or a message without data.

        Raises InvalidArgumentError where Arrow cannot read it, or it is compressed.
        """
        data = parse(message)
        self.metadata = bytes(data.metadata)
        if not len(data.header):
            return None
        kind, body_length, compressed = _header(data.header)
        if body_length != len(data.body):
            raise InvalidArgumentError(
                f"an Arrow message has a body of {len(data.body)} bytes, its header says {body_length}"
            )
        if compressed:
            raise InvalidArgumentError(
                "a record batch is compressed; send it without (IpcWriteOptions(compression=None))"
            )
        if kind not in (SCHEMA, DICTIONARY, BATCH) or (kind == SCHEMA) != (self._reader is None):
            raise InvalidArgumentError(
                "a stream is its schema, then dictionaries and record batches"
            )
        pad = bytes(-len(data.header) % 8)
        length = struct.pack("<i", len(data.header) + len(pad))
        self._pieces.add(CONTINUATION, length, bytes(data.header) + pad, data.body)
        try:
            if kind == SCHEMA:
                self._reader = pa.ipc.open_stream(pa.PythonFile(self._pieces, mode="r"))
                len(self._reader.schema.names)  # raises where one is not UTF-8
                return None
            if kind == DICTIONARY:
                return None  # the reader comes for it with the next batch
            batch = self._reader.read_next_batch()
            batch.validate(full=True)
            return batch
        except (pa.ArrowException, OSError, StopIteration, EOFError, UnicodeDecodeError) as fault:
            raise InvalidArgumentError(f"Arrow cannot read the stream: {fault}") from None


class _Pieces:
    """A file whose content comes in pieces, handed out as they lie."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []

    def add(self, *pieces: bytes | memoryview) -> None:
        """Append content."""
        self._pieces += [memoryview(piece) for piece in pieces if len(piece)]

    def read(self, size: int = -1) -> memoryview | bytes:
        """At most size bytes; as one view where they lie in one piece."""
        taken: list[memoryview] = []
        while size > 0 and self._pieces:
            first = self._pieces.pop(0)
            if len(first) > size:
                self._pieces.insert(0, first[size:])
                first = first[:size]
            taken.append(first)
            size -= len(first)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Forget what is left."""
        self._pieces.clear()


def _header(header: memoryview) -> tuple[int, int, bool]:
    """(kind, body length, whether the batch is compressed) of an Arrow message's flatbuffer."""
    try:
        message = _Table(header, struct.unpack_from("<I", header, 0)[0])
        kind = message.number(1, "<B")
        body_length = message.number(3, "<q")
        table = message.table(2)
        if kind == DICTIONARY and table is not None:
            table = table.table(1)
        compressed = kind != SCHEMA and table is not None and table.at(3) is not None
    except struct.error:
        raise InvalidArgumentError("a message's header is no Arrow message") from None
    return kind, body_length, compressed


class _Table:
    """A table of a flatbuffer, as far as it is looked into here. Raises struct.error where it leads outside."""

    def __init__(self, buffer: memoryview, start: int) -> None:
        self._buffer, self._start = buffer, start
        self._vtable = start - struct.unpack_from("<i", buffer, start)[0]
        if self._vtable < 0:
            raise struct.error("a vtable before the buffer")
        (self._size,) = struct.unpack_from("<H", buffer, self._vtable)

    def at(self, field: int) -> int | None:
        """Where a field lies; None where it is left out."""
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return None
        (offset,) = struct.unpack_from("<H", self._buffer, self._vtable + entry)
        return self._start + offset if offset else None

    def number(self, field: int, form: str) -> int:
        """A number; 0 where it is left out."""
        at = self.at(field)
        return 0 if at is None else int(struct.unpack_from(form, self._buffer, at)[0])

    def table(self, field: int) -> _Table | None:
        """A table."""
        at = self.at(field)
        if at is None:
            return None
        return _Table(self._buffer, at + struct.unpack_from("<I", self._buffer, at)[0])
