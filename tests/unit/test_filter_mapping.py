"""The dict front door: every operator, and what errors say."""

from datetime import UTC, date, datetime
from uuid import UUID

import numpy as np
import pytest

from vicinal.model.errors import FilterError
from vicinal.model.filter import compile_filter


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ({}, "true"),
        ({"a": 1}, "a = 1"),
        ({"a": None}, "a is null"),
        ({"a": 1, "b.c": "x"}, "a = 1 and b.c = 'x'"),
        ({"created-at": 1}, '"created-at" = 1'),
        ({'"a.b".c': 1}, '"a.b".c = 1'),
        ({"a": {"$eq": 1}}, "a = 1"),
        ({"a": {"$ne": 1}}, "a != 1"),
        ({"a": {"$ne": None}}, "a is not null"),
        ({"a": {"$gt": 1, "$lte": 5}}, "a > 1 and a <= 5"),
        ({"a": {"$gte": 1}}, "a >= 1"),
        ({"a": {"$lt": 1}}, "a < 1"),
        ({"a": {"$in": [1, "x"]}}, "a in (1, 'x')"),
        ({"a": {"$in": (1, None)}}, "a in (1) or a is null"),
        ({"a": {"$nin": [1]}}, "a not in (1)"),
        ({"a": {"$nin": []}}, "a not in ()"),
        ({"a": {"$between": [1, 2]}}, "a between 1 and 2"),
        ({"a": {"$like": "x%"}}, "a like 'x%'"),
        ({"a": {"$contains": 5}}, "a contains 5"),
        ({"a": {"$exists": True}}, "a is not null"),
        ({"a": {"$exists": False}}, "a is null"),
        ({"a": {"$not": {"$gt": 1}}}, "not a > 1"),
        ({"$and": [{"a": 1}, {"b": 2}]}, "a = 1 and b = 2"),
        ({"$or": [{"a": 1}, {"b": 2}], "c": 3}, "(a = 1 or b = 2) and c = 3"),
        ({"$nor": [{"a": 1}, {"b": 2}]}, "not (a = 1 or b = 2)"),
        ({"$not": {"a": 1, "b": 2}}, "not (a = 1 and b = 2)"),
        ({"a": np.int64(5)}, "a = 5"),
        ({"a": np.float32(0.5)}, "a = 0.5"),
        ({"a": np.bool_(True)}, "a = true"),
        ({"a": np.str_("x")}, "a = 'x'"),
        ({"a": np.datetime64("2024-01-01T00:00:00", "ns")}, "a = timestamp '2024-01-01T00:00:00Z'"),
        ({"a": datetime(2024, 1, 1)}, "a = timestamp '2024-01-01T00:00:00Z'"),
        ({"a": datetime(2024, 1, 1, tzinfo=UTC)}, "a = timestamp '2024-01-01T00:00:00Z'"),
        ({"a": date(2024, 1, 1)}, "a = timestamp '2024-01-01T00:00:00Z'"),
        ({"id": UUID(int=1)}, "id = '00000000-0000-0000-0000-000000000001'"),
        ({"a": float("inf")}, "a = 1e999"),
    ],
)
def test_dict_compiles_to_the_same_filter_as_the_text(where: dict[str, object], text: str) -> None:
    assert str(compile_filter(where)) == text
    assert compile_filter(where) == compile_filter(text)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"a": [1, 2]}, r"\$in"),
        ({"a": {"$regex": "x"}}, r"unknown operator '\$regex' under field a; known are \$eq, \$ne"),
        ({"$xor": []}, r"unknown operator '\$xor'; known beside fields are \$not, \$and"),
        ({"meta": {"author": "x"}}, "'meta.author' as the key"),
        ({"a": {}}, "empty dict"),
        ({"$or": []}, "one or more filters"),
        ({"$or": {"a": 1}}, "takes a list"),
        ({"$and": [5]}, "takes a dict filter, not 5"),
        ({"$not": 5}, "takes a dict filter, not 5"),
        ({"a": {"$not": 5}}, "takes a dict filter, not 5"),
        ({"a": {"$in": "abc"}}, "take a list"),
        ({"a": {"$in": [[1]]}}, "no single value"),
        ({"a": {"$between": [1]}}, r"\[low, high\]"),
        ({"a": {"$like": 5}}, "takes a string"),
        ({"a": {"$exists": 1}}, "true or false"),
        ({"a": {"$gt": None}}, "is null"),
        ({"a": float("nan")}, "NaN"),
        ({"a": b"x"}, "bytes"),
        ({"a": np.datetime64("NaT")}, "null"),
        ({5: 1}, "not 5"),
        ({"a..b": 1}, "segment at column 3"),
        ({"": 1}, "segment at column 1"),
    ],
)
def test_error_says_what_to_write_instead(where: dict[str, object], words: str) -> None:
    with pytest.raises(FilterError, match=words):
        compile_filter(where)
