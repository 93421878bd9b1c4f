"""The payload index agrees with the predicate after any sequence of appends and changes."""

from functools import cmp_to_key
from typing import Any

import msgspec
import numpy as np
import pytest
from filter_strategies import filters, ids, leaves, paths, payloads, values
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from vicinal.engine import payload_index
from vicinal.engine.payload_bits import bitmap_of_mask, bitmap_of_rows, to_bitset
from vicinal.engine.payload_index import PayloadIndex
from vicinal.model.filter import Filter, compile_predicate
from vicinal.model.filter.order import order_key
from vicinal.model.filter.path import getter

SEQUENCES = settings(max_examples=300, deadline=None)

changes = st.one_of(
    st.tuples(st.just("append"), st.lists(st.tuples(payloads, ids), min_size=1, max_size=8)),
    st.tuples(st.just("update"), st.tuples(st.integers(0, 10**6), payloads)),
    st.tuples(st.just("filter"), filters()),
    st.tuples(st.just("order"), st.tuples(paths, st.booleans())),
)


@pytest.fixture(scope="module", autouse=True)
def small_bounds() -> Any:
    """Bounds so low that short sequences index, merge and evict."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload_index, "PENDING_ROWS_MAX", 2)
        patch.setattr(payload_index, "INDEXED_FIELDS_MAX", 3)
        patch.setattr(payload_index, "CACHED_RESULTS_MAX", 2)
        yield


# Sequences on one field, so that appends, changes and conditions meet in the same run.
one_field = st.just(("a",))
payloads_of_one_field = st.fixed_dictionaries({}, optional={"a": values})
changes_of_one_field = st.one_of(
    st.tuples(
        st.just("append"),
        st.lists(st.tuples(payloads_of_one_field, ids), min_size=1, max_size=8),
    ),
    st.tuples(st.just("update"), st.tuples(st.integers(0, 10**6), payloads_of_one_field)),
    st.tuples(st.just("update"), st.tuples(st.integers(0, 10**6), payloads_of_one_field)),
    st.tuples(st.just("filter"), leaves(one_field)),
    st.tuples(st.just("order"), st.tuples(one_field, st.booleans())),
)


@settings(SEQUENCES, max_examples=500)
@given(
    st.lists(changes_of_one_field, max_size=30),
    st.lists(leaves(one_field), min_size=1, max_size=8),
    st.booleans(),
)
def test_index_of_one_field_agrees_with_the_predicate_after_any_changes(
    steps: list[tuple[str, Any]], last: list[Filter], raw: bool
) -> None:
    assert agrees(steps, last, raw)


@SEQUENCES
@given(st.lists(changes, max_size=25), st.lists(filters(), min_size=1, max_size=3), st.booleans())
def test_index_agrees_with_the_predicate_after_any_changes(
    steps: list[tuple[str, Any]], last: list[Filter], raw: bool
) -> None:
    assert agrees(steps, last, raw)


def agrees(steps: list[tuple[str, Any]], last: list[Filter], raw: bool) -> bool:
    """Every answer is that of the predicate, else AssertionError; whether no count exceeds the points."""
    points: list[tuple[dict[str, object], Any]] = []
    encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
    index = PayloadIndex(
        lambda row: decode(encode(points[row][0])),
        lambda row: points[row][1],
        raw_at=(lambda row: encode(points[row][0])) if raw else None,
    )
    for name, argument in [*steps, *[("filter", where) for where in last * 2]]:
        if name == "append":
            points += argument
            index.extend(len(points))
        elif name == "update" and points:
            row = argument[0] % len(points)
            points[row] = (argument[1], points[row][1])
            index.update(row)
        elif name == "filter":
            predicate = compile_predicate(argument)
            expected = [row for row, point in enumerate(points) if predicate(*point)]
            assert index.evaluate(argument).to_array().tolist() == expected
        elif name == "order":
            check_order(index, points, *argument)
    return all(stats.rows <= len(points) for stats in index.stats().values())


def check_order(
    index: PayloadIndex,
    points: list[tuple[dict[str, object], Any]],
    path: tuple[str, ...],
    descending: bool,
) -> None:
    def value(row: int) -> object:
        payload, point_id = points[row]
        if path[0] != "id":
            return getter(path)(payload)
        plain = point_id if isinstance(point_id, (str, int)) else str(point_id)
        return plain if len(path) == 1 else None

    def compare(a: int, b: int) -> int:
        left, right = order_key(value(a)), order_key(value(b))
        if left == right:
            return a - b
        return 1 if (left > right) != descending else -1

    rows = range(len(points))
    expected = sorted((r for r in rows if value(r) is not None), key=cmp_to_key(compare))
    expected += [r for r in rows if value(r) is None]  # whichever way the others go
    assert index.order(path, descending=descending).tolist() == expected
    half = BitMap(range(0, len(points), 2))
    assert index.order(path, half, descending=descending).tolist() == [
        row for row in expected if row % 2 == 0
    ]


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Masks over several containers with sparse, dense, full and run-like stretches."""
    n = draw(st.sampled_from([0, 1, 63, 64, 65, 1000, 65_535, 65_536, 65_537, 200_000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.zeros(n, bool)
    for first in range(0, n, 65_536):
        density = draw(st.sampled_from([0, 0.0001, 0.06, 0.0625, 0.3, 0.999, 1]))
        chunk = random.random(len(mask[first : first + 65_536])) < density
        mask[first : first + 65_536] = np.repeat(chunk, draw(st.sampled_from([1, 50])))[
            : len(chunk)
        ]
    return mask


@settings(max_examples=150, deadline=None)
@given(masks(), st.booleans())
def test_masks_bitmaps_and_bitsets_hold_the_same_rows(mask: np.ndarray, runs: bool) -> None:
    rows = np.flatnonzero(mask)
    bitmap = bitmap_of_mask(mask)
    assert bitmap == BitMap(rows)
    shuffled = np.random.default_rng(1).permutation(np.concatenate([rows, rows[:5]]))
    assert bitmap_of_rows(shuffled, len(mask)) == bitmap
    if runs:
        bitmap.run_optimize()
    for n in {len(mask), len(mask) // 2, len(mask) + 70_000}:
        bits = to_bitset(bitmap, n)
        assert bits.dtype == np.uint64
        assert bits.shape == ((n + 63) // 64,)
        assert bits.flags.writeable
        unpacked = np.unpackbits(bits.view(np.uint8), bitorder="little").astype(bool)
        expected = np.zeros(len(unpacked), bool)
        expected[rows[rows < n]] = True
        assert np.array_equal(unpacked, expected)
