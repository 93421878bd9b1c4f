"""The doctor finds each kind of damage, says what it is, mends what is derived, and touches nothing else."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model import state_hash

import vicinal
from vicinal.engine.collection import CONFIG_KEY
from vicinal.engine.doctor import examine
from vicinal.engine.doctor_checks import unreachable
from vicinal.engine.expiry import due_key
from vicinal.engine.maintenance import MANIFEST_KEY
from vicinal.engine.records import POINT_HEADER, Manifest, decode_manifest, encode_manifest
from vicinal.model.findings import Finding, Level
from vicinal.model.ids import encode_id
from vicinal.storage.sections import open_sections, write_sections
from vicinal.storage.store import Store

COMMAND = Path(sys.executable).with_name("vicinal")
N = 1_500
ROWS = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)
FAR = 4_000_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """One collection with everything: a segment with a graph, dead and changed rows, a log, times, a snapshot."""
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("c", dim=8, metric="l2")
        docs.upsert(ids=range(N), vectors=ROWS, payload=[{"n": i} for i in range(N)])
        docs.optimize()
        docs.delete(range(40))
        docs.update([100, 101], {"late": True})
        docs.upsert(ids=["x", "y", 200], vectors=ROWS[:3], expires_at=[FAR, None, FAR])
        docs.upsert(ids=["gone"], vectors=ROWS[:1], expires_at=1.0)
        db.collection("other", dim=2).upsert([{"id": 1, "vector": [1, 2]}])
        db.snapshot("s")
    return tmp_path / "db"


def tree(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in path.rglob("*")
        if p.is_file()
    }


def file_of(path: Path, name: str) -> Path:
    (found,) = (path / "collections" / "c" / "segments").glob(f"*/{name}")
    return found


def hash_of(path: Path) -> str:
    with vicinal.open(path, read_only=True) as db:
        return state_hash(db.collection("c"))


def test_a_healthy_database_has_no_findings_and_is_not_touched(path: Path) -> None:
    before = tree(path)
    said: list[str] = []
    report = examine(path, tell=said.append)
    assert report.findings == ()
    assert report.healthy
    assert report.collections == {"c": N - 38, "other": 1}
    assert said == [
        "examining collection 'c'",
        "examining collection 'other'",
        "examining snapshot 's'",
    ]
    assert tree(path) == before


def test_the_doctor_works_beside_a_writer_and_a_repair_does_not(path: Path) -> None:
    with vicinal.open(path) as db:
        db.collection("c").upsert(ids=["new"], vectors=ROWS[:1])
        report = examine(path)
        assert report.healthy
        assert report.collections["c"] == N - 37
        with pytest.raises(vicinal.LockedError, match="pid"):
            examine(path, repair=True)
    assert examine(path, repair=True).healthy


def rewrite(file: Path, kind: str, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Write a section file anew, with right checksums and another content."""
    with open_sections(file, kind) as sections:
        arrays = {name: np.array(sections[name]) for name in sections.names}
        meta = sections.meta
    change(arrays)
    write_sections(file, kind, arrays, meta)


def in_store(path: Path, change: Callable[[Store], Any]) -> None:
    with Store.open(path / "collections" / "c" / "store") as store:
        change(store)


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    # Not in place: a snapshot may hold the same file under another name.
    file.with_name("damaged").write_bytes(raw)
    file.with_name("damaged").replace(file)


def other_payload(arrays: dict[str, np.ndarray]) -> None:
    place = int(arrays["offsets"][500])
    arrays["blob"][place + 4] ^= 1


def remove_due(store: Store) -> None:
    key, _ = list(store.scan_due())[-1]
    store.write(due=[(key, None), (due_key(5, 3), encode_id("nobody"))])


