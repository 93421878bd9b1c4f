"""Flight's messages: values are not copied on their way, and no bytes are the reader's fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicinal.client import tables
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.hits import HitsBatch
from vicinal.wire.arrow import BATCH, CONTINUATION, Inbound, data_of, fields_of, parse, stream_of

CONFIG = CollectionConfig(dim=3)
ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)


def messages(*batches: Any, descriptor: bytes = b"d" * 17) -> list[bytes]:
    return list(stream_of(batches[0].schema, iter(batches), descriptor))


def batch(rows: Any = ROWS) -> Any:
    return pa.record_batch([tables.vector_column(rows)], names=["vector"])


def test_a_matrix_lies_in_the_message_that_it_came_in() -> None:
    inbound = Inbound()
    schema, message = messages(batch())
    assert inbound.take(schema) is None
    matrix = tables.vector_matrix(inbound.take(message).column(0), "vectors")
    assert np.array_equal(matrix, ROWS)
    assert matrix.flags.aligned
    assert np.shares_memory(matrix, np.frombuffer(message, np.uint8))


def test_a_matrix_that_lies_askew_is_copied_into_place() -> None:
    inbound = Inbound()
    schema, message = messages(batch())
    askew = b"\x1a\x01x" + message  # a field of three bytes before the others
    inbound.take(schema)
    matrix = tables.vector_matrix(inbound.take(askew).column(0), "vectors")
    assert matrix.flags.aligned
    assert np.array_equal(matrix, ROWS)


def test_dictionaries_come_before_the_batches_that_use_them() -> None:
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    made = pa.record_batch([column], names=["lang"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_batch(made)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    inbound, found = Inbound(), []
    for message in reader:
        found.append(inbound.take(data_of(message.serialize())))
    assert [b is not None for b in found] == [False, False, True]
    assert found[-1].column(0).to_pylist() == ["a", "b", "a"]


def test_a_message_keeps_its_parts() -> None:
    data = parse(messages(batch())[0])
    assert bytes(data.descriptor) == b"d" * 17
    assert len(data.header) % 8 == 0
    assert not len(data.body)
    assert fields_of(b"ab", b"") == b"\x0a\x02ab\x12\x00"


def test_texts_whose_offsets_lie_are_refused() -> None:
    """Arrow would read outside of the message."""
    made = pa.record_batch([pa.array(["abc", "def"])], names=["lang"])
    schema, message = messages(made)
    offsets = np.array([0, 3, 6], np.int32).tobytes()
    assert message.count(offsets) == 1
    inbound = Inbound()
    inbound.take(schema)
    with pytest.raises(InvalidArgumentError, match="Arrow"):
        inbound.take(message.replace(offsets, np.array([0, 3, 10**6], np.int32).tobytes()))


def test_a_column_whose_name_is_no_text_is_refused() -> None:
    schema = messages(batch())[0]
    name = batch().schema.names[0].encode()
    inbound = Inbound()
    with pytest.raises(InvalidArgumentError, match="Arrow"):
        inbound.take(schema.replace(name, b"\xff" * len(name)))


def test_a_stream_in_another_order_is_refused() -> None:
    schema, message = messages(batch())
    for order in ([message], [schema, schema]):
        inbound = Inbound()
        with pytest.raises(InvalidArgumentError, match="schema"):
            for part in order:
                inbound.take(part)


@given(st.data())
def test_no_bytes_are_the_readers_fault(data: st.DataObject) -> None:
    """Messages with bytes changed, cut or added are read or refused."""
    schema, message = messages(batch())
    inbound = Inbound()
    for good in (schema, message):
        damaged = bytearray(good)
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(damaged) - 1))
            damaged[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
        try:
            inbound.take(bytes(damaged[:cut]))
        except InvalidArgumentError as refused:
            assert str(refused)


@given(st.binary(max_size=80))
def test_no_random_bytes_are_the_readers_fault(raw: bytes) -> None:
    for message in (raw, data_of(CONTINUATION + len(raw).to_bytes(4, "little") + raw)):
        try:
            assert Inbound().take(message) is None
        except InvalidArgumentError as refused:
            assert str(refused)


@pytest.mark.parametrize("ids", [[1, -5], ["a", "b"], [1, "a"], [2**63 - 1, -(2**63)], [], ["", 0]])
def test_ids_come_back_with_their_type(ids: list[Any]) -> None:
    found = tables.id_values(tables.id_column(ids)).tolist()
    assert found == ids
    assert [type(i) for i in found] == [type(i) for i in ids]


def test_found_is_put_together_at_the_shortest_width() -> None:
    schema = tables.hits_schema(CONFIG, with_payload=True, with_vectors=True, json=False)
    made = []
    for n, k in ((2, 3), (1, 2)):
        found = HitsBatch(
            np.arange(n * k).reshape(n, k),
            np.arange(n * k, dtype=np.float32).reshape(n, k),
            [[b"\x80"] * k] * n,
            np.zeros((n, k, 3), np.float32),
        )
        made.append(tables.hits_batch(found, schema))
    whole = tables.found_of(made, [2, 1], [0.9, 0.6], CONFIG)
    assert whole.ids.tolist() == [[0, 1], [3, 4], [0, 1]]
    assert whole.distances.shape == (3, 2)
    assert whole.raw_payloads == [[b"\x80"] * 2] * 3
    assert whole.vectors is not None
    assert whole.vectors.shape == (3, 2, 3)
    assert whole.recall_estimate == pytest.approx(0.8)
    assert BATCH == 3
