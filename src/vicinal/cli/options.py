"""Arguments and options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

DatabaseArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="DATABASE", help="The database's directory.")
]
CollectionOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--collection", "-c", help="Its name; may be left out where there is only one."),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
WhereOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--where", "-w", help="Filter, as in: lang = 'en' and year >= 2020"),
]
QueryArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="[QUERY]",
        help="A vector as JSON ([0.1, ...]), a .npy file, or text where the collection has an embedder.",
    ),
]
TextOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--text", help="The query is this text, whatever it looks like."),
]
KOption: TypeAlias = Annotated[int, typer.Option("-k", help="How many results.")]
ExactOption: TypeAlias = Annotated[
    bool, typer.Option("--exact", help="Compare with every matching point.")
]
EfOption: TypeAlias = Annotated[
    int | None,
    typer.Option("--ef-search", help="Beam width: larger finds more and takes longer."),
]
RecallOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--recall",
        help="Instead of a beam width: the share of the true neighbours to find, as 0.95.",
    ),
]
VectorsOption: TypeAlias = Annotated[
    bool, typer.Option("--with-vectors", help="Return the vectors too.")
]
YesOption: TypeAlias = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")
]