DERIVED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "graph": (lambda path: flip(file_of(path, "graph.bin")), "graph.bin"),
    "no graph": (lambda path: file_of(path, "graph.bin").unlink(), "graph.bin"),
    "payload": (lambda path: flip(file_of(path, "payload.bin")), "payload.bin"),
    "other payload": (
        lambda path: rewrite(file_of(path, "payload.bin"), "payload", other_payload),
        "payloads differ from the store's: 500",
    ),
    "due": (lambda path: in_store(path, remove_due), "index of what is due"),
    "stray due": (lambda path: in_store(path, remove_due), "entries of what is due"),
}


@pytest.mark.parametrize("case", DERIVED)
def test_derived_damage_is_found_and_mended(path: Path, case: str) -> None:
    damage, words = DERIVED[case]
    healthy = hash_of(path)
    damage(path)
    before = tree(path)
    report = examine(path)
    assert tree(path) == before
    assert not report.healthy
    found = [f for f in report.findings if words in f"{f.place} {f.what}"]
    assert [(f.level, f.collection, f.mended) for f in found] == [(Level.DERIVED, "c", False)]
    assert "--repair" in found[0].remedy
    mended = examine(path, repair=True)
    assert mended.healthy
    assert all(f.mended for f in mended.findings if f.level is Level.DERIVED)
    assert any(f.mended for f in mended.findings)
    assert [f for f in examine(path).findings if f.level is not Level.NOTE] == []
    assert hash_of(path) == healthy


def swap_ids(arrays: dict[str, np.ndarray]) -> None:
    ints = next(a for name, a in arrays.items() if name != "rows" and len(a) >= N)
    ints[[300, 301]] = ints[[301, 300]]


def set_manifest(store: Store, change: Callable[[Manifest], Manifest]) -> None:
    raw = store.get_meta(MANIFEST_KEY)
    assert raw is not None
    store.write(meta={MANIFEST_KEY: encode_manifest(change(decode_manifest(raw, "test")))})


def put_point(row: int, key: bytes, version: int = 1) -> Callable[[Path], Any]:
    record = POINT_HEADER.pack(row, version, 0) + b"\x80"
    return lambda path: in_store(path, lambda store: store.write(points=[(key, record)]))


