"""What the documents say is so: files exist, examples run, every command and option is described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from vicinal.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
STATUSES = ("open", "done", "measured: no gain")
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SHARED_TAGS = {"1.8"}
TAG = re.compile(r"(\d\.\w+(\.\d+)?|B\.\d+)\Z")


def rows(document: Path) -> list[list[str]]:
    """Cells of the rows of every table."""
    found = []
    for line in document.read_text().splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| capability ")):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.append([cell.strip() for cell in cells])
    return found


FEATURES = rows(ROOT / "docs" / "features.md")


def test_every_requirement_has_its_row() -> None:
    assert len(FEATURES) >= 142
    tags = [tag for row in FEATURES for tag in row[1].split()]
    assert not [tag for tag in tags if not TAG.match(tag)], "a tag that names nothing"
    twice = {tag for tag in tags if tags.count(tag) > 1}
    assert twice <= SHARED_TAGS, f"tags twice: {twice}"


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: row[1].replace(" ", ","))
def test_a_finished_feature_names_files_and_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 6, "capability, tags, where, test, effect, status"
    capability, _, where, test, effect, status = row
    assert capability
    assert status in STATUSES
    if status == "open":
        return
    for path in re.findall(r"`([^`]+)`", where):
        assert (ROOT / path).exists(), f"where: {path} does not exist"
    tests = re.findall(r"`([^`]+)`", test)
    assert tests or status == "measured: no gain", "a finished feature names its test"
    for reference in tests:
        path, _, function = reference.partition("::")
        assert (ROOT / path).is_file(), f"test: {path} does not exist"
        if function:
            assert re.search(rf"\b{re.escape(function)}\b", (ROOT / path).read_text()), (
                f"{path} has no {function}"
            )
    assert effect, (
        "a finished feature says what it does, in figures where it is there for speed or memory"
    )


def test_architecture_names_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    paths = re.findall(
        r"`((?:src|native|tests|docs|tools|bench|client|engine|index|storage|model|cli|telemetry)/[^`*<> ]+)`",
        text,
    )
    assert len(paths) >= 15, "the way of a request is a list of real files"
    missing = [
        p for p in paths if not (ROOT / p).exists() and not (ROOT / "src" / "vicinal" / p).exists()
    ]
    assert missing == []


def test_every_package_folder_is_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    folders = [
        p.name
        for p in (ROOT / "src" / "vicinal").iterdir()
        if p.is_dir() and p.name != "__pycache__"
    ]
    assert [f for f in folders if f"`{f}/`" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_that_documents_name_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(
            r"\bmake ([a-z][a-z-]+)\b(?=[`\s])",
            "\n".join(re.findall(r"`+[^`]*`+", document.read_text())),
        )
    )
    assert named - targets == set()


def test_the_readme_quick_start_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own document
    assert "year" in capsys.readouterr().out


def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    assert len(blocks) >= 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"guide.md, example {number}", "exec"), names)  # noqa: S102 - our own document


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_described(command: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    section = re.search(rf"^## vicinal {command}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section, f"docs/cli.md has no section 'vicinal {command}'"
    shared = re.search(r"^## Shared options\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert shared
    leaves = getattr(COMMANDS[command], "commands", {command: COMMANDS[command]})
    for name in leaves:
        assert f"`vicinal {command}" in section[1] or len(leaves) == 1, f"{command} {name}"
    options = [
        max(p.opts, key=len)
        for leaf in leaves.values()
        for p in leaf.params
        if p.param_type_name == "option"
    ]
    assert "--json" in options
    assert [
        o for o in options if o not in ("--help",) and f"`{o}" not in section[1] + shared[1]
    ] == []
    help_text = COMMANDS[command].help
    assert help_text
    assert len(help_text) >= 20


def test_no_command_is_described_that_does_not_exist() -> None:
    described = re.findall(
        r"^## vicinal (\w+)", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE
    )
    assert sorted(described) == sorted(COMMANDS)
