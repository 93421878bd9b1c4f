"""Cursors that scroll did not return are refused, whatever is in them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import vicinal
from vicinal.model.filter.order import is_order_key, order_key

VALUES: list[Any] = [3, "x", True, None, [1], 2.5, {"a": 1}]


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Any]:
    with vicinal.open(tmp_path / "db") as db:
        made = db.collection("c", dim=4)
        payload = [{"n": value} for value in VALUES]
        made.upsert(ids=range(7), vectors=np.ones((7, 4), np.float32), payload=payload)
        yield made


def cursor_of(key: object) -> str:
    """A cursor of a scroll by `n` with this sort key."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(["n", False, False, key, 0])).decode()


@pytest.mark.parametrize(
    "key",
    [{}, 5, [], [1], [1, True], [0, 1], [2, 7], [3, 1], [1, {}], [True, True], [1, 2, 3], None],
)
def test_a_key_of_no_value_is_refused(docs: Any, key: object) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="not one that scroll returned"):
        docs.scroll(limit=3, order_by="n", cursor=cursor_of(key))


@pytest.mark.parametrize("value", [3, "x", True, [1], 2.5, {"a": 1}, float("nan"), -7, ""])
def test_a_key_of_any_value_is_taken(docs: Any, value: object) -> None:
    key = order_key(value)
    assert is_order_key(key)
    behind = {i for i, v in enumerate(VALUES) if v is None or (order_key(v), i) > (key, 0)}
    page = docs.scroll(limit=10, order_by="n", cursor=cursor_of(list(key)))
    assert {point.id for point in page} == behind
