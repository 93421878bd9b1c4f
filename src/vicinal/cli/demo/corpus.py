"""The documentation of the Python standard library, read from the interpreter that runs.

Python modules are parsed, never imported, so nothing of theirs runs. Only modules written in C, which have no source
to parse, are imported, from a fixed list that has no side effects.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

# fmt: off
C_MODULES = (
    "builtins", "array", "atexit", "binascii", "bz2", "cmath", "codecs", "collections", "contextvars", "copy",
    "csv", "datetime", "decimal", "errno", "faulthandler", "fcntl", "functools", "gc", "grp", "hashlib", "heapq",
    "bisect", "io", "itertools", "json", "locale", "lzma", "marshal", "math", "mmap", "operator", "os", "pickle",
    "pwd", "queue", "random", "re", "resource", "select", "signal", "socket", "sqlite3", "ssl", "stat",
    "statistics", "string", "struct", "sys", "syslog", "termios", "threading", "time", "tracemalloc", "types",
    "typing", "unicodedata", "warnings", "weakref", "xml.parsers.expat", "zlib", "zoneinfo",
)
# fmt: on
"""Modules that are C, or hand on what is C, and that may be imported safely. One that is missing here is left out."""

SKIPPED_PACKAGES = frozenset(
    {"antigravity", "this", "idlelib", "turtledemo", "lib2to3", "distutils", "test", "pydoc_data"}
)
SKIPPED_PARTS = frozenset({"test", "tests", "idle_test", "_bundled", "__main__", "__phello__"})
SKIPPED_SUBMODULES_OF = frozenset({"encodings", "ensurepip"})
TEXT_CHARS_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented thing: a module, class, function or method.

    Attributes
    ----------
    name : qualified, `pathlib.Path.exists`; unique.
    module : where it is found, `pathlib`.
    kind : module, class, function or method.
    signature : `(self, *, follow_symlinks=True)`, or empty where there is none.
    text : the docstring, cut at TEXT_CHARS_MAX.
    language : python or c.
    """

    name: str
    module: str
    kind: str
    signature: str
    text: str
    language: str

    def payload(self) -> dict[str, Any]:
        """The payload that the demo stores with it."""
        return {
            "name": self.name,
            "module": self.module,
            "package": self.module.partition(".")[0],
            "kind": self.kind,
            "language": self.language,
            "signature": self.signature,
            "signature_length": len(self.signature),
            "summary": summary(self.text),
            "text": self.text,
            "text_length": len(self.text),
        }

    def embedded_text(self) -> str:
        """What is embedded: the last two parts of the name, in words, and the summary.

        An average over more of the text would say less: these embeddings are means of word vectors.
        """
        words = " ".join(self.name.split(".")[-2:]).replace("_", " ")
        return f"{words}: {summary(self.text)}"


@dataclass(slots=True)
class Corpus:
    """Public entries, and docstrings of private things: texts of the same kind that are not stored."""

    entries: list[Entry]
    held_out: list[str]


def read_stdlib() -> Corpus:
    """Read everything public with a docstring, sorted by name."""
    entries: dict[str, Entry] = {}
    held_out: dict[str, None] = {}
    root = Path(sysconfig.get_path("stdlib"))
    for module, path in sorted(_sources(root)):
        public, private = _parse(module, path)
        for entry in public:
            entries.setdefault(entry.name, entry)
        held_out.update(dict.fromkeys(private))
    for module in C_MODULES:
        for entry in _inspect(module):
            entries.setdefault(entry.name, entry)
    stored = {entry.text for entry in entries.values()}
    return Corpus(
        sorted(entries.values(), key=lambda entry: entry.name),
        [text for text in held_out if text not in stored],
    )


