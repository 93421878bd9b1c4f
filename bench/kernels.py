"""Our distance kernels against NumKong's, SimSIMD's and faiss's: nanoseconds of one distance, on data in the cache.

One query against many contiguous rows, one thread. Every library is called for two numbers of rows, and the time of
a distance is the slope between them, so that what a Python call costs cancels out. Results are compared first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import machine
from vicinal import native

DIMS = (96, 128, 256, 384, 768, 1024, 1536)
CACHE_BYTES = 256 * 1024
"""Rows of one call: more than the first cache holds, less than the second."""

PAIRS = (
    ("l2", "f32"), ("dot", "f32"), ("l1", "f32"), ("l2", "f16"), ("dot", "f16"),
    ("l2", "i8"), ("dot", "i8"), ("l2", "u8"), ("dot", "u8"), ("hamming", "bit"),
)  # fmt: skip
NUMPY = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "u8": np.uint8, "bit": np.uint8}
Call = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Query and rows to distances."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `kernels`."""
    parser.add_argument("--dims", default=",".join(map(str, DIMS)))
    parser.add_argument("--only", help="as in l2:f32,hamming:bit; default: all ten")
    parser.add_argument("--isa", default="", help="measure this instruction set of ours")
    machine.add_arguments(parser, passes=15)


def main(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    pairs = PAIRS
    if options.only:
        pairs = tuple(p for p in PAIRS if ":".join(p) in options.only.split(","))
        if not pairs:
            known = ", ".join(map(":".join, PAIRS))
            raise ValueError(f"--only {options.only!r} names none of {known}")
    missing = [name for name in ("numkong", "simsimd", "faiss") if not _installed(name)]
    if missing:
        print(f"not installed, hence left out: {', '.join(missing)} (`pip install --group bench`)")
    found = [
        row
        for kernel, dtype in pairs
        for dim in map(int, options.dims.split(","))
        for row in measure(kernel, dtype, dim, options.isa, options.passes)
    ]
    rivals = list(dict.fromkeys(r["library"] for r in found if r["library"] != "vicinal"))
    rows: list[list[Any]] = []
    for ours in (r for r in found if r["library"] == "vicinal"):
        row = [ours["kernel"], ours["dtype"], str(ours["dim"]), f"{ours['ns']:.2f}"]
        for rival in rivals:
            other = next(
                (r for r in found if r["library"] == rival and _key(r) == _key(ours)), None
            )
            row += ["", ""] if other is None else [f"{other['ns']:.2f}", f"{other['ratio']:.2f}"]
        rows.append(row)
    print(
        f"ns of a distance; ratio: theirs over ours, above 1 where ours ({_isa(options)}) is faster"
    )
    columns = ["kernel", "dtype", "#dim", "#vicinal"]
    machine.table(columns + [c for r in rivals for c in (f"#{r}", "#ratio")], rows)
    machine.write({"machine": machine.describe(), "rows": found}, "kernels", options.out)
    return 0


def measure(kernel: str, dtype: str, dim: int, isa: str, passes: int) -> list[dict[str, Any]]:
    """One row for each library that has this kernel; ValueError where one computes something else."""
    rng = np.random.default_rng(dim)
    columns = dim // 8 if dtype == "bit" else dim
    n = max(64, CACHE_BYTES // (columns * np.dtype(NUMPY[dtype]).itemsize))
    X, q = _values(rng, dtype, (n, columns)), _values(rng, dtype, (columns,))
    # A query of half-precision rows is single precision in ours and half in theirs; the same numbers.
    ours = q.astype(np.float32) if dtype == "f16" else q
    calls: dict[str, tuple[Call, np.ndarray]] = {
        "vicinal": (lambda a, b: native.distances(a, b, kernel, isa), ours)
    }
    calls |= {name: (call, q) for name, call in _rivals(kernel, dtype).items()}
    truth = calls["vicinal"][0](ours, X)
    for name, (call, query) in calls.items():
        got = np.asarray(call(query, X)).reshape(-1)
        if not np.allclose(got, truth, rtol=2e-2 if dtype == "f16" else 1e-3, atol=1e-1):
            raise ValueError(f"{name} computes another {kernel} of {dtype} x {dim}; not comparable")
    best: dict[str, tuple[float, float]] = dict.fromkeys(calls, (np.inf, np.inf))
    few = X[: n // 4]
    for _ in range(passes):
        for name, (call, query) in calls.items():
            large, small = best[name]
            best[name] = (
                min(large, _seconds(call, query, X)),
                min(small, _seconds(call, query, few)),
            )
    ns = {name: 1e9 * (large - small) / (n - len(few)) for name, (large, small) in best.items()}
    return [
        {
            "library": name,
            "kernel": kernel,
            "dtype": dtype,
            "dim": dim,
            "ns": value,
            "ratio": value / ns["vicinal"],
        }
        for name, value in ns.items()
    ]


def _rivals(kernel: str, dtype: str) -> dict[str, Call]:
    """The same kernel of other libraries, for what is installed and has it."""
    found: dict[str, Call] = {}
    theirs = {"l2": "sqeuclidean", "dot": "dot", "hamming": "hamming"}.get(kernel)
    if theirs is not None:
        for name in ("numkong", "simsimd"):
            if _installed(name):
                call = _pairwise(name, theirs, dtype)
                if call is not None:
                    found[name] = call
    if _installed("faiss"):
        call = _faiss(kernel, dtype)
        if call is not None:
            found["faiss"] = call
    return found


def _pairwise(name: str, metric: str, dtype: str) -> Call | None:
    library = __import__(name)
    options = {}
    if dtype == "bit":
        options["dtype"] = "uint1" if name == "numkong" else "bin8"

    def call(q: np.ndarray, X: np.ndarray) -> np.ndarray:
        return library.cdist(q[np.newaxis], X, metric, **options)

    probe = np.ones((2, 8), NUMPY[dtype])
    try:
        call(probe[0], probe)
    except (LookupError, TypeError, ValueError):
        return None  # this library has no such kernel
    return call


def _faiss(kernel: str, dtype: str) -> Call | None:
    """faiss computes one query against many rows for float32 and for bits."""
    import faiss

    pointer = faiss.swig_ptr
    many = {"l2": "fvec_L2sqr_ny", "dot": "fvec_inner_products_ny"}.get(kernel)
    if dtype == "f32" and many is not None:
        function = getattr(faiss, many)

        def floats(q: np.ndarray, X: np.ndarray) -> np.ndarray:
            out = np.empty(len(X), np.float32)
            function(pointer(out), pointer(q), pointer(X), X.shape[1], len(X))
            return out

        return floats
    if dtype == "bit":

        def bits(q: np.ndarray, X: np.ndarray) -> np.ndarray:
            out = np.empty(len(X), np.int32)
            faiss.hammings(pointer(q), pointer(X), 1, len(X), X.shape[1], pointer(out))
            return out

        return bits
    return None


def _seconds(call: Call, q: np.ndarray, X: np.ndarray, repeats: int = 8) -> float:
    call(q, X)
    started = time.perf_counter()
    for _ in range(repeats):
        call(q, X)
    return (time.perf_counter() - started) / repeats


def _values(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype in ("f32", "f16"):
        return rng.standard_normal(shape).astype(NUMPY[dtype])
    if dtype == "i8":
        return rng.integers(-100, 100, shape).astype(np.int8)
    return rng.integers(0, 256, shape).astype(np.uint8)


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["kernel"], row["dtype"], row["dim"]


def _isa(options: argparse.Namespace) -> str:
    return options.isa or native.best_isa()
