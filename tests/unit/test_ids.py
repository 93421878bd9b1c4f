"""Ids and their keys."""

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicinal.model.errors import DuplicateIdError, InvalidArgumentError, LimitError
from vicinal.model.ids import IdColumn, decode_id, encode_id, encode_ids
from vicinal.model.limits import ID_BYTES_MAX, INT_ID_MAX, INT_ID_MIN

IDS = st.one_of(
    st.integers(INT_ID_MIN, INT_ID_MAX),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
    st.uuids(),
)


@given(IDS)
def test_an_id_comes_back_as_it_was_given(id_):
    back = decode_id(encode_id(id_))
    assert back == id_
    assert type(back) is type(id_)


@given(st.integers(INT_ID_MIN, INT_ID_MAX), st.integers(INT_ID_MIN, INT_ID_MAX))
def test_keys_of_ints_order_as_the_ints_do(a, b):
    assert (encode_id(a) < encode_id(b)) == (a < b)


def test_the_int_one_is_not_the_text_one():
    assert encode_id(1) != encode_id("1")


@given(st.lists(st.integers(INT_ID_MIN, INT_ID_MAX), unique=True))
def test_arrays_and_lists_of_ints_have_the_same_keys(values):
    assert encode_ids(np.array(values, dtype=np.int64)) == encode_ids(values)


@pytest.mark.parametrize("bad", [True, 1.5, None, b"x", ["a"], 2**63, -(2**63) - 1])
def test_what_is_no_id_is_refused(bad):
    with pytest.raises(InvalidArgumentError, match=r"str|64 bits"):
        encode_id(bad)


@pytest.mark.parametrize("bad", ["", "x" * (ID_BYTES_MAX + 1)])
def test_a_text_id_has_bounds(bad):
    with pytest.raises(LimitError, match=str(ID_BYTES_MAX)):
        encode_id(bad)


def test_an_unsigned_id_above_64_bits_signed_is_refused():
    with pytest.raises(InvalidArgumentError, match="64 bits"):
        encode_ids(np.array([2**63], dtype=np.uint64))


@pytest.mark.parametrize("ids", [[1, 2, 1], ["a", "a"], np.array([3, 3])])
def test_an_id_twice_in_a_batch_is_named(ids):
    with pytest.raises(DuplicateIdError, match=r"id (1|'a'|3) stands more than once"):
        encode_ids(ids)


@given(st.lists(IDS, unique_by=encode_id, min_size=1, max_size=30))
def test_a_column_gives_back_ids_and_keys_also_after_storing(ids):
    keys = encode_ids(ids)
    column = IdColumn.from_keys(keys)
    rows = list(range(len(ids)))
    for c in (column, IdColumn.from_sections(column.sections())):
        assert len(c) == len(ids)
        assert c.take(rows) == ids
        assert c.keys(rows) == keys
        assert c.all_ints == all(type(i) is int for i in ids)


def test_uuid_keys_hold_their_sixteen_bytes():
    value = uuid.UUID(int=7)
    assert encode_id(value) == b"u" + value.bytes
