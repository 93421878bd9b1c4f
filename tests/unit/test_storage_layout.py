"""The database directory: who may open it, what it refuses to touch, names, dropping."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vicinal.model.errors import (
    ClosedError,
    CorruptionError,
    FormatVersionError,
    InvalidArgumentError,
    LimitError,
    LockedError,
    NotADatabaseError,
    NotFoundError,
    ReadOnlyError,
)
from vicinal.model.limits import NAME_BYTES_MAX
from vicinal.storage.layout import open_database_dir
from vicinal.storage.names import escape_name, unescape_name


def test_a_new_directory_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "db"
    with open_database_dir(path, read_only=False) as opened:
        assert opened.path == path
        assert opened.collections() == []
        holder = json.loads((path / "LOCK").read_text())
        assert holder["pid"] == os.getpid()
        assert holder["host"] == socket.gethostname()
        assert holder["started"]
    assert json.loads((path / "FORMAT").read_text())["format"] == 1


def test_an_empty_directory_becomes_a_database_too(tmp_path: Path) -> None:
    open_database_dir(tmp_path, read_only=False).close()
    assert json.loads((tmp_path / "FORMAT").read_text())["format"] == 1
    open_database_dir(tmp_path, read_only=False, create=False).close()


@pytest.mark.parametrize("read_only", [True, False])
def test_nothing_is_created_where_it_may_not_be(tmp_path: Path, read_only: bool) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NotADatabaseError, match="no Vicinal database at"):
            open_database_dir(path, read_only=read_only, create=read_only)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [True, False])
def test_a_foreign_directory_is_named_and_left_alone(tmp_path: Path, read_only: bool) -> None:
    for i in range(8):
        (tmp_path / f"thesis{i}.tex").write_text("x")
    with pytest.raises(NotADatabaseError, match=r"thesis0\.tex.* and 3 more"):
        open_database_dir(tmp_path, read_only=read_only)
    assert len(list(tmp_path.iterdir())) == 8


def test_a_file_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(NotADatabaseError, match="not a directory"):
        open_database_dir(tmp_path / "f", read_only=False)


def test_what_a_crash_while_creating_leaves_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text('{"pid":')
    (tmp_path / "FORMAT.tmp").write_text("{")
    open_database_dir(tmp_path, read_only=False).close()
    assert json.loads((tmp_path / "FORMAT").read_text())["format"] == 1
    assert not (tmp_path / "FORMAT.tmp").exists()


def test_a_newer_format_is_refused_with_its_writer(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text('{"format": 99, "written_by": "7.0"}')
    for read_only in (True, False):
        with pytest.raises(FormatVersionError, match=r"format 99, written by Vicinal 7\.0"):
            open_database_dir(tmp_path, read_only=read_only)
    assert [p.name for p in tmp_path.iterdir() if p.name != "LOCK"] == ["FORMAT"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "1"}', '{"format": 0, "written_by": ""}']
)
def test_a_damaged_format_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "FORMAT").write_text(text)
    with pytest.raises(CorruptionError, match="FORMAT"):
        open_database_dir(tmp_path, read_only=False)


def test_a_refused_open_leaves_no_lock_behind(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text('{"format": 99, "written_by": "7.0"}')
    with pytest.raises(FormatVersionError):
        open_database_dir(tmp_path, read_only=False)
    (tmp_path / "FORMAT").write_text('{"format": 1, "written_by": "7.0"}')
    open_database_dir(tmp_path, read_only=False).close()


def test_a_second_writer_in_the_process_is_refused_under_any_spelling(tmp_path: Path) -> None:
    path = tmp_path / "db"
    link = tmp_path / "link"
    with open_database_dir(path, read_only=False):
        link.symlink_to(path)
        for spelling in (path, str(path), link, path / ".." / "db"):
            with pytest.raises(LockedError, match=f"pid {os.getpid()}"):
                open_database_dir(spelling, read_only=False)
    open_database_dir(link, read_only=False).close()


def test_readers_open_beside_a_writer(tmp_path: Path) -> None:
    with open_database_dir(tmp_path, read_only=False):
        with open_database_dir(tmp_path, read_only=True) as reader:
            assert reader.read_only
        # Closing a reader must not let go of the writer's lock.
        with pytest.raises(LockedError):
            open_database_dir(tmp_path, read_only=False)


def test_a_closed_database_is_refused_and_closes_twice(tmp_path: Path) -> None:
    opened = open_database_dir(tmp_path, read_only=False)
    opened.close()
    opened.close()
    for use in (opened.collections, lambda: opened.collection_path("a")):
        with pytest.raises(ClosedError):
            use()


def test_collections_are_listed_by_their_names(tmp_path: Path) -> None:
    names = ["docs", "Docs", "übung", "a b", "..", "日本", "x" * NAME_BYTES_MAX, "é" * 64]
    with open_database_dir(tmp_path, read_only=False) as opened:
        for name in names:
            opened.collection_path(name).mkdir()
        (tmp_path / "collections" / ".DS_Store").write_text("x")
        (tmp_path / "collections" / "Foreign").mkdir()
        (tmp_path / "collections" / "afile").write_text("x")
        assert opened.collections() == sorted(names)


def test_dropping_removes_the_whole_collection(tmp_path: Path) -> None:
    with open_database_dir(tmp_path, read_only=False) as opened:
        path = opened.collection_path("docs")
        (path / "store" / "x").mkdir(parents=True)
        (path / "store" / "data").write_text("x")
        (path / "link").symlink_to(tmp_path / "FORMAT")
        opened.collection_path("kept").mkdir()
        opened.drop_collection("docs")
        assert opened.collections() == ["kept"]
        assert [p.name for p in (tmp_path / "collections").iterdir()] == ["kept"]
        with pytest.raises(NotFoundError, match=r"no collection 'docs'; there are \['kept'\]"):
            opened.drop_collection("docs")
    assert (tmp_path / "FORMAT").exists()


def test_dropping_needs_a_writer(tmp_path: Path) -> None:
    open_database_dir(tmp_path, read_only=False).close()
    with (
        open_database_dir(tmp_path, read_only=True) as opened,
        pytest.raises(ReadOnlyError),
    ):
        opened.drop_collection("docs")


def test_leftovers_of_a_drop_go_at_the_next_writable_open(tmp_path: Path) -> None:
    open_database_dir(tmp_path, read_only=False).close()
    trash = tmp_path / "collections" / ".trash-0123"
    (trash / "store").mkdir(parents=True)
    (trash / "store" / "data").write_text("x")
    with open_database_dir(tmp_path, read_only=True) as opened:
        assert opened.collections() == []
    assert trash.exists()
    open_database_dir(tmp_path, read_only=False).close()
    assert not trash.exists()


# ---------------------------------------------------------------------- names


@given(st.text(min_size=1, max_size=NAME_BYTES_MAX))
def test_any_allowed_name_comes_back_from_a_safe_file_name(name: str) -> None:
    try:
        escaped = escape_name(name)
    except InvalidArgumentError:
        assume(False)
        return
    assert unescape_name(escaped) == name
    assert len(escaped) <= 255
    assert escaped.isascii()
    assert escaped == escaped.lower()
    assert "/" not in escaped
    assert not escaped.startswith(".")


@given(st.text(max_size=40))
def test_no_two_file_names_mean_one_collection(file_name: str) -> None:
    name = unescape_name(file_name)
    assert name is None or escape_name(name) == file_name


def test_the_longest_names_fit(tmp_path: Path) -> None:
    for name in ("x" * NAME_BYTES_MAX, "X" * NAME_BYTES_MAX, "日" * (NAME_BYTES_MAX // 3)):
        (tmp_path / escape_name(name)).mkdir()
        assert unescape_name(escape_name(name)) == name
    with pytest.raises(LimitError, match=f"{NAME_BYTES_MAX + 1} bytes"):
        escape_name("x" * (NAME_BYTES_MAX + 1))


@pytest.mark.parametrize("name", ["", "a\x00b", "a\nb", "\x7f", "\x85", "a\u2028b", "\ud800"])
def test_empty_and_control_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        escape_name(name)
