"""The conformance suite over Arrow Flight, and Flight as pyarrow's own client sees it."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from conformance import Conformance
from serving import flight_of, metric

import vicinal
from vicinal.engine.writer import Writer
from vicinal.server.keys import KeyStore
from vicinal.wire.arrow import Inbound

ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class TestFlight(Conformance):
    """`flight://`, the server in a thread of this process."""

    @pytest.fixture
    def db(self, empty_server: Any) -> Iterator[Any]:
        with vicinal.open(flight_of(empty_server)) as db:
            yield db


@pytest.fixture
def server(local: vicinal.Database) -> Iterator[Any]:
    with local.serve(http_port=0, flight_port=0) as running:
        yield running


def connect(server: Any) -> Any:
    """pyarrow's own client."""
    return fl.connect(server.flight_url.replace("flight", "grpc"))


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with connect(server) as made:
        yield made


def vectors(rows: Any) -> Any:
    """A FixedSizeList column of float32."""
    matrix = np.asarray(rows, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def ticket(operation: str, request: dict[str, Any], **options: Any) -> Any:
    """A ticket on `docs`."""
    command = {"operation": operation, "collection": "docs", "request": request, **options}
    return fl.Ticket(json.dumps(command))


def put(client: Any, *batches: Any, descriptor: Any = None) -> list[int]:
    """DoPut of record batches, each answered before the next is sent; the counts of the answers."""
    writer, answers = client.do_put(
        descriptor or fl.FlightDescriptor.for_path("docs"), batches[0].schema
    )
    counts = []
    with writer:
        for batch in batches:
            writer.write_batch(batch)
            counts.append(json.loads(bytes(answers.read()))["count"])
        writer.done_writing()
        assert answers.read() is None
    return counts


def test_columns_become_points_and_fields(local: vicinal.Database, client: Any) -> None:
    """Each batch is answered when it is durable; columns that are not a point's own are its payload."""
    table = pa.table(
        {
            "id": pa.array(["a", "b", "c", "d"]),
            "vector": vectors([[50, 0], [51, 0], [52, 0], [53, 0]]),
            "lang": pa.array(["en", "fr", "en", None]).dictionary_encode(),
            "year": pa.array([1, 2, 3, 4], pa.int16()),
            "payload": pa.array(['{"a": [1]}', None, "{}", '{"year": 9}']),
        }
    )
    assert put(client, *table.to_batches(max_chunksize=3)) == [3, 1]
    points = local.collection("docs").get(["a", "b", "c", "d"], with_vectors=True)
    assert [p.payload for p in points if p] == [
        {"a": [1], "lang": "en", "year": 1},
        {"lang": "fr", "year": 2},
        {"lang": "en", "year": 3},
        {"lang": None, "year": 4},
    ]
    assert [p.vector.tolist() for p in points if p][3] == [53, 0]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 2], pa.int32()), [1, 2]),
        (pa.array(["x", "y"], pa.large_utf8()), ["x", "y"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([ID.bytes, bytes(16)], pa.binary(16)), [ID, uuid.UUID(int=0)]),
    ],
)
def test_ids_of_any_type_keep_it(
    local: vicinal.Database, client: Any, column: Any, expected: list[Any]
) -> None:
    batch = pa.record_batch([column, vectors([[1, 1], [2, 2]])], names=["id", "vector"])
    assert put(client, batch) == [2]
    assert [p and p.id for p in local.collection("docs").get(expected)] == expected


def test_what_a_scan_gives_can_be_put_back(local: vicinal.Database, client: Any) -> None:
    docs = local.collection("docs")
    docs.upsert(ids=["t", ID], vectors=[[1, 2], [3, 4]], payload=[{"n": 99}, {"n": [1, None]}])
    copy = local.collection("copy", dim=2, metric="l2")
    reader = client.do_get(ticket("scroll", {"limit": 7, "with_vectors": True}))
    table = reader.read_all()
    assert table.num_rows == 22
    assert table.schema.names == ["id", "version", "payload", "expires_at", "vector"]
    rows = table.drop_columns(["version"]).combine_chunks().to_batches()
    assert put(client, *rows, descriptor=fl.FlightDescriptor.for_path("copy")) == [22]
    shown = [(p.id, p.payload) for p in copy.scroll(limit=50)]
    assert shown == [(p.id, p.payload) for p in docs.scroll(limit=50)]


