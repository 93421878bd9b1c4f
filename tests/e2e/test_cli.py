"""The installed `vicinal` command, as a user runs it: import, look, query, change, export, and the demo."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.cli import main

COMMAND = Path(sys.executable).with_name("vicinal")
RECALL_FLOOR = 0.95  # the product's own floor for its default search
DIM = 16
N = 1_500


def spawn(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the installed command; its exit code must be `code`, and it must show no traceback."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=240
    )
    return _checked(done, code)


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The same in this process, which saves the start of another: its entry point, with its own streams."""
    out, err = io.StringIO(), io.StringIO()
    words = ["vicinal", *map(str, arguments)]
    status: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        try:
            main.run()
        except SystemExit as end:
            status = end.code or 0
    return _checked(
        subprocess.CompletedProcess(words, int(str(status)), out.getvalue(), err.getvalue()), code
    )


def _checked(done: subprocess.CompletedProcess[str], code: int) -> subprocess.CompletedProcess[str]:
    assert done.returncode == code, (
        f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answer(*arguments: object, code: int = 0) -> Any:
    """What the command prints with --json."""
    return json.loads(run(*arguments, "--json", code=code).stdout)


def fails(*arguments: object, code: int = 2) -> str:
    """The line that a failing command says."""
    done = run(*arguments, code=code)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert all(line.startswith("  ") for line in lines[1:]), (
        "one line, and perhaps a place pointed at"
    )
    assert lines[0].startswith("vicinal: ")
    return lines[0]


def contents(path: Path, name: str) -> dict[Any, tuple[bytes, str, dict[str, Any]]]:
    """Everything a collection holds: id -> vector bytes, dtype, payload."""
    found: dict[Any, tuple[bytes, str, dict[str, Any]]] = {}
    with vicinal.open(path, read_only=True) as db:
        docs, cursor = db.collection(name), None
        while True:
            page = docs.scroll(limit=1_000, cursor=cursor, with_vectors=True)
            for p in page:
                assert p.vector is not None
                found[p.id] = (p.vector.tobytes(), str(p.vector.dtype), p.payload)
            cursor = page.cursor
            if cursor is None:
                assert len(found) == docs.count()
                return found


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a collection `things`; tests only read it."""
    path = tmp_path_factory.mktemp("cli") / "things.db"
    rng = np.random.default_rng(3)
    X = rng.standard_normal((N, DIM), dtype=np.float32)
    payload: list[dict[str, Any]] = [
        {"n": i, "shop": f"s{i % 10}", "tags": ["a", "b"][: i % 3]} for i in range(N)
    ]
    payload[0] = {
        "n": None,
        "nested": {"deep": [1, {"x": "ü"}]},
        "id": "of the payload",
        "vector": [1],
    }
    payload[1] = {}
    ids: list[Any] = [f"thing {i}" if i % 2 else i for i in range(N)]
    ids[2] = uuid.UUID(int=2)
    with vicinal.open(path) as opened:
        opened.collection("things", dim=DIM, metric="l2").upsert(
            ids=ids, vectors=X, payload=payload
        )
    np.save(path.parent / "query.npy", X[4])
    np.save(path.parent / "queries.npy", X[[4, 6]])
    return path


def test_version_and_help_are_there() -> None:
    assert spawn("--version").stdout == f"vicinal {vicinal.__version__}\n"
    assert "demo" in spawn("--help").stdout
    assert "vicinal query" in run("query", "--help").stdout


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vicinal", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"vicinal {vicinal.__version__}\n")


def test_the_installed_command_answers_and_fails_like_the_one_in_process(db: Path) -> None:
    assert json.loads(spawn("count", db, "--json").stdout) == {"count": N}
    done = spawn("count", db / "none", code=2)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_ls_and_info_say_what_is_there(db: Path) -> None:
    (listed,) = answer("ls", db)
    assert (listed["name"], listed["points"], listed["dim"], listed["metric"]) == (
        "things",
        N,
        DIM,
        "l2",
    )
    assert answer("info", db)["points"] == N
    assert run("ls", db).stdout.splitlines()[1].startswith("things\t1,500\t16\tl2\tf32\t")
    assert "points\t1,500" in run("info", db).stdout


def test_query_takes_json_and_npy_and_filters(db: Path) -> None:
    vector = json.dumps(np.load(db.parent / "query.npy").tolist())
    for query in (vector, db.parent / "query.npy"):
        hits = answer("query", db, query, "-k", 3, "--with-vectors")
        assert hits[0]["id"] == 4
        assert hits[0]["distance"] == 0
        assert hits[0]["payload"]["n"] == 4
        assert len(hits[0]["vector"]) == DIM
        assert len(hits) == 3
    hits = answer("query", db, vector, "--where", "shop = 's7' and n > 100", "-k", 5, "--exact")
    assert [h["payload"]["shop"] for h in hits] == ["s7"] * 5
    both = answer("query", db, db.parent / "queries.npy", "-k", 2)
    assert [hits[0]["id"] for hits in both] == [4, 6]
    table = run("query", db, vector, "--fields", "n,shop", "-k", 1)
    assert table.stdout == "distance\tid\tn\tshop\n0.0000\t4\t4\ts4\n"
    assert table.stderr.startswith("1 results in ")


def test_explain_count_and_get_answer(db: Path) -> None:
    plan = answer("explain", db, db.parent / "query.npy", "--where", "shop = 's4'")
    assert plan["matches"] == N // 10
    assert "matches" in run("explain", db, db.parent / "query.npy").stdout
    assert answer("count", db) == {"count": N}
    assert run("count", db, "-w", "shop = 's4'").stdout == f"{N // 10}\n"
    found = answer("get", db, "4", "thing 3", str(uuid.UUID(int=2)), "--with-vectors")
    assert [p["id"] for p in found["points"]] == [4, "thing 3", str(uuid.UUID(int=2))]
    assert found["points"][0]["version"] == 1
    assert answer("get", db, "4", "none", code=1)["missing"] == ["none"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "jsonl", "npy"])
def test_export_and_import_round_trip_exactly(db: Path, tmp_path: Path, suffix: str) -> None:
    if suffix in ("parquet", "arrow"):
        pytest.importorskip("pyarrow", reason="the extra `arrow` is not installed")
    exported = answer("export", db, tmp_path / f"out.{suffix}")
    assert exported["points"] == N
    words = exported["import_command"].split()
    assert words[:3] == ["vicinal", "import", "DATABASE"]
    done = answer("import", tmp_path / "copy.db", *words[3:], "--batch-size", 400)
    assert (done["imported"], done["points"], done["interrupted"]) == (N, N, False)
    assert contents(tmp_path / "copy.db", "things") == contents(db, "things")
    assert answer("import", tmp_path / "copy.db", *words[3:])["points"] == N, "again is the same"
    few = answer("export", db, tmp_path / f"few.{suffix}", "--where", "shop = 's4'")
    assert few["points"] == N // 10


@pytest.mark.parametrize(("dtype", "metric"), [("f16", "cosine"), ("i8", "ip"), ("bit", "hamming")])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "npy"])
def test_every_vector_type_round_trips(
    tmp_path: Path, suffix: str, dtype: str, metric: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `arrow` is not installed")
    rng = np.random.default_rng(5)
    if dtype == "f16":
        X: Any = rng.standard_normal((20, DIM)).astype(np.float16)
    elif dtype == "i8":
        X = rng.integers(-128, 127, (20, DIM)).astype(np.int8)
    else:
        X = rng.integers(0, 256, (20, DIM // 8)).astype(np.uint8)
    with vicinal.open(tmp_path / "a.db") as opened:
        opened.collection("v", dim=DIM, metric=metric, dtype=dtype).upsert(ids=range(20), vectors=X)
    words = answer("export", tmp_path / "a.db", tmp_path / f"v.{suffix}")["import_command"].split()
    answer("import", tmp_path / "b.db", *words[3:])
    assert contents(tmp_path / "b.db", "v") == contents(tmp_path / "a.db", "v")
    (listed,) = answer("ls", tmp_path / "b.db")
    assert (listed["dtype"], listed["metric"]) == (dtype, metric)


def test_delete_by_id_filter_and_all_with_a_look_first(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    with vicinal.open(path) as opened:
        opened.collection("d", dim=2).upsert(
            [{"id": i, "vector": [1.0, i], "even": i % 2 == 0} for i in range(10)]
            + [{"id": "3", "vector": [1.0, 0.5]}]
        )
    assert "id '3' exists as int and str; say which with --id-type" in fails("delete", path, "3")
    assert answer("delete", path, "3", "99", "--id-type", "int")["deleted"] == 1
    assert answer("delete", path, "--where", "even = true", "--dry-run") == {
        "deleted": 0, "matching": 5, "dry_run": True,
    }  # fmt: skip
    refused = fails("delete", path, "--where", "even = true")
    assert "this deletes 5 points of 'd'; add --yes" in refused
    assert answer("delete", path, "--where", "even = true", "--yes")["deleted"] == 5
    assert answer("count", path) == {"count": 5}
    assert "exactly one of" in fails("delete", path)
    assert answer("delete", path, "--all", "--yes")["deleted"] == 5
    assert answer("count", path) == {"count": 0}


def test_import_of_a_foreign_table_names_its_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra `arrow` is not installed")
    import pyarrow.parquet as pq

    table = pa.table({"key": ["a", "b"], "emb": [[1.0, 2.0], [3.0, 4.0]], "lang": ["en", None]})
    pq.write_table(table, tmp_path / "mine.parquet")
    path = tmp_path / "m.db"
    assert "no column 'id'; it has 'key', 'emb', 'lang'" in fails(
        "import", path, tmp_path / "mine.parquet", "--create"
    )
    options = ("--id-column", "key", "--vector-column", "emb", "--metric", "l2")
    assert "--create" in fails("import", path, tmp_path / "mine.parquet", *options)
    assert not path.exists(), "a refused import makes nothing"
    done = answer("import", path, tmp_path / "mine.parquet", *options, "--create")
    assert (done["collection"], done["imported"]) == ("mine", 2)
    found = answer("get", path, "a", "b")["points"]
    assert [p["payload"] for p in found] == [{"lang": "en"}, {"lang": None}]


def test_a_bad_row_is_named_and_the_batches_before_it_are_in(tmp_path: Path) -> None:
    path, file = tmp_path / "b.db", tmp_path / "rows.jsonl"
    lines = [json.dumps({"id": i, "vector": [1.0, i]}) for i in range(10)]
    lines[7] = json.dumps({"id": 7, "vector": [1.0, 2.0, 3.0]})
    file.write_text("\n".join(lines))
    said = fails("import", path, file, "--create", "--batch-size", 3)
    assert f"{file}, line 8: the vector has 3 dimensions" in said
    assert answer("count", path) == {"count": 6}
    lines[7] = json.dumps({"id": 7, "vector": [1.0, 2.0]})
    file.write_text("\n".join(lines))
    assert answer("import", path, file)["points"] == 10
    lines[7] = json.dumps({"id": 7, "vector": [0.0, 0.0]})
    file.write_text("\n".join(lines))
    assert "line 8: the vector is zero" in fails("import", path, file)
    assert answer("import", path, file, "--skip", 8)["imported"] == 2
    assert "it has 2" not in fails("import", path, file, "--dim", 3)


def test_the_later_row_of_one_id_wins_and_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "twice.jsonl"
    file.write_text(
        "\n".join(json.dumps({"id": "a", "vector": [1.0, i], "n": i}) for i in range(3))
    )
    done = answer("import", tmp_path / "t.db", file, "--create")
    assert (done["imported"], done["replaced_in_file"], done["points"]) == (1, 2, 1)
    assert answer("get", tmp_path / "t.db", "a")["points"][0]["payload"] == {"n": 2}


def test_an_interrupted_import_keeps_whole_batches_and_says_how_to_go_on(tmp_path: Path) -> None:
    path, file = tmp_path / "i.db", tmp_path / "many.npy"
    n, batch = 60_000, 500
    np.save(file, np.random.default_rng(1).standard_normal((n, DIM), dtype=np.float32))
    arguments = ["import", path, file, "--create", "--batch-size", batch, "--no-optimize", "--json"]
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while (
        not (path / "collections" / "many").exists()
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip(
            "the import was over before the signal arrived: this machine is too fast for the test's size"
        )
    assert process.returncode == 130, err
    assert "Traceback" not in err
    done = json.loads(out)
    assert done["interrupted"]
    assert done["imported"] % batch == 0
    assert f"--skip {done['imported']}" in err
    assert answer("count", path) == {"count": done["imported"]}
    rest = answer(
        "import", path, file, "--skip", done["imported"], "--batch-size", 10_000, "--no-optimize"
    )
    assert rest["points"] == n


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("ls", "missing.db"),
            "missing.db: there is no database; `vicinal import missing.db FILE --create`",
        ),
        (("count", "DB", "-c", "other"), "there is no collection 'other'; there are: things"),
        (("query", "DB"), "give one query"),
        (("query", "DB", "[1, 2]"), "16"),
        (("query", "DB", "[1, x]"), "not a JSON list of numbers"),
        (("query", "DB", "some text"), "does not say how its texts were embedded"),
        (("query", "DB", "none.npy"), "none.npy: there is no such file"),
        (("query", "DB", "QUERY", "-k", "0"), "k is 0"),
        (("query", "DB", "QUERY", "--where", "shop = "), "column"),
        (("query", "DB", "QUERY", "--ef-search", "3"), "ef_search is 3"),
        (("export", "DB", "out.csv"), "the suffix '.csv' names no format"),
        (("export", "DB", "no/such/out.jsonl"), "there is no such directory"),
        (("import", "DB", "none.jsonl"), "none.jsonl: there is no such file"),
        (("import", "DB", "QUERY", "--ids", "none.txt"), "none.txt: there is no such file"),
        (("get", "DB", "x", "--id-type", "int"), "id 'x' is no integer"),
    ],
)
def test_a_mistake_is_one_line_with_value_and_remedy(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {
        "DB": str(db),
        "QUERY": str(
            db.parent / "queries.npy" if arguments[0] == "import" else db.parent / "query.npy"
        ),
    }
    assert said in fails(*(known.get(word, word) for word in arguments))
    assert list(tmp_path.iterdir()) == []


def test_export_never_replaces_a_file_unasked(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("precious")
    assert "exists; add --force" in fails("export", db, file)
    assert file.read_text() == "precious"
    run("export", db, file, "--force")
    assert len(file.read_text().splitlines()) == N


def test_a_directory_that_is_no_database_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    fails("ls", tmp_path)
    (tmp_path / "x.jsonl").write_text('{"id": 1, "vector": [1]}')
    fails("import", tmp_path, tmp_path / "x.jsonl", "--create")
    (tmp_path / "bad.jsonl").write_text("{")
    fails("import", tmp_path / "new.db", tmp_path / "bad.jsonl", "--create")
    (tmp_path / "bad.jsonl").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "x.jsonl"]


def test_readers_work_beside_a_writer_and_a_second_writer_is_told_who_writes(db: Path) -> None:
    with vicinal.open(db):
        assert answer("count", db) == {"count": N}
        said = fails("optimize", db)
    assert str(os.getpid()) in said


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The demo's database and figures."""
    pytest.importorskip("wordllama", reason="the extra `demo` is not installed")
    path = tmp_path_factory.mktemp("demo") / "vicinal-demo.db"
    return path, json.loads(spawn("demo", "--path", path, "--json").stdout)


def test_demo_answers_its_five_questions_with_recall(demo: tuple[Path, dict[str, Any]]) -> None:
    _, figures = demo
    assert figures["read"]["texts"] >= 4_000
    assert len(figures["questions"]) == 5
    assert all(len(q["hits"]) == 3 for q in figures["questions"])
    best = {q["question"]: [hit["id"] for hit in q["hits"]] for q in figures["questions"]}
    assert (
        "tempfile.TemporaryDirectory"
        in best["create a temporary directory that is removed afterwards"]
    )
    assert "collections.Counter.most_common" in best["find the most common elements of a list"]
    filtered = [q for q in figures["questions"] if q["where"] == "module = 'datetime'"]
    assert [{h["payload"]["module"] for h in q["hits"]} for q in filtered] == [{"datetime"}]
    assert figures["recall"]["queries"] == 200
    assert figures["recall"]["recall"] >= RECALL_FLOOR, figures["recall"]


def test_demo_leaves_a_database_that_text_queries_work_on(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    path, figures = demo
    hits = answer("query", path, "greatest common divisor of two numbers", "-k", 3)
    assert "math.gcd" in [hit["id"] for hit in hits]
    hits = answer(
        "query", path, "--text", "[does this file exist]", "--where", "module = 'pathlib'"
    )
    assert {hit["payload"]["module"] for hit in hits} == {"pathlib"}
    assert (
        answer("explain", path, "sort a list", "--where", "language = 'c'")["points"]
        == figures["read"]["texts"]
    )
    (listed,) = answer("ls", path)
    assert (listed["name"], listed["indexed_ratio"]) == ("stdlib", 1.0)


def test_demo_may_be_run_again_and_says_what_to_type_next(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    path, figures = demo
    said = spawn("demo", "--path", path).stdout
    assert answer("count", path)["count"] == figures["read"]["texts"]
    assert "Recall@10 of the index against exact search" in said
    assert f"query {path} " in said
    assert said.count("(text to vector") == 5


def test_demo_never_touches_a_collection_it_did_not_make(tmp_path: Path) -> None:
    pytest.importorskip("wordllama", reason="the extra `demo` is not installed")
    path = tmp_path / "mine.db"
    with vicinal.open(path) as opened:
        opened.collection("stdlib", dim=2).upsert([{"id": 1, "vector": [1.0, 2.0]}])
    done = run("demo", "--path", path, code=2)
    assert "was not made by the demo; give another --path" in done.stderr
    assert answer("count", path) == {"count": 1}
