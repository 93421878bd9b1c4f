"""A process that writes to a store until it is killed, and the rules its store must obey afterwards.

Batch i: points `c` (always), `k<i>` and `k<i-3>` deleted; log record `<i>:` and filler; meta
`applied`. Each value repeats i, so that half a batch cannot pass for a whole one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vicinal.storage.store import Store

FILLER_BYTES_MAX = 20_000


def filler(i: int) -> bytes:
    return bytes([i % 251]) * (i * 7919 % FILLER_BYTES_MAX)


def write_batch(store: Store, i: int) -> int:
    number = b"%d" % i
    points: list[tuple[bytes, bytes | None]] = [(b"c", number), (b"k%d" % i, number)]
    points += [(b"x%d-%d" % (i, j), number) for j in range(20)]
    points.append((b"k%d" % (i - 3), None))
    trim = i - 10 if i % 10 == 0 and i > 10 else None
    return store.write(
        points=points,
        log=number + b":" + filler(i),
        meta={"applied": number},
        trim_log_through=trim,
    )


def check(store: Store) -> int:
    """Return how many batches are there; every rule of a whole prefix holds."""
    last = store.last_seq
    records = list(store.read_log())
    assert [seq for seq, _ in records] == list(range(store.trimmed_through + 1, last + 1))
    for seq, payload in records:
        assert payload == b"%d:" % seq + filler(seq), seq
    if last == 0:
        assert list(store.scan_points()) == []
        return 0
    number = b"%d" % last
    assert store.get_meta("applied") == number
    assert store.get_points([b"c", b"k%d" % last]) == [number, number]
    found = dict(store.scan_points())
    expected = {b"k%d" % i: b"%d" % i for i in range(max(1, last - 2), last + 1)}
    expected |= {b"x%d-%d" % (i, j): b"%d" % i for i in range(1, last + 1) for j in range(20)}
    expected[b"c"] = number
    assert found == expected
    return last


def main() -> None:
    path, durability = Path(sys.argv[1]), sys.argv[2]
    store = Store.open(path, durability=durability, sync_interval_ms=5)
    i = store.last_seq
    while True:
        i += 1
        seq = write_batch(store, i)
        sys.stdout.write(f"{seq}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