def test_a_scan_shows_payloads_as_json_and_filters(client: Any) -> None:
    table = client.do_get(
        ticket("scroll", {"where": "n >= 18", "order_by": "n"}, payload="json")
    ).read_all()
    assert table.column("payload").to_pylist() == ['{"n":18}', '{"n":19}']
    assert [row["number"] for row in table.column("id").to_pylist()] == [18, 19]


def test_one_search_and_many_are_tables_of_hits(client: Any) -> None:
    one = client.do_get(
        ticket("search", {"vector": [7, 0], "k": 2, "with_vectors": True}, payload="json")
    ).read_all()
    assert one.column("id").to_pylist()[0] == {"number": 7, "text": None, "uuid": None}
    assert one.column("distance").to_pylist() == [0, 1]
    assert one.column("payload").to_pylist()[0] == '{"n":7}'
    assert one.column("vector").to_pylist()[0] == [7, 0]
    many = client.do_get(ticket("search_batch", {"vectors": [[7, 0], [9, 0]], "k": 1})).read_all()
    assert many.column("query").to_pylist() == [0, 1]
    assert [row["number"] for row in many.column("id").to_pylist()] == [7, 9]


def test_a_stream_of_query_batches_is_answered_batch_by_batch(client: Any) -> None:
    command = {"collection": "docs", "request": {"k": 1, "with_payload": False}}
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_command(json.dumps(command)))
    schema = pa.schema([("vector", pa.list_(pa.float32(), 2))])
    with writer:
        writer.begin(schema)
        for start in (0, 5, 10):
            rows = [[i, 0] for i in range(start, start + 5)]
            writer.write_batch(pa.record_batch([vectors(rows)], schema=schema))
            hits = reader.read_chunk().data
            assert hits.schema.names == ["query", "id", "distance"]
            assert [row["number"] for row in hits.column("id").to_pylist()] == [r[0] for r in rows]
        writer.done_writing()


def test_every_operation_is_an_action_and_every_collection_a_flight(
    local: vicinal.Database, client: Any
) -> None:
    assert {"search", "upsert", "count", "open"} <= {a.type for a in client.list_actions()}
    body = json.dumps({"collection": "docs", "request": {"where": "n < 5"}})
    (result,) = client.do_action(fl.Action("count", body.encode()))
    assert json.loads(bytes(result.body)) == {"count": 5}
    local.collection("other", dim=3)
    flights = {f.descriptor.path[0]: f for f in client.list_flights()}
    assert set(flights) == {b"docs", b"other"}
    assert flights[b"docs"].total_records == 20
    info = client.get_flight_info(fl.FlightDescriptor.for_path("other"))
    assert info.schema.field("vector").type == pa.list_(pa.float32(), 3)
    assert client.get_schema(fl.FlightDescriptor.for_path("other")).schema == info.schema
    assert client.do_get(flights[b"docs"].endpoints[0].ticket).read_all().num_rows == 20


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": [1], "vector": vectors([[1, 2, 3]])}, "dimension is 3"),
        ({"id": [1]}, "'vector' is missing"),
        ({"id": [1.5], "vector": vectors([[1, 2]])}, "'id' is of type double"),
        ({"id": pa.array([None], pa.int64()), "vector": vectors([[1, 2]])}, "1 nulls"),
        ({"id": [1], "vector": pa.array([[1.0, 2.0]])}, "FixedSizeList"),
        ({"id": [1], "vector": vectors([[1, float("nan")]])}, "finite"),
        ({"id": [1], "vector": vectors([[1, 2]]), "payload": [7]}, "payload"),
        ({"id": [1], "vector": vectors([[1, 2]]), "payload": ["{"]}, "payload"),
    ],
)
def test_columns_that_are_no_points_are_refused_and_nothing_is_written(
    local: vicinal.Database, client: Any, columns: dict[str, Any], words: str
) -> None:
    with pytest.raises(pa.ArrowInvalid, match=words):
        put(client, pa.record_batch(columns))
    assert local.collection("docs").count() == 20


