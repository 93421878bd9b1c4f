"""The conformance suite over Arrow Flight, and Flight as pyarrow's own client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conformance import Conformance

import vicinal


class TestFlight(Conformance):
    """`flight://`, the server in a thread of this process."""

    @pytest.fixture
    def db(self, empty_server: Any) -> Iterator[Any]:
        with vicinal.open(empty_server.flight_url) as db:
            yield db
