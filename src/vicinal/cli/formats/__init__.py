"""Files that points come from and go to: Parquet, Arrow, JSON Lines and .npy, behind one pair of shapes.

A reader yields `Rows`; a writer takes them. What a writer of ours wrote, a reader of ours reads back equal: ids with
their kind, vectors bit for bit, payload value for value.
"""

from __future__ import annotations

from pathlib import Path

from vicinal.cli.formats.rows import FileError, Reader, ReadOptions, Rows, Shape, Writer

SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npy": "npy",
}
NAMES = ("parquet", "arrow", "jsonl", "npy")

__all__ = [
    "NAMES",
    "FileError",
    "ReadOptions",
    "Reader",
    "Rows",
    "Shape",
    "Writer",
    "format_of",
    "open_reader",
    "open_writer",
]


def format_of(path: Path, name: str | None) -> str:
    """The format of a file: the name asked for, or what its suffix says."""
    if name is not None:
        if name not in NAMES:
            raise FileError(f"unknown format {name!r}; known are {', '.join(NAMES)}")
        return name
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        known = ", ".join(SUFFIXES)
        raise FileError(
            f"{path}: the suffix {path.suffix!r} names no format; known are {known}; or give --format"
        )
    return found


def open_reader(path: Path, name: str | None, options: ReadOptions) -> Reader:
    """A reader of a file, opened and checked as far as its header goes."""
    kind = format_of(path, name)
    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    if options.ids is not None and kind != "npy":
        raise FileError(
            f"--ids goes with .npy; {path} brings its own ids (--id-column names the column)"
        )
    if kind == "npy":
        from vicinal.cli.formats.npy import NpyReader

        return NpyReader(path, options)
    if kind == "jsonl":
        from vicinal.cli.formats.jsonl import JsonlReader

        return JsonlReader(path, options)
    from vicinal.cli.formats.arrow import ArrowReader

    return ArrowReader(path, kind, options)


def open_writer(path: Path, name: str | None, shape: Shape) -> Writer:
    """A writer to a file that appears under its name when it is complete."""
    kind = format_of(path, name)
    if kind == "npy":
        from vicinal.cli.formats.npy import NpyWriter

        return NpyWriter(path, shape)
    if kind == "jsonl":
        from vicinal.cli.formats.jsonl import JsonlWriter

        return JsonlWriter(path)
    from vicinal.cli.formats.arrow import ArrowWriter

    return ArrowWriter(path, kind, shape)
