"""How the command line shows results, reads ids and keeps its notes."""

from __future__ import annotations

import io
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.cli import console
from vicinal.cli.console import CliError, bytes_text, compact, print_json, print_table, progress
from vicinal.cli.opening import NOTES_FILE, Note, choose, opened, read_note, write_note
from vicinal.cli.queries import candidates, query_vector

DUMB_TERMINAL_COLUMNS = 80


def test_a_table_in_a_pipe_is_tab_separated_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["#n", "text"], [["1", "a\tb\nc"], ["2", "x" * 500]])
    assert capsys.readouterr().out == "n\ttext\n1\ta b c\n2\t" + "x" * 500 + "\n"


def test_a_table_at_a_terminal_has_one_line_a_row_when_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    print_table(
        ["#n", "id", "text"],
        [["1", "a" * 20, "long " * 40], ["2", "b", "[bold]short"]],
        one_line=True,
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(len(line) <= DUMB_TERMINAL_COLUMNS for line in lines)
    assert "…" in lines[1]
    assert "a" * 20 in lines[1]
    assert "[bold]short" in lines[2], "text is never markup"


def test_json_knows_arrays_and_uuids_and_refuses_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json({"v": np.arange(2), "n": np.float32(0.5), "id": uuid.UUID(int=1), "ü": "ü"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"v": [0, 1], "n": 0.5, "id": str(uuid.UUID(int=1)), "ü": "ü"}
    assert "ü" in out
    with pytest.raises(TypeError, match="set is not JSON"):
        print_json({"x": {1}})


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("working") as update:
        update(1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress("importing") as update:
        update(1_000, 4_000)
        update(4_000, 4_000)
    assert "importing" in screen.getvalue()
    assert "4000/4000" in screen.getvalue()


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (13_500_000, "13.5 MB"),
        (2 * 10**12, "2.0 TB"),
    ],
)
def test_sizes_are_said_in_decimal_units(n: int, text: str) -> None:
    assert bytes_text(n) == text


def test_compact_values_are_one_line() -> None:
    assert compact("a\n  b") == "a b"
    assert compact({"a": [1, None]}) == '{"a": [1, null]}'
    assert console.CELL_CHARS_MAX > console.LAST_COLUMN_CHARS_MIN


@pytest.mark.parametrize(
    ("word", "kind", "ids"),
    [
        ("7", None, [7, "7"]),
        ("7", "int", [7]),
        ("7", "str", ["7"]),
        ("x", None, ["x"]),
        (str(uuid.UUID(int=3)), None, [uuid.UUID(int=3), str(uuid.UUID(int=3))]),
        (str(uuid.UUID(int=3)), "uuid", [uuid.UUID(int=3)]),
    ],
)
def test_a_typed_word_may_be_an_id_of_several_kinds(
    word: str, kind: str | None, ids: list[Any]
) -> None:
    assert candidates(word, kind) == ids


@pytest.mark.parametrize(
    ("word", "kind", "message"),
    [
        ("x", "int", "no integer"),
        ("x", "uuid", "no UUID"),
        ("x", "float", "known are str, int, uuid"),
    ],
)
def test_a_word_that_is_no_such_id_is_refused(word: str, kind: str, message: str) -> None:
    with pytest.raises(CliError, match=message):
        candidates(word, kind)


def test_the_only_collection_needs_no_name(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "x.db") as db:
        with pytest.raises(CliError, match="it has none"):
            choose(db, None)
        db.collection("a", dim=2)
        assert choose(db, None).name == "a"
        db.collection("b", dim=2)
        with pytest.raises(CliError, match="it has a, b; choose one with --collection"):
            choose(db, None)
        with pytest.raises(CliError, match="there is no collection 'c'; there are: a, b"):
            choose(db, "c")


def test_notes_come_back_and_a_broken_file_of_them_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    vicinal.open(path).close()
    assert read_note(path, "docs") == Note()
    note = Note(embedder="e", show=["a"], demo=True)
    write_note(path, "docs", note)
    write_note(path, "other", Note())
    assert read_note(path, "docs") == note
    (path / NOTES_FILE).write_text("{")
    assert read_note(path, "docs") == Note()
    with opened(path, write=True) as db:
        assert db.collections() == []


def test_a_text_for_vectors_of_another_embedder_is_refused(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "x.db") as db:
        docs = db.collection("docs", dim=2)
        write_note(tmp_path / "x.db", "docs", Note(embedder="somebody-else"))
        with pytest.raises(CliError, match="was embedded by 'somebody-else' with 2 dimensions"):
            query_vector(db, docs, "hello", None)


def test_a_query_for_packed_bits_stays_integers(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "x.db") as db:
        bits = db.collection("bits", dim=16, metric="hamming", dtype="bit")
        bits.upsert(ids=[1, 2], vectors=np.array([[255, 0], [0, 0]], np.uint8))
        vector = query_vector(db, bits, "[254, 0]", None)
        hits = bits.search(vector, k=2)
        assert [(h.id, h.distance) for h in hits] == [(1, 1.0), (2, 7.0)]
