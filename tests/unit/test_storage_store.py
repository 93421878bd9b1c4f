"""The store: batches, log, meta, scans, trimming, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vicinal.model.errors import (
    ClosedError,
    CorruptionError,
    InvalidArgumentError,
    LockedError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from vicinal.storage import rocks
from vicinal.storage.cursor import SCAN_CHUNK
from vicinal.storage.durability import Durability
from vicinal.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def test_a_batch_puts_and_deletes_points_log_and_meta_together(store: Store) -> None:
    assert store.write(points=[(b"a", b"1"), (b"b", b"2")], log=b"first", meta={"m": b"x"}) == 1
    assert store.write(points=[(b"a", None), (b"c", b"3")], log=b"second", meta={"m": None}) == 2
    assert store.get_points([b"c", b"a", b"b", b"zz"]) == [b"3", None, b"2", None]
    assert store.get_meta("m") is None
    assert list(store.read_log()) == [(1, b"first"), (2, b"second")]


def test_the_later_of_two_values_for_one_key_counts(store: Store) -> None:
    store.write(points=[(b"a", b"1"), (b"a", None), (b"a", b"2")])
    assert store.get_points([b"a", b"a"]) == [b"2", b"2"]


def test_a_point_that_is_read_alone_brings_little_else_into_memory(tmp_path: Path) -> None:
    keys = [b"%05d" % i for i in range(2_000)]
    with Store.open(tmp_path / "s") as store:
        store.write(points=[(key, key * 60) for key in keys])
        store.reclaim()
    memory = rocks.StoreMemory(2**30)  # a cache of its own
    with Store.open(tmp_path / "s", memory=memory) as store:
        store.get_points([keys[0]])  # and with it index and filter
        before = memory.cache_bytes
        assert store.get_points([keys[1_500]]) == [keys[1_500] * 60]
        assert 0 < memory.cache_bytes - before < 8 * 2**10


def test_no_keys_give_no_values(store: Store) -> None:
    assert store.get_points([]) == []


def test_a_write_without_log_returns_the_last_sequence(store: Store) -> None:
    assert store.write(points=[(b"a", b"1")]) == 0
    assert store.write(log=b"r") == 1
    assert store.write(meta={"m": b"1"}) == 1
    assert store.write() == 1
    assert store.last_seq == 1


def test_an_empty_payload_is_a_record_too(store: Store) -> None:
    assert store.write(log=b"") == 1
    assert list(store.read_log()) == [(1, b"")]


@pytest.mark.parametrize("durability", list(Durability))
def test_everything_is_there_after_reopening(tmp_path: Path, durability: Durability) -> None:
    with Store.open(tmp_path / "s", durability=durability, sync_interval_ms=1) as store:
        for i in range(20):
            store.write(points=[(b"%d" % i, b"v")], log=b"%d" % i, meta={"applied": b"%d" % i})
    with Store.open(tmp_path / "s", durability=durability) as store:
        assert store.last_seq == 20
        assert [payload for _, payload in store.read_log()] == [b"%d" % i for i in range(20)]
        assert store.get_meta("applied") == b"19"
        assert store.write(log=b"next") == 21


def test_reading_the_log_after_a_record_begins_behind_it(store: Store) -> None:
    for i in range(1, 6):
        store.write(log=b"%d" % i)
    assert [seq for seq, _ in store.read_log(3)] == [4, 5]
    assert list(store.read_log(5)) == []


def test_trimmed_records_are_gone_and_their_numbers_are_not_given_again(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        for _ in range(5):
            store.write(log=b"x")
        store.write(trim_log_through=3)
        assert [seq for seq, _ in store.read_log()] == [4, 5]
        assert store.write(log=b"six", trim_log_through=5) == 6
        assert store.trimmed_through == 5
        store.write(trim_log_through=6)
    with Store.open(tmp_path / "s") as store:
        assert (store.last_seq, store.trimmed_through) == (6, 6)
        assert list(store.read_log()) == []
        assert store.write(log=b"seven") == 7


def test_a_log_that_is_trimmed_for_ever_leaves_no_tables_behind(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", durability="none") as store:
        for _ in range(30):
            for _ in range(5):
                store.write(log=b"x" * 100)
            store.write(trim_log_through=store.last_seq)
            store.flush()

        def tables() -> int:
            return len(list((tmp_path / "s").glob("*.sst")))

        end = time.monotonic() + 20  # RocksDB compacts by itself
        while tables() > 12 and time.monotonic() < end:
            time.sleep(0.01)
        assert tables() <= 12
        assert store.last_seq == store.trimmed_through == 150
        assert list(store.read_log()) == []


def test_trimming_what_is_trimmed_does_nothing(store: Store) -> None:
    store.write(log=b"1")
    store.write(trim_log_through=1)
    store.write(trim_log_through=1)
    store.write(trim_log_through=0)
    assert store.trimmed_through == 1


def test_trimming_past_the_end_is_refused(store: Store) -> None:
    store.write(log=b"1")
    with pytest.raises(InvalidArgumentError, match="through 2, its last record is 1"):
        store.write(log=b"2", trim_log_through=2)
    assert store.last_seq == 1


def test_reading_behind_a_trimmed_record_is_refused(store: Store) -> None:
    for _ in range(5):
        store.write(log=b"x")
    store.write(trim_log_through=3)
    with pytest.raises(InvalidArgumentError, match="up to 3 are trimmed"):
        store.read_log(2)


def test_the_store_keeps_its_own_meta_keys_to_itself(store: Store) -> None:
    for key in ("", "\x00trimmed"):
        with pytest.raises(InvalidArgumentError):
            store.write(meta={key: b"1"})


def test_a_scan_is_ordered_and_begins_where_asked(store: Store) -> None:
    n = SCAN_CHUNK * 2 + 7
    store.write(points=[(b"%06d" % i, b"%d" % i) for i in reversed(range(n))])
    assert list(store.scan_points()) == [(b"%06d" % i, b"%d" % i) for i in range(n)]
    assert next(store.scan_points(b"000500\x00")) == (b"000501", b"501")


def test_a_scan_sees_the_state_of_its_call(store: Store) -> None:
    store.write(points=[(b"%04d" % i, b"old") for i in range(2000)])
    scan = store.scan_points()
    store.write(points=[(b"%04d" % i, None if i % 2 else b"new") for i in range(2000)])
    assert {value for _, value in scan} == {b"old"}


def test_a_log_read_sees_the_state_of_its_call(store: Store) -> None:
    store.write(log=b"1")
    records = store.read_log()
    store.write(log=b"2", trim_log_through=1)
    assert list(records) == [(1, b"1")]


def test_a_flipped_bit_in_a_log_record_is_named(store: Store) -> None:
    store.write(log=b"one")
    store.write(log=b"two")
    handles = store._handles
    assert handles is not None
    key = (2).to_bytes(8, "big")
    value = handles.log.get(key)
    assert value is not None
    for position in range(len(value)):
        damaged = bytearray(value)
        damaged[position] ^= 0x10
        handles.log.put(key, bytes(damaged))
        with pytest.raises(CorruptionError, match="log record 2"):
            list(store.read_log())


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_log_record_is_named(store: Store, missing: int) -> None:
    for _ in range(3):
        store.write(log=b"x")
    handles = store._handles
    assert handles is not None
    handles.log.delete(missing.to_bytes(8, "big"))
    with pytest.raises(CorruptionError, match=f"log records? {missing} "):
        list(store.read_log())


def test_a_swapped_log_record_is_detected(store: Store) -> None:
    store.write(log=b"same")
    store.write(log=b"same")
    handles = store._handles
    assert handles is not None
    handles.log.put((2).to_bytes(8, "big"), handles.log.get((1).to_bytes(8, "big")))
    with pytest.raises(CorruptionError, match="log record 2"):
        list(store.read_log())


def test_a_second_writer_in_the_process_is_refused(store: Store) -> None:
    with pytest.raises(LockedError):
        Store.open(store.path)


def test_a_missing_store_is_not_created_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Store.open(tmp_path / "s", create=False)
    with pytest.raises(NotFoundError):
        Store.open(tmp_path / "s", read_only=True)
    assert not (tmp_path / "s").exists()


def test_a_read_only_store_reads_and_refuses_writes(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        store.write(points=[(b"a", b"1")], log=b"r", meta={"m": b"x"})
    with Store.open(tmp_path / "s", read_only=True) as view:
        assert view.get_points([b"a"]) == [b"1"]
        assert view.get_meta("m") == b"x"
        assert list(view.read_log()) == [(1, b"r")]
        with pytest.raises(ReadOnlyError):
            view.write(log=b"x")
        view.sync()


def test_a_read_only_view_beside_a_writer_keeps_its_moment(store: Store) -> None:
    store.write(points=[(b"a", b"1")], log=b"1")
    with Store.open(store.path, read_only=True) as view:
        store.write(points=[(b"a", b"2"), (b"b", b"2")], log=b"2")
        assert view.get_points([b"a", b"b"]) == [b"1", None]
        assert view.last_seq == 1
    with Store.open(store.path, read_only=True) as view:
        assert view.last_seq == 2


def test_read_only_leaves_the_directory_as_it_is(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        store.write(points=[(b"a", b"1")], log=b"1")
    before = sorted(p.name for p in (tmp_path / "s").iterdir())
    with Store.open(tmp_path / "s", read_only=True) as view:
        assert view.get_points([b"a"]) == [b"1"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == before


def test_closing_twice_is_fine_and_later_use_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    store.write(points=[(b"%d" % i, b"v") for i in range(SCAN_CHUNK + 1)], log=b"1")
    scan, records = store.scan_points(), store.read_log()
    next(scan)
    store.close()
    store.close()
    uses = [
        lambda: store.get_points([b"a"]),
        lambda: store.get_meta("m"),
        lambda: store.write(log=b"2"),
        lambda: store.last_seq,
        lambda: store.read_log(),
        lambda: store.scan_points(),
        lambda: store.disk_bytes(),
        lambda: store.sync(),
        lambda: list(scan),
        lambda: list(records),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="is closed"):
            use()


def test_a_store_reopens_while_an_old_scan_is_still_referenced(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    store.write(points=[(b"%d" % i, b"v") for i in range(10 * SCAN_CHUNK)], log=b"1")
    scan = store.scan_points()
    next(scan)
    store.close()
    with Store.open(tmp_path / "s") as again:
        assert again.last_seq == 1
    del scan


def test_closing_waits_for_writers_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    acknowledged: list[int] = []

    def work() -> None:
        try:
            while True:
                acknowledged.append(store.write(points=[(b"k", b"v")], log=b"x"))
        except ClosedError:
            return

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 50:
        pass
    store.close()
    for thread in threads:
        thread.join()
    with Store.open(tmp_path / "s") as again:
        assert again.last_seq == max(acknowledged)
        assert sorted(acknowledged) == list(range(1, again.last_seq + 1))


@pytest.mark.parametrize("interval", [0, -1, 60_001])
def test_an_interval_outside_its_bounds_is_refused(tmp_path: Path, interval: int) -> None:
    with pytest.raises(InvalidArgumentError, match=str(interval)):
        Store.open(tmp_path / "s", sync_interval_ms=interval)


def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="known are sync, interval, none"):
        Store.open(tmp_path / "s", durability="fast")


def test_a_file_in_the_place_of_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hello")
    with pytest.raises(StorageError, match="not a directory"):
        Store.open(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "hello"


def test_disk_bytes_grow_with_the_data(store: Store) -> None:
    before = store.disk_bytes()
    store.write(log=bytes(1_000_000))
    assert store.disk_bytes() > before + 900_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Corruption: block checksum mismatch in 9.sst", CorruptionError),
        ("IO error: No space left on device: While appending", StorageError),
        ("IO error: lock hold by current process, acquire time 1", LockedError),
        ("IO error: While lock file: s/LOCK: Resource temporarily unavailable", LockedError),
        ("Invalid argument: whatever", StorageError),
    ],
)
def test_rocksdb_errors_become_ours(text: str, expected: type[Exception]) -> None:
    assert type(rocks.translate(Exception(text), "writing")) is expected


def test_a_full_disk_keeps_its_errno_and_names_the_remedy() -> None:
    error = rocks.translate(Exception("IO error: No space left on device: While x"), "writing")
    assert isinstance(error, StorageError)
    assert error.errno == 28
    assert "free disk space" in str(error)
