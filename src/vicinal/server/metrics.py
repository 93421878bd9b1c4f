"""What a server counts, in Prometheus' terms; see docs/serving.md for the list. Labels are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vicinal.engine.database import Database
from vicinal.model.errors import ClosedError
from vicinal.model.version import VERSION

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COLLECTIONS_MAX = 1_000
"""Collections that get lines of their own; more would be more labels than a monitor wants."""


class Metrics:
    """The figures of one server."""

    def __init__(self, database: Database, waiting: Callable[[], float]) -> None:
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
            ("operation",),
            buckets=SECONDS,
            registry=registry,
        )
        self.cache = Counter(
            "vicinal_result_cache", "Look-ups of the result cache", ("outcome",), registry=registry
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
        Gauge("vicinal_build", "1, labelled", ("version",), registry=registry).labels(VERSION).set(
            1
        )
        queue = Gauge("vicinal_searches_waiting", "Searches no thread has taken", registry=registry)
        queue.set_function(waiting)
        registry.register(_Collections(database))

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


class _Collections(Collector):
    """Figures of the collections that are open, taken when they are asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Points, the share that the graph holds, and memory."""
        points = GaugeMetricFamily("vicinal_points", "Points", labels=["collection"])
        indexed = GaugeMetricFamily(
            "vicinal_indexed_ratio", "Share of rows that the graph holds", labels=["collection"]
        )
        memory = GaugeMetricFamily(
            "vicinal_memory_bytes", "Memory of its own", labels=["collection", "kind"]
        )
        mapped = GaugeMetricFamily(
            "vicinal_mapped_bytes", "Files that are mapped", labels=["collection", "kind"]
        )
        try:
            names = self._database.collections()[:COLLECTIONS_MAX]
        except ClosedError:
            names = []
        for name in names:
            engine = self._database.opened(name)
            if engine is None or engine.state.closed:
                continue
            figures = engine.stats()
            points.add_metric([name], figures["points"])
            indexed.add_metric([name], figures["indexed_ratio"])
            for kind, value in figures["memory_bytes"].items():
                memory.add_metric([name, kind], value)
            for kind, value in figures["mapped_bytes"].items():
                mapped.add_metric([name, kind], value)
        yield from (points, indexed, memory, mapped)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing at registration, so that no collection is looked at then."""
        return iter(())
