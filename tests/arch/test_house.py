"""The house stays in order: sizes, banned words, public names, what an import costs, and what the documents promise."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vicinal
import vicinal.index

ROOT = Path(__file__).resolve().parents[2]
LINES_MAX = 600
SOURCES = sorted((ROOT / "src" / "vicinal").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NATIVE = sorted(file for file in (ROOT / "native").rglob("*") if file.suffix in (".cpp", ".hpp"))
LEFTOVERS = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
FORBIDDEN_FOLDERS = {"utils", "common", "helpers", "misc", "core"}
HEAVY_MODULES = (
    "pyarrow",
    "grpc",
    "google.protobuf",
    "pandas",
    "polars",
    "typer",
    "rich",
    "wordllama",
    "tokenizers",
    "hypothesis",
)


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SOURCES + TESTS + NATIVE, ids=name)
def test_no_file_is_two_ideas(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= LINES_MAX, f"{lines} lines: split it along its two ideas"


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_source_file_says_what_it_is_for_and_keeps_the_rules(file: Path) -> None:
    text = file.read_text()
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), "a file starts with what it is for"
    faults = list(_faults(tree, in_cli=(ROOT / "src" / "vicinal" / "cli") in file.parents))
    faults += [
        f"line {i}: {word}"
        for i, line in enumerate(text.splitlines(), 1)
        for word in LEFTOVERS
        if word in line
    ]
    assert faults == []


def _faults(tree: ast.Module, *, in_cli: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"line {node.lineno}: bare assert; use invariant(), which survives python -O"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "print" and not in_cli:
                yield f"line {node.lineno}: print outside cli"
            elif node.func.id in ("eval", "exec"):
                yield f"line {node.lineno}: {node.func.id}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            if {"pickle", "shelve", "marshal"} & {m.partition(".")[0] for m in modules}:
                yield f"line {node.lineno}: {modules}: data is never unpickled"
        elif isinstance(node, ast.ExceptHandler) and all(
            isinstance(s, ast.Pass) for s in node.body
        ):
            yield f"line {node.lineno}: an error caught to be forgotten"


def test_no_folder_has_a_name_that_says_nothing() -> None:
    folders = {part for file in SOURCES + NATIVE for part in file.relative_to(ROOT).parts[:-1]}
    assert folders & FORBIDDEN_FOLDERS == set()


def test_native_code_has_no_leftovers() -> None:
    found = [
        f"{name(f)}: {word}"
        for f in NATIVE
        for word in LEFTOVERS
        if re.search(rf"\b{word}\b", f.read_text())
    ]
    assert found == []


@pytest.mark.parametrize("module", [vicinal, vicinal.index], ids=lambda module: module.__name__)
def test_public_names_are_exactly_all(module: object) -> None:
    source = Path(str(vars(module)["__file__"]))
    names = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    public = {n for n in names if not n.startswith("_")} | (names & {"__version__"})
    assert public == set(module.__all__)  # type: ignore[attr-defined]
    assert all(hasattr(module, n) for n in public)


def test_public_things_are_documented() -> None:
    undocumented = []
    for module in (vicinal, vicinal.index):
        for public in module.__all__:
            value = getattr(module, public)
            if isinstance(value, str):
                continue
            if not getattr(value, "__doc__", None):
                undocumented.append(public)
            if isinstance(value, type):
                undocumented += [
                    f"{public}.{member}"
                    for member, function in vars(value).items()
                    if not member.startswith("_")
                    and callable(function)
                    and not inspect.getdoc(getattr(value, member))
                ]
    assert undocumented == []


def test_import_vicinal_loads_nothing_heavy() -> None:
    code = "import sys, vicinal; print([m for m in sys.argv[1:] if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code, *HEAVY_MODULES], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_version_is_the_one_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(rf'^version = "{re.escape(vicinal.__version__)}"$', text, re.MULTILINE)