def test_commands_that_are_none_are_refused(client: Any) -> None:
    for wrong in ("{", "[]", '{"operation": "drop"}', '{"operation": "scroll"}', '{"x": 1}'):
        with pytest.raises(pa.ArrowInvalid):
            client.do_get(fl.Ticket(wrong)).read_all()
    with pytest.raises(pa.ArrowInvalid, match="nothing"):
        list(client.do_action(fl.Action("nothing", b"{}")))
    with pytest.raises(pa.ArrowKeyError, match="gone"):
        client.get_flight_info(fl.FlightDescriptor.for_path("gone"))
    with pytest.raises(pa.ArrowInvalid, match="one part"):
        client.get_flight_info(fl.FlightDescriptor.for_path("docs", "more"))


def test_a_key_is_asked_for_and_says_what_is_seen(tmp_path: Any) -> None:
    with vicinal.open(tmp_path / "db") as db:
        for name in ("docs", "other"):
            db.collection(name, dim=2)
        key, _ = KeyStore(tmp_path / "db").create(role="read", collections=("docs",))
        with db.serve(http_port=0, flight_port=0) as server, connect(server) as client:
            with pytest.raises(fl.FlightUnauthenticatedError):
                list(client.list_flights())
            options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {key}".encode())])
            flights = list(client.list_flights(options=options))
            assert [f.descriptor.path[0] for f in flights] == [b"docs"]
            batch = pa.record_batch([pa.array([1]), vectors([[1, 2]])], names=["id", "vector"])
            with pytest.raises(fl.FlightUnauthorizedError, match="write"):
                writer, answers = client.do_put(
                    fl.FlightDescriptor.for_path("docs"), batch.schema, options
                )
                writer.write_batch(batch)
                assert answers.read() is None
                writer.close()
            with vicinal.open(flight_of(server), api_key=key) as remote:
                assert remote.collections() == ["docs"]
                with pytest.raises(vicinal.ForbiddenError):
                    remote.collection("docs").upsert([{"id": 1, "vector": [1, 2]}])
            with pytest.raises(vicinal.UnauthenticatedError):
                vicinal.open(flight_of(server))


def test_a_search_by_ticket_is_one_request_of_its_key(tmp_path: Any) -> None:
    with vicinal.open(tmp_path / "db") as db:
        db.collection("docs", dim=2).upsert([{"id": 7, "vector": [1, 2]}])
        key, _ = KeyStore(tmp_path / "db").create(role="read")
        options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {key}".encode())])
        with (
            db.serve(http_port=0, flight_port=0, key_requests_per_s_max=0.001) as server,
            connect(server) as client,
        ):
            asked = ticket("search", {"vector": [1, 2], "k": 1})
            assert client.do_get(asked, options).read_all()["id"][0].as_py()["number"] == 7
            with pytest.raises(pa.ArrowInvalid, match="requests a second"):
                client.do_get(asked, options).read_all()


def test_listing_flights_is_one_request_of_its_key(tmp_path: Any) -> None:
    with vicinal.open(tmp_path / "db") as db:
        for name in ("a", "b", "c"):
            db.collection(name, dim=2)
        key, _ = KeyStore(tmp_path / "db").create(role="read")
        options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {key}".encode())])
        with (
            db.serve(http_port=0, flight_port=0, key_requests_per_s_max=0.001) as server,
            connect(server) as client,
        ):
            listed = [info.descriptor.path for info in client.list_flights(options=options)]
            assert listed == [[b"a"], [b"b"], [b"c"]]
            with pytest.raises(pa.ArrowInvalid, match="requests a second"):
                list(client.list_flights(options=options))


