"""`vicinal bench`: recall and speed on the user's own vectors, of a file or of a collection that exists.

A file is measured through an index made for the purpose, without the queries that are held out of it. A collection is
measured as it stands, through the searches that a program would make.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vicinal.cli.options import CollectionOption, JsonOption, KOption

if TYPE_CHECKING:
    from vicinal.cli.measuring import Setting
    from vicinal.cli.subjects import Subject

EFS = (10, 16, 24, 32, 48, 64, 100, 200, 400, 800)
QUERIES_DEFAULT = 1_000


def bench(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A file (.npy, .parquet, .arrow, .jsonl, .hdf5), or a database's directory.",
        ),
    ],
    collection: CollectionOption = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="A file of queries; default: held out of the file, or drawn from the collection."
        ),
    ] = None,
    n_queries: Annotated[
        int, typer.Option("--n-queries", min=1, max=1_000_000, help="At most so many queries.")
    ] = QUERIES_DEFAULT,
    k: KOption = 10,
    ef_search: Annotated[
        str | None,
        typer.Option(
            "--ef-search", help="Beam widths to measure, as in 32,64,200; each at least k."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, max=256, help="Of batched searches; 0: all. The build takes all.")
    ] = 1,
    passes: Annotated[int, typer.Option(min=1, max=100, help="How often to measure each.")] = 3,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only the first rows of the file.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="For a file: l2, ip, cosine (default), hamming or manhattan."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="For a file: f32, f16, i8 or bit; default: the file's.")
    ] = None,
    degree: Annotated[
        int | None, typer.Option("--M", help="For a file: neighbours of a row; default: 32.")
    ] = None,
    ef_construction: Annotated[
        int | None, typer.Option(help="For a file: beam width of the build; default: 200.")
    ] = None,
    vector_column: Annotated[
        str | None, typer.Option(help="Column or HDF5 data set of the vectors.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids; default: id.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of queries.")] = 0,
    json: JsonOption = False,
) -> None:
    """Measure recall and speed on your own vectors, for one beam width after the other."""
    from vicinal.cli.console import CliError, progress
    from vicinal.cli.measuring import sweep
    from vicinal.cli.opening import choose, opened
    from vicinal.cli.subjects import Build, Wanted, of_collection, of_file

    # Points of a collection that are its queries find themselves: one result more is asked for.
    efs = _efs(ef_search, k, k + (source.is_dir() and queries is None))
    wanted = Wanted(queries, n_queries, k, threads, vector_column, id_column, seed)
    build = Build(limit, metric, dtype, degree, ef_construction)

    def measure(subject: Subject) -> list[Setting]:
        with progress("measuring") as update:
            return sweep(
                subject.search_at,
                subject.queries,
                subject.truth,
                efs,
                passes=passes,
                progress=update,
            )

    if source.is_dir():
        for name, value in asdict(build).items():
            if value is not None:
                option = "--" + name.replace("_", "-")
                raise CliError(f"{option} goes with a file; {source} is a database, taken as it is")
        with opened(source) as db:
            subject = of_collection(choose(db, collection), wanted)
            settings = measure(subject)
    else:
        if collection is not None:
            raise CliError(f"--collection goes with a database; {source} is none")
        subject = of_file(source, wanted, build)
        settings = measure(subject)
    _show(subject.figures | {"k": k, "threads": threads, "passes": passes}, settings, json=json)


def _efs(text: str | None, k: int, low: int) -> list[int]:
    from vicinal.cli.console import CliError
    from vicinal.model.limits import EF_MAX, K_MAX

    if not 1 <= k <= K_MAX:
        raise CliError(f"-k is {k}; choose 1 to {K_MAX}")
    if text is None:
        return sorted({max(ef, low) for ef in EFS})
    try:
        efs = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise CliError(f"--ef-search is {text!r}; give numbers, as in 32,64,200") from None
    for ef in efs:
        if not low <= ef <= EF_MAX:
            more = " (k, and one for the point itself)" if low > k else " (k)"
            raise CliError(f"--ef-search has {ef}; each is {low}{more} to {EF_MAX}")
    return efs


def _show(figures: dict[str, Any], settings: list[Setting], *, json: bool) -> None:
    import numpy as np

    from vicinal.cli.console import bytes_text, heading, print_json, print_table, remark

    rows: list[dict[str, Any]] = []
    for setting in settings:
        p50, p95, p99 = np.percentile(setting.single_us, [50, 95, 99]).tolist()
        rows.append(
            {
                "ef_search": setting.ef,
                "recall": setting.recall,
                "qps": setting.qps,
                "qps_spread": setting.spread,
                "p50_us": p50,
                "p95_us": p95,
                "p99_us": p99,
            }
        )
    if json:
        print_json(figures | {"settings": rows})
        return
    heading(
        f"{figures['source']}: {figures['points']:,} x {figures['dim']}, {figures['metric']}, {figures['dtype']}"
    )
    print_table(
        ["#ef_search", f"#recall@{figures['k']}", "#QPS", "#+-%", "#p50 us", "#p95 us", "#p99 us"],
        [
            [
                str(row["ef_search"]),
                f"{row['recall']:.4f}",
                f"{row['qps']:,.0f}",
                f"{100 * row['qps_spread'] / 2:.0f}",
                *(f"{row[name]:.0f}" for name in ("p50_us", "p95_us", "p99_us")),
            ]
            for row in rows
        ],
    )
    built = f"built in {figures['build_s']:.2f} s, " if "build_s" in figures else ""
    remark(
        f"{figures['queries']:,} queries ({figures['queries_origin']}), truth by exact search; {built}"
        f"{bytes_text(round(figures['bytes_per_vector']))} of memory a vector. QPS of batches with "
        f"{figures['threads'] or 'all'} threads, median of {figures['passes']} passes; p50 to p99 of single calls"
    )
