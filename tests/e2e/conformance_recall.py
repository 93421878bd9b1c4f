"""Searches that say the recall instead of a beam width, and what calibrates them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vicinal
from vicinal.model import limits

N, DIM = 2_000, 16


def vectors(n: int, seed: int) -> np.ndarray:
    """Rows without structure: the hardest kind for a graph."""
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


QUERIES = vectors(40, 2)


class Recalling:
    """`recall=`, `recall_estimate` and `calibrate`."""

    @pytest.fixture
    def graph(self, db: Any) -> Any:
        """A collection with a graph."""
        made = db.collection("graph", dim=DIM, metric="l2")
        made.upsert(ids=np.arange(N), vectors=vectors(N, 1))
        made.optimize()
        return made

    def test_a_search_by_recall_says_what_to_expect(self, graph: Any):
        hits = graph.search(QUERIES[0], recall=0.9)
        assert len(hits) == 10
        assert 0.9 <= hits.recall_estimate <= 1
        assert hits[2:4].recall_estimate == hits.recall_estimate
        batch = graph.search(QUERIES, recall=0.9)
        assert batch.recall_estimate == batch[0].recall_estimate == hits.recall_estimate
        assert batch[0].ids.tolist() == hits.ids.tolist()

    def test_more_recall_takes_a_wider_beam_and_finds_more(self, graph: Any):
        exact = graph.search(QUERIES, exact=True).ids
        found = {r: graph.search(QUERIES, recall=r) for r in (0.6, 0.8, 0.98)}
        shares = [
            np.mean([len(set(a) & set(b)) / 10 for a, b in zip(f.ids, exact, strict=True)])
            for f in found.values()
        ]
        assert shares == sorted(shares)
        assert shares[-1] >= 0.93
        efs = [graph.explain(QUERIES[0], recall=r).ef_search for r in found]
        assert efs == sorted(efs)

    def test_recall_one_is_exact(self, graph: Any):
        found, exact = graph.search(QUERIES, recall=1.0), graph.search(QUERIES, exact=True)
        assert np.array_equal(found.ids, exact.ids)
        assert found.recall_estimate == exact.recall_estimate == 1.0
        assert len(graph.search(QUERIES[0], k=500, recall=1)) == 500

    def test_a_beam_width_has_an_estimate_too(self, graph: Any):
        narrow = graph.search(QUERIES[0], ef_search=10).recall_estimate
        wide = graph.search(QUERIES[0], ef_search=200).recall_estimate
        assert 0 < narrow < wide <= 1
        assert graph.search(QUERIES[0]).recall_estimate == wide
        assert graph.search(QUERIES[0], k=300, ef_search=400).recall_estimate is None

    def test_what_is_compared_point_by_point_has_recall_one(self, graph: Any, docs: Any):
        assert docs.search([1, 0, 0, 0], recall=0.5).recall_estimate == 1.0
        assert docs.search([[1, 0, 0, 0]]).recall_estimate == 1.0
        assert graph.search(QUERIES[0], where="id < 50", recall=0.5).recall_estimate == 1.0
        assert graph.search(QUERIES[0], where="id < 0", recall=0.5).recall_estimate == 1.0

    def test_explain_says_what_was_asked_for_and_what_to_expect(self, graph: Any):
        told = graph.explain(QUERIES[0], recall=0.9)
        assert told.recall == 0.9
        assert told.recall_estimate == graph.search(QUERIES[0], recall=0.9).recall_estimate
        assert told.segments[0]["recall_estimate"] == told.recall_estimate
        assert told.to_dict()["recall_estimate"] == told.recall_estimate
        assert "0.9 asked for" in str(told)
        assert graph.explain(QUERIES[0], exact=True).recall is None

    @pytest.mark.parametrize("recall", [0, -0.1, 1.01, float("nan"), True, "0.9"])
    def test_a_recall_out_of_range_is_refused(self, docs: Any, recall: Any):
        with pytest.raises(vicinal.InvalidArgumentError):
            docs.search([1, 0, 0, 0], recall=recall)

    def test_refusals_name_what_was_given_and_the_way_out(self, docs: Any):
        for options, words in (
            ({"recall": 1.5}, ("1.5", "above 0 and at most 1")),
            ({"recall": 0.9, "ef_search": 50}, ("0.9", "ef_search=50", "one of them")),
            ({"recall": 0.9, "exact": True}, ("exact=True", "one of them")),
            ({"recall": 0.9, "k": 101}, ("101", limits.RECALL_K_MAX, "recall=1.0")),
        ):
            for call in (docs.search, docs.explain):
                with pytest.raises(vicinal.InvalidArgumentError) as caught:
                    call([1, 0, 0, 0], **options)
                assert all(str(word) in str(caught.value) for word in words)

    def test_queries_of_the_user_calibrate_until_they_are_forgotten(self, graph: Any):
        def calibrated() -> dict[str, Any]:
            return graph.stats()["segments"][0]["calibrated"]

        own = graph.search(QUERIES[0], recall=0.9).recall_estimate
        assert calibrated() == {"rows": N, "queries": calibrated()["queries"], "given": False}
        far = 3 * vectors(100, 5)
        graph.calibrate(far)
        assert calibrated() == {"rows": N, "queries": 100, "given": True}
        exact = graph.search(far, exact=True).ids
        found = graph.search(far, recall=0.9)
        share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.ids, exact, strict=True)])
        assert share == pytest.approx(found.recall_estimate, abs=0.02)
        graph.delete([0, 1])
        graph.optimize()
        assert calibrated() == {"rows": N - 2, "queries": 100, "given": True}
        graph.calibrate()
        assert calibrated()["given"] is False
        assert graph.search(QUERIES[0], recall=0.9).recall_estimate == pytest.approx(own, abs=0.1)

    @pytest.mark.parametrize("n", [1, limits.CALIBRATION_QUERIES_MIN - 1, 2_001])
    def test_too_few_or_too_many_queries_are_refused(self, docs: Any, n: int):
        with pytest.raises(vicinal.LimitError, match=f"is {n}; give a matrix of 25 to 2000"):
            docs.calibrate(np.ones((n, 4), np.float32))
        with pytest.raises(vicinal.DimensionError):
            docs.calibrate(np.ones((30, 5), np.float32))
        with pytest.raises(vicinal.VectorValueError):
            docs.calibrate(np.full((30, 4), np.nan, np.float32))
        with pytest.raises(vicinal.LimitError):
            docs.calibrate(np.ones((30, 4), np.float32), threads=0)
