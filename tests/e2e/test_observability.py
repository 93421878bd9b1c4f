"""What a server tells of itself: request ids, audit log, metrics and the dashboard that shows them, `vicinal top`."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from serving import http_call, metric

import vicinal
from vicinal.cli.prometheus import quantile, rate, read_page
from vicinal.server import audit as audit_module
from vicinal.server import observing
from vicinal.server.audit import AUDIT_FILE, AUDIT_FILE_OLD, AuditLog
from vicinal.server.keys import KeyStore

COMMAND = Path(sys.executable).with_name("vicinal")
DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana" / "vicinal.json"
SEARCH = "/v1/collections/docs/search"


def fields(records: list[logging.LogRecord], name: str) -> list[dict[str, Any]]:
    return [
        r.__dict__.get("vicinal_fields", {}) | {"message": r.getMessage()}
        for r in records
        if r.name == name
    ]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """(address, keys by role, directory)."""
    with vicinal.open(tmp_path / "db") as db:
        db.collection("docs", dim=2, metric="l2").upsert([{"id": 1, "vector": [1, 2]}])
        store = KeyStore(tmp_path / "db")
        keys = {role: store.create(role=role, name=f"{role}s")[0] for role in ("read", "admin")}
        with db.serve(http_port=0) as server:
            yield server.url, keys, tmp_path / "db"


def call(url: str, key: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
    return http_call(url, method, path, body, Authorization=f"Bearer {key}", **headers)


def audit_lines(directory: Path) -> list[dict[str, Any]]:
    path = directory / AUDIT_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_an_answer_has_the_id_of_its_request(local: vicinal.Database) -> None:
    with local.serve(http_port=0) as server:
        query = {"vector": [0, 0]}
        for path, given in ((SEARCH, "a-1.b:c"), ("/v1/none", "x" * 64), ("/livez", "7")):
            method = "GET" if path == "/livez" else "POST"
            answer = http_call(server.url, method, path, query, **{"X-Request-Id": given})
            assert answer[2]["X-Request-Id"] == given
        made = {http_call(server.url, "POST", SEARCH, query)[2]["X-Request-Id"] for _ in range(5)}
        assert len(made) == 5
        for given in ("", "x" * 65, "a b", "a\tb", 'a"b', "ä"):
            answer = http_call(
                server.url,
                "POST",
                SEARCH,
                query,
                **{"X-Request-Id": cast("Any", given.encode("latin-1"))},
            )
            assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", answer[2]["X-Request-Id"])


def test_lines_of_the_log_have_the_id_of_the_request(
    local: vicinal.Database, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from vicinal.server import handlers
    from vicinal.telemetry.log import configure, unconfigure

    monkeypatch.setitem(handlers.ON_COLLECTION, vicinal_count(), lambda *_: 1 / 0)
    handler = configure("json", "debug", sys.stderr)
    try:
        with local.serve(http_port=0, slow_query_ms=0) as server:
            http_call(server.url, "POST", SEARCH, {"vector": [0, 0]}, **{"X-Request-Id": "find-me"})
            path = "/v1/collections/docs/points/count"
            answer = http_call(server.url, "POST", path, {}, **{"X-Request-Id": "break-me"})
            assert (answer[0], answer[1]["error"]["code"]) == (500, "internal")
    finally:
        unconfigure(handler)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    of = {
        i: {line["logger"] for line in lines if line.get("request_id") == i}
        for i in ("find-me", "break-me")
    }
    assert of == {
        "find-me": {"vicinal.slow", "vicinal.requests"},
        "break-me": {"vicinal.server", "vicinal.requests"},
    }
    (request,) = [line for line in lines if line.get("message") == "search"]
    assert (request["collection"], request["code"], request["protocol"]) == ("docs", "ok", "http")
    (fault,) = [line for line in lines if "trace" in line]
    assert "ZeroDivisionError" in fault["trace"]


def vicinal_count() -> Any:
    from vicinal.wire.operations import COUNT

    return COUNT


def test_what_an_admin_does_is_in_the_audit_log(guarded: Any) -> None:
    url, keys, directory = guarded
    admin = keys["admin"]
    made = call(
        url, admin, "POST", "/v1/keys", {"role": "write", "name": "new"}, **{"X-Request-Id": "r1"}
    )[1]
    call(url, admin, "PUT", "/v1/collections/other", {"dim": 3})
    call(url, admin, "PUT", "/v1/collections/other", {"dim": 3})  # made already
    call(url, admin, "POST", "/v1/collections/docs/optimize", {})
    call(url, admin, "POST", "/v1/snapshots", {"name": "s"})
    call(url, admin, "POST", "/v1/snapshots/delete", {"name": "none"})
    call(url, keys["read"], "DELETE", "/v1/collections/docs")
    call(url, admin, "DELETE", "/v1/collections/other")
    call(url, admin, "POST", "/v1/keys/revoke", {"id": made["info"]["id"]})
    call(url, admin, "GET", "/v1/keys")
    call(url, keys["read"], "POST", SEARCH, {"vector": [0, 0]})
    lines = audit_lines(directory)
    told = [
        (line["action"], line["outcome"], line.get("collection"), line["key_name"])
        for line in lines
    ]
    assert told == [
        ("create_key", "ok", None, "admins"),
        ("open", "ok", "other", "admins"),
        ("optimize", "ok", "docs", "admins"),
        ("snapshot", "ok", None, "admins"),
        ("drop_snapshot", "not_found", None, "admins"),
        ("drop", "forbidden", "docs", "reads"),
        ("drop", "ok", "other", "admins"),
        ("revoke_key", "ok", None, "admins"),
    ]
    first = lines[0]
    assert first["concerns"] == made["info"]["id"]
    assert (first["role"], first["source"], first["protocol"]) == ("write", "127.0.0.1", "http")
    assert (first["request_id"], first["key"]) == ("r1", admin.split("_")[1])
    assert lines[3]["snapshot"] == "s"
    assert made["key"].split("_", 2)[2] not in (directory / AUDIT_FILE).read_text()
    assert stat.S_IMODE(os.stat(directory / AUDIT_FILE).st_mode) == 0o600


def test_keys_made_at_the_command_line_are_in_the_audit_log(tmp_path: Path) -> None:
    directory = tmp_path / "db"
    vicinal.open(directory).close()
    made = subprocess.run(
        [COMMAND, "keys", "create", directory, "--json", "--rate", "5"],
        capture_output=True,
        check=True,
    )
    key = json.loads(made.stdout)
    assert key["requests_per_s"] == 5
    subprocess.run(
        [COMMAND, "keys", "revoke", directory, key["id"]], capture_output=True, check=True
    )
    lines = audit_lines(directory)
    assert [(line["action"], line["concerns"], line["source"]) for line in lines] == [
        ("create_key", key["id"], "command line"),
        ("revoke_key", key["id"], "command line"),
    ]


def test_refusals_cannot_fill_the_audit_log(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, keys, directory = guarded
    monkeypatch.setattr(observing.LineLimit, "turn", lambda limit: None)
    for _ in range(3):
        assert call(url, keys["read"], "DELETE", "/v1/collections/docs")[0] == 403
    assert audit_lines(directory) == []


def test_the_audit_log_begins_anew_before_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "FILE_BYTES_MAX", 300)
    log = AuditLog(tmp_path)
    for number in range(7):
        log.write("drop", "ok", number=number)
    text = "".join((tmp_path / name).read_text() for name in (AUDIT_FILE_OLD, AUDIT_FILE))
    kept = [json.loads(line)["number"] for line in text.splitlines()]
    assert kept == list(range(kept[0], 7))
    assert all((tmp_path / name).stat().st_size <= 300 for name in (AUDIT_FILE, AUDIT_FILE_OLD))


def test_an_audit_log_that_cannot_be_written_says_so_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    AuditLog(tmp_path / "nowhere").write("drop", "ok")
    assert "drop could not be written" in caplog.text


def test_refusals_are_counted_by_protocol_and_code(guarded: Any) -> None:
    url, keys, _ = guarded
    http_call(url, "GET", "/v1/info")
    call(url, keys["admin"], "GET", "/v1/none")
    call(url, keys["read"], "DELETE", "/v1/collections/docs")  # the gateway's own refusal
    page = call(url, keys["read"], "GET", "/metrics")[1].decode()
    counted = set(re.findall(r"vicinal_refused_total\{(.*?)\} (\S+)", page))
    assert counted == {
        ('code="unauthenticated",protocol="http"', "1.0"),
        ('code="not_found",protocol="http"', "1.0"),
    }
    assert 'vicinal_requests_total{code="forbidden",operation="drop",protocol="http"} 1.0' in page


def test_searches_are_counted_by_path_and_repeated_for_recall(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("docs", dim=4, metric="l2")
        vectors = np.random.default_rng(0).standard_normal((3000, 4))
        docs.upsert(ids=range(3000), vectors=vectors, payload=[{"n": i} for i in range(3000)])
        docs.optimize()
        with db.serve(http_port=0, recall_share=1.0, cache_bytes_max=0) as server:
            assert metric(server.url, 'vicinal_syncs_total{collection="docs"}') >= 1
            assert metric(server.url, 'vicinal_sync_seconds_total{collection="docs"}') > 0
            for body in ({}, {"where": "n < 10"}, {"where": "n < 10"}):
                assert http_call(server.url, "POST", SEARCH, {"vector": [0] * 4, **body})[0] == 200
            line = "vicinal_search_path_seconds_count"
            assert metric(server.url, f'{line}{{path="gate"}}') == 1
            assert metric(server.url, f'{line}{{path="scan"}}') == 2
            assert metric(server.url, "vicinal_search_wait_seconds_count") == 3
            while not metric(server.url, 'vicinal_recall_searches_total{collection="docs"}'):
                pass
            expected = metric(server.url, 'vicinal_recall_expected_total{collection="docs"}')
            assert expected == 10
            assert 8 <= metric(server.url, 'vicinal_recall_found_total{collection="docs"}') <= 10
        assert not db.engine.watchers.all, "a server that stopped watches on"


def test_the_recall_monitor_can_be_off(local: vicinal.Database) -> None:
    with local.serve(http_port=0, recall_share=0) as server:
        assert http_call(server.url, "POST", SEARCH, {"vector": [0, 0]})[0] == 200
        page = http_call(server.url, "GET", "/metrics")[1].decode()
        assert "vicinal_recall_searches_total{" not in page
        assert len(local.engine.watchers.all) == 1


def test_the_dashboard_shows_metrics_that_exist_with_labels_that_they_have(
    local: vicinal.Database,
) -> None:
    # Nobody listens at port 1.
    with local.serve(http_port=0, recall_share=1.0, cache_url="redis://127.0.0.1:1") as server:
        http_call(server.url, "POST", SEARCH, {"vector": [0, 0]})
        http_call(server.url, "POST", SEARCH, {"vector": [0]})
        http_call(server.url, "GET", "/v1/none")
        while not metric(server.url, 'vicinal_recall_searches_total{collection="docs"}'):
            pass
        page = read_page(http_call(server.url, "GET", "/metrics")[1].decode(), 0.0)
    dashboard = json.loads(DASHBOARD.read_text())
    shown: set[str] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        for target in panel["targets"]:
            expression = target["expr"]
            assert expression.count("(") == expression.count(")")
            for name, chosen in re.findall(r"((?:vicinal|process)_\w+)\{(.*?)\}", expression):
                assert name in page.samples, name
                shown.add(name)
                known = {label for labels, _ in page.samples[name] for label in labels}
                used = set(re.findall(r"(\w+)[!=]~?\"", chosen)) - {"instance"}
                assert used <= known, (name, used, known)
            labels = {
                label
                for group in re.findall(r"by \(([\w, ]+)\)", expression)
                for label in group.split(", ")
            }
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            if labels:
                assert legend <= labels, (expression, legend)
    families = {
        re.sub(r"_(bucket|sum|count|created)$", "", name)
        for name in page.samples
        if name.startswith("vicinal_")
    }
    left = {f for f in families if not any(name.startswith(f) for name in shown)}
    assert (
        left == {"vicinal_build_info", "vicinal_build", "vicinal_result_cache_entries"} & families
    )


PAGE = """# HELP x y
a_total{k="v\\"1",m="2"} 5.0
a_total{k="w"} 7
h_bucket{le="0.1"} 0
h_bucket{le="1.0"} 10
h_bucket{le="+Inf"} 10
not a line
b 1e-3
"""


def test_a_page_of_metrics_is_read() -> None:
    page = read_page(PAGE, 2.0)
    assert page.total("a_total") == 12
    assert page.total("a_total", lambda labels: labels["k"] == 'v"1') == 5
    assert page.total("b") == 0.001
    assert page.labelled("a_total", "k") == ['v"1', "w"]
    assert page.total("none") == 0
    before = read_page("", 0.0)
    assert rate(before, page, "a_total") == 6
    assert rate(page, read_page("a_total 1", 3.0), "a_total") == 0
    assert quantile(before, page, "h", 0.5) == pytest.approx(0.55)
    assert quantile(page, page, "h", 0.5) is None


def test_top_shows_what_a_server_does(guarded: Any) -> None:
    url, keys, _ = guarded
    call(url, keys["read"], "POST", SEARCH, {"vector": [0, 0]})
    command = [COMMAND, "top", url, "--every", "0.1", "--count", "1"]
    environment = {**os.environ, "VICINAL_API_KEY": keys["read"]}
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "requests/s" in shown.stdout
    assert re.search(r"^docs\t1\t", shown.stdout, re.MULTILINE)
    told = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, env=environment, timeout=60
    )
    figures = json.loads(told.stdout)
    assert figures["collections"][0]["name"] == "docs"
    assert figures["resident_bytes"] > 1e6
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "--api-key" in refused.stderr
    nobody = subprocess.run(
        [COMMAND, "top", "http://127.0.0.1:9", "--count", "1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "is `vicinal serve` running there?" in nobody.stderr


def test_serve_writes_its_log_in_the_form_asked_for(tmp_path: Path) -> None:
    options = [
        "--http-port",
        "0",
        "--rest-only",
        "--log-format",
        "json",
        "--log-level",
        "info",
        "--json",
    ]
    server = subprocess.Popen(
        [COMMAND, "serve", tmp_path / "db", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        assert http_call(url, "PUT", "/v1/collections/a", {"dim": 2})[0] == 200
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=30)
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert [line["message"] for line in lines] == ["serving", "open", "stopping", "stopped"]
    assert lines[1]["logger"] == "vicinal.audit"
    wrong = subprocess.run(
        [COMMAND, "serve", tmp_path / "db", "--log-format", "xml"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (wrong.returncode, "text, json" in wrong.stderr) == (2, True)
