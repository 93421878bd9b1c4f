"""What a collection will take, what it takes, and the budget that nothing passes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import engine_of
from typer.testing import CliRunner

import vicinal
from vicinal.cli.main import app
from vicinal.index import GraphIndex
from vicinal.index.footprint import GROW_STEP_BYTES, grown, index_bytes
from vicinal.model.limits import MEMORY_BUDGET_BYTES_MIN
from vicinal.model.memory import parse_bytes
from vicinal.model.metric import Metric, VectorType
from vicinal.wire.faults import from_fault, http_status, to_fault

MIB = 2**20
DIM = 32
RNG = np.random.default_rng(5)
VECTORS = RNG.standard_normal((30_000, DIM)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held does not depend on when a thread runs."""
    monkeypatch.setattr("vicinal.engine.background.Background._run", lambda self: None)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[vicinal.Database]:
    with vicinal.open(tmp_path / "db", memory_budget="16MiB", durability="none") as opened:
        yield opened


def fill(docs: Any, n: int = len(VECTORS), first: int = 0) -> None:
    """Write until the budget refuses."""
    for start in range(first, n, 1_000):
        payload = [{"year": 2000 + i % 20, "text": "x" * 40} for i in range(1_000)]
        docs.upsert(
            ids=range(start, start + 1_000),
            vectors=VECTORS[start % 29_000 :][:1_000],
            payload=payload,
        )


