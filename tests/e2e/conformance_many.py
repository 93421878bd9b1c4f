"""Searches of different kinds in one call, as every transport must carry them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vicinal

SEARCHES: list[dict[str, Any]] = [
    {"query": [1, 0, 0, 0]},
    {"query": [1, 0, 0, 0], "k": 1, "with_vectors": True},
    {"query": [0, 1, 0, 0], "where": "lang = 'en'", "exact": True},
    {"query": [0, 1, 0, 0], "where": {"lang": "de"}},
    {"query": np.array([0, 0, 1, 0]), "k": 2, "with_payload": False, "ef_search": 300},
    {"query": [0, 0, 0, 1], "k": 2, "recall": 0.9},
]


class SearchingMany:
    """Inherited by the conformance suite."""

    def test_many_searches_answer_as_each_does_alone(self, docs: Any):
        found = docs.search_many(SEARCHES)
        assert (len(found), found.complete, found.missing) == (len(SEARCHES), True, [])
        for search, hits in zip(SEARCHES, found, strict=True):
            options = {name: value for name, value in search.items() if name != "query"}
            alone = docs.search(search["query"], **options)
            assert [h.id for h in hits] == [h.id for h in alone]
            assert np.array_equal(hits.distances, alone.distances)
            assert [h.payload for h in hits] == [h.payload for h in alone]
            assert hits.recall_estimate == alone.recall_estimate
            for hit, other in zip(hits, alone, strict=True):
                assert (hit.vector is None) == (other.vector is None)
                assert hit.vector is None or np.array_equal(hit.vector, other.vector)

    def test_many_searches_without_time_say_that_none_was_carried_out(self, docs: Any):
        found = docs.search_many(SEARCHES, time_ms=0)
        assert list(found) == [None] * len(SEARCHES)
        assert (found.complete, found.missing) == (False, list(range(len(SEARCHES))))
        assert docs.search_many(SEARCHES, time_ms=60_000).complete

    @pytest.mark.parametrize(
        ("searches", "error"),
        [
            ([], "number of searches is 0"),
            ([{"query": [1, 0, 0, 0]}] * 1_001, "number of searches is 1001"),
            ([{"query": [1, 0, 0, 0], "limit": 1}], "search 0 has no option 'limit'"),
            ([{"k": 1}], "search 0 has no query"),
            ([{"query": np.eye(4)}], "search 0 has 4 queries"),
            ([[1, 0, 0, 0]], "search 0 is list"),
        ],
    )
    def test_many_searches_that_are_none_are_refused(self, docs: Any, searches: Any, error: str):
        with pytest.raises(vicinal.InvalidArgumentError, match=error):
            docs.search_many(searches)

    def test_one_wrong_search_among_many_is_an_error(self, docs: Any):
        good = {"query": [1, 0, 0, 0]}
        with pytest.raises(vicinal.FilterError):
            docs.search_many([good, {**good, "where": "lang ="}])
        with pytest.raises(vicinal.DimensionError):
            docs.search_many([good, {"query": [1, 0]}])
        for time_ms in (-1, float("nan"), 1e12, "1"):
            with pytest.raises(vicinal.InvalidArgumentError, match="time_ms"):
                docs.search_many([good], time_ms=time_ms)
