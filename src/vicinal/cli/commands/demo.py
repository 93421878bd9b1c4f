"""`vicinal demo`: a database of the standard library's documentation, and five questions to it."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vicinal.cli.options import JsonOption

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    import vicinal
    from vicinal.cli.demo.corpus import Corpus
    from vicinal.cli.demo.embedder import Embedder

COLLECTION = "stdlib"
SHOWN_FIELDS = ["kind", "summary"]
K_SHOWN = 3
K_MEASURED = 10
HELD_OUT = 200

QUESTIONS: tuple[tuple[str, str | None], ...] = (
    ("create a temporary directory that is removed afterwards", None),
    ("find the most common elements of a list", None),
    ("run a function in another thread and wait for its result", None),
    ("read a compressed file line by line", "kind = 'method'"),
    ("parse a date written as text", "module = 'datetime'"),
)


def demo(
    path: Annotated[
        Path,
        typer.Option("--path", help="Where the database goes; a demo that is there is rebuilt."),
    ] = Path("vicinal-demo.db"),
    json: JsonOption = False,
) -> None:
    """Build a database of the Python standard library's documentation and ask it five questions."""
    from vicinal.cli.console import print_json
    from vicinal.cli.demo.embedder import Embedder

    report = _Report(quiet=json)
    started = time.perf_counter()
    embedder = Embedder()
    report.title(
        f"Vicinal demo: the documentation of Python {sys.version.split()[0]}, read on this machine"
    )
    with _database(path) as db:
        held_out = _build(db, embedder, report)
        docs = db.collection(COLLECTION)
        report.questions(_ask(docs, embedder, report))
        report.recall(_measure(docs, held_out))
    report.end(path, time.perf_counter() - started)
    if json:
        print_json(report.figures)


class _Report:
    """Says what happens as it happens, and keeps the figures for --json."""

    def __init__(self, *, quiet: bool) -> None:
        self.figures: dict[str, Any] = {}
        self._quiet = quiet

    def title(self, text: str) -> None:
        from vicinal.cli.console import heading

        if not self._quiet:
            heading(text)
            print()

    def step(self, name: str, text: str, seconds: float, **figures: object) -> None:
        self.figures[name] = {**figures, "seconds": seconds}
        if not self._quiet:
            print(f"  {text:<72} {seconds:6.2f} s")

    def answer(
        self,
        question: str,
        where: str | None,
        hits: vicinal.Hits,
        embed_ms: float,
        search_ms: float,
    ) -> None:
        from vicinal.cli.commands.query import print_hits
        from vicinal.cli.console import heading

        if self._quiet:
            return
        print()
        heading(f'"{question}"' + (f"  where {where}" if where else ""))
        print_hits(hits, SHOWN_FIELDS)
        print(f"(text to vector {embed_ms:.2f} ms, search {search_ms:.2f} ms)")

    def questions(self, answers: list[dict[str, Any]]) -> None:
        self.figures["questions"] = answers

    def recall(self, measured: dict[str, Any]) -> None:
        from vicinal.cli.console import heading

        self.figures["recall"] = measured
        if self._quiet:
            return
        print()
        heading(f"Recall@{K_MEASURED} of the index against exact search: {measured['recall']:.4f}")
        print(
            f"({measured['queries']} queries that are not in the database: docstrings of private functions. "
            f"{measured['index_ms']:.2f} ms a search, exact {measured['exact_ms']:.2f} ms)"
        )

    def end(self, path: Path, seconds: float) -> None:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        shown = str(path) if path.is_absolute() else f"./{path}"
        self.figures |= {"path": str(path), "disk_bytes": size, "seconds": seconds}
        if self._quiet:
            return
        from vicinal.cli.console import bytes_text, heading

        command = _command()
        print()
        heading(
            f"The database is in {shown} ({bytes_text(size)}, {seconds:.1f} s in all). Now you:"
        )
        print(f'  {command} query {shown} "split a string into words"')
        print(
            f'  {command} query {shown} "does this file exist" --where "module = \'pathlib\'" -k 3'
        )
        print(f'  {command} explain {shown} "sort a list" --where "language = \'c\'"')
        print(f"  {command} info {shown}")