def test_a_batch_that_is_read_ahead_counts_among_the_bytes_under_way(
    server: Any, local: vicinal.Database, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    real = Writer.upsert

    def upsert(writer: Writer, *arguments: Any) -> Any:
        entered.set()
        assert go_on.wait(30)
        return real(writer, *arguments)

    def under_way() -> float:
        return metric(server.url, "vicinal_request_bytes_under_way")

    monkeypatch.setattr(Writer, "upsert", upsert)
    batch = pa.record_batch(
        [pa.array(range(1_000)), vectors(np.ones((1_000, 2)))], names=["id", "vector"]
    )
    writer, answers = client.do_put(fl.FlightDescriptor.for_path("docs"), batch.schema)
    writer.write_batch(batch)
    assert entered.wait(30)
    alone = under_way()
    assert alone >= 16_000
    writer.write_batch(batch)
    deadline = time.monotonic() + 30
    while under_way() == alone:
        assert time.monotonic() < deadline
    assert under_way() == 2 * alone
    go_on.set()
    assert json.loads(bytes(answers.read())) == {"count": 1_000}
    writer.done_writing()
    assert json.loads(bytes(answers.read())) == {"count": 1_000}
    assert answers.read() is None
    writer.close()
    assert under_way() == 0


def test_a_batch_above_the_bound_is_refused(local: vicinal.Database) -> None:
    with (
        local.serve(http_port=0, flight_port=0, request_bytes_max=8_192) as server,
        vicinal.open(flight_of(server)) as db,
    ):
        docs = db.collection("docs")
        with pytest.raises(vicinal.RequestTooLargeError, match="8192"):
            docs.upsert(ids=range(1_000, 3_000), vectors=np.ones((2_000, 2), np.float32))
        assert docs.count() == 20


def test_a_compressed_batch_is_refused(client: Any) -> None:
    """Else a small message could be any number of bytes."""
    batch = pa.record_batch(
        [pa.array(range(1_000)), vectors(np.ones((1_000, 2)))], names=["id", "vector"]
    )
    options = fl.FlightCallOptions(write_options=pa.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(pa.ArrowInvalid, match="compress"):
        writer, answers = client.do_put(fl.FlightDescriptor.for_path("docs"), batch.schema, options)
        writer.write_batch(batch)
        assert answers.read() is None
        writer.close()


def test_a_sender_waits_while_the_server_writes(
    server: Any, local: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large upsert one part is written and one is on its way; the others are not taken in."""
    taken: list[int] = []
    entered, go_on = threading.Event(), threading.Event()
    real_take, real_upsert = Inbound.take, Writer.upsert

    def take(inbound: Inbound, message: bytes) -> Any:
        taken.append(len(message))
        return real_take(inbound, message)

    def upsert(writer: Writer, *arguments: Any) -> Any:
        entered.set()
        assert go_on.wait(30)
        return real_upsert(writer, *arguments)

    monkeypatch.setattr("vicinal.client.batch.BATCH_ROWS_MAX", 1_000)
    monkeypatch.setattr(Inbound, "take", take)
    monkeypatch.setattr(Writer, "upsert", upsert)
    with vicinal.open(flight_of(server)) as db:
        docs = db.collection("docs")
        sender = threading.Thread(
            target=docs.upsert,
            kwargs={"ids": range(100, 20_100), "vectors": np.ones((20_000, 2), np.float32)},
        )
        sender.start()
        assert entered.wait(30)
        assert len(taken) == 2, "the schema and the first part"
        go_on.set()
        sender.join(60)
        assert docs.count() == 20_020
        assert len(taken) == 21


def test_a_server_with_an_idle_stream_stops(local: vicinal.Database) -> None:
    with local.serve(http_port=0, flight_port=0, shutdown_s_max=0.2) as server:
        client = connect(server)
        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), 2))])
        writer, _ = client.do_put(fl.FlightDescriptor.for_path("docs"), schema)
        assert list(client.list_flights())
    assert server.wait(0)
    with pytest.raises(fl.FlightError):
        writer.close()
    client.close()
