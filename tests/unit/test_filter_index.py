"""The payload index: examples, fallbacks, bounds, statistics and concurrent readers."""

import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from pyroaring import BitMap

from vicinal.engine import payload_index
from vicinal.engine.payload_index import PENDING_ROWS_MAX, PayloadIndex
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.filter import compile_filter, matches
from vicinal.model.filter.order import order_key

N = 500


def make_payload(row: int) -> dict[str, object]:
    payload: dict[str, object] = {
        "year": 2000 + row % 30,
        "price": row / 7,
        "lang": ["en", "fr", "de"][row % 3],
        "title": f"title {row}",
        "tags": [f"t{row % 5}", f"t{row % 7}"],
        "meta": {"author": {"name": f"a{row % 11}"}},
        "at": f"2024-01-{row % 28 + 1:02d}",
        'odd "name"': row % 2,
        "n": [1, [1, None], 2.0**53, 2**53 + 1, None, [], 2**64 - 1][row % 7],
    }
    if row % 10 == 0:
        del payload["year"]
    if row % 13 == 0:
        payload["price"] = ["cheap", None, True, {"amount": 1}][row % 4]
    return payload


PAYLOADS = [make_payload(row) for row in range(N)]
RAW = [msgspec.msgpack.encode(payload) for payload in PAYLOADS]
FILTERS = [
    "lang = 'en'",
    "lang != 'en'",
    "lang in ('en', 'de') and year >= 2020",
    "year between 2005 and 2010 or year is null",
    "price > 10.5",
    "price <= 'cheap'",
    "price = true",
    "not (price > 10 and tags contains 't1')",
    "tags = 't2'",
    "tags contains 't'",
    "n contains 1",
    "n = 9007199254740993",
    "n > 9007199254740992",
    "n < 9007199254740993",
    "n is null",
    "n between 3 and 1",
    "tags like '%3'",
    "title like 'title 1_'",
    "title contains '99'",
    "meta.author.name = 'a3'",
    "meta.author is null",
    "at >= timestamp '2024-01-15'",
    "at in (timestamp '2024-01-15T00:00:00Z', '2024-01-01')",
    "id < 100",
    "id.x is null",
    "tags.0 = 't0'",
    '`odd "name"` = 1',
    "nothing = 1",
    "true",
    "false",
    "year in ()",
]


def raw_index(n: int = N) -> PayloadIndex:
    return PayloadIndex(PAYLOADS.__getitem__, lambda row: row, n=n, raw_at=RAW.__getitem__)


def oracle(where: str, payloads: list[dict[str, object]]) -> list[int]:
    compiled = compile_filter(where)
    return [row for row, payload in enumerate(payloads) if matches(compiled, payload, row)]


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("raw", [True, False])
def test_index_gives_the_rows_that_the_predicate_gives(where: str, raw: bool) -> None:
    index = raw_index() if raw else PayloadIndex(PAYLOADS.__getitem__, lambda row: row, n=N)
    assert index.evaluate(compile_filter(where)).to_array().tolist() == oracle(where, PAYLOADS)


def test_fields_of_one_filter_are_indexed_in_one_pass() -> None:
    reads: list[int] = []

    def read(row: int) -> dict[str, object]:
        reads.append(row)
        return PAYLOADS[row]

    index = PayloadIndex(read, lambda row: row, n=N)
    index.evaluate(compile_filter("true"))
    reads.clear()
    index.evaluate(compile_filter("lang = 'en' and year > 2000 and meta.author.name = 'x'"))
    assert reads == list(range(N))
    index.evaluate(compile_filter("lang = 'fr' or year < 2010"))
    assert len(reads) == N


def test_each_append_is_seen_at_once() -> None:
    index = raw_index(0)
    where = compile_filter("lang = 'en' and price > 3")
    expected = oracle("lang = 'en' and price > 3", PAYLOADS)
    for n in range(N + 1):
        index.extend(n)
        assert index.evaluate(where).to_array().tolist() == [row for row in expected if row < n]


def test_each_update_is_seen_at_once() -> None:
    payloads = [dict(payload) for payload in PAYLOADS]
    index = PayloadIndex(payloads.__getitem__, lambda row: row, n=N)
    where = "lang = 'en' or tags contains 'new'"
    for step in range(3 * PENDING_ROWS_MAX):
        row = step * 37 % N
        payloads[row] = {"lang": "en" if step % 2 else "xx", "tags": ["new"] * (step % 3)}
        index.update(row)
        if step % 5 == 0:
            found = index.evaluate(compile_filter(where)).to_array().tolist()
            assert found == oracle(where, payloads)