def _database(path: Path) -> vicinal.Database:
    """Open it for building; what stands there already is dropped only where the demo made it."""
    import vicinal
    from vicinal.cli.console import CliError
    from vicinal.cli.opening import read_note

    db = vicinal.open(path)
    if COLLECTION in db.collections():
        if not read_note(path, COLLECTION).demo:
            db.close()
            raise CliError(
                f"{path}: its collection {COLLECTION!r} was not made by the demo; give another --path"
            )
        db.drop(COLLECTION)
    return db


def _build(db: vicinal.Database, embedder: Embedder, report: _Report) -> npt.NDArray[np.float32]:
    """Read, embed, store, index; return the vectors of the held-out queries."""
    from vicinal.cli.console import progress
    from vicinal.cli.demo.corpus import read_stdlib
    from vicinal.cli.demo.embedder import DIM, NAME
    from vicinal.cli.opening import Note, write_note

    started = time.perf_counter()
    corpus: Corpus = read_stdlib()
    entries = corpus.entries
    report.step(
        "read",
        f"read {len(entries):,} docstrings of the standard library",
        _since(started),
        texts=len(entries),
    )

    started = time.perf_counter()
    with progress("embedding") as update:
        vectors = embedder.embed([entry.embedded_text() for entry in entries], update)
    report.step(
        "embed", f"embedded them with {NAME}, {DIM} dimensions, offline", _since(started), dim=DIM
    )
    step = max(1, len(corpus.held_out) // HELD_OUT)
    held_out = embedder.embed(corpus.held_out[::step][:HELD_OUT])

    # The note first: a demo that was interrupted is still known as one.
    write_note(db.path, COLLECTION, Note(embedder=NAME, show=SHOWN_FIELDS, demo=True))
    docs = db.collection(COLLECTION, dim=DIM, metric="cosine")
    started = time.perf_counter()
    with progress("storing") as update:
        docs.upsert(
            ids=[entry.name for entry in entries],
            vectors=vectors,
            payload=[entry.payload() for entry in entries],
            progress=update,
        )
    seconds = _since(started)
    report.step(
        "store", f"stored them, synced to disk ({len(entries) / seconds:,.0f} a second)", seconds
    )

    started = time.perf_counter()
    with progress("indexing") as update:
        docs.optimize(wait=True, progress=update)
    report.step("index", "built the graph", _since(started))
    return held_out


def _ask(docs: vicinal.Collection, embedder: Embedder, report: _Report) -> list[dict[str, Any]]:
    # What only a first call pays (tokenizer, page cache, the filters' field indexes) is not a search's time.
    for where in {where for _, where in QUESTIONS}:
        docs.search(embedder.embed(["warm up"])[0], k=1, where=where)
    answers: list[dict[str, Any]] = []
    for question, where in QUESTIONS:
        started = time.perf_counter()
        vector = embedder.embed([question])[0]
        embed_ms = _since(started) * 1e3
        started = time.perf_counter()
        hits = docs.search(vector, k=K_SHOWN, where=where)
        search_ms = _since(started) * 1e3
        report.answer(question, where, hits, embed_ms, search_ms)
        found = [{"id": hit.id, "distance": hit.distance, "payload": hit.payload} for hit in hits]
        answers.append(
            {
                "question": question,
                "where": where,
                "hits": found,
                "embed_ms": embed_ms,
                "search_ms": search_ms,
            }
        )
    return answers


def _measure(docs: vicinal.Collection, queries: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Recall@10 of the default search against exact search, and the median time of each, one query at a time."""
    import numpy as np

    from vicinal.cli.measuring import recall_at_k

    k = min(K_MEASURED, docs.count())
    found = 0.0
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for query in queries:
        distances: dict[bool, npt.NDArray[np.float32]] = {}
        for exact in (False, True):
            started = time.perf_counter()
            hits = docs.search(query, k=k, exact=exact, with_payload=False)
            seconds[exact].append(_since(started))
            distances[exact] = hits.distances
        found += recall_at_k(distances[False][None], distances[True][None])
    n = len(queries)
    return {
        "recall": found / n,
        "k": k,
        "queries": n,
        "index_ms": float(np.median(seconds[False])) * 1e3,
        "exact_ms": float(np.median(seconds[True])) * 1e3,
    }


def _since(started: float) -> float:
    return time.perf_counter() - started


def _command() -> str:
    """How this program is called from here: its name where the shell finds it, else its path."""
    program = Path(sys.argv[0])
    if shutil.which("vicinal") is not None or not program.is_file():
        return "vicinal"
    here = Path.cwd()
    return str(program.relative_to(here)) if program.is_relative_to(here) else str(program)
