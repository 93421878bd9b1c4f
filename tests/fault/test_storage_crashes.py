"""A writer process is killed, its write-ahead log is torn or damaged: the store is a whole "
"prefix, or says no."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_worker import check, write_batch

from vicinal.model.errors import ClosedError, CorruptionError, LockedError, StorageError
from vicinal.storage.checksum import crc32c
from vicinal.storage.durability import Durability
from vicinal.storage.files import REAL
from vicinal.storage.frames import BLOCK_BYTES, HEADER_BYTES, find_trap
from vicinal.storage.layout import open_database_dir
from vicinal.storage.mark import KEPT_WAL_NAME, MARK_NAME, read_mark
from vicinal.storage.store import Store

WORKER = Path(__file__).with_name("store_worker.py")
SEED = 20_261_121
KILLS = 6


def start(path: Path, durability: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(path), durability], stdout=subprocess.PIPE, text=True
    )


def kill_after(worker: subprocess.Popen[str], seconds: float) -> int:
    """Kill the worker some time after its first acknowledgement; return the last acknowledged "
    "number."""
    assert worker.stdout is not None
    acknowledged = worker.stdout.readline()
    time.sleep(seconds)
    worker.kill()
    worker.wait()
    rest = worker.stdout.read().split("\n")
    worker.stdout.close()
    whole = [line for line in (acknowledged.strip(), *rest[:-1]) if line]
    assert whole, "the worker died before its first write"
    return int(whole[-1])


@pytest.mark.parametrize("durability", list(Durability))
def test_kill_9_loses_no_acknowledged_batch_and_leaves_no_half_one(
    tmp_path: Path, durability: Durability
) -> None:
    chance = random.Random(SEED)
    for _ in range(KILLS):
        acknowledged = kill_after(start(tmp_path / "s", durability.value), chance.uniform(0, 0.3))
        with Store.open(tmp_path / "s") as store:
            assert check(store) >= acknowledged
        with Store.open(tmp_path / "s", read_only=True) as store:
            assert check(store) >= acknowledged


def test_readers_beside_a_live_writer_see_whole_batches(tmp_path: Path) -> None:
    worker = start(tmp_path / "s", "none")
    try:
        assert worker.stdout is not None
        acknowledged = int(worker.stdout.readline())
        for _ in range(6):
            with Store.open(tmp_path / "s", read_only=True) as view:
                seen = check(view)
                assert seen >= acknowledged
                assert check(view) == seen
            acknowledged = seen
            # Keep the pipe from filling up, which would stop the writer.
            for _ in range(20):
                worker.stdout.readline()
    finally:
        kill_after(worker, 0)


def test_another_process_is_refused_and_a_dead_holder_is_no_obstacle(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from vicinal.storage.layout import open_database_dir\n"
        "opened = open_database_dir(sys.argv[1], read_only=False)\n"
        "print('open', flush=True)\n"
        "time.sleep(100)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    begun = time.monotonic()
    with pytest.raises(LockedError, match=f"pid {holder.pid} on host"):
        open_database_dir(tmp_path / "db", read_only=False)
    assert time.monotonic() - begun < 5
    open_database_dir(tmp_path / "db", read_only=True).close()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / "db" / "LOCK").exists()
    open_database_dir(tmp_path / "db", read_only=False).close()


def test_a_forked_child_neither_keeps_the_lock_nor_uses_the_store(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from vicinal.model.errors import ClosedError\n"
        "from vicinal.storage.layout import open_database_dir\n"
        "from vicinal.storage.store import Store\n"
        "opened = open_database_dir(sys.argv[1], read_only=False)\n"
        "store = Store.open(opened.collection_path('c') / 'store')\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        store.write(log=b'x')\n"
        "    except ClosedError as error:\n"
        "        print('child', error, flush=True)\n"
        "    time.sleep(100)\n"
        "os.wait()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert "before a fork" in holder.stdout.readline()
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    holder.kill()
    holder.wait()
    try:
        with open_database_dir(tmp_path / "db", read_only=False) as opened:
            Store.open(opened.collection_path("c") / "store").close()
    finally:
        for child in children:
            subprocess.run(["kill", "-9", child], check=True)
        holder.stdout.close()


# ---------------------------------------------------------------------- a torn or damaged log


BATCHES = 8


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[int]]:
    """A store of some batches in one write-ahead log, and the length of the log after each."""
    live, path = tmp_path / "live", tmp_path / "original"
    lengths: list[int] = []
    with Store.open(live) as store:
        for i in range(1, BATCHES + 1):
            write_batch(store, i)
            lengths.append(_wal(live).stat().st_size)
        # A copy of the open store is what a crash leaves; closing would empty the log.
        shutil.copytree(live, path)
    assert lengths == sorted(set(lengths)), "the log did not grow with each batch"
    return path, lengths


