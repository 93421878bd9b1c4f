"""What a search asks for beside its queries, in one value that goes from the caller to the index."""

from __future__ import annotations

import msgspec

from vicinal.model.filter import Filter


# A Struct, where other options are dataclasses: one is made for every search, in a tenth of the time.
class SearchOptions(msgspec.Struct, frozen=True, gc=False):
    """Options of a search; equal ones are equal keys.

    Attributes
    ----------
    k : results wanted, for each query.
    where : the filter; None is all points.
    ef_search : beam width; None is the default of k.
    recall : instead of ef_search and exact: the share of the true nearest points to find, above 0 and at most 1.
    exact : compare every match instead of walking the graph.
    with_payload, with_vectors : what to answer beside ids and distances.
    """

    k: int = 10
    where: Filter | None = None
    ef_search: int | None = None
    recall: float | None = None
    exact: bool = False
    with_payload: bool = True
    with_vectors: bool = False
