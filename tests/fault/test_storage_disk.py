"""The disk fills up, files may not grow, fsync fails, the power goes: errors with reasons, no acknowledged loss.

These tests need mount, strace or a loop device and skip with the reason where they have none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from store_worker import check, write_batch
from test_storage_crashes import WORKER

from vicinal.model.errors import StorageError
from vicinal.storage.sections import open_sections, write_sections
from vicinal.storage.store import Store

EXT4_IOC_SHUTDOWN = 0x8004587D
SHUTDOWN_WITHOUT_FLUSH = 2


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(store: Store) -> tuple[int, StorageError]:
    """Write until the store refuses; return the last acknowledged number and the refusal."""
    acknowledged = store.last_seq
    with pytest.raises(StorageError) as caught:
        for _ in range(100_000):
            acknowledged = write_batch(store, acknowledged + 1)
    return acknowledged, caught.value


def test_a_full_disk_stops_writes_keeps_reads_and_loses_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "m", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        store = Store.open(disk / "s")
        acknowledged, error = fill(store)
        assert error.errno == 28
        assert "free disk space" in str(error)
        assert "bytes of disk" in str(error)
        assert store.failure is None
        assert store.get_points([b"c"]) == [b"%d" % acknowledged]
        assert check(store) == acknowledged
        store.close()
        with Store.open(disk / "s", read_only=True) as view:
            assert check(view) == acknowledged
        with Store.open(disk / "s") as store:
            assert check(store) == acknowledged
            subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
            write_batch(store, acknowledged + 1)
            assert check(store) == acknowledged + 1


def test_a_full_disk_refuses_sections_before_anything_is_mapped(tmp_path: Path) -> None:
    with mounted(tmp_path / "m", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as disk:
        write_sections(disk / "x", "k", {"a": np.arange(1000)}, {})
        with pytest.raises(StorageError, match="free disk space"):
            write_sections(disk / "x", "k", {"a": np.arange(1_000_000)}, {})
        assert [p.name for p in disk.iterdir()] == ["x"]
        with open_sections(disk / "x", "k") as sections:
            assert len(sections["a"]) == 1000


def test_a_file_size_limit_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        f"sys.path.insert(0, {str(WORKER.parent)!r})\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from store_worker import check, write_batch\n"
        "from vicinal.model.errors import StorageError\n"
        "from vicinal.storage.sections import write_sections\n"
        "from vicinal.storage.store import Store\n"
        "store = Store.open(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "i = 0\n"
        "try:\n"
        "    while True:\n"
        "        i = write_batch(store, i + 1)\n"
        "except StorageError as error:\n"
        "    assert error.errno == 27 and 'ulimit -f' in str(error), error\n"
        "assert check(store) == i\n"
        "try:\n"
        "    write_sections(sys.argv[1] + '.x', 'k', {'a': np.zeros(1 << 21, np.uint8)}, {})\n"
        "except StorageError as error:\n"
        "    assert error.errno == 27, error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
        "store.close()\n"
        "print(i)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with Store.open(tmp_path / "s") as store:
        assert check(store) == int(done.stdout)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("nth", [1, 2, 5])
def test_a_failed_fsync_is_not_acknowledged_and_not_tried_again(tmp_path: Path, nth: int) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    Store.open(tmp_path / "s").close()
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(WORKER.parent)!r})\n"
        "from store_worker import write_batch\n"
        "from vicinal.model.errors import StorageError\n"
        "from vicinal.storage.store import Store\n"
        "store = Store.open(sys.argv[1])\n"
        "open(sys.argv[1] + '/../begin', 'w').close()\n"
        "i = 0\n"
        "try:\n"
        "    while True:\n"
        "        i = write_batch(store, i + 1)\n"
        "except StorageError as error:\n"
        "    print(i, error.errno, str(error).replace('\\n', ' '), flush=True)\n"
        "try:\n"
        "    store.write(log=b'x')\n"
        "except StorageError as error:\n"
        "    print(error, flush=True)\n"
        "import os; os._exit(0)\n"
    )
    trace = tmp_path / "trace"
    # Opening syncs too; the count of those is the same each time.
    opening = _fdatasyncs_of_opening(tmp_path / "s", trace)
    done = subprocess.run(
        [
            "strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fdatasync",
            "-e", f"inject=fdatasync:error=EIO:when={opening + nth}+",
            sys.executable, "-c", code, str(tmp_path / "s"),
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if "ptrace" in done.stderr:
        pytest.skip(f"strace is not permitted here: {done.stderr.strip()}")
    first, second = done.stdout.splitlines()
    acknowledged, code_name, message = first.split(" ", 2)
    assert (int(acknowledged), int(code_name)) == (nth - 1, 5), message
    assert "the disk reports a fault" in message
    assert "read-only since a write failed" in second
    assert trace.read_text().count("INJECTED") == 1
    with Store.open(tmp_path / "s") as store:
        assert check(store) in (nth - 1, nth)


def _fdatasyncs_of_opening(path: Path, trace: Path) -> int:
    code = "import os, sys\nfrom vicinal.storage.store import Store\nStore.open(sys.argv[1])\nos._exit(0)"
    subprocess.run(
        ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fdatasync",
         sys.executable, "-c", code, str(path)],
        capture_output=True,
    )  # fmt: skip
    return sum("fdatasync(" in line for line in trace.read_text().splitlines())


@pytest.mark.parametrize("durability", ["sync", "interval"])
def test_a_power_cut_takes_nothing_acknowledged_in_sync_mode_and_a_suffix_otherwise(
    tmp_path: Path, durability: str
) -> None:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    acknowledged = 0
    for wanted in (3, 40, 15):
        with mounted(tmp_path / "m", "-o", "loop", str(image)) as disk:
            worker = subprocess.Popen(
                [sys.executable, str(WORKER), str(disk / "new" / "s"), durability],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert worker.stdout is not None
            for _ in range(wanted):
                line = worker.stdout.readline()
            fd = os.open(disk, os.O_RDONLY)
            try:
                fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_WITHOUT_FLUSH))
            finally:
                os.close(fd)
            worker.kill()
            worker.wait()
            worker.stdout.close()
            if durability == "sync":
                acknowledged = int(line)
        with mounted(tmp_path / "m", "-o", "loop", str(image)) as disk:
            if durability == "interval" and not (disk / "new" / "s" / "CURRENT").exists():
                continue
            with Store.open(disk / "new" / "s") as store:
                assert check(store) >= acknowledged
