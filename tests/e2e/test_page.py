"""The web page's files as they are served: whole, from this server only, with a policy that a browser keeps to."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import vicinal
from vicinal.server.keys import KeyStore
from vicinal.server.page import FOLDER, TYPES

FILES = sorted(FOLDER.iterdir())
SCRIPTS = [file for file in FILES if file.suffix == ".js"]
LINES_MAX = 300


def get(
    url: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """(status, body, headers)."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request(method, path, None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def test_every_file_of_the_page_is_served_with_its_type_and_policy(local: vicinal.Database) -> None:
    with local.serve(http_port=0) as server:
        for file in FILES:
            status, body, headers = get(server.url, f"/ui/{file.name}")
            assert (status, body) == (200, file.read_bytes())
            assert headers["Content-Type"] == TYPES[file.suffix].decode()
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            again = get(server.url, f"/ui/{file.name}", **{"If-None-Match": headers["ETag"]})
            assert again[:2] == (304, b"")
            assert get(server.url, f"/ui/{file.name}", "HEAD")[:2] == (200, b"")


def test_addresses_of_the_page_lead_to_it_and_others_say_what_is_wrong(
    local: vicinal.Database,
) -> None:
    with local.serve(http_port=0) as server:
        for path in ("/", "/ui"):
            status, _, headers = get(server.url, path)
            assert (status, headers["Location"]) == (307, "ui/")
        assert get(server.url, "/ui/")[1] == (FOLDER / "index.html").read_bytes()
        for path in ("/ui/none.js", "/ui/../page.py", "/ui/%2e%2e/page.py", "/ui//etc/passwd"):
            assert get(server.url, path)[0] == 404, path
        assert get(server.url, "/ui/", "POST")[0] == 404


def test_the_page_is_for_everybody_and_what_it_shows_is_not(tmp_path: Path) -> None:
    with vicinal.open(tmp_path / "db") as db:
        db.collection("secret-name", dim=1)
        KeyStore(tmp_path / "db").create(role="admin")
        with db.serve(http_port=0) as server:
            for file in FILES:
                status, body, _ = get(server.url, f"/ui/{file.name}")
                assert status == 200
                assert b"secret-name" not in body
            assert get(server.url, "/v1/status")[0] == 401


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_nothing_comes_from_elsewhere_and_nothing_is_inline(file: Path) -> None:
    text = file.read_text()
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "TO" + "DO",
    ):
        assert word not in text
    if file.suffix == ".html":
        assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)", text)


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda f: f.name)
def test_scripts_import_what_is_there_and_what_they_use(file: Path) -> None:
    text = file.read_text()
    assert text.startswith("//"), "a file starts with what it is for"
    assert len(text.splitlines()) <= LINES_MAX
    imports = re.findall(r"^import \{ ([^}]+) \} from \"\./([\w.]+)\";$", text, re.MULTILINE)
    assert len(imports) == len(re.findall(r"^import ", text, re.MULTILINE))
    body = re.sub(r"^import .*$", "", text, flags=re.MULTILINE)
    for names, source in imports:
        there = set(
            re.findall(
                r"^export (?:async )?(?:function|const|let|class) (\w+)",
                (FOLDER / source).read_text(),
                re.MULTILINE,
            )
        )
        for name in names.split(", "):
            assert name in there, f"{source} has no {name}"
            assert re.search(rf"\b{name}\b", body), f"{name} is imported and not used"


def test_index_names_only_files_that_are_there() -> None:
    page = (FOLDER / "index.html").read_text()
    named = set(re.findall(r"(?:href|src)=\"([\w.-]+\.(?:css|js|svg))\"", page))
    assert named == {"app.js", "icon.svg", "style.css"}
    assert named <= {file.name for file in FILES}
