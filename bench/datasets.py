"""Data sets to measure on: folders of .npy files, HDF5 files of ann-benchmarks, and a synthetic set.

Whatever the source, truth holds exact distances, so that recall is judged by distance.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vicinal.cli.measuring import Truth, exact_truth
from vicinal.cli.vectors import HDF5_METRICS, HDF5_SUFFIXES
from vicinal.index import GraphIndex

TRUTH_BATCH = 200_000
SYNTHETIC_POINTS, SYNTHETIC_DIM, SYNTHETIC_QUERIES = 50_000, 128, 1_000


@dataclass(frozen=True)
class Dataset:
    """Vectors, queries that are not among them, and exact answers.

    Attributes
    ----------
    base, queries : (n, dim) float32, or (n, dim / 8) uint8 packed bits under hamming.
    lid : local intrinsic dimensionality, estimated from the true neighbours; higher is harder.
    """

    name: str
    metric: str
    base: np.ndarray
    queries: np.ndarray
    truth: Truth
    k: int
    synthetic: bool = False

    @property
    def dtype(self) -> str:
        """The type that an index of it stores."""
        return "bit" if self.metric == "hamming" else "f32"

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self.base.shape[1] * (8 if self.dtype == "bit" else 1)

    @property
    def lid(self) -> float:
        """Maximum-likelihood estimate (Levina & Bickel, 2004) over distances of the k true neighbours."""
        d = self.truth.distances.astype(np.float64)
        if self.metric in ("l2", "cosine"):  # squared, or half the squared chord
            d = np.sqrt(np.maximum(d, 0))
        elif self.metric == "ip":
            return float("nan")
        good = (d[:, 0] > 0) & np.isfinite(d[:, -1])
        ratios = np.log(d[good][:, -1:] / d[good][:, :-1]).mean(axis=1)
        return float(np.median(1 / ratios[ratios > 0])) if (ratios > 0).any() else float("nan")

    def indexed(self, threads: int = 0, **options: Any) -> GraphIndex:
        """A graph index of the points."""
        index = GraphIndex(self.dim, self.metric, self.dtype, **options)
        index.build(self.base, threads=threads)
        return index

    def describe(self) -> dict[str, Any]:
        """What results say about it."""
        return {
            "name": self.name,
            "points": len(self.base),
            "queries": len(self.queries),
            "dim": self.dim,
            "metric": self.metric,
            "k": self.k,
            "lid": round(self.lid, 1),
            "synthetic": self.synthetic,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose a data set."""
    group = parser.add_argument_group("data")
    group.add_argument("--data", type=Path, help="folder or HDF5 file; default: a synthetic set")
    group.add_argument("--points", type=int, help="use only the first so many points")
    group.add_argument("--queries", type=int, help="use only the first so many queries")
    group.add_argument("-k", type=int, default=10)
    group.add_argument("--seed", type=int, default=1, help="of the synthetic set and of choices")


def load(options: argparse.Namespace) -> Dataset:
    """The data set that the options choose; says so where it is synthetic."""
    if options.data is None:
        n = options.points or SYNTHETIC_POINTS
        data = synthetic(
            n, SYNTHETIC_DIM, options.queries or SYNTHETIC_QUERIES, k=options.k, seed=options.seed
        )
        print(
            f"no --data: a synthetic set of {n:,} x {SYNTHETIC_DIM} with clusters of uneven size, "
            f"local dimensionality {data.lid:.0f}; figures of real data will differ"
        )
        return data
    return load_path(options.data, points=options.points, queries=options.queries, k=options.k)


