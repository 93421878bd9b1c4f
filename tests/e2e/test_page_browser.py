"""The web page as a person uses it, in headless Chromium: what is shown, what is changed, what is refused and how.

Skipped, aloud, where no Chromium is installed (`apt-get install chromium`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.server import keys as keys_module
from vicinal.server.keys import KeyStore

sync_api = pytest.importorskip("playwright.sync_api")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)
BIG = 2**60 + 1
LABELS = """() => [...document.querySelectorAll('input, select, textarea, button, a, canvas')]
  .filter((e) => e.offsetParent && !e.getAttribute('aria-label') && !e.title
    && ![...(e.labels ?? [])].some((l) => l.textContent.trim()) && !e.textContent.trim())
  .map((e) => e.outerHTML)"""
COLOURS = """() => {
  const canvas = document.querySelector('canvas');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4)
    if (data[i + 3] > 190) seen.add([data[i] >> 5, data[i + 1] >> 5, data[i + 2] >> 5].join());
  return seen.size;
}"""

if BROWSER is None:
    pytest.skip(
        "NO CHROMIUM HERE: the web page is NOT TESTED in a browser (apt-get install chromium)",
        allow_module_level=True,
    )


@dataclass
class Site:
    """A served database and the browser that looks at it."""

    browser: Any
    db: vicinal.Database
    url: str
    faults: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def open(self, view: str = "", **options: Any) -> Any:
        """A page of its own, with a session of its own, at a view."""
        context = self.browser.new_context(
            **{"viewport": {"width": 1200, "height": 900}, **options}
        )
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda fault: self.faults.append(str(fault)))
        page.on(
            "console",
            lambda line: (
                self.faults.append(line.text)
                if line.type == "error" and "status of 4" not in line.text
                else None
            ),
        )
        page.on("request", lambda request: self.asked.add(request.url))
        page.goto(f"{self.url}/ui/{view}")
        return page

    def _heard(self, line: Any) -> None:
        """An answer that is an error is written to the console by the browser itself."""
        if line.type in ("error", "warning") and "status of 4" not in line.text:
            self.faults.append(line.text)

    @property
    def docs(self) -> vicinal.Collection:
        return self.db.collection("docs")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"] if os.geteuid() == 0 else ["--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def site(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(keys_module, "RELOAD_S_MAX", 0.0)
    rng = np.random.default_rng(0)
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("docs", dim=4, metric="l2")
        docs.upsert(
            [
                {
                    "id": f"doc-{i:02}",
                    "vector": rng.standard_normal(4) + 9 * (i % 3),
                    "lang": ("en", "de", "fr")[i % 3],
                    "n": i,
                }
                for i in range(60)
            ]
        )
        odd = {"exact": 1.0, "big": BIG, "deep": {"a": [1, 2]}, "__proto__": "x"}
        docs.upsert([{"id": BIG, "vector": [5, 5, 5, 5], **odd}])
        db.collection("empty", dim=2)
        with db.serve(http_port=0) as server:
            site = Site(browser, db, server.url)
            yield site
            for context in browser.contexts:
                context.close()
            assert site.faults == []
            assert {url for url in site.asked if not url.startswith(server.url)} == set()


def shows(page: Any, text: str) -> Any:
    """The visible element with this text; fails where there is none."""
    found = page.get_by_text(text).locator("visible=true").first
    sync_api.expect(found).to_be_visible()
    return found


def until(true: Callable[[], bool], page: Any) -> None:
    """Wait until something has happened at the server."""
    for _ in range(200):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")


def test_collections_are_listed_with_their_figures_and_lead_to_their_views(site: Site) -> None:
    page = site.open()
    row = page.get_by_role("row", name="docs")
    sync_api.expect(row).to_contain_text("61")
    sync_api.expect(row).to_contain_text("serving")
    sync_api.expect(row).to_contain_text("l2")
    row.get_by_role("link").click()
    for tab, text in (
        ("Overview", "Segments"),
        ("Points", "61 points"),
        ("Search", "Like a point"),
        ("Map", "61 of 61 points"),
    ):
        page.get_by_role("navigation", name="Views of docs").get_by_role("link", name=tab).click()
        shows(page, text)
    assert page.title() == "docs · Map · Vicinal"
    page.go_back()
    shows(page, "Like a point")


def test_a_collection_is_made_and_dropped(site: Site) -> None:
    page = site.open()
    page.get_by_role("button", name="New collection").click()
    page.get_by_label("Name").fill("docs")
    page.get_by_label("Dimensions").fill("3")
    page.get_by_role("button", name="Create").click()
    shows(page, "collection 'docs' has dim=4, not 3")
    page.get_by_label("Name").fill("näw")
    page.get_by_role("button", name="Create").click()
    shows(page, "No points yet")
    assert site.db.collection("näw").dim == 3
    page.get_by_role("button", name="Drop").click()
    sync_api.expect(page.get_by_role("button", name="Drop the collection")).to_be_disabled()
    page.get_by_label("Type näw to confirm").fill("näw")
    page.get_by_role("button", name="Drop the collection").click()
    page.get_by_role("row", name="docs").wait_for()
    assert site.db.collections() == ["docs", "empty"]


def test_points_are_filtered_ordered_and_paged(site: Site) -> None:
    page = site.open("#/collections/docs/points")
    shows(page, "61 points")
    sync_api.expect(page.get_by_role("button", name="Previous")).to_be_disabled()
    page.get_by_role("button", name="Next").click()
    shows(page, "Page 2 of 3")
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name=str(BIG)).wait_for()  # every digit of it
    sync_api.expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.get_by_role("button", name="Previous").click()
    page.get_by_role("button", name="doc-25").wait_for()
    page.get_by_label("Filter").fill("lang = 'de' and")
    page.get_by_label("Filter").press("Enter")
    shows(page, "The filter has a mistake")
    page.get_by_label("Filter").fill("lang = 'de'")
    page.get_by_label("Order by").fill("n")
    page.get_by_label("descending").check()
    page.get_by_role("button", name="Apply").click()
    shows(page, "20 points match the filter")
    assert page.locator("tbody button").first.text_content() == "doc-58"
    assert page.locator(".error").count() == 0
    page.reload()  # the state is in the address
    shows(page, "20 points match the filter")
    page.get_by_label("Filter").fill("n > 1000")
    page.get_by_role("button", name="Apply").click()
    shows(page, "No point matches")


def test_a_payload_is_edited_and_what_was_not_touched_stays_exact(site: Site) -> None:
    page = site.open("#/collections/docs/points")
    page.get_by_label("Open a point by id").fill(str(BIG))
    page.get_by_role("button", name="Open").click()
    editor = page.get_by_label("Payload, as JSON")
    editor.wait_for()
    assert f'"big": {BIG}' in editor.input_value()
    assert '"exact": 1.0' in editor.input_value()
    editor.fill("{")
    sync_api.expect(page.get_by_role("button", name="Save")).to_be_disabled()
    shows(page, "line 1, column 2")
    editor.fill(f'{{"exact": 1.0, "big": {BIG}, "deep": {{"a": [1, 3.50]}}, "new": "ü"}}')
    page.get_by_role("button", name="Save").click()
    shows(page, "Saved")
    point = site.docs.get(BIG)[0]
    assert point is not None
    assert point.payload == {"exact": 1.0, "big": BIG, "deep": {"a": [1, 3.5]}, "new": "ü"}
    assert isinstance(point.payload["exact"], float)
    sync_api.expect(page.locator("dialog")).to_contain_text("Version2")


def test_a_save_over_somebody_elses_change_is_refused_and_shows_theirs(site: Site) -> None:
    page = site.open("#/collections/docs/points")
    page.get_by_role("button", name="doc-07").click()
    editor = page.get_by_label("Payload, as JSON")
    editor.fill('{"mine": 1}')
    site.docs.update("doc-07", {"theirs": 2})
    page.get_by_role("button", name="Save").click()
    shows(page, "Somebody changed it meanwhile")
    page.get_by_role("button", name="Show what it is now").click()
    sync_api.expect(editor).to_have_value('{\n  "lang": "de",\n  "n": 7,\n  "theirs": 2\n}')
    editor.fill('{"mine": 1}')
    page.get_by_role("button", name="Save").click()
    shows(page, "Saved")
    until(lambda: site.docs.get("doc-07")[0].payload == {"mine": 1}, page)  # type: ignore[union-attr]


def test_a_point_is_deleted_after_a_question(site: Site) -> None:
    page = site.open("#/collections/docs/points")
    page.get_by_role("button", name="doc-03").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    assert site.docs.count() == 61
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete the point").click()
    shows(page, "60 points")
    assert site.docs.get("doc-03") == [None]
    page.get_by_label("Open a point by id").fill("doc-03")
    page.get_by_role("button", name="Open").click()
    shows(page, "No such point")


def test_search_finds_what_is_like_a_point_and_says_how(site: Site) -> None:
    page = site.open("#/collections/docs/search")
    page.get_by_label("Like the point").fill("doc-00")
    page.get_by_label("k", exact=True).fill("5")
    page.get_by_label("Filter").fill("lang = 'en'")
    page.get_by_role("button", name="Search", exact=True).click()
    shows(page, "5 nearest")
    shows(page, "the point itself")
    vector = site.docs.get("doc-00", with_vectors=True)[0].vector  # type: ignore[union-attr]
    wanted = [hit.id for hit in site.docs.search(vector, k=5, where="lang = 'en'")]
    assert page.locator(".hits").first.locator(".link").all_text_contents() == wanted
    shows(page, "compare every match")
    shows(page, "20 of 61")
    page.get_by_label("Paste a vector").check()
    page.get_by_role("textbox", name="Vector").fill("1, 2")
    page.get_by_role("button", name="Search", exact=True).click()
    shows(page, "Wrong number of dimensions")
    page.get_by_role("textbox", name="Vector").fill("[9, 9, 9, 9]")
    page.get_by_label("exact").check()
    page.get_by_role("button", name="Search", exact=True).click()
    shows(page, "exact search asked for")
    page.get_by_label("Like a point").check()
    page.get_by_label("Filter").fill("")
    page.get_by_role("button", name="Any point").click()
    shows(page, "the point itself")


def test_the_map_has_its_colours_and_opens_points(site: Site) -> None:
    page = site.open("#/collections/docs/map")
    shows(page, "61 of 61 points")
    assert page.locator(".legend li").all_text_contents() == ["en20", "de20", "fr20", "none1"]
    colours = page.evaluate(COLOURS)
    assert colours >= 4
    page.get_by_label("Colour by").select_option("n")
    page.locator(".gradient").wait_for()
    page.get_by_label("Filter").fill("n < 10")
    page.get_by_role("button", name="Draw").click()
    shows(page, "10 of 10 points")
    page.locator("canvas.map").focus()
    for key in ("+", "ArrowLeft", "-", "0"):
        page.keyboard.press(key)
    page.get_by_text("The same as a table").click()
    page.locator("details").get_by_role("button", name="doc-04").click()
    page.get_by_label("Payload, as JSON").wait_for()


def test_metrics_are_drawn(site: Site) -> None:
    page = site.open("#/metrics")
    page.get_by_role("img", name="Requests a second").wait_for()
    sync_api.expect(page.locator("figure")).to_have_count(6)
    page.get_by_role("cell", name="info").wait_for()
    page.get_by_role("button", name="Pause").click()
    shows(page, "Paused.")


def test_a_key_is_asked_for_kept_for_the_session_and_forgotten(site: Site, tmp_path: Path) -> None:
    admin, _ = KeyStore(tmp_path / "db").create(role="admin", name="Ada")
    page = site.open("#/collections/docs/points")
    page.get_by_role("textbox", name="API key").fill("vk_wrong_key")
    page.get_by_role("button", name="Use this key").click()
    shows(page, "The key that was given is not valid")
    page.get_by_role("textbox", name="API key").fill(admin)
    page.get_by_role("button", name="Use this key").click()
    shows(page, "61 points")
    assert page.evaluate("() => Object.values(sessionStorage)") == [admin]
    assert page.evaluate("() => Object.values(localStorage).join() + document.cookie") == ""
    page.reload()
    shows(page, "61 points")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("textbox", name="API key").wait_for()
    assert page.evaluate("() => Object.values(sessionStorage)") == []


def test_a_reader_is_offered_no_change(site: Site, tmp_path: Path) -> None:
    reader, _ = KeyStore(tmp_path / "db").create(role="read")
    page = site.open()
    page.get_by_role("textbox", name="API key").fill(reader)
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("row", name="docs").wait_for()
    assert page.get_by_role("button", name="New collection").count() == 0
    page.goto(f"{site.url}/ui/#/collections/docs/points")
    page.get_by_role("button", name="doc-00").click()
    shows(page, "This key reads only.")
    assert page.get_by_role("button", name="Delete").count() == 0
    page.goto(f"{site.url}/ui/#/keys")
    shows(page, "Keys are for admins")


def test_keys_are_made_shown_once_and_revoked(site: Site, tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "db")
    page = site.open("#/keys")
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("first")
    page.get_by_role("button", name="Make the key").click()
    text = page.get_by_label("Key", exact=True).input_value()
    assert store.find(text) is not None
    page.get_by_role("button", name="Close").click()
    shows(page, "this one")  # the page goes on with it
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("second")
    page.get_by_label("Collections").fill("docs, empty")
    page.get_by_label("Requests a second").fill("7")
    page.get_by_label("Points at most").fill("5000")
    page.get_by_label("MiB at most").fill("1.5")
    page.get_by_role("button", name="Make the key").click()
    page.get_by_label("Key", exact=True).wait_for()
    page.get_by_role("button", name="Close").click()
    row = page.get_by_role("row", name="second")
    sync_api.expect(row).to_contain_text("docs, empty")
    sync_api.expect(row).to_contain_text("5,000 points, 1.5 MiB")
    made = next(key for key in store.list() if key.name == "second")
    assert (made.points_max, made.bytes_max) == (5_000, 1_572_864)
    row.get_by_role("button").click()
    page.get_by_role("button", name="Revoke the key").click()
    sync_api.expect(row).to_have_count(0)
    assert [key.name for key in store.list()] == ["first"]


VIEWS = (
    "",
    "#/collections/docs",
    "#/collections/docs/points",
    "#/collections/docs/search?like=doc-00",
    "#/collections/docs/map",
    "#/metrics",
    "#/keys",
    "#/collections/empty/points",
    "#/collections/none",
    "#/nowhere",
)


def test_every_view_fits_a_narrow_screen_and_names_its_controls(site: Site) -> None:
    page = site.open(viewport={"width": 360, "height": 700})
    for view in VIEWS:
        page.goto(f"{site.url}/ui/{view}")
        page.locator("h1, .error").first.wait_for()
        if view == "#/metrics":
            page.locator("figure").first.wait_for()
        else:
            page.wait_for_load_state("networkidle")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360, view
        assert page.evaluate(LABELS) == [], view


def test_errors_and_empty_places_are_in_words(site: Site) -> None:
    page = site.open("#/collections/none")
    assert shows(page, "there is no collection 'none'").is_visible()
    page.goto(f"{site.url}/ui/#/nowhere")
    assert shows(page, "There is no page").is_visible()
    page.goto(f"{site.url}/ui/#/collections/empty/map")
    assert shows(page, "The collection has no points yet.").is_visible()
    page.goto(f"{site.url}/ui/#/collections/empty/points")
    assert shows(page, "No points yet").is_visible()
    page.goto(f"{site.url}/ui/#/collections/empty/search")
    page.get_by_role("button", name="Any point").click()
    assert shows(page, "The collection has no points yet.").is_visible()


def test_colours_follow_the_system_and_the_choice(site: Site) -> None:
    background = "() => getComputedStyle(document.body).backgroundColor"
    dark, light = site.open(color_scheme="dark"), site.open(color_scheme="light")
    assert dark.evaluate(background) != light.evaluate(background)
    light.get_by_role("button", name="Colours: auto").click()
    light.get_by_role("button", name="Colours: light").click()
    assert dark.evaluate(background) == light.evaluate(background)


def test_the_keyboard_is_enough(site: Site) -> None:
    page = site.open()
    page.get_by_role("row", name="docs").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    page.goto(f"{site.url}/ui/#/collections/docs/points")
    page.get_by_role("button", name="doc-01").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Payload, as JSON").wait_for()
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("dialog")).to_have_count(0)
    assert page.evaluate("() => document.activeElement.textContent") == "doc-01"
