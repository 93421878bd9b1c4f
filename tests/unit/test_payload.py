"""Payload bytes."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicinal.model.errors import InvalidArgumentError, LimitError
from vicinal.model.limits import PAYLOAD_BYTES_MAX
from vicinal.model.payload import EMPTY, decode_payload, encode_payload

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), JSON, max_size=6)
)
def test_any_json_object_comes_back_equal(payload):
    assert decode_payload(encode_payload(payload)) == payload


def test_none_is_the_empty_payload():
    assert encode_payload(None) == EMPTY
    assert decode_payload(EMPTY) == {}


def test_numpy_scalars_and_arrays_become_plain_numbers_and_lists():
    payload = {"a": np.int64(3), "b": np.float32(0.5), "c": np.array([1, 2]), "d": np.bool_(True)}
    assert decode_payload(encode_payload(payload)) == {"a": 3, "b": 0.5, "c": [1, 2], "d": True}


def test_datetimes_become_iso_text_at_any_depth():
    when = dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    payload = {"a": when, "b": {"c": [when]}, "d": dt.date(2024, 1, 2)}
    text = when.isoformat()
    assert decode_payload(encode_payload(payload)) == {
        "a": text,
        "b": {"c": [text]},
        "d": "2024-01-02",
    }


@pytest.mark.parametrize(
    "bad", [[1], "text", {1: 2}, {"a": object()}, {"a": 2**70}, {"a": {1, 2}.__iter__()}]
)
def test_what_is_no_json_object_is_refused(bad):
    with pytest.raises(InvalidArgumentError):
        encode_payload(bad)


def test_a_payload_above_the_limit_is_refused_with_both_sizes():
    with pytest.raises(LimitError, match=str(PAYLOAD_BYTES_MAX)):
        encode_payload({"a": "x" * PAYLOAD_BYTES_MAX})