def test_rows_stay_in_few_runs_under_appends() -> None:
    index = raw_index(0)
    for n in range(0, N + 1, PENDING_ROWS_MAX + 1):
        index.extend(n)
        index.evaluate(compile_filter("lang = 'en'"))
    assert 1 <= index.stats()["lang"].runs <= 4


def test_result_belongs_to_the_caller() -> None:
    index = raw_index()
    where = compile_filter("year is null")
    expected = oracle("year is null", PAYLOADS)
    for _ in range(3):
        result = index.evaluate(where)
        assert result.to_array().tolist() == expected
        result.clear()


def test_extending_by_nothing_keeps_results() -> None:
    index = raw_index()
    where = compile_filter("year is null")
    index.evaluate(where)
    held = index.memory_bytes
    index.extend(N)
    index.update([])
    assert index.memory_bytes == held
    index.update(3)
    assert index.memory_bytes < held


def test_missing_payloads_count_as_empty() -> None:
    for n in (3, 200):
        index = PayloadIndex(lambda _: None, lambda row: row, n=n)
        assert len(index.evaluate(compile_filter("a is null"))) == n
        index = PayloadIndex(lambda _: None, lambda row: row, n=n, raw_at=lambda _: None)
        assert len(index.evaluate(compile_filter("a is null and b.c is null"))) == n


def test_raw_maps_with_keys_that_are_no_strings_are_read() -> None:
    raw = [msgspec.msgpack.encode({1: "x", "a": row % 2}) for row in range(200)]
    decode = msgspec.msgpack.decode
    index = PayloadIndex(
        lambda row: decode(raw[row]), lambda row: row, n=200, raw_at=raw.__getitem__
    )
    assert len(index.evaluate(compile_filter("a = 1"))) == 100


def test_uuids_are_filtered_by_their_text() -> None:
    index = PayloadIndex(lambda _: {}, lambda row: UUID(int=row), n=200)
    where = compile_filter({"id": {"$in": [UUID(int=5), str(UUID(int=7)), 9]}})
    assert index.evaluate(where).to_array().tolist() == [5, 7]


def test_datetime_objects_are_instants() -> None:
    stamps = [datetime(2024, 1, 1 + row % 28, tzinfo=UTC) for row in range(200)]
    raw = [msgspec.msgpack.encode({"at": [stamp]}) for stamp in stamps]
    index = PayloadIndex(
        lambda row: {"at": [stamps[row]]}, lambda row: row, n=200, raw_at=raw.__getitem__
    )
    found = index.evaluate(compile_filter({"at": {"$gt": stamps[20]}}))
    assert found.to_array().tolist() == [row for row in range(200) if stamps[row] > stamps[20]]


def test_large_lists_of_values_are_looked_up() -> None:
    index = raw_index()
    for values in ([1], [*range(0, 1000, 2)], [*range(-(10**30), -(10**30) + 500), 7]):
        found = index.evaluate(compile_filter({"id": {"$in": values}}))
        assert found.to_array().tolist() == [row for row in range(N) if row in set(values)]


def test_shrinking_and_unknown_rows_raise() -> None:
    index = raw_index()
    with pytest.raises(InvalidArgumentError, match="500"):
        index.extend(N - 1)
    with pytest.raises(InvalidArgumentError, match="row 500"):
        index.update(N)
    index.update([])
    assert index.n == N


def test_fields_beyond_the_limit_drop_the_least_recently_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload_index, "INDEXED_FIELDS_MAX", 2)
    index = raw_index()
    for where in ("lang = 'en'", "year > 2010", "lang = 'fr'", "price > 3"):
        index.evaluate(compile_filter(where))
    assert sorted(index.stats()) == ["lang", "price"]
    where = "lang = 'en' and year > 2010 and price > 3 and title like '%1'"
    assert index.evaluate(compile_filter(where)).to_array().tolist() == oracle(where, PAYLOADS)
    assert len(index.stats()) == 2


def test_filters_of_very_many_fields_are_answered() -> None:
    index = raw_index(100)
    where = {"$or": [{f"f{i}": 1} for i in range(1000)] + [{"lang": "en"}]}
    assert len(index.evaluate(compile_filter(where))) == 34
    assert len(index.stats()) <= 256


