"""What the store says where RocksDB, the disk or another process is in its way."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_below

from vicinal.model.errors import (
    ClosedError,
    CorruptionError,
    InvalidArgumentError,
    LockedError,
    StorageError,
)
from vicinal.storage import lock, mark, recovery
from vicinal.storage.bundle_copy import link_or_copy
from vicinal.storage.files import REAL, FileSystem, make_dirs, remove_quietly, write_at
from vicinal.storage.gate import Gate
from vicinal.storage.layout import open_database_dir
from vicinal.storage.mark import MARK_NAME, manifest_number, read_mark
from vicinal.storage.records import seq_key
from vicinal.storage.rocks import Handles
from vicinal.storage.space import RESERVE_NAME, Space
from vicinal.storage.store import Store

FAULT = "IO error: While pread: Input/output error"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s") as opened:
        opened.write(points=[(b"a", b"1")], log=b"x", meta={"m": b"2"})
        yield opened


class Failing:
    """Stands for a column family or a database: every call of these names fails, all else is the real one."""

    def __init__(self, real: Any, *names: str, text: str = FAULT) -> None:
        self._real, self._names, self._text = real, names, text

    def __getattr__(self, name: str) -> Any:
        if name in self._names:

            def fail(*_: Any, **__: Any) -> Any:
                raise Exception(self._text)  # what rocksdict raises

            return fail
        return getattr(self._real, name)


READS: dict[str, tuple[str, str, Callable[[Store], Any]]] = {
    "points": ("points", "get", lambda s: s.get_points([b"a"])),
    "meta": ("meta", "get", lambda s: s.get_meta("m")),
}


@pytest.mark.parametrize("what", READS)
def test_a_read_that_fails_names_the_store_and_writes_go_on(store: Store, what: str) -> None:
    family, name, call = READS[what]
    handles = store._handles
    assert handles is not None
    real = getattr(handles, family)
    setattr(handles, family, Failing(real, name))
    with pytest.raises(
        StorageError, match=rf"reading {what} in the store .*disk reports a fault"
    ) as caught:
        call(store)
    assert caught.value.errno == errno.EIO
    setattr(handles, family, real)
    store.write(points=[(b"b", b"2")])
    assert store.get_points([b"a", b"b"]) == [b"1", b"2"]


@pytest.mark.parametrize("call", ["flush", "reclaim"])
def test_a_flush_that_fails_says_so(store: Store, call: str) -> None:
    handles = store._handles
    assert handles is not None
    log = handles.log
    handles.log = Failing(log, "flush")  # type: ignore[assignment]
    with pytest.raises(StorageError, match="writing memtables out"):
        getattr(store, call)()
    handles.log = Failing(log, "compact_range")  # type: ignore[assignment]
    if call == "reclaim":
        with pytest.raises(StorageError, match="making room"):
            store.reclaim()
    handles.log = log


def test_a_small_memtable_is_not_flushed_and_a_large_one_is(store: Store) -> None:
    held = store.memory_bytes()
    store.flush(at_least=held + 1)
    assert store.memory_bytes() == held
    store.flush(at_least=1)
    assert store.memory_bytes() < held


def test_a_closed_store_holds_no_memory(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    store.close()
    assert store.memory_bytes() == 0


def test_a_checkpoint_over_something_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError, match="making a checkpoint"):
        store.checkpoint(tmp_path / "there")


def test_a_write_that_fails_makes_the_store_read_only(store: Store) -> None:
    handles = store._handles
    assert handles is not None
    real = handles.db
    handles.db = Failing(real, "write")  # type: ignore[assignment]
    with pytest.raises(StorageError, match="writing in the store"):
        store.write(points=[(b"b", b"2")])
    handles.db = real
    for again in (
        lambda: store.write(points=[(b"b", b"2")]),
        store.sync,
        store.settle,
        store.flush,
        store.reclaim,
    ):
        with pytest.raises(StorageError, match="read-only since a write failed"):
            again()
    assert store.get_points([b"a"]) == [b"1"]


def test_settling_needs_no_sync_where_none_was_promised(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", durability="none") as store:
        store.write(points=[(b"a", b"1")], settle=False)
        store.settle()
        assert store.fsyncs == 0
    with Store.open(tmp_path / "t") as store:
        for i in range(3):
            store.write(points=[(b"%d" % i, b"1")], settle=False)
        assert store.fsyncs == 0
        store.settle()
        assert store.fsyncs == 1


def test_an_interrupted_write_leaves_the_number_open_until_it_is_read_again(store: Store) -> None:
    handles = store._handles
    assert handles is not None
    real = handles.db

    class Interrupted:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def write(self, *arguments: Any) -> None:
            real.write(*arguments)
            raise KeyboardInterrupt

    handles.db = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        store.write(points=[(b"b", b"2")], log=b"y")
    handles.db = real
    assert store.last_seq == 2
    assert store.write(log=b"z") == 3
    assert [payload for _, payload in store.read_log()] == [b"x", b"y", b"z"]


def test_a_stalled_store_waits_outside_of_rocksdb(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = store._handles
    assert handles is not None
    real = handles.db
    answers = {"rocksdb.is-write-stopped": [1, 1, 0], "rocksdb.actual-delayed-write-rate": [1000]}
    slept: list[float] = []

    class Stalled:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def property_int_value(self, name: str) -> int:
            return answers[name].pop(0) if answers.get(name) else 0

    monkeypatch.setattr("vicinal.storage.store.time.sleep", slept.append)
    handles.db = Stalled()  # type: ignore[assignment]
    store.write(points=[(b"b", bytes(50))])
    handles.db = real
    assert len(slept) == 3
    assert 0.05 < slept[-1] <= 1.0
    assert store.get_points([b"b"]) == [bytes(50)]


def test_a_stall_that_an_error_caused_is_not_waited_for(store: Store) -> None:
    handles = store._handles
    assert handles is not None
    real = handles.db

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def property_int_value(self, name: str) -> int:
            return 1

    handles.db = Broken()  # type: ignore[assignment]
    store.write(points=[(b"b", b"2")])
    handles.db = real
    assert store.get_points([b"b"]) == [b"2"]


def test_a_scan_that_fails_is_no_end(store: Store) -> None:
    rows = store.scan_points()
    (cursor,) = store._cursors
    cursor._cursor = Failing(cursor._cursor, "valid")  # type: ignore[assignment]
    with pytest.raises(StorageError, match="scanning points"):
        list(rows)


def test_a_view_whose_file_was_replaced_says_so(store: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", read_only=True) as view:
        handles = view._handles
        assert handles is not None
        text = "IO error: No such file or directory: While open a file"
        handles.points = Failing(handles.points, "get", text=text)  # type: ignore[assignment]
        with pytest.raises(StorageError, match="open the view again"):
            view.get_points([b"a"])
        view.sync()
        view.flush()
        view.reclaim()


def test_what_closing_cannot_write_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vicinal.storage.store._FLUSH_AT_CLOSE_BYTES", 0)
    store = Store.open(tmp_path / "s")
    store.write(points=[(b"a", b"1")], log=b"x")
    handles = store._handles
    assert handles is not None

    class Closing(Failing):
        def close(self) -> None:
            self._real.close()
            raise Exception(FAULT)

    handles.log = Closing(handles.log, "flush")  # type: ignore[assignment]
    mark_file = store._mark_file
    assert mark_file is not None
    calls: list[int] = []

    def fail_at_last(rocks_seq: int, log_seq: int) -> None:
        calls.append(log_seq)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(mark_file, "write", fail_at_last)
    store._commit._safe = 10**9
    store.close()
    assert calls == [1]
    for words in ("writing memtables out", "closing RocksDB", "it lags behind"):
        assert words in caplog.text
    with Store.open(tmp_path / "s") as again:
        assert again.get_points([b"a"]) == [b"1"]


def test_a_sync_that_fails_while_closing_is_raised_and_the_store_is_closed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(points=[(b"b", b"2")], settle=False)

    def fail() -> int:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(store._commit, "_sync", fail)
    with pytest.raises(StorageError, match="the disk is gone"):
        store.close()
    with pytest.raises(ClosedError):
        store.get_points([b"a"])


# ---------------------------------------------------------------------- opening


def test_a_file_in_the_place_of_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("not a directory")
    with pytest.raises(StorageError, match="is not a directory"):
        Store.open(tmp_path / "s")


def test_data_without_its_root_file_is_not_taken_for_a_new_store(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        store.write(points=[(b"a", b"1")])
    (tmp_path / "s" / "CURRENT").unlink()
    with pytest.raises(CorruptionError, match="CURRENT is missing"):
        Store.open(tmp_path / "s")


def test_a_folder_that_holds_no_data_becomes_a_store_and_keeps_what_lay_in_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "s").mkdir()  # what is left of a process that died between two calls
    (tmp_path / "s" / "note.txt").write_text("keep")
    with Store.open(tmp_path / "s") as store:
        store.write(points=[(b"a", b"1")])
    with Store.open(tmp_path / "s") as again:
        assert again.get_points([b"a"]) == [b"1"]
    assert (tmp_path / "s" / "note.txt").read_text() == "keep"


@pytest.mark.parametrize("times", [1, 4, 5])
def test_a_reader_tries_again_where_a_writer_replaced_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    Store.open(tmp_path / "s").close()
    opened: list[Path] = []
    real = recovery.open_rocks

    def vanishing(path: Path, **options: Any) -> Handles:
        opened.append(path)
        if len(opened) <= times:
            raise StorageError("opening: IO error: No such file or directory")
        return real(path, **options)

    monkeypatch.setattr(recovery, "open_rocks", vanishing)
    monkeypatch.setattr("vicinal.storage.recovery.time.sleep", lambda _: None)
    if times == 5:
        with pytest.raises(StorageError, match="No such file"):
            Store.open(tmp_path / "s", read_only=True)
        return
    Store.open(tmp_path / "s", read_only=True).close()
    assert len(opened) == times + 1


def test_the_ends_of_a_log_that_contradict_themselves_are_damage(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        store.write(log=b"x")
        handles = store._handles
        assert handles is not None
        handles.meta.put(recovery.TRIMMED_KEY, seq_key(7))
        store._seq_known = False
        with pytest.raises(CorruptionError, match="ends at 1 but is trimmed through 7"):
            _ = store.last_seq
        real = handles.meta
        handles.meta = Failing(real, "get")  # type: ignore[assignment]
        with pytest.raises(StorageError, match="opening the store"):
            _ = store.last_seq
        handles.meta = real
        real.delete(recovery.TRIMMED_KEY)
        assert store.last_seq == 1


# ---------------------------------------------------------------------- the mark


def test_a_mark_that_is_no_mark_is_none(tmp_path: Path) -> None:
    assert read_mark(REAL, tmp_path) is None
    for raw in (b"", b"VAC2", b"VACK" + bytes(40), b"what else" * 9):
        (tmp_path / MARK_NAME).write_bytes(raw)
        assert read_mark(REAL, tmp_path) is None


@pytest.mark.parametrize("text", ["", "MANIFEST-", "MANIFEST-x", "MANIFEST-\u0663", "other"])
def test_a_root_file_that_names_no_manifest_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "CURRENT").write_text(text)
    with pytest.raises(CorruptionError, match="names no MANIFEST"):
        manifest_number(REAL, tmp_path)


def test_a_mark_without_its_manifest_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "CURRENT").write_text("MANIFEST-000007\n")
    with pytest.raises(FileNotFoundError):
        mark.MarkFile(REAL, tmp_path)
    assert open_below(tmp_path) == 0


class Unlinkable(FileSystem):
    """A file system without hard links."""

    code = errno.EPERM

    def link(self, source: Path, target: Path) -> None:
        raise OSError(self.code, os.strerror(self.code))


def test_recovery_goes_on_where_logs_cannot_be_linked_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store.open(tmp_path / "s", durability="none") as store:
        store.write(points=[(b"a", b"1")])
    (tmp_path / "s" / "000009.log").write_bytes(b"x")
    mark.keep_wal(Unlinkable(), tmp_path / "s")
    assert "cannot link" in caplog.text


# ---------------------------------------------------------------------- the lock


def test_a_lock_of_another_process_names_it(tmp_path: Path) -> None:
    with open_database_dir(tmp_path / "db", read_only=False):
        pass
    file = tmp_path / "db" / lock.LOCK_NAME
    with file.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        file.write_text('{"pid": 77, "host": "there", "started": "2026-01-01T00:00:00Z"}')
        with pytest.raises(LockedError, match="pid 77 on host there since 2026"):
            open_database_dir(tmp_path / "db", read_only=False)
        file.write_text("?")
        with pytest.raises(LockedError, match="has not written its pid yet"):
            open_database_dir(tmp_path / "db", read_only=False)
        file.unlink()
    with open_database_dir(tmp_path / "db", read_only=False):
        pass


def test_a_lock_that_cannot_be_had_or_written_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_database_dir(tmp_path / "db", read_only=False):
        pass
    assert open_below(tmp_path) == 0

    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patched:
        patched.setattr("vicinal.storage.lock.fcntl.flock", refuse)
        with pytest.raises(StorageError):
            open_database_dir(tmp_path / "db", read_only=False)
    with monkeypatch.context() as patched:
        patched.setattr("vicinal.storage.lock.write_at", refuse)
        with pytest.raises((StorageError, TypeError)):
            open_database_dir(tmp_path / "db", read_only=False)
    assert open_below(tmp_path) == 0
    with open_database_dir(tmp_path / "db", read_only=False):
        pass


def test_a_child_forgets_the_locks_of_its_parent(tmp_path: Path) -> None:
    with open_database_dir(tmp_path / "db", read_only=False):
        pid = os.fork()
        if pid == 0:
            kept = len(lock._held)
            os._exit(kept)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(lock._held) == 1


def test_a_gate_is_shut_once_and_waits_for_who_is_inside() -> None:
    gate = Gate("the thing")
    with gate:
        assert not gate.is_shut
    assert gate.shut()
    assert gate.is_shut
    assert not gate.shut()
    with pytest.raises(ClosedError, match="the thing is closed"), gate:
        raise AssertionError("a shut gate let somebody in")


def test_a_gate_of_before_a_fork_is_shut_in_the_child() -> None:
    gate = Gate("the thing")
    pid = os.fork()
    if pid == 0:
        try:
            with gate:
                os._exit(1)
        except ClosedError as fault:
            os._exit(0 if "before a fork" in str(fault) else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---------------------------------------------------------------------- files, space, bundles


def test_a_folder_that_somebody_makes_meanwhile_is_fine_and_a_file_is_not(tmp_path: Path) -> None:
    class Racing(FileSystem):
        def is_dir(self, path: Path) -> bool:
            return False

        def mkdir(self, path: Path) -> None:
            if not path.exists():
                path.mkdir()
            raise FileExistsError(errno.EEXIST, "File exists", str(path))

    make_dirs(Racing(), tmp_path / "a")
    assert (tmp_path / "a").is_dir()
    (tmp_path / "b").write_text("")
    with pytest.raises(FileExistsError):
        make_dirs(Racing(), tmp_path / "b")


def test_a_file_system_that_takes_no_bytes_is_an_error(tmp_path: Path) -> None:
    class Full(FileSystem):
        def pwrite(self, fd: int, data: Any, offset: int) -> int:
            return 0

    with pytest.raises(OSError, match="took no bytes"):
        write_at(Full(), 0, b"x", 0)


def test_a_leftover_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    assert remove_quietly(REAL, tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    assert not remove_quietly(REAL, tmp_path / "folder")


def test_a_reserve_that_cannot_be_made_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class NoReserve(FileSystem):
        def fallocate(self, fd: int, size: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    space = Space(tmp_path, fs=NoReserve())
    assert "no reserve" in caplog.text
    assert not (tmp_path / RESERVE_NAME).exists()
    assert space.short
    assert not space.release()
    space.admit("the write", 10, lambda: 0, frees=False)


def test_an_abundance_is_believed_for_a_moment_and_less_what_was_written(tmp_path: Path) -> None:
    class Counted(FileSystem):
        asked = 0
        free = 2**33

        def free_bytes(self, path: Path) -> int:
            self.asked += 1
            return self.free

    fs = Counted()
    space = Space(tmp_path, reserve_bytes=0, fs=fs)
    for _ in range(50):
        space.admit("the write", 1, lambda: 0, frees=False)
    few = fs.asked
    assert few < 25  # once in a tenth of a second; fifty calls take far less than two of them
    space.admit("the write", 2**31, lambda: 0, frees=False)
    fs.free = 0
    with pytest.raises(StorageError, match="0 are free"):
        space.admit("the write", 1, lambda: 0, frees=False)
    assert fs.asked > few


def test_a_file_is_copied_where_it_cannot_be_linked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    link_or_copy(Unlinkable(), tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"

    class Gone(Unlinkable):
        code = errno.EIO

    with pytest.raises(OSError, match="Input/output"):
        link_or_copy(Gone(), tmp_path / "a", tmp_path / "c")


def test_a_meta_key_that_is_the_stores_own_is_refused(store: Store) -> None:
    for key in ("", "\0trimmed"):
        with pytest.raises(InvalidArgumentError, match="meta key"):
            store.write(meta={key: b"x"})
