"""What a server counts, in Prometheus' terms; see docs/observability.md for the list. Labels are bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vicinal.engine.database import Database
from vicinal.engine.watch import SearchRecord
from vicinal.model.errors import ClosedError
from vicinal.model.version import VERSION
from vicinal.server.admission import Admission
from vicinal.server.batcher import Waiting
from vicinal.server.cache import ResultCache

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
SEARCH_SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.5)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COLLECTIONS_MAX = 1_000
"""Collections that get lines of their own; more would be more labels than a monitor wants."""


class Metrics:
    """The figures of one server."""

    def __init__(
        self,
        database: Database,
        admission: Admission,
        cache: ResultCache,
        waiting: Callable[[], float],
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "vicinal_requests",
            "Requests answered, by operation, protocol and error code (ok where there is none)",
            ("operation", "protocol", "code"),
            registry=registry,
        )
        self.seconds = Histogram(
            "vicinal_request_seconds",
            "Seconds from the whole body to the answer's bytes",
            ("operation", "protocol"),
            buckets=SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "vicinal_refused",
            "Requests refused before their operation was begun, by protocol and error code",
            ("protocol", "code"),
            registry=registry,
        )
        self.cache = Counter(
            "vicinal_result_cache", "Look-ups of the result cache", ("outcome",), registry=registry
        )
        self._hits, self._misses = self.cache.labels("hit"), self.cache.labels("miss")
        self._answered: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._shared = Counter(
            "vicinal_shared_cache",
            "Look-ups of the shared cache: hit, miss, late, error, or open (its breaker is)",
            ("outcome",),
            registry=registry,
        )
        self._shared_puts = Counter(
            "vicinal_shared_cache_puts",
            "Results offered to the shared cache",
            ("outcome",),
            registry=registry,
        )
        self._shared_seconds = Histogram(
            "vicinal_shared_cache_seconds",
            "Seconds that a look-up of the shared cache took",
            buckets=SEARCH_SECONDS,
            registry=registry,
        )
        self.deduplicated = Counter(
            "vicinal_searches_joined",
            "Searches that joined an equal one under way",
            registry=registry,
        )
        self.batch = Histogram(
            "vicinal_search_batch",
            "Searches that went in one native call",
            buckets=BATCHES,
            registry=registry,
        )
        self._waits = Histogram(
            "vicinal_search_wait_seconds",
            "Seconds that a search waited for a thread",
            buckets=SEARCH_SECONDS,
            registry=registry,
        )
        self._paths = Histogram(
            "vicinal_search_path_seconds",
            "Seconds that a segment took in one native call, by the way it was searched",
            ("path",),
            buckets=SEARCH_SECONDS,
            registry=registry,
        )
        self._recall = _Recall()
        registry.register(self._recall)
        Gauge("vicinal_build", "1, labelled", ("version",), registry=registry).labels(VERSION).set(
            1
        )
        for name, about, read in (
            ("vicinal_searches_waiting", "Searches no thread has taken", waiting),
            (
                "vicinal_requests_under_way",
                "Requests let in and not answered",
                lambda: admission.requests + admission.held,
            ),
            (
                "vicinal_request_bytes_under_way",
                "Bytes of their bodies",
                lambda: admission.body_bytes,
            ),
            ("vicinal_result_cache_bytes", "Memory of the result cache", lambda: cache.bytes),
            ("vicinal_result_cache_entries", "Results in the cache", lambda: len(cache)),
        ):
            Gauge(name, about, registry=registry).set_function(read)
        ProcessCollector(registry=registry)
        registry.register(_Collections(database))

    def answered(self, operation: str, protocol: str, code: str, seconds: float) -> None:
        """A request was answered, or failed with a code."""
        found = self._answered.get((operation, protocol, code))
        if found is None:  # looking a label up takes longer than counting
            found = self._answered[operation, protocol, code] = (
                self.requests.labels(operation, protocol, code),
                self.seconds.labels(operation, protocol),
            )
        found[0].inc()
        found[1].observe(seconds)

    def looked(self, *, hit: bool) -> None:
        """A look-up of the result cache."""
        (self._hits if hit else self._misses).inc()

    def begun(self, batch: Sequence[Waiting]) -> None:
        """A native call begins: its size, and how long its searches waited."""
        self.batch.observe(len(batch))
        now_s = time.perf_counter()
        for waiting in batch:
            self._waits.observe(now_s - waiting.came_s)

    def searched(self, record: SearchRecord) -> None:
        """A watcher: time by path."""
        for run in record.runs:
            self._paths.labels(run.plan.strategy).observe(run.seconds)

    def recalled(self, collection: str, found: int, expected: int) -> None:
        """A search was repeated exactly; see `RecallMonitor`."""
        self._recall.add(collection, found, expected)

    def shared_looked(self, outcome: str, seconds: float) -> None:
        """A look-up of the shared cache."""
        self._shared.labels(outcome).inc()
        if outcome != "open":
            self._shared_seconds.observe(seconds)

    def shared_put(self, outcome: str) -> None:
        """A result was offered to the shared cache."""
        self._shared_puts.labels(outcome).inc()

    def shared_state(self, closed: Callable[[], bool]) -> None:
        """There is a shared cache; `closed` says whether its breaker is."""
        Gauge(
            "vicinal_shared_cache_up",
            "1 while the shared cache is used, 0 while its breaker is open",
            registry=self.registry,
        ).set_function(lambda: float(closed()))

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


class _Recall(Collector):
    """Outcomes of the recall monitor, of COLLECTIONS_MAX collections at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, tuple[int, int, int]] = {}

    def add(self, collection: str, found: int, expected: int) -> None:
        with self._lock:
            if collection in self._sums or len(self._sums) < COLLECTIONS_MAX:
                searches, right, wanted = self._sums.get(collection, (0, 0, 0))
                self._sums[collection] = searches + 1, right + found, wanted + expected

    def collect(self) -> Iterator[Metric]:
        """Counters by collection; recall is found / expected."""
        with self._lock:
            sums = dict(self._sums)
        for place, (name, about) in enumerate(
            (
                ("vicinal_recall_searches", "Live searches that were repeated exactly"),
                ("vicinal_recall_found", "Their results that are among the true nearest"),
                ("vicinal_recall_expected", "Their true nearest"),
            )
        ):
            family = CounterMetricFamily(name, about, labels=["collection"])
            for collection, values in sums.items():
                family.add_metric([collection], values[place])
            yield family

    def describe(self) -> Iterator[Metric]:
        """The names are known."""
        return self.collect()