def _wal(path: Path) -> Path:
    return max(path.glob("*.log"), key=lambda file: int(file.stem))


def _copy(original: Path, *, keep_mark: bool) -> Path:
    target = original.with_name("copy")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(original, target)
    if not keep_mark:
        (target / MARK_NAME).unlink()
    return target


def test_a_torn_tail_is_cut_at_the_last_whole_batch(written: tuple[Path, list[int]]) -> None:
    original, lengths = written
    chance = random.Random(SEED)
    cuts = {n + d for n in lengths for d in (-1, 0, 1, 7) if n + d <= lengths[-1]}
    cuts |= {chance.randrange(lengths[-1]) for _ in range(20)} | {0}
    for cut in sorted(cuts):
        # A power cut takes the tail before its mark is written.
        path = _copy(original, keep_mark=False)
        with _wal(path).open("r+b") as file:
            file.truncate(cut)
        whole = sum(1 for length in lengths if length <= cut)
        with Store.open(path) as store:
            assert check(store) == whole, cut
            assert write_batch(store, whole + 1) == whole + 1
        with Store.open(path) as store:
            assert check(store) == whole + 1, cut


def test_a_tail_of_zeros_or_garbage_is_cut_too(written: tuple[Path, list[int]]) -> None:
    original, lengths = written
    for junk in (bytes(5000), random.Random(SEED).randbytes(5000)):
        for batches in (1, 4, BATCHES):
            path = _copy(original, keep_mark=False)
            with _wal(path).open("r+b") as file:
                file.truncate(lengths[batches - 1])
                file.seek(lengths[batches - 1])
                file.write(junk)
            with Store.open(path) as store:
                assert check(store) == batches


def test_acknowledged_batches_that_are_missing_are_an_error(
    written: tuple[Path, list[int]],
) -> None:
    original, lengths = written
    for batches in (0, 1, BATCHES - 1):
        path = _copy(original, keep_mark=True)
        with _wal(path).open("r+b") as file:
            file.truncate(lengths[batches - 1] if batches else 0)
        damaged = _wal(path).read_bytes()
        for read_only in (False, True):
            with pytest.raises(CorruptionError, match=f"log records {batches + 1} to {BATCHES}"):
                Store.open(path, read_only=read_only)
        kept = [file.read_bytes() for file in (path / KEPT_WAL_NAME).glob("*")]
        assert kept == ([damaged] if damaged else [])
        with Store.open(path, accept_loss=True) as store:
            assert check(store) == batches
        assert not (path / KEPT_WAL_NAME).exists()
        with Store.open(path) as store:
            assert check(store) == batches


def test_a_lost_log_file_is_an_error(written: tuple[Path, list[int]]) -> None:
    path = _copy(written[0], keep_mark=True)
    _wal(path).unlink()
    with pytest.raises(CorruptionError, match=f"log records 1 to {BATCHES}"):
        Store.open(path)


def test_a_flipped_bit_in_the_log_is_never_a_silent_loss(written: tuple[Path, list[int]]) -> None:
    original, lengths = written
    chance = random.Random(SEED)
    detected = 0
    for _ in range(40):
        path = _copy(original, keep_mark=True)
        position = chance.randrange(lengths[-1])
        _flip(_wal(path), position, chance.randrange(8))
        try:
            with Store.open(path) as store:
                assert check(store) == BATCHES, position
        except CorruptionError:
            detected += 1
    assert detected >= 38


