"""The conformance suite over gRPC, and what is gRPC's own: streams, health, reflection, deadlines, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conformance import Conformance

import vicinal


class TestGrpc(Conformance):
    """`grpc://`, the server in a thread of this process."""

    @pytest.fixture
    def db(self) -> Iterator[Any]:
        with (
            vicinal.open(":memory:") as local,
            local.serve(http_port=0, grpc_port=0) as server,
            vicinal.open(server.grpc_url) as db,
        ):
            yield db
