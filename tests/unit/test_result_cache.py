"""The result cache: bounded, forgetful, and fond of what is asked often."""

from __future__ import annotations

import hashlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from vicinal.server.cache import ENTRY_BYTES, SHARDS, FrequencySketch, ResultCache

MB = 2**20


def key(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


class Clock:
    """A clock that stands until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_entry_is_found_at_its_version_only() -> None:
    cache = ResultCache(MB, 60)
    cache.put(key(1), (1, 4), b"old")
    assert cache.get(key(1), (1, 4)) == b"old"
    assert cache.get(key(1), (1, 6)) is None
    assert cache.get(key(1), (1, 4)) is None, "a version that is over does not come back"
    assert cache.get(key(2), (1, 4)) is None


def test_an_entry_is_forgotten_after_its_time() -> None:
    clock = Clock()
    cache = ResultCache(MB, 10, clock)
    cache.put(key(1), 0, b"x")
    clock.now += 9.9
    assert cache.get(key(1), 0) == b"x"
    clock.now += 0.1
    assert cache.get(key(1), 0) is None
    assert len(cache) == 0


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = ResultCache(0, 60)
    cache.put(key(1), 0, b"x")
    assert cache.get(key(1), 0) is None


def test_what_is_asked_often_survives_a_flood_of_what_is_asked_once() -> None:
    cache = ResultCache(MB, 60)
    body = b"x" * 600
    popular = [key(i) for i in range(100)]
    for _ in range(4):
        for k in popular:
            if cache.get(k, 0) is None:
                cache.put(k, 0, body)
    for i in range(1_000, 21_000):
        if cache.get(key(i), 0) is None:
            cache.put(key(i), 0, body)
    kept = sum(cache.get(k, 0) is not None for k in popular)
    assert kept >= 90, f"{kept} of 100; LRU keeps none"


def test_new_favourites_replace_old_ones() -> None:
    cache = ResultCache(MB // 4, 60)
    body = b"x" * 600
    for base in (0, 10_000):
        names = [key(base + i) for i in range(200)]
        for _ in range(30):
            for k in names:
                if cache.get(k, 0) is None:
                    cache.put(k, 0, body)
        hits = sum(cache.get(k, 0) is not None for k in names)
        assert hits >= 100, f"{hits} of 200 in a cache for about 260"


def test_a_body_too_large_for_its_share_is_not_kept() -> None:
    cache = ResultCache(MB, 60)
    cache.put(key(1), 0, b"x" * (MB // SHARDS // 10))
    assert len(cache) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 3), st.integers(0, 3_000), st.booleans()),
        max_size=300,
    ),
    st.integers(20_000, 200_000),
)
def test_bytes_are_bounded_and_answers_are_the_last_put(
    steps: list[tuple[int, int, int, bool]], bytes_max: int
) -> None:
    cache = ResultCache(bytes_max, 60)
    last: dict[tuple[int, int], bytes] = {}
    for number, version, size, is_put in steps:
        if is_put:
            body = random.Random(size).randbytes(size)
            cache.put(key(number), version, body)
            last[number, version] = body
        else:
            found = cache.get(key(number), version)
            assert found is None or found == last[number, version]
        entry_max = SHARDS * (4 * ENTRY_BYTES + bytes_max // SHARDS // 10)
        assert cache.bytes <= bytes_max + entry_max
    cache.clear()
    assert (cache.bytes, len(cache)) == (0, 0)


def test_the_sketch_never_counts_too_few_until_it_halves() -> None:
    sketch = FrequencySketch(1_024)
    rng = random.Random(5)
    names = [rng.getrandbits(64) for _ in range(200)]
    for i, hashed in enumerate(names):
        for _ in range(i % 12):
            sketch.add(hashed)
    assert all(sketch.estimate(h) >= i % 12 for i, h in enumerate(names))
    assert sum(sketch.estimate(h) == i % 12 for i, h in enumerate(names)) > 190
    for _ in range(20_000):
        sketch.add(rng.getrandbits(64))
    assert sketch.estimate(names[11]) < 11 + 8, "old fame fades"
