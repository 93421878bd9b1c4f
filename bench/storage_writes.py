"""Write rate of a store: batches of 1000 points, 1 KB of log and 250 B of value each, and what it costs on disk.

    python bench/storage_writes.py FOLDER [--points 1000000] [--durability sync] [--trim 200000]

Values are random bytes, so that compression does not flatter. Each line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import threading
import time
from pathlib import Path

from vicinal.storage.store import Store

BATCH = 1000
POINT_BYTES, LOG_BYTES = 250, 1000


def load(store: Store, n_points: int, trim: int) -> dict[str, object]:
    """Write n_points in batches, trimming the log now and then; return rates and pauses."""
    value_pool = os.urandom(POINT_BYTES * BATCH)
    log_pool = os.urandom(LOG_BYTES * BATCH)
    order = list(range(0, n_points, BATCH))
    pauses: list[float] = []
    disk_max = 0
    written, cpu = _written_bytes(), time.process_time()
    begun = time.perf_counter()
    for start in order:
        at = time.perf_counter()
        # Hashed ids arrive in no order, which is the harder case for an LSM.
        points = [
            (
                ((start + i) * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big"),
                value_pool[i * POINT_BYTES : (i + 1) * POINT_BYTES],
            )
            for i in range(BATCH)
        ]
        seq = store.write(points=points, log=log_pool, meta={"applied": b"%d" % start})
        if trim and seq % (trim // BATCH) == 0:
            store.write(trim_log_through=seq)
            disk_max = max(disk_max, store.disk_bytes())
        pauses.append(time.perf_counter() - at)
    seconds = time.perf_counter() - begun
    pauses.sort()
    return {
        "points_per_s": round(n_points / seconds),
        "cpu_us_per_point": round((time.process_time() - cpu) / n_points * 1e6, 2),
        "written_per_user_byte": round(
            (_written_bytes() - written) / (n_points * (POINT_BYTES + LOG_BYTES)), 2
        ),
        "batch_ms_p50": round(pauses[len(pauses) // 2] * 1e3, 2),
        "batch_ms_p99": round(pauses[len(pauses) * 99 // 100] * 1e3, 2),
        "batch_ms_max": round(pauses[-1] * 1e3, 2),
        "disk_mb_max": round(disk_max / 1e6),
        "disk_mb_end": round(store.disk_bytes() / 1e6),
    }


def _written_bytes() -> int:
    """Bytes this process handed to the file system so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def small_writes(store: Store, threads: int, count: int) -> dict[str, object]:
    """Single-point writes from several threads at once."""

    def work(thread: int) -> None:
        for i in range(count):
            store.write(points=[(b"t%d-%d" % (thread, i), b"v" * 250)], log=b"l" * 1000)

    rounds = store.fsyncs
    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begun
    return {
        "threads": threads,
        "writes_per_s": round(threads * count / seconds),
        "fsyncs_per_write": round((store.fsyncs - rounds) / (threads * count), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--durability", default="sync")
    parser.add_argument("--trim", type=int, default=200_000)
    options = parser.parse_args()
    with Store.open(options.folder, durability=options.durability) as store:
        result = load(store, options.points, options.trim)
        print(json.dumps({"durability": options.durability, **result}))
        for threads in (1, 4, 16, 32):
            print(json.dumps(small_writes(store, threads, 200)))
        keys = [
            (i * 97 % options.points * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")
            for i in range(10_000)
        ]
        begun = time.perf_counter()
        for start in range(0, len(keys), BATCH):
            store.get_points(keys[start : start + BATCH])
        print(json.dumps({"get_us_per_key": round((time.perf_counter() - begun) * 100, 2)}))
    begun = time.perf_counter()
    with Store.open(options.folder) as store:
        opened = time.perf_counter() - begun
        begun = time.perf_counter()
        rows = sum(1 for _ in store.scan_points())
        scanned = time.perf_counter() - begun
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "open_s": round(opened, 3),
                "scan_rows_per_s": round(rows / scanned),
                "rss_mb_max": round(rss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
