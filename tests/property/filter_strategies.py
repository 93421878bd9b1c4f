"""Random payloads and filters that meet often: few field names, few values, all kinds."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from vicinal.model.filter import (
    Between,
    Compare,
    Constant,
    Contains,
    Filter,
    In,
    IsNull,
    Like,
    all_of,
    any_of,
    negate,
)
from vicinal.model.filter.ast import OPERATORS

TIMES = ["2024-01-01", "2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00", "2023-06-01T12:00"]
WORDS = ["", "a", "b", "ab", "aab", "ba%", "a_b", "é", "\U0001f600", "it's", "\\", *TIMES]
NUMBERS = [0, 1, -1, 2, 0.0, -0.0, 1.0, 1.5, 2.5, 2**53, 2**53 + 1, float(2**53), 2**63 - 1]
NUMBERS += [-(2**63), 2**63, 2**64 - 1, float(2**63), float("inf"), float("-inf"), 1e300]

words = st.sampled_from(WORDS) | st.text(max_size=4)
numbers = st.sampled_from(NUMBERS) | st.integers(-5, 5) | st.floats(allow_nan=False)
instants = st.sampled_from(
    [
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(2023, 6, 1, 12, tzinfo=UTC),
        datetime(2023, 6, 1, 12, 0, 0, 1, tzinfo=UTC),
    ]
)
literals = words | numbers | st.booleans() | instants | st.integers(-(10**30), 10**30)

KEYS = ["a", "b", "c", "0", "and", "a.b"]
segments = st.sampled_from(KEYS)
paths = st.one_of(
    st.tuples(segments),
    st.tuples(segments),
    st.tuples(segments, segments),
    st.tuples(segments, segments, segments),
    st.just(("id",)),
)
any_paths = st.lists(st.text(max_size=5) | segments, min_size=1, max_size=4).map(tuple)

scalars = words | numbers | st.booleans() | st.none() | st.just(float("nan"))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(segments, inner, max_size=3),
    max_leaves=6,
)
# The range that MessagePack can hold; a payload comes out of a store.
payloads = st.dictionaries(segments, values, max_size=4)
ids = words | st.integers(-5, 5) | st.uuids(version=4)

_pieces = st.sampled_from(["%", "_", "\\%", "\\_", "\\\\", "a", "b", "ab", "2024", "é"])
patterns = st.lists(_pieces, max_size=5).map("".join)


def leaves(path: st.SearchStrategy[tuple[str, ...]] = paths) -> st.SearchStrategy[Filter]:
    """Conditions on random fields."""
    same_kind = st.one_of(*[st.tuples(kind, kind) for kind in (words, numbers, instants)])
    return st.one_of(
        st.builds(Compare, path, st.sampled_from(OPERATORS), literals),
        st.builds(In, path, st.lists(literals, max_size=5).map(tuple)),
        st.builds(lambda p, bounds: Between(p, *bounds), path, same_kind),
        st.builds(Like, path, patterns),
        st.builds(Contains, path, literals),
        st.builds(IsNull, path),
    )


def filters(path: st.SearchStrategy[tuple[str, ...]] = paths) -> st.SearchStrategy[Filter]:
    """Filters in normal form over random fields."""
    return st.recursive(
        leaves(path) | st.builds(Constant, st.booleans()),
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map(all_of),
            st.lists(inner, min_size=2, max_size=3).map(any_of),
            inner.map(negate),
        ),
        max_leaves=6,
    )
