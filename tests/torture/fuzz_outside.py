"""What is fuzzed of that which comes from outside: messages of clients, and files that are imported."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from fuzz_parts import Target

from vicinal.cli.formats import ReadOptions, Rows, Shape, open_reader, open_writer
from vicinal.cli.formats.rows import check_batch, last_of_each
from vicinal.model.errors import VicinalError
from vicinal.wire import messages as m
from vicinal.wire.arrow import Inbound, pa, stream_of
from vicinal.wire.codec import JSON, MSGPACK, Codec
from vicinal.wire.commands import read_command, read_request
from vicinal.wire.compression import STEP_BYTES, Unpacker, pack
from vicinal.wire.operations import OPERATIONS
from vicinal.wire.protobuf import PROTO, collection_of, encode_request

ROWS = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
SEARCH: dict[str, Any] = {"vector": [0.5] * 8, "k": 3, "where": {"year": {"$gte": 2020}}}
UPSERT: dict[str, Any] = {
    "points": [{"id": i, "vector": [1.5] * 8, "payload": {"t": "x" * i}} for i in range(3)]
}
KINDS = {o.request.__name__: o.request for o in OPERATIONS if o.request is not m.Empty}
UNPACKED_MAX = 32 * STEP_BYTES


# ---------------------------------------------------------------------- messages


def _sound(codec: Codec) -> list[bytes]:
    return [codec.encode(value) for value in (SEARCH, UPSERT, {"ids": ["a", 1]}, {})]


def _reader_of(codec: Codec) -> Callable[[bytes, Path], object]:
    def read(raw: bytes, folder: Path) -> None:
        for kind in KINDS.values():
            try:
                message = codec.decode(raw, kind)
            except VicinalError:
                continue
            for point in getattr(message, "points", None) or []:
                codec.load(point.payload)

    return read


def _proto_corpus(folder: Path) -> list[bytes]:
    search = m.Search(vector=ROWS[0].tobytes(), k=3, where="year >= 2020")
    points = [m.NewPoint(i, ROWS[i].tobytes(), msgspec.Raw(b"{}")) for i in range(3)]
    requests = {"search": search, "upsert": m.Upsert(points=points)}
    return [encode_request(o, "c", requests[o.name]) for o in OPERATIONS if o.name in requests]


def _read_proto(raw: bytes, folder: Path) -> None:
    try:
        collection_of(raw)
    finally:
        _reader_of(PROTO)(raw, folder)


def _command_corpus(folder: Path) -> list[bytes]:
    command = {"operation": "search", "collection": "c", "request": SEARCH}
    return [JSON.encode(command), MSGPACK.encode(command)]


def _read_command(raw: bytes, folder: Path) -> None:
    command, codec = read_command(raw)
    for kind in KINDS.values():
        try:
            read_request(command, codec, kind)
        except VicinalError:
            continue


def _arrow_table() -> Any:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 8)
    words = pa.array(["one", "two"] * 20).dictionary_encode()
    return pa.record_batch([pa.array(range(40)), vectors, words], names=["id", "vector", "word"])


def _joined(messages: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in messages)


def _flight_corpus(folder: Path) -> list[bytes]:
    batch = _arrow_table()
    plain = batch.select(["id", "vector"])
    return [_joined(list(stream_of(b.schema, iter([b])))) for b in (plain, plain.slice(1, 3))]


def _read_flight(raw: bytes, folder: Path) -> None:
    inbound, at = Inbound(), 0
    while at + 4 <= len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        batch = inbound.take(raw[at + 4 : at + 4 + length])
        at += 4 + length
        if batch is not None:
            batch.to_pylist()


def _read_packed(raw: bytes, folder: Path) -> None:
    unpacker, size = Unpacker(raw), 0
    while (part := unpacker.step()) and size < UNPACKED_MAX:
        if len(part) > STEP_BYTES:
            raise RuntimeError(f"a step of {len(part)} bytes")
        size += len(part)


# ---------------------------------------------------------------------- files


def _file_corpus(suffix: str) -> Callable[[Path], list[bytes]]:
    def corpus(folder: Path) -> list[bytes]:
        made: list[bytes] = []
        for n in (len(ROWS), 2):
            fields = {"year": "int", "tags": "list:string"}
            shape = Shape(8, "cosine", "f32", n, fields, id_kind="mixed")
            writer = open_writer(folder / f"sound{suffix}", None, shape)
            payloads: list[dict[str, Any]] = [
                {"year": i, "tags": ["a"], "more": {"x": [None, 1.5]}} for i in range(n)
            ]
            writer.write(Rows(1, [*range(n - 1), "last"], ROWS[:n], payloads))
            for path in writer.finish():
                if path.suffix == suffix:
                    made.append(path.read_bytes())
        return made

    return corpus


def _read_file(suffix: str) -> Callable[[bytes, Path], object]:
    shape = Shape(8, "cosine", "f32")

    def read(raw: bytes, folder: Path) -> None:
        path = folder / f"input{suffix}"
        path.unlink(missing_ok=True)  # a reader may have mapped the last one
        path.write_bytes(raw)
        reader = open_reader(path, None, ReadOptions(batch_size=16))
        for rows in reader.batches():
            check_batch(rows, reader, path, shape)
            last_of_each(rows)

    return read


def _read_ids(raw: bytes, folder: Path) -> None:
    np.save(folder / "matrix.npy", ROWS)
    path = folder / "ids.txt"
    path.write_bytes(raw)
    for _ in open_reader(folder / "matrix.npy", None, ReadOptions(ids=path)).batches():
        pass


_WORDS = (
    '{ } [ ] : , "id" "vector" "points" "vectors" "k" null true NaN 1e999 -1 {"$uuid":"x"} "ids"'
)
_TOKENS = [word.encode() for word in _WORDS.split()]

OUTSIDE = [
    Target("request, JSON", lambda f: _sound(JSON), _reader_of(JSON), tokens=_TOKENS),
    Target("request, MessagePack", lambda f: _sound(MSGPACK), _reader_of(MSGPACK)),
    Target("request, protobuf", _proto_corpus, _read_proto),
    Target("Flight command", _command_corpus, _read_command, tokens=_TOKENS),
    Target("Flight stream", _flight_corpus, _read_flight),
    Target(
        "gzip body", lambda f: [pack(b"abc" * 999), pack(json.dumps(UPSERT).encode())], _read_packed
    ),
    Target("import .jsonl", _file_corpus(".jsonl"), _read_file(".jsonl"), tokens=_TOKENS),
    Target("import .npy", _file_corpus(".npy"), _read_file(".npy")),
    Target("import .arrow", _file_corpus(".arrow"), _read_file(".arrow")),
    Target("import .parquet", _file_corpus(".parquet"), _read_file(".parquet")),
    Target("import --ids .txt", lambda f: [b"\n".join(b"%d" % i for i in range(40))], _read_ids),
]
