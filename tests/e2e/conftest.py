"""Asserts of the conformance suite explain themselves like those of a test file; and a database to serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import vicinal

if TYPE_CHECKING:
    from vicinal.server.running import Running

pytest.register_assert_rewrite(
    "conformance",
    "conformance_errors",
    "conformance_expiry",
    "conformance_many",
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


@pytest.fixture(scope="module")
def one_server() -> Iterator[tuple[vicinal.Database, Running]]:
    """A server of every protocol for all tests of a file, and its database; `empty_server` is for each test."""
    with (
        vicinal.open(":memory:") as local,
        local.serve(http_port=0, grpc_port=0, flight_port=0) as server,
    ):
        yield local, server


@pytest.fixture
def empty_server(one_server: tuple[vicinal.Database, Running]) -> Iterator[Running]:
    """The file's server; what a test leaves there is gone after it."""
    local, server = one_server
    yield server
    for name in local.collections():
        local.drop(name)
    for snapshot in local.snapshots():
        local.drop_snapshot(snapshot.name)