def full(db: vicinal.Database, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A collection at the limit, and the error that said so. Nothing is sealed on the way."""
    monkeypatch.setattr("vicinal.engine.maintenance.Maintenance.relieve", lambda self: False)
    docs = db.collection("docs", dim=DIM, metric="l2")
    with pytest.raises(vicinal.MemoryLimitError) as caught:
        fill(docs)
    return docs, caught.value


@pytest.mark.parametrize(
    ("given", "expected"),
    [(1, 1), ("1", 1), ("2GiB", 2**31), ("2 gb", 2 * 10**9), ("1.5m", 1_572_864), ("512k", 2**19)],
)
def test_sizes_are_read_as_people_write_them(given: int | str, expected: int) -> None:
    assert parse_bytes(given, "x") == expected


@pytest.mark.parametrize(
    "given", [0, -1, "", "x", "1 parsec", "-2MiB", "1e9", 1.5, True, None, "9" * 30]
)
def test_what_is_no_size_is_refused_by_name(given: Any) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="memory_budget is"):
        parse_bytes(given, "memory_budget")


def test_a_budget_too_small_to_open_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match=str(MEMORY_BUDGET_BYTES_MIN)):
        vicinal.open(tmp_path / "db", memory_budget=MEMORY_BUDGET_BYTES_MIN - 1)
    assert not (tmp_path / "db").exists()


def test_a_served_database_has_a_budget_of_its_own() -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="memory_budget"):
        vicinal.open("http://localhost:1", memory_budget="1GiB")


@pytest.mark.parametrize(
    ("metric", "dtype", "dim", "M"),
    [
        ("l2", "f32", 17, 16),
        ("cosine", "f32", 384, 32),
        ("ip", "f16", 100, 40),
        ("manhattan", "i8", 64, 8),
        ("hamming", "bit", 256, 32),
        ("l2", "i8", 20, 12),
    ],
)
def test_the_formulas_are_those_of_the_native_layout(
    metric: str, dtype: str, dim: int, M: int
) -> None:
    n = 3_000
    stored, kind = VectorType(dtype), Metric(metric)
    rows = RNG.standard_normal((n, dim)) * 40
    X = (
        np.packbits(rows > 0, axis=1)
        if dtype == "bit"
        else rows.clip(-127, 127).astype(stored.numpy)
    )
    formats: tuple[Any, ...] = ("sq8", "rabitq") if dtype in ("f32", "f16") else ("sq8",)
    for format in formats:
        index = GraphIndex(dim, metric, dtype, M=M, ef_construction=40, format=format)
        index.build(X, threads=2)
        found = index_bytes(n, linked=n, dim=dim, metric=kind, dtype=stored, M=M)
        expected = grown(found.rows) + found.graph_held
        if format == "sq8":
            expected -= grown(found.packed)
        # Small blocks that are not there, and one step of the vectors, which came in one piece.
        assert index.memory_bytes == pytest.approx(expected, abs=4 * 64 * 1024), format
        assert index.mapped_bytes == 0


@pytest.mark.parametrize(("dim", "M"), [(64, 16), (256, 32), (384, 32), (512, 64), (768, 32)])
def test_packed_rows_are_as_long_in_files_as_the_formulas_say(
    dim: int, M: int, tmp_path: Path
) -> None:
    n = 2_500
    index = GraphIndex(dim, M=M, ef_construction=64, format="rabitq")
    index.build(RNG.standard_normal((n, dim)).astype(np.float32), threads=2)
    index.save(tmp_path / "graph", vectors=False)
    found = index_bytes(n, linked=n, dim=dim, metric=Metric.L2, dtype=VectorType.F32, M=M)
    # Sections begin at pages, and there are tables; two lines too few or too many for each row would be 320,000 bytes.
    assert (tmp_path / "graph").stat().st_size == pytest.approx(found.file, abs=80_000)


def test_a_block_grows_by_its_step() -> None:
    assert [grown(n) for n in (0, 1, 65_537, GROW_STEP_BYTES, GROW_STEP_BYTES + 1)] == [
        0, 65_536, 131_072, GROW_STEP_BYTES, 2 * GROW_STEP_BYTES
    ]  # fmt: skip


def test_the_estimate_is_within_five_percent_of_the_files_of_a_real_load(tmp_path: Path) -> None:
    n, text = 12_000, "x" * 120
    with vicinal.open(tmp_path / "db", durability="none") as db:
        docs = db.collection("docs", dim=DIM, metric="cosine", M=16)
        docs.upsert(
            ids=[f"document-{i:08d}" for i in range(n)],
            vectors=VECTORS[:n],
            payload=[{"text": text, "year": i} for i in range(n)],
        )
        docs.optimize()
        stats = docs.stats()
        packed = engine_of(docs).state.view.sealed[0].index.format == "rabitq"
    payload = len(b"\x82\xa4text\xd9x\xa4year\xcd00") + len(text)
    found = vicinal.estimate_memory(
        n, DIM, metric="cosine", M=16, payload_bytes=payload, id_bytes=len("document-00000000")
    )
    graph = found.mapped["graph"]
    if not packed:
        of = index_bytes(n, linked=n, dim=DIM, metric=Metric.COSINE, dtype=VectorType.F32, M=16)
        graph -= of.packed
    assert stats["mapped_bytes"]["graph"] == pytest.approx(graph, rel=0.05)
    for structure in ("vectors", "rows", "payload"):
        expected = found.mapped[structure]
        assert stats["mapped_bytes"][structure] == pytest.approx(expected, rel=0.05), structure


LOAD = """
import json, sys, threading
import numpy as np
import vicinal

def anonymous():
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

n, dim = 40_000, 96
X = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
payload = [{"text": "x" * 60, "n": i} for i in range(n)]
with vicinal.open(sys.argv[1] + "/warm", durability="none") as db:
    db.collection("c", dim=4).upsert(ids=[1], vectors=[[1.0, 2, 3, 4]])
before, highest, done = anonymous(), 0, threading.Event()

def watch():
    global highest
    while not done.wait(0.002):
        highest = max(highest, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
with vicinal.open(sys.argv[1] + "/db", durability="none") as db:
    docs = db.collection("c", dim=dim)
    docs.upsert(ids=range(n), vectors=X, payload=payload)
    docs.optimize()
    done.set()
    watcher.join()
with vicinal.open(sys.argv[1] + "/db", read_only=True) as db:
    base = anonymous()
    docs = db.collection("c")
    docs.search(X[0])
    opened = anonymous() - base
print(json.dumps({"loading": highest - before, "opened": opened}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_load_takes_no_more_memory_than_estimated_and_not_far_less(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, check=True
    )
    taken = json.loads(done.stdout)
    found = vicinal.estimate_memory(40_000, 96, payload_bytes=72)
    # It is a bound: the tail may be sealed sooner, and one of the two node formats falls away.
    assert 0.3 * found.loading < taken["loading"] < 1.1 * found.loading
    # What an open, optimized collection has of its own; an interpreter's own noise is a few MiB.
    assert taken["opened"] < found.resident_bytes + 8 * MIB


@pytest.mark.parametrize(
    "wrong", [{"points": -1}, {"points": 2**32}, {"dim": 0}, {"payload_bytes": -1}, {"id_bytes": 0}]
)
def test_an_estimate_of_the_impossible_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(vicinal.InvalidArgumentError):
        vicinal.estimate_memory(**{"points": 10, "dim": 4, **wrong})


def test_every_structure_is_accounted_and_no_more_is_used_than_the_sum(db: Any) -> None:
    docs, other = (db.collection(name, dim=DIM, metric="l2") for name in ("docs", "other"))
    fill(docs, 2_000)
    fill(other, 1_000)
    docs.search(VECTORS[0], where="year > 2003")
    stats = db.stats()
    budget, held = stats["memory_budget"], stats["collections"]
    assert budget["limit"] == 16 * MIB
    assert budget["reserved"] == 0
    sums = sum(sum(each["memory_bytes"].values()) for each in held.values())
    assert budget["used"] == sums + budget["block_cache"]
    assert held["docs"]["memory_bytes"]["index"] >= VECTORS[:2_000].nbytes
    assert held["docs"]["memory_bytes"]["payload_index"] > 0
    assert held["docs"]["memory_bytes"]["store"] > 0
    assert held["docs"]["memory_bytes"]["rows"] > held["other"]["memory_bytes"]["rows"] > 0
    assert sum(held["docs"]["mapped_bytes"].values()) == 0


def test_mapped_files_are_counted_apart(db: Any) -> None:
    docs = db.collection("docs", dim=DIM, metric="l2")
    fill(docs, 3_000)
    docs.optimize()
    stats = docs.stats()
    assert stats["mapped_bytes"]["vectors"] == VECTORS[:3_000].nbytes
    assert stats["mapped_bytes"]["graph"] > 3_000 * 4 * 32
    assert stats["memory_bytes"]["index"] < MIB


def test_a_write_over_the_limit_is_refused_before_anything_is_changed(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, fault = full(db, monkeypatch)
    assert fault.limit == 16 * MIB
    assert fault.used + fault.needed > fault.limit >= fault.used
    for word in (str(fault.needed), str(fault.used), str(fault.limit), "memory_budget", "nothing"):
        assert word in str(fault)
    n = docs.count()
    assert n % 1_000 == 0
    state = engine_of(docs).state
    before = state.store.last_seq, state.commits, state.epoch
    with pytest.raises(vicinal.MemoryLimitError):
        fill(docs, n + 1_000, first=n)
    assert (state.store.last_seq, state.commits, state.epoch) == before
    assert docs.get([n])[0] is None
    assert db.stats()["memory_budget"]["used"] <= 16 * MIB


def test_reading_and_deleting_go_on_at_the_limit_and_make_room(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, _ = full(db, monkeypatch)
    n = docs.count()
    assert docs.search(VECTORS[5], k=1).ids[0] == 5
    expected = sum(2000 + i % 20 > 2010 for i in range(n))
    assert docs.count("year > 2010") == expected
    assert len(docs.search(VECTORS[5], k=20, where="year > 2010")) == 20
    assert db.status()["docs"].health == "full"
    assert docs.delete(list(range(n - 500))) == n - 500
    monkeypatch.undo()
    docs.optimize()
    fill(docs, n + 1_000, first=n)
    assert docs.count() == 1_500
    assert db.status()["docs"].health == "serving"


def test_a_filter_without_room_for_an_index_answers_the_same(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db", memory_budget="64MiB", durability="none") as db:
        docs = db.collection("docs", dim=DIM, metric="l2")
        fill(docs, 2_000)
        expected = docs.search(VECTORS[7], k=30, where="year in (2003, 2004) or text like 'y%'").ids
        engine_of(docs).state.shed_filters()
        budget = db.engine.budget
        with budget.reserve("all there is", lambda: budget.room() or 0):
            found = docs.search(VECTORS[7], k=30, where="year in (2003, 2004) or text like 'y%'")
        assert list(found.ids) == list(expected)
        assert docs.stats()["segments"][0]["payload_index"] == {}


def test_a_load_much_larger_than_the_budget_goes_through_since_the_tail_is_sealed(
    db: Any,
) -> None:
    docs = db.collection("docs", dim=DIM, metric="l2", M=8, ef_construction=16)
    fill(docs, 24_000)
    assert docs.count() == 24_000
    assert docs.stats()["mapped_bytes"]["vectors"] > 0
    assert db.stats()["memory_budget"]["used"] <= 16 * MIB
    assert docs.search(VECTORS[23_456], k=1).ids[0] == 23_456


def test_an_index_build_over_the_limit_is_refused_and_nothing_is_changed(
    tmp_path: Path,
) -> None:
    with vicinal.open(tmp_path / "db", durability="none") as db:
        docs = db.collection("docs", dim=DIM, metric="l2")
        fill(docs, 28_000)
    with vicinal.open(tmp_path / "db", memory_budget="17MiB") as db:
        docs = db.collection("docs")
        view = engine_of(docs).state.view
        with pytest.raises(vicinal.MemoryLimitError, match="compacting"):
            docs.optimize()
        assert engine_of(docs).state.view is view
        assert docs.search(VECTORS[9], k=1).ids[0] == 9


def test_a_collection_that_does_not_fit_is_not_opened_and_the_others_serve(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db", durability="none") as db:
        wide = RNG.standard_normal((6_000, 1_000)).astype(np.float32)
        db.collection("large", dim=1_000).upsert(ids=range(6_000), vectors=wide)
        db.collection("small", dim=DIM, metric="l2").upsert(ids=[1], vectors=VECTORS[:1])
    with vicinal.open(tmp_path / "db", memory_budget="16MiB") as db:
        with pytest.raises(vicinal.MemoryLimitError, match="opening collection 'large'"):
            db.collection("large")
        assert db.stats()["memory_budget"]["used"] < MIB
        assert db.collection("small").search(VECTORS[0], k=1).ids[0] == 1
        status = db.status()
        assert status["large"].health == "quarantined"
        assert "memory_budget" in (status["large"].reason or "")
        assert "memory_budget" in db.stats()["collections"]["large"]["reason"]
    with vicinal.open(tmp_path / "db", memory_budget="128MiB") as db:
        assert db.collection("large").count() == 6_000


def test_drop_and_close_give_the_budget_back(db: Any) -> None:
    docs = db.collection("docs", dim=DIM, metric="l2")
    fill(docs, 3_000)
    engine = db.engine
    assert engine.budget.used > 3_000 * DIM * 4
    db.drop("docs")
    assert engine.budget.used == engine.budget.stats()["block_cache"]
    fill(db.collection("again", dim=DIM, metric="l2"), 3_000)
    db.close()
    assert engine.budget.used == engine.budget.stats()["block_cache"]


def test_two_writers_cannot_take_the_same_room(db: Any) -> None:
    budget = db.engine.budget
    half = 9 * MIB
    with budget.reserve("one", lambda: half):
        with (
            pytest.raises(vicinal.MemoryLimitError, match="two needs"),
            budget.reserve("two", lambda: half),
        ):
            raise AssertionError("there is no room")
        assert budget.stats()["reserved"] == half
    assert budget.stats()["reserved"] == 0


def test_the_error_travels_over_the_wire_with_its_figures() -> None:
    fault = vicinal.MemoryLimitError("the write of 3 points to 'docs'", 10, 95, 100)
    back = from_fault(to_fault(fault))
    assert type(back) is vicinal.MemoryLimitError
    assert (back.needed, back.used, back.limit) == (10, 95, 100)
    assert str(back) == str(fault)
    assert http_status(fault) == 507


def test_a_served_database_tells_the_same(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db", memory_budget="64MiB") as db:
        fill(db.collection("docs", dim=DIM, metric="l2"), 1_000)
        with db.serve(http_port=0) as running, vicinal.open(running.url) as served:
            told = served.stats()
            assert told["memory_budget"]["limit"] == 64 * MIB
            assert told["collections"]["docs"]["points"] == 1_000
            assert told["collections"] == db.stats()["collections"]
            with pytest.raises(vicinal.MemoryLimitError) as caught:
                wide = served.collection("wide", dim=20_000)
                wide.upsert(ids=range(600), vectors=np.ones((600, 20_000), np.float32))
            assert caught.value.limit == 64 * MIB


def test_the_command_prints_what_the_function_says() -> None:
    done = CliRunner().invoke(
        app, ["estimate", "1000000", "384", "--payload-bytes", "50", "--json"]
    )
    found = vicinal.estimate_memory(1_000_000, 384, payload_bytes=50)
    assert json.loads(done.stdout)["mapped"] == found.mapped
    assert json.loads(done.stdout)["resident_bytes"] == found.resident_bytes
    text = CliRunner().invoke(app, ["estimate", "1000", "8", "--metric", "l2", "--id-bytes", "20"])
    for word in ("resident", "mapped files", "while loading", "disk"):
        assert word in text.stdout


def test_a_small_collection_that_changes_for_ever_does_not_fill_buffers_and_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 2 * MIB
    monkeypatch.setattr("vicinal.engine.maintenance.TRIMMED_BUFFERS_MIN", bound // 4)
    payload = [{"text": "x" * 100}] * 1_000
    with vicinal.open(tmp_path / "db", durability="none") as db:
        docs = db.collection("c", dim=DIM)
        for _ in range(20):  # 6 MiB, of which 0.3 MiB is alive
            docs.upsert(ids=range(1_000), vectors=VECTORS[:1_000], payload=payload)
            docs.optimize()
        store = tmp_path / "db" / "collections" / "c" / "store"

        def held() -> int:
            logs = 0
            for log in store.glob("*.log"):
                with suppress(FileNotFoundError):  # it was given up meanwhile
                    logs += log.stat().st_size
            return logs + engine_of(docs).state.store.memory_bytes()

        end = time.monotonic() + 20  # RocksDB writes them out when it comes to it
        while held() > bound and time.monotonic() < end:
            time.sleep(0.01)
        assert held() <= bound
        assert docs.count() == 1_000


GAPS = """
import sys
import numpy as np
import vicinal

def resident():
    return next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith("VmRSS"))

db = vicinal.open(sys.argv[1], durability="none")
docs = db.collection("docs", dim=8)
docs.upsert(ids=range(100), vectors=np.ones((100, 8), np.float32))
blocks = [bytearray(3_000) for _ in range(20_000)]
del blocks[::2], blocks[::2]  # one in four stays, so that the heap has gaps and cannot shrink
before = resident()
{"optimize": docs.optimize, "drop": lambda: db.drop("docs"), "close": db.close}[sys.argv[2]]()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("act", ["optimize", "drop", "close"])
def test_gaps_of_the_heap_are_given_back_when_something_large_goes(
    tmp_path: Path, act: str
) -> None:
    command = [sys.executable, "-c", GAPS, str(tmp_path / "db"), act]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20 * MIB
