"""The page of a first server, docs/first-server.md: every command of it is run as it stands there.

Ports are free ones instead of the page's, and there are fewer points, except in the long test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "first-server.md"
PROGRAMS = Path(sys.executable).parent
BLOCK = re.compile(r"^```(\S+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
POINTS = "100_000"
CURL_WITH_JSON = (7, 82)


def curl_is_new_enough() -> bool:
    if shutil.which("curl") is None:
        return False
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"curl (\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= CURL_WITH_JSON


def run_page(folder: Path, n: int) -> str:
    """Run the blocks of the page in order, and return what they print."""
    environment = {**os.environ, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    blocks = BLOCK.findall(PAGE.read_text())
    kinds = [kind for kind, _, _ in blocks]
    assert kinds[0] == "serve"
    assert POINTS in PAGE.read_text()
    serve = [*blocks[0][2].split(), "--http-port", "0", "--json"]
    server = subprocess.Popen(serve, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        addresses = json.loads(server.stdout.readline())
        script = "set -e -o pipefail\n"
        for kind, name, text in blocks[1:]:
            for scheme, port, key in (
                ("http", 7333, "url"),
                ("grpc", 7334, "grpc_url"),
                ("flight", 7335, "flight_url"),
            ):
                text = text.replace(f"{scheme}://127.0.0.1:{port}", addresses[key])
            if kind == "python":
                (folder / name).write_text(text.replace(POINTS, str(n)))
            else:
                script += text.replace("curl -s", "curl -sS --fail-with-body")
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
        return done.stdout
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        server.stdout.close()  # type: ignore[union-attr]


def check(printed: str, n: int) -> None:
    """What a reader of the page sees."""
    assert len(re.findall(rf"{n} points over (?:flight|http)://", printed)) == 2
    found = re.findall(r"(?:http|grpc|flight)://\S+ (\[.*\])$", printed, re.MULTILINE)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(json.loads(found[0])) == 5
    assert '"id":"a1"' in printed
    assert "<title>Vicinal</title>" in printed
    assert re.search(r'vicinal_requests_total\{.*operation="search".*protocol="flight"', printed)


@pytest.mark.skipif(not curl_is_new_enough(), reason="curl 7.82 or newer is not here")
def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    check(run_page(tmp_path, 2_000), 2_000)


@pytest.mark.long
@pytest.mark.skipif(not curl_is_new_enough(), reason="curl 7.82 or newer is not here")
def test_every_command_of_the_page_does_so_with_all_its_points(tmp_path: Path) -> None:
    check(run_page(tmp_path, 100_000), 100_000)