def summary(text: str) -> str:
    """The first sentence or line, for one row of a table."""
    first = " ".join(text.strip().partition("\n\n")[0].split())
    return first if len(first) <= 160 else first[:159].rstrip() + "…"


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Dotted names and files of the public modules that are written in Python."""
    for name in sys.stdlib_module_names:
        if name.startswith("_") or name in SKIPPED_PACKAGES:
            continue
        file, package = root / f"{name}.py", root / name
        if file.is_file():
            yield name, file
        elif (package / "__init__.py").is_file():
            yield name, package / "__init__.py"
            if name not in SKIPPED_SUBMODULES_OF:
                yield from _submodules(name, package)


def _submodules(name: str, package: Path) -> Iterator[tuple[str, Path]]:
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts and not any(p.startswith("_") or p in SKIPPED_PARTS for p in parts):
            yield ".".join((name, *parts)), path


def _parse(module: str, path: Path) -> tuple[list[Entry], list[str]]:
    """Public entries of a source file, and the docstrings of what is private in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # a distribution may patch or strip a file
        return [], []
    public: list[Entry] = []
    private: list[str] = []
    _add(public, module, module, "module", "", ast.get_docstring(tree))
    for node, names, inside in _definitions(tree, (), None):
        text = ast.get_docstring(node)
        if not text:
            continue
        if any(name.startswith("_") for name in names):
            if len(text) >= 40:
                private.append(text[:600])
            continue
        is_class = isinstance(node, ast.ClassDef)
        kind = "class" if is_class else "function" if inside is None else "method"
        signature = "" if is_class else _signature(node)
        _add(public, module, ".".join((module, *names)), kind, signature, text)
    return public, private


def _definitions(
    tree: ast.Module | ast.ClassDef, names: tuple[str, ...], inside: ast.ClassDef | None
) -> Iterator[
    tuple[
        ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, tuple[str, ...], ast.ClassDef | None
    ]
]:
    """Classes and functions, and what classes hold; also under a module's `if` and `try`."""
    stack: list[ast.stmt] = list(reversed(tree.body))
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (*names, node.name), inside
        elif isinstance(node, ast.ClassDef):
            yield node, (*names, node.name), inside
            yield from _definitions(node, (*names, node.name), node)
        elif isinstance(node, ast.If | ast.Try):
            handlers = [stmt for handler in getattr(node, "handlers", []) for stmt in handler.body]
            stack.extend(reversed([*node.body, *handlers, *node.orelse]))


def _signature(node: ast.AST) -> str:
    node = cast("ast.FunctionDef", node)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"({ast.unparse(node.args)}){returns}"


def _inspect(module_name: str) -> Iterator[Entry]:
    """Entries of a module that has no source for them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(module_name)
    except ImportError:  # fcntl, syslog and others are not on every system
        return
    found: list[Entry] = []
    _add(found, module_name, module_name, "module", "", inspect.getdoc(module), "c")
    for name, value in _members(module):
        if isinstance(value, ModuleType) or not _belongs(value, module_name):
            continue
        qualified = f"{module_name}.{name}"
        if inspect.isclass(value):
            _add(found, module_name, qualified, "class", "", _own_doc(value), "c")
            for method_name, method in list(vars(value).items()):
                if method_name.startswith("_") or not callable(getattr(value, method_name, None)):
                    continue
                _add(
                    found,
                    module_name,
                    f"{qualified}.{method_name}",
                    "method",
                    _text_signature(method),
                    _doc(method),
                    "c",
                )
        elif callable(value):
            _add(
                found, module_name, qualified, "function", _text_signature(value), _doc(value), "c"
            )
    yield from found


def _members(module: ModuleType) -> list[tuple[str, object]]:
    names = getattr(module, "__all__", None) or list(vars(module))
    return [(n, getattr(module, n)) for n in names if not n.startswith("_") and hasattr(module, n)]


def _belongs(value: object, module_name: str) -> bool:
    """Whether it is documented under this module: its own, or from the C module behind it (`_datetime`)."""
    owner = str(getattr(value, "__module__", None) or module_name)
    top = module_name.partition(".")[0]
    return owner.partition(".")[0].lstrip("_") in (
        top,
        "posix" if top == "os" else top,
        "builtins" if top == "io" else top,
    )


def _own_doc(cls: type) -> str | None:
    """The docstring of a class, without what it inherits."""
    text = vars(cls).get("__doc__")
    return inspect.cleandoc(text) if isinstance(text, str) else None


def _doc(value: object) -> str | None:
    text = getattr(value, "__doc__", None)
    return inspect.cleandoc(text) if isinstance(text, str) else None


def _text_signature(value: object) -> str:
    return str(getattr(value, "__text_signature__", None) or "").replace("$", "")


def _add(
    entries: list[Entry],
    module: str,
    name: str,
    kind: str,
    signature: str,
    text: str | None,
    language: str = "python",
) -> None:
    if text and text.strip():
        entries.append(
            Entry(name, module, kind, signature, text.strip()[:TEXT_CHARS_MAX], language)
        )
