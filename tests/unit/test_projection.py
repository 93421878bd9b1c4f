"""Pictures of a collection: the sample is fair and bounded, the plane is that of the principal components."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.engine.sample import sample_points
from vicinal.model.errors import LimitError
from vicinal.model.filter import compile_filter
from vicinal.model.limits import SAMPLE_POINTS_MAX
from vicinal.server.projection import principal_plane, project
from vicinal.wire.messages import Project


def engine(db: vicinal.Database, name: str) -> Any:
    return db.engine.collection(name, None, {})


@pytest.mark.parametrize(("n", "d"), [(200, 40), (30, 300), (700, 600), (5, 2), (4, 1), (3, 3)])
def test_plane_agrees_with_a_full_decomposition(n: int, d: int) -> None:
    rng = np.random.default_rng(n)
    rows = (rng.standard_normal((n, d)) * 3 / (1 + np.arange(d)) + 7).astype(np.float32)
    plane = principal_plane(rows.copy())
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    count = min(2, d)
    wanted = left[:, :count] * strengths[:count]
    got = plane.places[:, :count].astype(np.float64)
    signs = np.sign((wanted * got).sum(axis=0))
    assert np.abs(got - wanted * signs).max() < 0.02 * np.abs(wanted).max()
    shares = strengths[:count] ** 2 / np.square(centred).sum()
    assert plane.explained[:count] == pytest.approx(shares.tolist(), rel=0.02)


@pytest.mark.parametrize(
    "rows", [np.zeros((0, 4)), np.ones((1, 4)), np.ones((9, 4)), np.full((3, 2), 3e38)]
)
def test_plane_of_points_that_are_all_the_same_is_zero(rows: Any) -> None:
    plane = principal_plane(rows.astype(np.float32))
    assert plane.explained == (0.0, 0.0)
    assert not plane.places.any()


def test_plane_of_huge_values_is_finite() -> None:
    rows = np.asarray([[3e37, 0], [-3e37, 1], [1e37, 5]], np.float32)
    assert np.isfinite(principal_plane(rows).places).all()


def test_sample_is_without_repetition_repeatable_and_over_all_segments() -> None:
    with vicinal.open(":memory:") as db:
        docs = db.collection("docs", dim=2, metric="l2")
        docs.upsert(ids=range(600), vectors=np.ones((600, 2), np.float32))
        docs.optimize()
        docs.upsert(ids=range(600, 1000), vectors=np.ones((400, 2), np.float32))
        docs.delete(list(range(0, 1000, 10)))
        seen: Counter[Any] = Counter()
        for seed in range(40):
            points, total = sample_points(engine(db, "docs"), where=None, limit=100, seed=seed)
            ids = [point.id for point in points]
            assert (total, len(set(ids))) == (900, 100)
            assert not any(int(id_) % 10 == 0 for id_ in ids)
            seen.update(ids)
        again = sample_points(engine(db, "docs"), where=None, limit=100, seed=39)[0]
        assert [point.id for point in again] == ids
        # 4,000 draws of 900 points: each half is drawn about as often as the other.
        assert 0.5 < sum(n for id_, n in seen.items() if id_ < 500) / 2000 < 1.5
        everything, _ = sample_points(engine(db, "docs"), where=None, limit=10_000, seed=0)
        assert [point.id for point in everything] == [i for i in range(1000) if i % 10]


def test_sample_keeps_to_the_filter_and_refuses_what_is_out_of_range() -> None:
    with vicinal.open(":memory:") as db:
        docs = db.collection("docs", dim=1, metric="l2")
        docs.upsert([{"id": i, "vector": [i], "even": i % 2 == 0} for i in range(20)])
        where = compile_filter("even = true")
        points, total = sample_points(engine(db, "docs"), where=where, limit=4, seed=3)
        assert total == 10
        assert len(points) == 4
        assert all(point.payload["even"] for point in points)
        for limit, seed in ((0, 0), (SAMPLE_POINTS_MAX + 1, 0), (1, -1), (1, 2**63)):
            with pytest.raises(LimitError):
                sample_points(engine(db, "docs"), where=None, limit=limit, seed=seed)


def test_sample_has_no_more_bytes_of_vectors_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vicinal.engine.sample.SAMPLE_BYTES_MAX", 64)
    with vicinal.open(":memory:") as db:
        docs = db.collection("docs", dim=4, metric="l2")
        docs.upsert(ids=range(50), vectors=np.ones((50, 4), np.float32))
        assert len(sample_points(engine(db, "docs"), where=None, limit=50, seed=0)[0]) == 4


def test_projection_tells_the_groups_apart_and_names_the_fields() -> None:
    rng = np.random.default_rng(0)
    with vicinal.open(":memory:") as db:
        docs = db.collection("docs", dim=16)
        centres = rng.standard_normal((2, 16)) * 4
        docs.upsert(
            [
                {
                    "id": f"p{i}",
                    "vector": centres[i % 2] + rng.standard_normal(16),
                    "side": "left" if i % 2 else "right",
                    "n": i,
                    "x": float("nan") if i == 0 else 1.5,
                    "deep": {"a": i},
                    "long": "y" * 500,
                }
                for i in range(200)
            ]
        )
        found = project(engine(db, "docs"), Project(color_by="side"))
        assert found.matches == len(found.ids) == len(found.x) == 200
        sides: dict[Any, list[float]] = {"left": [], "right": []}
        for x, side in zip(found.x, found.values, strict=True):
            sides[side].append(x)
        low, high = sorted(sides.values(), key=sum)
        assert max(low) < min(high)
        fields = {field.name: field for field in found.fields}
        assert set(fields) == {"side", "n", "x", "long"}
        assert (fields["side"].distinct, fields["side"].numeric) == (2, False)
        assert (fields["n"].distinct, fields["n"].numeric) == (200, True)
        deep = project(engine(db, "docs"), Project(color_by="deep.a", sample=3, seed=1))
        assert [f"p{value}" for value in deep.values] == deep.ids
        assert project(engine(db, "docs"), Project(color_by="deep")).values == [None] * 200
        assert project(engine(db, "docs"), Project(color_by="x")).values[0] is None
        assert project(engine(db, "docs"), Project(color_by="long")).values[0] == "y" * 200
        assert project(engine(db, "docs"), Project(color_by="id")).values == found.ids


@pytest.mark.parametrize(
    ("metric", "dtype"), [("hamming", "bit"), ("l2", "i8"), ("l2", "f16"), ("ip", "f32")]
)
def test_projection_takes_every_type_of_vector(metric: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    with vicinal.open(":memory:") as db:
        docs = db.collection("docs", dim=16, metric=metric, dtype=dtype)
        vectors: Any = rng.integers(0, 100, (30, 2 if dtype == "bit" else 16))
        vectors = vectors.astype({"bit": np.uint8, "i8": np.int8}.get(dtype, np.float32))
        docs.upsert(ids=range(30), vectors=vectors)
        found = project(engine(db, "docs"), Project())
        assert 0 < found.explained[1] <= found.explained[0] < 1
        assert np.std(found.x) >= np.std(found.y) > 0


def test_projection_of_nothing_is_empty() -> None:
    with vicinal.open(":memory:") as db:
        db.collection("docs", dim=3)
        found = project(engine(db, "docs"), Project(color_by="a"))
        assert (found.matches, found.ids, found.values, found.fields) == (0, [], [], [])
