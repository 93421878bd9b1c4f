"""Queries given as lists take a way of their own, which must end where that of arrays does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.client.convert import to_query
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import VicinalError


@pytest.fixture(params=["l2", "cosine"])
def config(request: pytest.FixtureRequest) -> CollectionConfig:
    with vicinal.open(":memory:") as db:
        return db.collection("docs", dim=3, metric=request.param).config


def outcome(query: Any, config: CollectionConfig) -> Any:
    try:
        converted, single = to_query(query, config)
    except VicinalError as fault:
        return type(fault), str(fault)
    return converted.dtype, converted.tolist(), single


@pytest.mark.parametrize(
    "query",
    [
        [0.1, -2.5, 3e-7],
        [1.0, 2, 3],
        [1.0, True, 2.0],
        [0.0, 0.0, 0.0],
        [1e39, 0.0, 0.0],
        [1.0, float("nan"), 0.0],
        [1.0, float("-inf"), 0.0],
        [1e-30, 1e-30, 1e-30],
        [1.0, 2.0],
        [1.0, 2.0, 3.0, 4.0],
        [1.0, "2", 3.0],
        [1.0, None, 3.0],
        [1.0, 10**400, 3.0],
        [True, False, True],
        ["1", "2", "3"],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        [],
    ],
)
def test_a_list_is_the_query_that_its_array_is(query: list[Any], config: CollectionConfig) -> None:
    assert outcome(query, config) == outcome(np.asarray(query), config)
