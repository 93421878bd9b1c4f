"""A small database with one of everything, and what it has to answer; `python tests/compat/golden.py FILE` keeps it.

FILE.b64 is the directory as a packed archive in text, FILE.json the answers of the version that wrote it. A release
that changes a format adds a pair, and none ever goes: tests/compat/test_golden.py opens them all. So `answers` asks
only for what every version has; what is newer is another function's.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import vicinal

DIM, N = 8, 400
LEFT_OUT = ("LOG", "LOCK", "RESERVE")
"""RocksDB's diary, who had it open, and the reserve of free space: made anew by whoever opens it."""

FAR_S = 4_000_000_000
"""Seconds since the epoch, in the year 2096: nothing expires while we look."""

WHERE = "year >= 2010 and lang = 'en'"


def vectors(n: int, seed: int) -> np.ndarray:
    """(n, DIM) float32, the same everywhere."""
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def write(folder: Path) -> None:
    """Collections of several types; a sealed segment with a graph, a tail, updates, deletes, expiry, a snapshot."""
    with vicinal.open(folder) as db:
        docs = db.collection("docs", dim=DIM, metric="cosine", M=8, ef_construction=40)
        payload = [{"year": 2000 + i % 20, "lang": ("en", "de")[i % 2], "n": i} for i in range(N)]
        docs.upsert(ids=range(N), vectors=vectors(N, 1), payload=payload)
        docs.optimize()
        docs.update([1, 2, 3], {"lang": "fr"})
        docs.delete(range(10, 20))
        docs.upsert(
            ids=["text", 5], vectors=vectors(2, 2), payload=[{"year": 2020}, {"year": 1999}]
        )
        docs.upsert(ids=[7], vectors=vectors(1, 3), expires_at=FAR_S)
        for dtype, metric in (("f16", "ip"), ("i8", "l2"), ("bit", "hamming")):
            few = db.collection(dtype, dim=DIM, metric=metric, dtype=dtype)
            rows: Any = (vectors(50, 4) * 20).round().clip(-128, 127).astype(np.int8)
            if dtype == "f16":
                rows = vectors(50, 4).astype(np.float16)
            if dtype == "bit":
                rows = np.packbits(vectors(50, 4) > 0, axis=1)
            few.upsert(ids=range(50), vectors=rows)
        db.snapshot("kept")


def answers(folder: Path) -> dict[str, Any]:
    """What a reader sees."""
    with vicinal.open(folder, read_only=True) as db:
        docs = db.collection("docs")
        told: dict[str, Any] = {
            "collections": db.collections(),
            "snapshots": [s.name for s in db.snapshots()],
        }
        told["counts"] = {name: db.collection(name).count() for name in db.collections()}
        told["matches"] = docs.count(WHERE)
        told["points"] = [
            None if p is None else [p.id, p.payload, p.version]
            for p in docs.get([0, 1, 5, 7, 15, "text"])
        ]
        for name, options in (
            ("exact", {"exact": True}),
            ("filtered", {"exact": True, "where": WHERE}),
        ):
            told[name] = [docs.search(q, k=5, **options).ids.tolist() for q in vectors(5, 9)]
        told["vector"] = docs.get([3], with_vectors=True)[0].vector.tolist()  # type: ignore[union-attr]
        for name in ("f16", "i8", "bit"):
            few = db.collection(name)
            query = few.get([17], with_vectors=True)[0].vector  # type: ignore[union-attr]
            told[f"nearest of {name}"] = few.search(query, k=3, exact=True).ids.tolist()
        return told


def pack(folder: Path) -> str:
    """A directory as text."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:xz") as archive:
        archive.add(
            folder, ".", filter=lambda info: None if Path(info.name).name in LEFT_OUT else info
        )
    return base64.encodebytes(raw.getvalue()).decode()


def _packed(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return None if Path(info.name).name in LEFT_OUT else info


def unpack(text: str, folder: Path) -> None:
    """Undo `pack`."""
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:xz") as archive:
        archive.extractall(folder, filter="data")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "db")
        found = answers(Path(place) / "db")
        target = Path(sys.argv[1])
        target.with_suffix(".b64").write_text(pack(Path(place) / "db"))
        target.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
