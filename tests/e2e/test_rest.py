"""The conformance suite over REST, and on a directory that is served while it stays open here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conformance import Conformance

import vicinal


class TestRest(Conformance):
    """`http://`, the server in a thread of this process."""

    @pytest.fixture
    def db(self) -> Iterator[Any]:
        with vicinal.open(":memory:") as local, local.serve(http_port=0) as server:
            db = vicinal.open(server.url)
            yield db
            db.close()