def load_path(
    path: Path, *, points: int | None = None, queries: int | None = None, k: int = 10
) -> Dataset:
    """A folder (base.npy, query.npy, gt.npy, meta.json) or an HDF5 file of ann-benchmarks."""
    if path.is_dir():
        metric = json.loads((path / "meta.json").read_text())["metric"]
        base, asked = np.load(path / "base.npy"), np.load(path / "query.npy")
        rows = np.load(path / "gt.npy") if (path / "gt.npy").exists() else None
        name = path.resolve().name
    elif path.suffix.lower() in HDF5_SUFFIXES:
        base, asked, rows, metric = _hdf5(path)
        name = path.stem
    else:
        raise ValueError(f"{path}: neither a folder with base.npy nor a .hdf5 file")
    whole = points is None or points >= len(base)
    base, asked = _elements(base[:points], metric), _elements(asked[:queries], metric)
    known = whole and rows is not None and rows.shape[1] >= k
    data = Dataset(name, metric, base, asked, _nothing(len(asked), k), k)
    if known:
        return replace(data, truth=_with_distances(data, rows[: len(asked), :k]))
    return replace(data, truth=_exact(data))


def synthetic(n: int, dim: int, n_queries: int, *, k: int = 10, seed: int = 1) -> Dataset:
    """Unit vectors with what makes embeddings hard and easy.

    Clusters in two levels whose sizes fall off by a power law; each cluster lies in directions of its own, of falling
    variance; queries are drawn from the same clusters and are not among the points.
    """
    rng = np.random.default_rng(seed)
    total = n + n_queries
    groups, per_group = 24, 16
    # Eigenvalues of real embeddings fall off roughly so: most variance in few directions, none without any.
    scale = (1.0 + np.arange(dim)) ** -0.5
    tops = rng.standard_normal((groups, dim)) * scale
    centres = (tops[:, None] + 0.6 * rng.standard_normal((groups, per_group, dim)) * scale).reshape(
        -1, dim
    )
    weights = rng.permutation((1.0 + np.arange(len(centres))) ** -0.8)
    of = rng.choice(len(centres), total, p=weights / weights.sum())
    X = centres[of].astype(np.float32)
    local = min(dim, 40)
    for c in np.unique(of):
        here = np.flatnonzero(of == c)
        directions = np.linalg.qr(rng.standard_normal((dim, local)))[0].T
        strength = 1.6 * (1.0 + np.arange(local)) ** -0.35 * rng.uniform(0.5, 1.2)
        X[here] += (rng.standard_normal((len(here), local)) * strength @ directions) / local**0.5
    X += 0.02 * rng.standard_normal(X.shape).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    data = Dataset(
        f"synthetic-{dim}", "cosine", X[:n], X[n:], _nothing(n_queries, k), k, synthetic=True
    )
    return replace(data, truth=_exact(data))


def _hdf5(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, str]:
    import h5py

    with h5py.File(path, "r") as file:
        said = file.attrs["distance"]
        said = said.decode() if isinstance(said, bytes) else said
        if said not in HDF5_METRICS:
            raise ValueError(f"{path}: distance {said!r}; known are {', '.join(HDF5_METRICS)}")
        rows = np.asarray(file["neighbors"]) if "neighbors" in file else None
        return np.asarray(file["train"]), np.asarray(file["test"]), rows, HDF5_METRICS[said]


def _elements(values: np.ndarray, metric: str) -> np.ndarray:
    if metric == "hamming":
        packed = np.packbits(values, axis=1) if values.dtype == np.bool_ else values
        return np.ascontiguousarray(packed, dtype=np.uint8)
    return np.ascontiguousarray(values, dtype=np.float32)


def _nothing(n: int, k: int) -> Truth:
    return Truth(np.full((n, k), -1, np.int64), np.full((n, k), np.inf, np.float32))


def _exact(data: Dataset) -> Truth:
    parts = (data.base[i : i + TRUTH_BATCH] for i in range(0, len(data.base), TRUTH_BATCH))
    return exact_truth(
        data.queries, parts, k=data.k, dim=data.dim, metric=data.metric, dtype=data.dtype
    )


def _with_distances(data: Dataset, rows: np.ndarray) -> Truth:
    """Truth of known rows: their distances as the exact index computes them."""
    from vicinal.index import FlatIndex

    near = np.empty(rows.shape, np.float32)
    for i, (query, of) in enumerate(zip(data.queries, rows, strict=True)):
        flat = FlatIndex(dim=data.dim, metric=data.metric, dtype=data.dtype)
        flat.add(data.base[of])
        near[i] = flat.search(query, k=len(of))[1][0]
    return Truth(rows.astype(np.int64), near)