def _flip(file: Path, position: int, bit: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(position)
        byte = handle.read(1)[0]
        handle.seek(position)
        handle.write(bytes([byte ^ (1 << bit)]))


def test_a_damaged_mark_is_ignored(written: tuple[Path, list[int]]) -> None:
    path = _copy(written[0], keep_mark=True)
    _flip(path / MARK_NAME, 5, 0)
    with Store.open(path) as store:
        assert check(store) == BATCHES


# ---------------------------------------------------------------------- damage of other files


@pytest.mark.parametrize("closed", [False, True])
def test_a_manifest_that_was_cut_is_an_error_and_no_table_is_deleted(
    tmp_path: Path, closed: bool
) -> None:
    live = tmp_path / "live"
    store = Store.open(live)
    for i in range(1, 20):
        write_batch(store, i)
    store.reclaim()
    write_batch(store, 20)
    if closed:
        store.close()
    original = tmp_path / "original"
    shutil.copytree(live, original)
    store.close()
    (manifest,) = original.glob("MANIFEST-*")
    size = manifest.stat().st_size
    for cut in [*range(0, size, 37), size - 1]:
        path = _copy(original, keep_mark=True)
        with (path / manifest.name).open("r+b") as file:
            file.truncate(cut)
        names = {file.name for file in path.iterdir()}
        for read_only in (True, False):
            with pytest.raises(CorruptionError, match=f"{manifest.name} has {cut} bytes, but"):
                Store.open(path, read_only=read_only)
        assert {file.name for file in path.iterdir()} == names
    with Store.open(_copy(original, keep_mark=True)) as store:
        assert check(store) == 20


def test_a_mark_of_the_first_version_is_still_heeded(written: tuple[Path, list[int]]) -> None:
    original, lengths = written
    path = _copy(original, keep_mark=True)
    mark = read_mark(REAL, path)
    assert mark is not None
    body = struct.pack("<4sQQ", b"VACK", mark.rocks_seq, mark.log_seq)
    (path / MARK_NAME).write_bytes(body + crc32c(body).to_bytes(4, "little"))
    with _wal(path).open("r+b") as file:
        file.truncate(lengths[2])
    with pytest.raises(CorruptionError, match=f"log records 4 to {BATCHES}"):
        Store.open(path)


def test_a_flipped_bit_in_any_file_is_detected_or_harmless(tmp_path: Path) -> None:
    original = tmp_path / "original"
    with Store.open(original) as store:
        for i in range(1, 400):
            write_batch(store, i)
        handles = store._handles
        assert handles is not None
        for family in (handles.points, handles.log, handles.meta):
            family.flush(True)
        batches = store.last_seq
    chance = random.Random(SEED)
    detected: dict[str, int] = {}
    for file in sorted(original.iterdir()):
        size = file.stat().st_size
        if size == 0 or file.name.startswith("LOG"):
            continue
        for _ in range(5):
            path = _copy(original, keep_mark=True)
            _flip(path / file.name, chance.randrange(size), chance.randrange(8))
            try:
                with Store.open(path) as store:
                    assert check(store) == batches, file.name
            except (CorruptionError, StorageError):
                detected[file.suffix] = detected.get(file.suffix, 0) + 1
    assert detected.get(".sst", 0) > 0


@pytest.mark.parametrize("suffix", [".sst", "CURRENT", "MANIFEST"])
def test_a_missing_file_is_an_error_and_nothing_else_is_touched(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / "s"
    with Store.open(path) as store:
        for i in range(1, 50):
            write_batch(store, i)
        handles = store._handles
        assert handles is not None
        for family in (handles.points, handles.log, handles.meta):
            family.flush(True)
    victims = [f for f in path.iterdir() if f.name.endswith(suffix) or f.name.startswith(suffix)]
    assert victims
    content = victims[0].read_bytes()
    victims[0].unlink()
    with pytest.raises((CorruptionError, StorageError)), Store.open(path) as store:
        check(store)
    victims[0].write_bytes(content)
    with Store.open(path) as store:
        assert check(store) == 49


def test_a_closed_store_says_so_in_a_process_that_reopened_it(tmp_path: Path) -> None:
    first = Store.open(tmp_path / "s")
    first.close()
    with Store.open(tmp_path / "s"), pytest.raises(ClosedError):
        first.write(log=b"x")


def test_a_scan_never_takes_damage_for_the_end(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        for start in range(0, 20_000, 1000):
            points = [
                (b"%08d" % i, random.Random(i).randbytes(100)) for i in range(start, start + 1000)
            ]
            store.write(points=points, log=b"small")
        handles = store._handles
        assert handles is not None
        handles.points.flush(True)
    table = max((tmp_path / "s").glob("*.sst"), key=lambda file: file.stat().st_size)
    _flip(table, table.stat().st_size // 2, 3)
    with Store.open(tmp_path / "s") as store:
        with pytest.raises(CorruptionError, match="scanning points"):
            for _ in store.scan_points():
                pass
        with pytest.raises(CorruptionError, match="reading points"):
            store.get_points([b"%08d" % i for i in range(20_000)])
        assert len(list(store.read_log())) == 20
    # The errors were kept by pytest, tracebacks and all: the store still opens again.
    Store.open(tmp_path / "s").close()


def test_a_reader_keeps_its_moment_while_the_writer_trims_and_compacts(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with Store.open(tmp_path / "s", durability="none") as store:

        def settle() -> None:
            handles = store._handles
            assert handles is not None
            for family in (handles.points, handles.log, handles.meta):
                family.flush(True)
                family.compact_range(None, None)

        for i in range(30):
            store.write(points=[(b"%d" % i, b"old")], log=chance.randbytes(50_000))
        settle()
        with Store.open(tmp_path / "s", read_only=True) as view:
            store.write(
                points=[(b"%d" % i, None) for i in range(30)], log=b"x", trim_log_through=30
            )
            settle()
            assert [seq for seq, _ in view.read_log()] == list(range(1, 31))
            assert {value for _, value in view.scan_points()} == {b"old"}
            assert view.get_points([b"7"]) == [b"old"]
            assert view.last_seq == 30


# ---------------------------------------------------------------------- records that RocksDB spins
# on


def _record_starts(file: Path) -> list[int]:
    """Offsets of the records of a log-format file."""
    content, at, starts = file.read_bytes(), 0, list[int]()
    while at + HEADER_BYTES <= len(content):
        rest = BLOCK_BYTES - at % BLOCK_BYTES
        length = int.from_bytes(content[at + 4 : at + 6], "little")
        if rest < HEADER_BYTES:
            at += rest
        elif content[at + 6] == 0 and length == 0:
            break
        else:
            starts.append(at)
            at += HEADER_BYTES + length
    return starts


def _set_byte(file: Path, position: int, value: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(position)
        handle.write(bytes([value]))


@pytest.mark.parametrize("kind", [5, 6, 7, 8, 11, 64])
def test_a_log_record_of_a_recycled_type_is_cut_and_does_not_hang_the_open(
    written: tuple[Path, list[int]], kind: int
) -> None:
    original, lengths = written
    starts = _record_starts(_wal(original))
    assert starts[0] == 0
    assert set(lengths[:-1]) < set(starts)
    for keep_mark in (True, False):
        for start in (lengths[0], lengths[4], starts[-1]):
            whole = sum(1 for length in lengths if length <= start)
            path = _copy(original, keep_mark=keep_mark)
            _set_byte(_wal(path), start + 6, kind)
            damaged = _wal(path).read_bytes()
            with pytest.raises(CorruptionError, match=f"byte {start} is damaged"):
                Store.open(path, read_only=True)
            if keep_mark:
                with pytest.raises(CorruptionError, match=f"log records {whole + 1} to {BATCHES}"):
                    Store.open(path)
                assert [f.read_bytes() for f in (path / KEPT_WAL_NAME).iterdir()] == [damaged]
            with Store.open(path, accept_loss=keep_mark) as store:
                assert check(store) == whole


def test_a_garbage_tail_that_looks_like_a_recycled_record_is_cut(
    written: tuple[Path, list[int]],
) -> None:
    original, lengths = written
    for junk in (b"\x01\x02\x03\x04\x05\x00\x05", b"\xff" * 40_000, b"\x07" * 70_000):
        path = _copy(original, keep_mark=False)
        with _wal(path).open("r+b") as file:
            file.truncate(lengths[3])
            file.seek(lengths[3])
            file.write(junk)
        with Store.open(path) as store:
            assert check(store) == 4


def test_a_manifest_record_of_a_recycled_type_is_an_error_and_no_hang(
    written: tuple[Path, list[int]],
) -> None:
    original, _ = written
    manifest = next(original.glob("MANIFEST-*"))
    for start in _record_starts(manifest)[1:4]:
        path = _copy(original, keep_mark=True)
        _set_byte(path / manifest.name, start + 6, 5)
        for read_only in (True, False):
            with pytest.raises(CorruptionError, match=f"MANIFEST.* byte {start} is damaged"):
                Store.open(path, read_only=read_only)


def test_healthy_logs_of_any_length_are_left_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s", durability="none") as store:
        chance = random.Random(SEED)
        for _ in range(200):
            store.write(log=bytes(chance.choice([0, 1, 32_000, 32_750, 32_768, 100_000])))
        log = _wal(tmp_path / "s")
        assert log.stat().st_size > 3_000_000
        assert find_trap(REAL, log) is None
        assert find_trap(REAL, next((tmp_path / "s").glob("MANIFEST-*"))) is None
