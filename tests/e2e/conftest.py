"""Asserts of the conformance suite explain themselves like those of a test file; and a database to serve."""

from collections.abc import Iterator

import pytest

import vicinal

pytest.register_assert_rewrite(
    "conformance",
    "conformance_errors",
    "conformance_expiry",
    "conformance_points",
    "conformance_snapshots",
    "conformance_updates",
    "model",
    "serving",
)


@pytest.fixture
def local() -> Iterator[vicinal.Database]:
    with vicinal.open(":memory:") as db:
        docs = db.collection("docs", dim=2, metric="l2")
        docs.upsert([{"id": i, "vector": [i, 0], "n": i} for i in range(20)])
        yield db
