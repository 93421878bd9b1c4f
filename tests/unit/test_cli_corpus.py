"""The demo's corpus and embedder: read without importing what is read, offline, and sensible."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from vicinal.cli.demo.corpus import Corpus, read_stdlib, summary
from vicinal.cli.demo.embedder import DIM, Embedder, EmbedderMissingError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_stdlib()


def test_corpus_has_thousands_of_public_things_with_unique_names(corpus: Corpus) -> None:
    names = [entry.name for entry in corpus.entries]
    assert len(names) >= 4_000
    assert len(set(names)) == len(names)
    assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]
    assert {entry.kind for entry in corpus.entries} == {"module", "class", "function", "method"}
    assert all(entry.text for entry in corpus.entries)


@pytest.mark.parametrize(
    "name",
    ["json", "pathlib.Path.exists", "json.loads", "math.gcd", "itertools.chain", "datetime.datetime.strptime",
     "builtins.sorted", "builtins.str.split", "collections.Counter.most_common", "os.path", "re.compile"],
)  # fmt: skip
def test_corpus_knows_what_everybody_knows(corpus: Corpus, name: str) -> None:
    by_name = {entry.name: entry for entry in corpus.entries}
    if name == "os.path":  # a module under another name on each system
        assert by_name.keys() & {"posixpath", "ntpath"}
        return
    assert name in by_name
    payload = by_name[name].payload()
    assert payload["signature_length"] == len(payload["signature"])
    assert payload["text_length"] == len(payload["text"])


def test_held_out_texts_are_not_stored(corpus: Corpus) -> None:
    stored = {entry.text for entry in corpus.entries}
    assert len(corpus.held_out) >= 200
    assert not stored & set(corpus.held_out)


def test_reading_the_corpus_imports_no_python_module_of_it() -> None:
    code = (
        "import sys; from vicinal.cli.demo.corpus import read_stdlib; read_stdlib(); "
        "print([m for m in ('antigravity', 'this', 'turtle', 'tkinter', 'smtplib', 'idlelib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert out.stderr == ""


def test_summary_is_the_first_paragraph_in_one_line() -> None:
    assert summary("One\n  two.\n\nThree.") == "One two."
    assert len(summary("x" * 500)) == 160


def test_embedder_makes_unit_vectors_where_likeness_is_nearness() -> None:
    pytest.importorskip("wordllama", reason="the extra `demo` is not installed")
    embedder = Embedder()
    v = embedder.embed(
        ["delete a file", "remove a file", "the square root of a number", "", "\u2603\u2603"]
    )
    assert v.shape == (5, DIM)
    assert v.dtype == np.float32
    assert np.allclose(np.linalg.norm(v, axis=1), 1, atol=1e-5)
    assert v[0] @ v[1] > v[0] @ v[2] + 0.2
    seen: list[tuple[int, int]] = []
    embedder.embed(["x"] * 600, lambda done, total: seen.append((done, total)))
    assert seen == [(512, 600), (600, 600)]


def test_a_missing_model_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vicinal.cli.demo.embedder.find_spec", lambda name: None)
    with pytest.raises(EmbedderMissingError, match=r"pip install 'vicinal\[demo\]'"):
        Embedder()
