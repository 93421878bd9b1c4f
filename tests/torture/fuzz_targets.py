"""What is fuzzed of our own: filters, files, records, cursors; where there are checksums, how to renew them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_parts import Target

import vicinal
from vicinal.engine.records import (
    LogRecord,
    Manifest,
    SegmentEntry,
    decode_log,
    decode_manifest,
    encode_log,
    encode_manifest,
    unpack_rows,
)
from vicinal.index import GraphIndex
from vicinal.model.filter import compile_filter, matches, parse
from vicinal.storage.archive import BLOCK_BYTES
from vicinal.storage.checksum import crc32c
from vicinal.storage.files import REAL
from vicinal.storage.frames import find_trap
from vicinal.storage.layout import open_database_dir
from vicinal.storage.mark import manifest_number, read_mark
from vicinal.storage.records import decode_records, encode_record, seq_key
from vicinal.storage.section_header import PRELUDE_BYTES
from vicinal.storage.sections import open_sections, write_sections

ROWS = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)
PAYLOADS: list[dict[str, Any]] = [
    {"year": 2020, "lang": "en", "tags": ["a", 1, None], "meta": {"n": 1.5}},
    {"at": "2020-01-01T00:00:00Z", "lang": None, "flag": True},
    {},
]


# ---------------------------------------------------------------------- filters

TEXTS = [
    "year >= 2020 and lang = 'en'",
    "not (a = 1 or b != 2.5e-3) and c in (1, 'x', true, null)",
    "tags contains 'a' and meta.n between -1 and 2 and lang like 'e%_'",
    "at > timestamp '2020-01-01T00:00:00+01:00' and x is not null",
    "id in (1, 'k', '12345678-1234-5678-1234-567812345678')",
]
_WORDS = (
    "( ) and or not in like between contains is null true false timestamp ' '' \" . , = != < <= > >= "
    "- 1 1e999 9223372036854775808 0.1 % _ \\ NaN id year `a b`"
)
WORDS = _WORDS.split()
DOCUMENTS: list[Any] = [
    {"year": {"$gte": 2020}, "lang": "en"},
    {"$or": [{"a": 1}, {"$not": {"b": {"$in": [1, "x", None]}}}], "c": {"$exists": True}},
    {"$and": [{"tags": {"$contains": "a"}}, {"meta.n": {"$between": [-1, 2]}}]},
    {"lang": {"$like": "e%"}, "x": {"$ne": None}},
]
_DOCUMENT_WORDS = (
    '{ } [ ] : , "$or" "$and" "$not" "$in" "$nin" "$gte" "$eq" "$ne" "$exists" "$like" "$between" '
    '"$contains" null true 1 1e999 "" {"$not": [[ 123456789012345678901234567890'
)
DOCUMENT_WORDS = _DOCUMENT_WORDS.split()


def _read_filter(text: str) -> None:
    where = parse(text)
    for payload in PAYLOADS:
        matches(where, payload, 1)
    again = parse(where.text)
    if again != where:
        raise RuntimeError(f"{text!r} means {where!r}, its text {where.text!r} means {again!r}")


def _read_document(raw: bytes, folder: Path) -> None:
    try:
        document = json.loads(raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return  # not ours to read
    where = compile_filter(document)
    if where is not None:
        for payload in PAYLOADS:
            matches(where, payload, 1)


# ---------------------------------------------------------------------- files of our own


def _as_file(folder: Path, raw: bytes) -> Path:
    path = folder / "input"
    path.write_bytes(raw)
    return path


def _section_corpus(folder: Path) -> list[bytes]:
    kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"a": np.arange(10), "b": ROWS}, {"dim": 8, "x": ["y", {"z": None}]}),
        ({"only": np.zeros(0, np.uint8)}, {}),
        ({f"s{i}": np.full((2, 3, 1), i, np.float16) for i in range(9)}, {"k": "v" * 300}),
    ]
    made: list[bytes] = []
    for arrays, meta in kinds:
        write_sections(folder / "sound", "k", arrays, meta)
        made.append((folder / "sound").read_bytes())
    return made


def _read_sections(raw: bytes, folder: Path) -> None:
    with open_sections(_as_file(folder, raw), "k") as sections:
        for name in sections.names:
            int(sections[name].astype(np.float64).size)


def _sign_sections(raw: bytes) -> bytes:
    made = bytearray(raw)
    if len(made) < PRELUDE_BYTES:
        return raw
    made[0:8] = b"VICSECT\0"
    made[16:24] = len(made).to_bytes(8, "little")
    region = int.from_bytes(made[12:16], "little")
    made[28:32] = crc32c(bytes(made[PRELUDE_BYTES : min(region, len(made))])).to_bytes(4, "little")
    made[32:36] = crc32c(bytes(made[:32])).to_bytes(4, "little")
    return bytes(made)


def _graph_corpus(folder: Path) -> list[bytes]:
    made: list[bytes] = []
    for n in (len(ROWS), 5):
        index = GraphIndex(dim=8, metric="l2", dtype="f32", M=8, ef_construction=40)
        if n > 5:
            index.build(ROWS, threads=1)
        else:
            index.append(ROWS[:n])
        index.save(folder / "sound", vectors=n == 5)
        made.append((folder / "sound").read_bytes())
    return made


def _read_graph(raw: bytes, folder: Path) -> None:
    path = _as_file(folder, raw)
    for vectors in (None, ROWS):
        for mapped in (True, False):
            try:
                index = GraphIndex.load(path, mmap=mapped, vectors=vectors)
            except vicinal.VicinalError:
                continue
            index.search(ROWS[0], k=3)
            index.close()


def _sign_graph(raw: bytes) -> bytes:
    """The header's checksum anew; how long the header is, a sound file tells."""
    made = bytearray(raw)
    if len(made) < GRAPH_HEADER_BYTES:
        return raw
    made[12:16] = bytes(4)
    made[12:16] = crc32c(bytes(made[:GRAPH_HEADER_BYTES])).to_bytes(4, "little")
    return bytes(made)


