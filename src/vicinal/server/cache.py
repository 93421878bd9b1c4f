"""The result cache: encoded answers by request, never older than the collection's last acknowledged write.

W-TinyLFU (Einziger, Friedman, Manes 2017, arXiv:1512.00727): new entries pass a small LRU window; one that falls out of
it enters the main part only where a count-min sketch says that its request is more frequent than the one it would push
out. Frequencies belong to requests, not to entries, so a request that is asked again after a write is admitted at once.
The main part is a segmented LRU. Shards, chosen by the request's digest, each have a lock.

An entry names the collection version that it was computed at; another version is a miss. See `Collection.version`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from vicinal.model.errors import invariant

SHARDS = 8
ENTRY_BYTES = 400
"""What an entry costs beside its body: key, tuple, dict slots; measured with tracemalloc, rounded up."""

WINDOW_SHARE, PROTECTED_SHARE = 0.02, 0.8
BODY_SHARE_MAX = 0.1
"""A body above this share of a shard is not kept: it would push out too many others."""

PARTS = ("protected", "probation", "window")
COUNTER_MAX = 15
ROWS = 4


class FrequencySketch:
    """Count-min sketch of small counters that are halved now and then, so that old fame fades."""

    def __init__(self, width: int) -> None:
        size = 64
        while size < width:
            size *= 2
        self._mask = size - 1
        self._rows = [bytearray(size) for _ in range(ROWS)]
        self._added, self._sample = 0, 10 * size

    def add(self, hashed: int) -> None:
        """Count one more."""
        mask, rows = self._mask, self._rows
        first, second, third, fourth = rows  # by hand: this is on the way of every search
        a, b = hashed & mask, hashed >> 16 & mask
        c, d = hashed >> 32 & mask, hashed >> 48 & mask
        least = min(first[a], second[b], third[c], fourth[d])
        if least < COUNTER_MAX:
            # Only the least are wrong by least: others already count somebody else (conservative update).
            if first[a] == least:
                first[a] += 1
            if second[b] == least:
                second[b] += 1
            if third[c] == least:
                third[c] += 1
            if fourth[d] == least:
                fourth[d] += 1
        self._added += 1
        if self._added >= self._sample:
            self._added //= 2
            self._rows = [bytearray(count >> 1 for count in row) for row in rows]

    def estimate(self, hashed: int) -> int:
        """At least how often, up to COUNTER_MAX and but for the halving; collisions only add."""
        return min(row[(hashed >> (16 * i)) & self._mask] for i, row in enumerate(self._rows))


@dataclass(slots=True)
class _Entry:
    version: Hashable
    expires: float
    body: bytes
    hashed: int


class _Shard:
    """One part with its lock."""

    def __init__(self, bytes_max: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self.lock = threading.Lock()
        self.window: OrderedDict[bytes, _Entry] = OrderedDict()
        self.probation: OrderedDict[bytes, _Entry] = OrderedDict()
        self.protected: OrderedDict[bytes, _Entry] = OrderedDict()
        self.parts: dict[str, OrderedDict[bytes, _Entry]] = dict(
            zip(PARTS, (self.protected, self.probation, self.window), strict=True)
        )
        self.bytes: dict[str, int] = dict.fromkeys(PARTS, 0)
        self.window_max = max(int(bytes_max * WINDOW_SHARE), 4 * ENTRY_BYTES)
        self.main_max = bytes_max - self.window_max
        self.protected_max = int(self.main_max * PROTECTED_SHARE)
        self.body_max = int(bytes_max * BODY_SHARE_MAX)
        self.sketch = FrequencySketch(max(64, bytes_max // ENTRY_BYTES))
        self.ttl_s, self.clock = ttl_s, clock

    def get(self, key: bytes, version: Hashable) -> bytes | None:
        hashed = int.from_bytes(key[:8], "little")
        with self.lock:
            self.sketch.add(hashed)
            for name in PARTS:
                entry = self.parts[name].get(key)
                if entry is None:
                    continue
                if entry.version != version or entry.expires <= self.clock():
                    self._remove(name, key)
                    return None
                self._touch(name, key, entry)
                return entry.body
        return None

    def put(self, key: bytes, version: Hashable, body: bytes) -> None:
        if len(body) + ENTRY_BYTES > self.body_max:
            return
        hashed = int.from_bytes(key[:8], "little")
        entry = _Entry(version, self.clock() + self.ttl_s, body, hashed)
        with self.lock:
            for name in PARTS:
                if key in self.parts[name]:
                    self._remove(name, key)
                    break
            self._add("window", key, entry)
            while self.bytes["window"] > self.window_max and len(self.window) > 1:
                self._leave_window()

    def clear(self) -> None:
        with self.lock:
            for name, part in self.parts.items():
                part.clear()
                self.bytes[name] = 0

    def _leave_window(self) -> None:
        """The window's oldest entry goes to the main part, if it is more frequent than what must leave for it."""
        key, entry = next(iter(self.window.items()))
        self._remove("window", key)
        size = _size(entry)
        frequency = self.sketch.estimate(entry.hashed)
        now = self.clock()
        while self.bytes["probation"] + self.bytes["protected"] + size > self.main_max:
            name = "probation" if self.probation else "protected"
            part = self.probation or self.protected
            if not part:
                return
            victim_key, victim = next(iter(part.items()))
            if victim.expires > now and self.sketch.estimate(victim.hashed) >= frequency:
                return
            self._remove(name, victim_key)
        self._add("probation", key, entry)

    def _touch(self, name: str, key: bytes, entry: _Entry) -> None:
        if name == "probation":
            self._remove(name, key)
            self._add("protected", key, entry)
            while self.bytes["protected"] > self.protected_max and len(self.protected) > 1:
                old_key, old = next(iter(self.protected.items()))
                self._remove("protected", old_key)
                self._add("probation", old_key, old)
        else:
            self.parts[name].move_to_end(key)

    def _add(self, name: str, key: bytes, entry: _Entry) -> None:
        self.parts[name][key] = entry
        self.bytes[name] += _size(entry)

    def _remove(self, name: str, key: bytes) -> None:
        entry = self.parts[name].pop(key)
        self.bytes[name] -= _size(entry)


class ResultCache:
    """Encoded answers. Thread-safe.

    Parameters
    ----------
    bytes_max : memory for bodies and what goes with them; 0 keeps nothing.
    ttl_s : seconds after which an entry is forgotten.
    clock : seconds, for tests.
    """

    def __init__(
        self, bytes_max: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shards = [_Shard(bytes_max // SHARDS, ttl_s, clock) for _ in range(SHARDS)]
        self.enabled = bytes_max > 0

    def get(self, key: bytes, version: Hashable) -> bytes | None:
        """The answer to the request with this digest (16 bytes) at this version."""
        return self._shard(key).get(key, version) if self.enabled else None

    def put(self, key: bytes, version: Hashable, body: bytes) -> None:
        """Keep an answer that was computed while the version stayed what it is given as."""
        if self.enabled:
            self._shard(key).put(key, version, body)

    def clear(self) -> None:
        """Forget everything."""
        for shard in self._shards:
            shard.clear()

    @property
    def bytes(self) -> int:
        """Bytes held, by our own count."""
        return sum(sum(shard.bytes.values()) for shard in self._shards)

    def __len__(self) -> int:
        return sum(len(part) for shard in self._shards for part in shard.parts.values())

    def _shard(self, key: bytes) -> _Shard:
        invariant(len(key) == 16, "a cache key is a digest of 16 bytes")
        return self._shards[key[15] % SHARDS]


def _size(entry: _Entry) -> int:
    return len(entry.body) + ENTRY_BYTES
