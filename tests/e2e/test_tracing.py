"""Traces: spans of a request, its stages and segments reach a collector, below its caller; or nothing is sent."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from serving import http_call

import vicinal
from vicinal.telemetry.trace import current_traceparent, parse_traceparent

api = pytest.importorskip("opentelemetry.trace")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SEARCH = "/v1/collections/docs/search"


class Collector:
    """An OTLP/HTTP collector of this machine."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for attribute in resource.resource.attributes:
                        if attribute.key == "service.name":
                            collector.services.add(attribute.value.string_value)
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                del args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tree(self) -> dict[str, list[str]]:
        """Names of the spans below each span."""
        names = {span.span_id: span.name for span in self.spans}
        found: dict[str, list[str]] = {}
        for span in sorted(self.spans, key=lambda span: span.start_time_unix_nano):
            found.setdefault(names.get(span.parent_span_id, "outside"), []).append(span.name)
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_search_becomes_spans_below_the_callers(
    local: vicinal.Database, collector: Collector
) -> None:
    with local.serve(http_port=0, otlp_endpoint=collector.url) as server:
        body = {"vector": [0, 0], "where": "n < 5"}
        headers = {"traceparent": PARENT, "X-Request-Id": "r-9"}
        assert http_call(server.url, "POST", SEARCH, body, **headers)[0] == 200
    assert collector.services == {"vicinal"}
    assert collector.tree() == {
        "outside": ["vicinal.search"],
        "vicinal.search": [
            "gateway.read",
            "gateway.cache",
            "gateway.wait",
            "gateway.search",
            "gateway.encode",
        ],
        "gateway.search": ["engine.search"],
        "engine.search": ["engine.segment.scan"],
    }
    spans = {span.name: span for span in collector.spans}
    assert {span.trace_id.hex() for span in collector.spans} == {PARENT.split("-")[1]}
    root = spans["vicinal.search"]
    assert root.parent_span_id.hex() == PARENT.split("-")[2]
    assert attributes(root)["vicinal.request_id"] == "r-9"
    assert attributes(root)["vicinal.code"] == "ok"
    segment = attributes(spans["engine.segment.scan"])
    assert (segment["vicinal.matches"], segment["vicinal.rows"]) == (5, 20)
    for span in collector.spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano


def test_a_cached_answer_an_error_and_other_operations_have_their_stages(
    local: vicinal.Database, collector: Collector
) -> None:
    with local.serve(http_port=0, otlp_endpoint=collector.url) as server:
        for body in ({"vector": [0, 0]}, {"vector": [0, 0]}, {"vector": [0]}):
            http_call(server.url, "POST", SEARCH, body)
        http_call(server.url, "POST", "/v1/collections/docs/points/count", {})
        http_call(server.url, "POST", f"{SEARCH}/batch", {"vectors": [[0, 0], [1, 1]]})
    roots = [s for s in collector.spans if s.name.startswith("vicinal.")]
    assert [s.name for s in sorted(roots, key=lambda s: s.start_time_unix_nano)] == [
        "vicinal.search",
        "vicinal.search",
        "vicinal.search",
        "vicinal.count",
        "vicinal.search_batch",
    ]
    by_root = {
        s.span_id: [c.name for c in collector.spans if c.parent_span_id == s.span_id] for s in roots
    }
    ordered = [by_root[s.span_id] for s in sorted(roots, key=lambda s: s.start_time_unix_nano)]
    assert ordered[1] == ["gateway.read", "gateway.cache"]
    assert ordered[3] == ["gateway.read", "gateway.wait", "gateway.work"]
    assert "engine.search" in {
        s.name for s in collector.spans if attributes(s).get("vicinal.queries") == 2
    }
    (failed,) = [s for s in roots if s.status.code == 2]
    assert attributes(failed)["vicinal.code"] == "dimension"


def test_the_caller_says_whether_it_is_traced_and_else_the_share_decides(
    local: vicinal.Database, collector: Collector
) -> None:
    with local.serve(http_port=0, otlp_endpoint=collector.url, trace_share=0) as server:
        http_call(server.url, "GET", "/v1/info")
        http_call(server.url, "GET", "/v1/status", traceparent=PARENT[:-1] + "0")
        http_call(server.url, "GET", "/v1/collections", traceparent=PARENT)
    assert [s.name for s in collector.spans if s.name.startswith("vicinal.")] == ["vicinal.list"]


def test_the_client_sends_the_span_that_its_caller_is_in(
    local: vicinal.Database, collector: Collector
) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("mine")
    with (
        local.serve(http_port=0, otlp_endpoint=collector.url, trace_share=0) as server,
        vicinal.open(server.url) as db,
    ):
        docs = db.collection("docs")
        assert current_traceparent() is None
        with tracer.start_as_current_span("mine") as span:
            docs.search([0, 0])
    ids = span.get_span_context()
    (root,) = [s for s in collector.spans if s.name == "vicinal.search"]
    assert int.from_bytes(root.trace_id) == ids.trace_id
    assert int.from_bytes(root.parent_span_id) == ids.span_id


@pytest.mark.parametrize("protocol", ["grpc", "flight"])
def test_calls_over_grpc_belong_to_their_callers_trace(
    local: vicinal.Database, collector: Collector, protocol: str
) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("mine")
    ports = {"grpc_port": 0, "flight_port": 0}
    options = {"otlp_endpoint": collector.url, "trace_share": 0, **ports}
    with (
        local.serve(http_port=0, **options) as server,
        vicinal.open(getattr(server, f"{protocol}_url")) as db,
    ):
        docs = db.collection("docs")
        with tracer.start_as_current_span("mine") as span:
            docs.search([0, 0])
    (root,) = [s for s in collector.spans if s.name == "vicinal.search"]
    assert int.from_bytes(root.trace_id) == span.get_span_context().trace_id
    assert int.from_bytes(root.parent_span_id) == span.get_span_context().span_id
    assert attributes(root)["network.protocol.name"] == protocol
    below = collector.tree()["vicinal.search"]
    assert below[0] == "gateway.read"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-" + "a" * 32 + "-" + "0" * 16 + "-01",
        PARENT[:-1],
        PARENT.upper(),
        PARENT + "-x",
        "01" + PARENT[2:],
    ],
)
def test_a_traceparent_that_is_none_is_ignored(text: str | None) -> None:
    assert parse_traceparent(text) is None


def test_a_collector_that_is_not_there_disturbs_nobody(local: vicinal.Database) -> None:
    with local.serve(http_port=0, otlp_endpoint="http://127.0.0.1:9") as server:
        assert http_call(server.url, "POST", SEARCH, {"vector": [0, 0]})[0] == 200


def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded() -> None:
    code = (
        "import sys, vicinal\n"
        "db = vicinal.open(':memory:')\n"
        "server = db.serve(http_port=0)\n"
        "vicinal.open(server.url).collections()\n"
        "server.close(); db.close()\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"