def nan(arrays: dict[str, np.ndarray]) -> None:
    arrays["vectors"][7, 3] = np.nan


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "vectors": (lambda path: flip(file_of(path, "vectors.bin")), "vectors.bin"),
    "rows": (lambda path: flip(file_of(path, "rows.bin")), "rows.bin"),
    "nan": (
        lambda path: rewrite(file_of(path, "vectors.bin"), "vectors", nan),
        "1 vectors hold NaN",
    ),
    "swapped ids": (
        lambda path: rewrite(file_of(path, "rows.bin"), "rows", swap_ids),
        "2 ids whose row belongs to another id",
    ),
    "lost id": (
        lambda path: in_store(path, lambda s: s.write(points=[(encode_id(700), None)])),
        "1 rows are alive and no id leads to them: 700",
    ),
    "no row": (
        put_point(10**6, encode_id("ghost")),
        "whose row no segment and no log record holds: 'ghost'",
    ),
    "dead row": (put_point(3, encode_id(3)), "ids whose row is dead: 3"),
    "version": (put_point(701, encode_id(701), 0), "points of version 0: 701"),
    "manifest ahead": (
        lambda path: in_store(
            path,
            lambda s: set_manifest(
                s, lambda m: Manifest(m.segments, m.next_row, m.next_segment, 99)
            ),
        ),
        "the manifest is of log record 99",
    ),
    "no manifest": (
        lambda path: in_store(path, lambda s: s.write(meta={MANIFEST_KEY: b"\xc1"})),
        "manifest does not decode",
    ),
    "configuration": (
        lambda path: in_store(path, lambda s: s.write(meta={CONFIG_KEY: b"\xc1"})),
        "configuration",
    ),
    "current": (lambda path: (path / "collections/c/store/CURRENT").unlink(), "CURRENT is missing"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_to_primary_data_is_named_and_never_mended_away(path: Path, case: str) -> None:
    damage, words = DAMAGE[case]
    damage(path)
    for repair in (False, True):
        kept = tree(path / "collections" / "c" / "segments")
        report = examine(path, repair=repair)
        found = [f for f in report.findings if words in f"{f.place} {f.what}"]
        assert [(f.level, f.collection, f.mended) for f in found] == [(Level.DAMAGE, "c", False)]
        assert "backup or snapshot" in found[0].remedy
        assert not report.healthy
        assert report.collections["other"] == 1
        assert kept.items() <= tree(path / "collections" / "c" / "segments").items() or repair


def test_a_damaged_snapshot_is_found(path: Path) -> None:
    flip(next((path / "snapshots" / "s").glob("*.sst")))
    (finding,) = examine(path, repair=True).findings
    assert (finding.level, finding.place) == (Level.DAMAGE, "snapshots/s")
    assert "take another" in finding.remedy


def test_leftovers_are_notes(path: Path) -> None:
    collection = path / "collections" / "c"
    (collection / "segments" / "77.tmp").mkdir()
    (collection / "store" / "KEPT_WAL").mkdir()
    file_of(path, "graph.bin").with_name("graph.bin.damaged").write_bytes(b"x")
    (path / "collections" / "half").mkdir()
    report = examine(path)
    assert report.healthy
    assert {f.level for f in report.findings} == {Level.NOTE}
    assert {f.place for f in report.findings} == {
        "segments/77.tmp", "store/KEPT_WAL", "segments/1/graph.bin.damaged", "store",
    }  # fmt: skip


class FakeIndex:
    """A graph of edges, whose searches find what they look for where an entry leads to it."""

    def __init__(self, edges: list[list[int]], entry: int, blind: set[int]) -> None:
        self.edges = np.array(edges, np.uint32)
        self.n_linked = len(edges)
        self.entry = entry
        self.blind = blind

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, None].astype(np.float32)

    def search(self, queries: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        wanted = queries[:, 0].astype(np.int64)
        found = [self.entry if int(row) in self.blind else int(row) for row in wanted]
        return np.array(found)[:, None], None


def test_rows_that_no_edge_leads_to_are_unreachable() -> None:
    ring = [[(i + 1) % 8, i] for i in range(8)]
    island = [[9, 9], [8, 8]]
    index: Any = FakeIndex(ring + island, 0, blind={8, 9})
    assert unreachable(index, index.edges, np.arange(10)).tolist() == [8, 9]
    assert unreachable(index, index.edges, np.arange(8)).tolist() == []
    assert unreachable(index, index.edges, np.array([2, 9])).tolist() == [9]
    seen: Any = FakeIndex(ring + island, 0, blind={8})
    assert unreachable(seen, seen.edges, np.arange(10)).tolist() == []


def test_an_unreachable_point_and_an_edge_into_nowhere_are_derived_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vicinal.engine.doctor_checks.unreachable", lambda index, edges, live: live[:2]
    )
    (finding,) = examine(path).findings
    assert finding.level is Level.DERIVED
    assert "2 of 1459 live points cannot be reached by a search: 40, 41" in finding.what
    monkeypatch.setattr(
        "vicinal.index.GraphIndex.edges", lambda self: np.full((N, 4), N, np.uint32)
    )
    (finding,) = examine(path).findings
    assert f"{4 * N} edges lead to rows that are not there" in finding.what


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vicinal.NotADatabaseError):
        examine(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(vicinal.NotADatabaseError):
        examine(tmp_path, repair=True)


def test_the_command_explains_repairs_and_answers_with_its_exit_code(path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, "doctor", str(path), *options], capture_output=True, text=True
        )

    done = run()
    assert (done.returncode, done.stdout) == (
        0,
        f"c: {N - 38:,} points\nother: 1 points\nhealthy\n",
    )
    flip(file_of(path, "graph.bin"))
    done = run()
    assert done.returncode == 1
    assert "derived: c segments/1/graph.bin" in done.stdout
    assert "--repair" in done.stdout
    done = run("--repair", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["healthy"]
    assert report["findings"][0]["mended"]
    assert Finding(**{**report["findings"][0], "level": Level.DERIVED}).place.endswith("graph.bin")