def _graph_header_bytes() -> int:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        raw = _graph_corpus(Path(folder))[0]
    stored = int.from_bytes(raw[12:16], "little")
    for size in range(64, 4096, 4):
        if crc32c(raw[:12] + bytes(4) + raw[16:size]) == stored:
            return size
    raise RuntimeError("the graph's header has another form than this fuzzer knows")


GRAPH_HEADER_BYTES = _graph_header_bytes()


# ---------------------------------------------------------------------- records of the store


def _log_corpus(folder: Path) -> list[bytes]:
    rows = np.arange(3, dtype="<u8").tobytes()
    records = [
        LogRecord(1, 5, [b"i" + bytes(8), b"sab"], memoryview(ROWS[:2].tobytes()), b"", b""),
        LogRecord(1, 0, [], memoryview(b""), rows, rows),
    ]
    return [encode_log(record) for record in records]


def _read_log(raw: bytes, folder: Path) -> None:
    record = decode_log(raw, "here")
    for packed in (record.killed, record.dirty):
        unpack_rows(packed)


def _manifest_corpus(folder: Path) -> list[bytes]:
    from pyroaring import BitMap

    dead = BitMap([1, 2, 70_000, 70_001]).serialize()
    entry = SegmentEntry(3, 100, 0, 99, dead, BitMap().serialize())
    return [encode_manifest(Manifest((entry, entry), 200, 4, 17)), encode_manifest(Manifest())]


def _read_manifest(raw: bytes, folder: Path) -> None:
    for entry in decode_manifest(raw, "here").segments:
        for bitmap in (entry.dead_rows("here"), entry.dirty_rows("here")):
            len(bitmap)


def _read_record(raw: bytes, folder: Path) -> None:
    decode_records([(seq_key(7), raw)], first=7, where="here")


def _sign_record(raw: bytes) -> bytes:
    return encode_record(7, raw[12:])


def _store_corpus(suffix: str) -> Callable[[Path], list[bytes]]:
    def corpus(folder: Path) -> list[bytes]:
        path = folder / "db"
        shutil.rmtree(path, ignore_errors=True)
        with vicinal.open(path) as db:
            docs = db.collection("c", dim=8)
            for i in range(5):
                docs.upsert(ids=[i], vectors=ROWS[:1], payload=[{"x": "y" * 100 * i}])
            store = path / "collections" / "c" / "store"
            return [file.read_bytes() for file in store.glob(suffix) if file.stat().st_size]

    return corpus


def _read_frames(raw: bytes, folder: Path) -> None:
    find_trap(REAL, _as_file(folder, raw))


def _read_mark(raw: bytes, folder: Path) -> None:
    (folder / "ACKED").write_bytes(raw)
    read_mark(REAL, folder)


def _read_current(raw: bytes, folder: Path) -> None:
    (folder / "CURRENT").write_bytes(raw)
    manifest_number(REAL, folder)


