"""OpenTelemetry traces, where an endpoint is configured: a span for each request, below it the stages of the gateway
and the segments that were searched. Nothing leaves the machine otherwise, and nothing of OpenTelemetry is imported.

Stages are noted as plain numbers while the request runs and become spans when it is done; they are sent by a
background thread.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from vicinal.engine.watch import SearchRecord
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.version import VERSION
from vicinal.telemetry.trace import parse_traceparent

if TYPE_CHECKING:
    from vicinal.server.gateway import Call

PATH = "/v1/traces"
SEGMENTS_MAX = 50
"""Segments of one search that get spans of their own."""

EXPORT_S_MAX = 5.0
"""Time for sending one batch of spans, and for the last one when the server stops."""


class Trace:
    """One request's spans. Times are those of `time.perf_counter`."""

    def __init__(self, api: Any, tracer: Any, span: Any, offset_s: float) -> None:
        self._api, self._tracer, self._span, self._offset_s = api, tracer, span, offset_s
        self._stages: list[tuple[str, float, float, dict[str, Any], SearchRecord | None]] = []

    def stage(
        self,
        name: str,
        began_s: float,
        ended_s: float,
        record: SearchRecord | None = None,
        **attributes: Any,
    ) -> None:
        """Note a stage; with the record of a search, its segments too."""
        self._stages.append((name, began_s, ended_s, attributes, record))

    def end(self, code: str) -> None:
        """Make the spans."""
        span = self._span
        for name, began_s, ended_s, attributes, record in self._stages:
            stage = self._child(span, f"gateway.{name}", began_s, attributes)
            if record is not None:
                self._segments(stage, record)
            stage.end(self._ns(ended_s))
        span.set_attribute("vicinal.code", code)
        if code != "ok":
            span.set_status(self._api.Status(self._api.StatusCode.ERROR, code))
        span.end(self._ns(time.perf_counter()))

    def _segments(self, parent: Any, record: SearchRecord) -> None:
        search = self._child(
            parent, "engine.search", record.began_s, {"vicinal.queries": len(record.queries)}
        )
        at = record.began_s
        for run in record.runs[:SEGMENTS_MAX]:
            plan = run.plan
            attributes = {
                "vicinal.strategy": plan.strategy,
                "vicinal.reason": plan.reason,
                "vicinal.rows": plan.n_rows,
                "vicinal.matches": plan.n_matches,
                "vicinal.ef_search": plan.ef_search,
                "vicinal.estimated_distances": plan.estimated_distances,
            }
            segment = self._child(search, f"engine.segment.{plan.strategy}", at, attributes)
            at += run.seconds
            segment.end(self._ns(at))
        search.end(self._ns(record.began_s + record.seconds))

    def _child(self, parent: Any, name: str, began_s: float, attributes: dict[str, Any]) -> Any:
        context = self._api.set_span_in_context(parent)
        return self._tracer.start_span(
            name, context, attributes=attributes, start_time=self._ns(began_s)
        )

    def _ns(self, perf_s: float) -> int:
        return int((perf_s + self._offset_s) * 1e9)


class Tracing:
    """Makes traces and sends them.

    Parameters
    ----------
    endpoint : an OTLP/HTTP collector, such as http://localhost:4318.
    share : of the requests that say nothing themselves, how many are traced, 0 to 1.
    exporter : instead of one for the endpoint, for tests.

    Raises InvalidArgumentError where OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, share: float, exporter: Any = None) -> None:
        try:
            from opentelemetry import trace as api
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as fault:
            raise InvalidArgumentError(
                f"traces need {fault.name}: pip install 'vicinal[otel]', or leave otlp_endpoint out"
            ) from None
        self._api: Any = api
        exporter = exporter or OTLPSpanExporter(
            endpoint=endpoint.rstrip("/") + PATH, timeout=EXPORT_S_MAX
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource({"service.name": "vicinal", "service.version": VERSION}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, export_timeout_millis=EXPORT_S_MAX * 1000)
        )
        self._tracer = self._provider.get_tracer("vicinal", VERSION)
        self._local = threading.local()

    def begin(self, call: Call, began_s: float) -> Trace | None:
        """The trace of a request; None where it is not among those that are sampled."""
        api = self._api
        context: Any = None
        parent = parse_traceparent(call.traceparent)
        if parent is not None:
            remote = api.SpanContext(parent[0], parent[1], True, api.TraceFlags(parent[2]))
            context = api.set_span_in_context(api.NonRecordingSpan(remote))
        offset_s = time.time() - time.perf_counter()
        operation = call.operation.name
        span = self._tracer.start_span(
            f"vicinal.{operation}",
            context,
            kind=api.SpanKind.SERVER,
            attributes={
                "vicinal.operation": operation,
                "vicinal.collection": call.collection or "",
                "vicinal.request_id": call.request_id,
                "network.protocol.name": call.protocol,
            },
            start_time=int((began_s + offset_s) * 1e9),
        )
        return Trace(api, self._tracer, span, offset_s) if span.is_recording() else None

    def watch(self, record: SearchRecord) -> None:
        """Remember a search for whoever asks in the same thread; see `Watchers`."""
        self._local.record = record

    def last_search(self) -> SearchRecord | None:
        """The last search of this thread, once."""
        record = getattr(self._local, "record", None)
        self._local.record = None
        return record

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