class _Collections(Collector):
    """Figures of the collections that are open, taken when they are asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """Points, the share that the graph holds, memory, and fsyncs."""
        one = ["collection"]
        points = GaugeMetricFamily("vicinal_points", "Points", labels=one)
        indexed = GaugeMetricFamily(
            "vicinal_indexed_ratio", "Share of rows that the graph holds", labels=one
        )
        memory = GaugeMetricFamily(
            "vicinal_memory_bytes", "Memory of its own", labels=["collection", "kind"]
        )
        mapped = GaugeMetricFamily(
            "vicinal_mapped_bytes", "Files that are mapped", labels=["collection", "kind"]
        )
        disk = GaugeMetricFamily("vicinal_disk_bytes", "Files", labels=["collection", "kind"])
        syncs = CounterMetricFamily("vicinal_syncs", "Syncs of the write-ahead log", labels=one)
        sync_s = CounterMetricFamily("vicinal_sync_seconds", "Seconds that they took", labels=one)
        for name in self._names():
            engine = self._database.opened(name)
            if engine is None or engine.state.closed:
                continue
            figures: dict[str, Any] = engine.stats()
            points.add_metric([name], figures["points"])
            indexed.add_metric([name], figures["indexed_ratio"])
            for kind, value in figures["memory_bytes"].items():
                memory.add_metric([name, kind], value)
            for kind, value in figures["mapped_bytes"].items():
                mapped.add_metric([name, kind], value)
            for kind, value in figures["disk_bytes"].items():
                disk.add_metric([name, kind], value)
            store = engine.state.store
            syncs.add_metric([name], store.fsyncs)
            sync_s.add_metric([name], store.fsync_seconds)
        yield from (points, indexed, memory, mapped, disk, syncs, sync_s)

    def describe(self) -> Iterator[Metric]:
        """Nothing at registration, so that no collection is looked at then."""
        return iter(())

    def _names(self) -> list[str]:
        try:
            return self._database.collections()[:COLLECTIONS_MAX]
        except ClosedError:
            return []