def _read_format(raw: bytes, folder: Path) -> None:
    place = folder / "format"
    place.mkdir(exist_ok=True)
    (place / "FORMAT").write_bytes(raw)
    open_database_dir(place, read_only=True).close()


# ---------------------------------------------------------------------- bundles


def _bundle(folder: Path, name: str) -> Path:
    target = folder / name
    if not target.exists():
        shutil.rmtree(folder / "db", ignore_errors=True)
        with vicinal.open(folder / "db") as db:
            docs = db.collection("c", dim=8)
            docs.upsert(ids=range(20), vectors=ROWS[:20])
            docs.optimize()
            db.backup(target)
    return target


def _read_backup(path: Path, folder: Path) -> None:
    target = folder / "restored"
    try:
        vicinal.restore(path, target)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _archive_corpus(folder: Path) -> list[bytes]:
    return [_bundle(folder, name).read_bytes() for name in ("a.tar", "a.tar.gz")]


def _read_archive(raw: bytes, folder: Path) -> None:
    path = folder / ("input.tar.gz" if raw[:2] == b"\x1f\x8b" else "input.tar")
    path.write_bytes(raw)
    _read_backup(path, folder)


def _sign_archive(raw: bytes) -> bytes:
    """Renew the checksum of whatever stands where a header may stand."""
    made = bytearray(raw)
    for at in range(0, len(made) - BLOCK_BYTES + 1, BLOCK_BYTES):
        if made[at + 257 : at + 262] == b"ustar" or at == 0:
            total = sum(made[at : at + 148]) + 8 * 32 + sum(made[at + 156 : at + BLOCK_BYTES])
            made[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(made)


def _bundle_manifest(folder: Path) -> list[bytes]:
    place = _bundle(folder, "folder")
    (manifest,) = [p for p in place.iterdir() if p.suffix == ".json"]
    (folder / "name").write_text(manifest.name)
    return [manifest.read_bytes()]


def _read_bundle_manifest(raw: bytes, folder: Path) -> None:
    place = folder / "folder"
    (place / (folder / "name").read_text()).write_bytes(raw)
    _read_backup(place, folder)


# ---------------------------------------------------------------------- what a caller hands back


class _Scrolling:
    """One open collection for the cursors."""

    collection: Any = None


def _cursor_corpus(folder: Path) -> list[bytes]:
    db = vicinal.open(folder / "scroll")
    _Scrolling.collection = docs = db.collection("c", dim=8)
    docs.upsert(ids=range(20), vectors=ROWS[:20], payload=[{"n": i} for i in range(20)])
    pages = [docs.scroll(limit=3), docs.scroll(limit=3, order_by="n")]
    return [str(page.cursor).encode() for page in pages]


def _read_cursor(raw: bytes, folder: Path) -> None:
    text = raw.decode("utf-8", "replace")
    for order in (None, "n"):
        try:
            _Scrolling.collection.scroll(limit=3, cursor=text, order_by=order)
        except vicinal.VicinalError:
            continue


OWN = [
    Target(
        "filter text",
        lambda folder: [t.encode() for t in TEXTS],
        lambda raw, folder: _read_filter(raw.decode("utf-8", "replace")),
        tokens=[f" {w} ".encode() for w in WORDS] + [w.encode() for w in WORDS],
    ),
    Target(
        "filter mapping",
        lambda folder: [json.dumps(d).encode() for d in DOCUMENTS],
        _read_document,
        tokens=[w.encode() for w in DOCUMENT_WORDS],
    ),
    Target("section file", _section_corpus, _read_sections, _sign_sections),
    Target("graph file", _graph_corpus, _read_graph, _sign_graph, reserves=True),
    Target("log record", _log_corpus, _read_log),
    Target("store record", lambda f: [encode_record(7, b"abc" * 9)], _read_record, _sign_record),
    Target("manifest", _manifest_corpus, _read_manifest),
    Target("log frames", _store_corpus("*.log"), _read_frames),
    Target("table list", _store_corpus("MANIFEST-*"), _read_frames),
    Target("mark", _store_corpus("ACKED"), _read_mark),
    Target("CURRENT", _store_corpus("CURRENT"), _read_current),
    Target("FORMAT", lambda f: [b'{"format": 1, "written_by": "0.1.0"}\n'], _read_format),
    Target("backup archive", _archive_corpus, _read_archive, _sign_archive),
    Target("backup manifest", _bundle_manifest, _read_bundle_manifest),
    Target("scroll cursor", _cursor_corpus, _read_cursor),
]