def test_stats_and_explain_say_what_is_indexed() -> None:
    index = raw_index()
    conditions = index.explain(compile_filter("lang = 'en' and not (tags = 't0' or lang = 'en')"))
    assert [c.text for c in conditions] == ["lang = 'en'", "tags = 't0'"]
    assert conditions[0].matches == 167
    assert conditions[0].selectivity == pytest.approx(167 / 500)
    index.evaluate(compile_filter("price > 1 and year = 1"))
    stats = index.stats()
    assert stats["lang"].distinct == {"keyword": 3}
    assert stats["tags"].list_rows == N
    assert stats["year"].null_rows == 50
    assert set(stats["price"].distinct) == {"keyword", "number", "bool"}
    assert all(field.rows == N for field in stats.values())
    assert index.memory_bytes >= sum(field.memory_bytes for field in stats.values()) > 0


def test_order_sorts_by_value_then_row_with_missing_last() -> None:
    values: list[Any] = ["b", 2, None, True, 1.5, "a", [0], 2.0, False, float("nan"), None, {}]
    index = PayloadIndex(lambda row: {"v": values[row]}, lambda row: row, n=len(values))
    assert index.order("v").tolist() == [8, 3, 4, 1, 7, 5, 0, 6, 9, 11, 2, 10]
    assert index.order("v", descending=True).tolist() == [6, 9, 11, 0, 5, 1, 7, 4, 3, 8, 2, 10]
    assert index.order(("v",), BitMap([0, 1, 2, 3, 99])).tolist() == [3, 1, 0, 2]
    assert index.order("id", descending=True).tolist() == list(range(len(values)))[::-1]


def test_rows_that_several_indexes_sorted_merge_into_the_order_of_one() -> None:
    """What a scroll does over segments: sorted by `order_key` alone, the values come as one index sorts them."""
    big = 2**53
    values: list[Any] = [
        *("b", 2, True, 1.5, "a", [0], 2.0, False, float("nan"), {}, "", -0.0, 0, "10", "9"),
        *(big + 1, float(big), big, big + 2, -big - 1, 2**64 - 1, -(2**63), float("inf"), 1e300),
        *(float("-inf"), "\U0001f600", "\uffff", "é", "e\u0301", "Z", 5e-324, [[]], "a\x00", "a"),
    ]
    index = PayloadIndex(lambda row: {"v": values[row]}, lambda row: row, n=len(values))
    rows = range(len(values))
    assert index.order("v").tolist() == sorted(rows, key=lambda row: order_key(values[row]))
    backwards = sorted(rows, key=lambda row: order_key(values[row]), reverse=True)
    keys = [order_key(values[row]) for row in index.order("v", descending=True).tolist()]
    assert keys == [order_key(values[row]) for row in backwards]


def test_order_of_an_empty_index_is_empty() -> None:
    assert raw_index(0).order("v").tolist() == []
    assert raw_index(0).evaluate(compile_filter("a = 1")) == BitMap()


def test_readers_beside_a_writer_see_every_finished_write() -> None:
    n_max = 3000
    values = [0] * n_max
    index = PayloadIndex(lambda row: {"v": values[row], "row": row}, lambda row: row)
    where = [compile_filter(text) for text in ("v = 0 or v = 1", "v = 1", "row >= 0 and v < 2")]
    written = 0
    done = threading.Event()
    faults: list[str] = []

    def read() -> None:
        while not done.is_set():
            before = written
            everything, ones, again = (index.evaluate(each) for each in where)
            for found in (everything, again):
                if found.range_cardinality(0, before) != before:
                    faults.append(f"{len(found)} of {before} rows")
            if ones.range_cardinality(0, before // 2) < before // 2 - 1:
                faults.append(f"{len(ones)} changed rows of {before // 2}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for row in range(n_max):
        index.extend(row + 1)
        if row % 2:
            values[row // 2] = 1
            index.update(row // 2)
        written = row + 1
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(index.evaluate(where[1])) == n_max // 2
    assert np.array_equal(index.order("v", descending=True)[: n_max // 2], np.arange(n_max // 2))


def test_a_long_wait_for_the_first_index_of_a_field_is_a_warning_and_no_refusal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = raw_index()
    monkeypatch.setattr(payload_index, "INDEXING_SLOW_S", 0.0)
    assert list(index.evaluate(compile_filter("year >= 2010"))) == oracle("year >= 2010", PAYLOADS)
    index.evaluate(compile_filter("year >= 2011"))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("vicinal.filters", "WARNING")
    fields = vars(record)["vicinal_fields"]
    assert fields["fields"] == "year"
    assert fields["rows"] == N


def test_a_filter_without_room_for_its_index_is_answered_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    index = PayloadIndex(PAYLOADS.__getitem__, lambda row: row, n=N, has_room=lambda _: False)
    for where in ("year >= 2010", "year >= 2011"):
        assert list(index.evaluate(compile_filter(where))) == oracle(where, PAYLOADS)
    (record,) = caplog.records
    assert "no room" in record.message
    assert index.stats() == {}
