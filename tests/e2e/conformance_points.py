"""The points of the conformance suite, and what a refusal is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from model import state_hash

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")

POINTS: list[dict[str, Any]] = [
    {"id": "a1", "vector": [1, 0, 0, 0], "lang": "en", "year": 2020, "tags": ["x", "y"]},
    {"id": "a2", "vector": [0, 1, 0, 0], "lang": "fr", "year": 2021, "meta": {"author": {"n": 1}}},
    {"id": 7, "vector": [0, 0, 1, 0], "lang": "en", "year": 2022, "tags": []},
    {"id": -(2**63), "vector": [0, 0, 0, 1], "lang": None, "year": 2019.5},
    {"id": UUID, "vector": [0.5, 0.5, 0, 0], "year": "2020", "flag": True},
    {"id": "é" * 100, "vector": [-1, 0, 0, 0]},
]
ALL_IDS = [p["id"] for p in POINTS]


@contextmanager
def refused(
    collection: Any, error: type[Exception], *words: object
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """The block raises error, whose message has the words, and changes nothing."""
    before = state_hash(collection)
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    for word in words:
        assert str(word) in message, message
    assert state_hash(collection) == before
