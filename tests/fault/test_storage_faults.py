"""Every call that changes the disk fails, or is the last: files and the directory stay old or "
"new, never between."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faulty_fs import Crash, FaultyFileSystem

from vicinal.model.errors import LockedError, StorageError
from vicinal.storage.commit import INTERVAL_BACKOFF_MAX, GroupCommit, IntervalTimer
from vicinal.storage.durability import Durability
from vicinal.storage.files import FileSystem, read_file, write_file
from vicinal.storage.layout import open_database_dir
from vicinal.storage.sections import open_sections, write_sections
from vicinal.storage.store import Store

CALLS_MAX = 200
OLD, NEW = np.arange(3000, dtype=np.int64), np.arange(5000, dtype=np.int64) * 7


def sweep(
    run: Callable[[FaultyFileSystem], None],
    check: Callable[[FaultyFileSystem, bool], None],
    code: int | None,
) -> int:
    """Fail call 1, 2, 3, ... of run until it gets through; return how many faults there were.

    check is given the file system and whether run got through.
    """
    for fail_at in range(1, CALLS_MAX):
        fs = FaultyFileSystem(fail_at, code)
        try:
            run(fs)
        except (OSError, Crash):
            assert fs.failed
            check(fs, False)
            continue
        check(fs, True)
        if not fs.failed:
            return fail_at - 1
    raise AssertionError(f"still failing after {CALLS_MAX} calls")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failed_write_of_sections_leaves_a_whole_file_and_no_other(
    tmp_path: Path, code: int
) -> None:
    path = tmp_path / "x"

    def check(fs: FaultyFileSystem, done: bool) -> None:
        with open_sections(path, "k") as found:
            expected = [NEW] if done else [OLD, NEW]
            assert any(np.array_equal(found["a"], array) for array in expected)
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        write_sections(path, "k", {"a": OLD}, {})

    write_sections(path, "k", {"a": OLD}, {})
    faults = sweep(lambda fs: write_sections(path, "k", {"a": NEW}, {}, fs=fs), check, code)
    assert faults >= 6  # open, fallocate, writes, fsync, rename, fsync of the directory


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_while_writing_sections_leaves_the_old_or_the_new_file(
    tmp_path: Path, power: bool
) -> None:
    path = tmp_path / "x"

    def check(fs: FaultyFileSystem, done: bool) -> None:
        if power:
            fs.power_cut(tmp_path)
        with open_sections(path, "k") as found:
            expected = [NEW] if done else [OLD, NEW]
            assert any(np.array_equal(found["a"], array) for array in expected)
        write_sections(path, "k", {"a": OLD}, {})
        assert [p.name for p in tmp_path.iterdir()] == ["x"]

    write_sections(path, "k", {"a": OLD}, {})
    sweep(lambda fs: write_sections(path, "k", {"a": NEW}, {}, fs=fs), check, None)


def test_a_full_disk_is_named_with_its_remedy(tmp_path: Path) -> None:
    fs = FaultyFileSystem(1, errno.ENOSPC, only=frozenset({"fallocate"}))
    with pytest.raises(
        StorageError, match=r"writing .*x: No space left.*free disk space"
    ) as caught:
        write_sections(tmp_path / "x", "k", {"a": NEW}, {}, fs=fs)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(tmp_path: Path) -> None:
    fs = FaultyFileSystem(short_writes=True)
    write_sections(tmp_path / "x", "k", {"a": NEW}, {"m": 1}, fs=fs)
    assert fs.calls.count("pwrite") > 40
    with open_sections(tmp_path / "x", "k") as found:
        assert np.array_equal(found["a"], NEW)


def test_a_file_system_without_fallocate_is_written_to_all_the_same(tmp_path: Path) -> None:
    class Old(FileSystem):
        def fallocate(self, fd: int, size: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "no")

    class Real(FileSystem):
        pass

    with pytest.raises(StorageError):
        write_sections(tmp_path / "x", "k", {"a": NEW}, {}, fs=Old())
    write_sections(tmp_path / "x", "k", {"a": NEW}, {}, fs=Real())


def test_an_unreadable_sector_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    class BadSector(FileSystem):
        def pread_into(self, fd: int, buffer: memoryview, offset: int) -> int:
            if offset >= 4096:
                raise OSError(errno.EIO, "Input/output error")
            return super().pread_into(fd, buffer, offset)

    write_sections(tmp_path / "x", "k", {"a": NEW}, {})
    with pytest.raises(StorageError, match="check it before going on"):
        open_sections(tmp_path / "x", "k", fs=BadSector())


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, None])
@pytest.mark.parametrize("power", [False, True])
def test_a_small_file_is_the_old_or_the_new_one(
    tmp_path: Path, code: int | None, power: bool
) -> None:
    path = tmp_path / "f"

    def check(fs: FaultyFileSystem, done: bool) -> None:
        if power:
            fs.power_cut(tmp_path)
        content = read_file(FileSystem(), path, bytes_max=100)
        assert content in ({b"new"} if done else {b"old", b"new"})
        write_file(FileSystem(), path, b"old")

    write_file(FileSystem(), path, b"old")
    sweep(lambda fs: write_file(fs, path, b"new"), check, code)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, None])
@pytest.mark.parametrize("power", [False, True])
def test_creating_a_database_can_stop_anywhere_and_be_done_again(
    tmp_path: Path, code: int | None, power: bool
) -> None:
    count = 0

    def run(fs: FaultyFileSystem) -> None:
        nonlocal count
        count += 1
        open_database_dir(tmp_path / str(count) / "db", read_only=False, fs=fs).close()

    def check(fs: FaultyFileSystem, done: bool) -> None:
        path = tmp_path / str(count) / "db"
        if power:
            fs.power_cut(tmp_path)
        if done:
            open_database_dir(path, read_only=True).close()
        open_database_dir(path, read_only=False).close()

    assert sweep(run, check, code) >= 8


@pytest.mark.parametrize("code", [errno.EIO, None])
@pytest.mark.parametrize("power", [False, True])
def test_a_drop_that_stops_anywhere_leaves_the_collection_whole_or_gone(
    tmp_path: Path, code: int | None, power: bool
) -> None:
    path = tmp_path / "db"

    def fill() -> None:
        with open_database_dir(path, read_only=False) as opened:
            folder = opened.collection_path("docs")
            if not folder.exists():
                (folder / "store").mkdir(parents=True)
                for i in range(3):
                    (folder / "store" / str(i)).write_text("x")

    def run(fs: FaultyFileSystem) -> None:
        with open_database_dir(path, read_only=False, fs=fs) as opened:
            opened.drop_collection("docs")

    def check(fs: FaultyFileSystem, done: bool) -> None:
        if power:
            fs.power_cut(tmp_path)
        with open_database_dir(path, read_only=False) as opened:
            if opened.collections():
                assert not done
                assert len(list((opened.collection_path("docs") / "store").iterdir())) == 3
            assert not list((path / "collections").glob(".*"))
        fill()

    fill()
    assert sweep(run, check, code) >= 7


def test_a_failed_open_lets_go_of_the_lock(tmp_path: Path) -> None:
    for fail_at in range(1, 12):
        fs = FaultyFileSystem(fail_at, errno.EIO)
        try:
            open_database_dir(tmp_path / "db", read_only=False, fs=fs).close()
        except StorageError as error:
            assert not isinstance(error, LockedError)
        open_database_dir(tmp_path / "db", read_only=False).close()


# ---------------------------------------------------------------------- the store


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_store_is_read_only_after_a_failed_sync_until_it_is_reopened(
    tmp_path: Path, code: int
) -> None:
    path = tmp_path / "s"
    # Calls that count: the mark at opening, then one per synced write.
    fs = FaultyFileSystem(4, code, only=frozenset({"pwrite"}))
    store = Store.open(path, fs=fs)
    store.write(points=[(b"a", b"1")], log=b"1")
    store.write(points=[(b"a", b"2")], log=b"2")
    with pytest.raises(StorageError, match="syncing") as caught:
        store.write(points=[(b"a", b"3")], log=b"3")
    assert caught.value.errno == code
    for attempt in (
        lambda: store.write(log=b"4"),
        lambda: store.write(meta={"m": b"1"}),
        store.sync,
    ):
        with pytest.raises(StorageError, match=r"read-only since a write failed.*open it again"):
            attempt()
    assert len(fs.calls) == 4  # no sync was tried again
    assert store.get_points([b"a"]) != [None]
    store.close()
    with Store.open(path) as again:
        assert again.last_seq in (2, 3)
        assert again.get_points([b"a"]) == [b"%d" % again.last_seq]
        assert again.write(log=b"next") == again.last_seq


def test_a_failed_background_sync_stops_the_next_write(tmp_path: Path) -> None:
    fs = FaultyFileSystem(2, errno.EIO, only=frozenset({"pwrite"}))
    store = Store.open(tmp_path / "s", durability=Durability.INTERVAL, sync_interval_ms=1, fs=fs)
    with pytest.raises(StorageError, match="read-only since a write failed"):
        for _ in range(100_000):
            store.write(log=b"x")
    store.close()


# ---------------------------------------------------------------------- group commit


class _Ticks:
    """A sync that fails at the n-th call."""

    def __init__(self, fail_at: int = 0) -> None:
        self.calls = 0
        self.fail_at = fail_at

    def __call__(self) -> int:
        self.calls += 1
        if self.calls == self.fail_at:
            raise StorageError("syncing: Input/output error")
        return self.calls * 10


def test_a_ticket_that_is_safe_needs_no_sync() -> None:
    ticks = _Ticks()
    commit = GroupCommit(ticks, safe=5)
    commit.wait(5)
    assert ticks.calls == 0
    commit.wait(6)
    commit.wait(10)
    assert ticks.calls == 1
    commit.wait(11)
    assert ticks.calls == 2


def test_a_failed_sync_is_never_called_again() -> None:
    ticks = _Ticks(fail_at=2)
    commit = GroupCommit(ticks, safe=0)
    commit.wait(1)
    for _ in range(3):
        with pytest.raises(StorageError):
            commit.wait(11)
    assert ticks.calls == 2
    commit.wait(10)  # what was safe stays safe


def test_an_interrupted_sync_can_be_called_again() -> None:
    outcomes: list[BaseException | int] = [KeyboardInterrupt(), 7]

    def sync() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, int):
            return outcome
        raise outcome

    commit = GroupCommit(sync, safe=0)
    with pytest.raises(KeyboardInterrupt):
        commit.wait(1)
    commit.wait(1)
    assert commit.safe == 7


def test_the_interval_stretches_under_load_and_resets_when_idle() -> None:
    waits: list[float] = []

    class Stop:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return len(waits) > 12

    busy = [True] * 8 + [False] + [True] * 10
    timer = IntervalTimer.__new__(IntervalTimer)
    timer._interval_s = 1.0
    timer._dirty = lambda: busy.pop(0)
    synced: list[int] = []
    timer._sync = lambda: synced.append(1)
    timer._stop = Stop()  # type: ignore[assignment]
    timer._run()
    assert waits[:4] == [1.0, 1.5, 2.25, 3.375]
    assert max(waits) == INTERVAL_BACKOFF_MAX
    assert waits[8] == INTERVAL_BACKOFF_MAX
    assert waits[9] == 1.0
    assert len(synced) == 11
