"""`vicinal estimate`: what a collection will take, before anything is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from vicinal.cli.options import JsonOption


def estimate(
    points: Annotated[int, typer.Argument(metavar="POINTS", help="How many points.")],
    dim: Annotated[int, typer.Argument(metavar="DIM", help="Dimensions of a vector.")],
    metric: Annotated[str, typer.Option("--metric", help="l2, ip, cosine, ...")] = "cosine",
    dtype: Annotated[str, typer.Option("--dtype", help="f32, f16, i8 or bit.")] = "f32",
    edges: Annotated[int, typer.Option("-M", help="Edges of a node in the graph.")] = 32,
    payload_bytes: Annotated[
        int, typer.Option("--payload-bytes", help="Of one point's payload, on average.")
    ] = 0,
    id_bytes: Annotated[
        int | None, typer.Option("--id-bytes", help="Of one id, where ids are strings.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say how much memory and disk a collection of so many points takes."""
    import msgspec

    from vicinal.cli.console import bytes_text, print_json, print_table
    from vicinal.engine.estimate import estimate_memory

    found = estimate_memory(
        points,
        dim,
        metric=metric,
        dtype=dtype,
        M=edges,
        payload_bytes=payload_bytes,
        id_bytes=id_bytes,
    )
    if json:
        sums = {"resident_bytes": found.resident_bytes, "mapped_bytes": found.mapped_bytes}
        print_json({**msgspec.to_builtins(found), **sums})
        return
    rows = [(f"resident.{name}", held) for name, held in found.resident.items()]
    rows += [("resident", found.resident_bytes)]
    rows += [(f"mapped.{name}", held) for name, held in found.mapped.items()]
    rows += [("mapped files", found.mapped_bytes)]
    rows += [("while loading, at most", found.loading), ("disk", found.disk)]
    print_table(["what", "#bytes"], [(name, bytes_text(held)) for name, held in rows])
