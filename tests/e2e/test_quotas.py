"""What a key and a collection may hold: exact for points, over every protocol, refused before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from serving import http_call

import vicinal
from vicinal.engine.writer import Writer
from vicinal.server.keys import KeyStore
from vicinal.wire.protobuf import message_class

COMMAND = str(Path(sys.executable).parent / "vicinal")
PROTOCOLS = ("http", "grpc", "flight")


def rows(*ids: int) -> dict[str, Any]:
    """Arguments of an upsert."""
    return {"ids": list(ids), "vectors": np.ones((len(ids), 2), np.float32)}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[vicinal.Database]:
    with vicinal.open(tmp_path / "db") as db:
        for name in ("docs", "other", "third"):
            db.collection(name, dim=2).upsert(**rows(1, 2))
        yield db


def serve(db: vicinal.Database, **options: Any) -> Any:
    return db.serve(http_port=0, grpc_port=0, flight_port=0, **options)


def url(server: Any, protocol: str) -> str:
    return server.url if protocol == "http" else getattr(server, f"{protocol}_url")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collection_holds_so_many_points_and_no_more(
    db: vicinal.Database, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vicinal.client.batch.BATCH_ROWS_MAX", 2)
    with (
        serve(db, collection_points_max=5) as server,
        vicinal.open(url(server, protocol)) as remote,
    ):
        docs = remote.collection("docs")
        assert docs.upsert(**rows(1, 2, 3, 4)) == 4, "two of them are not new"
        with pytest.raises(vicinal.QuotaError, match="'docs' holds 4 points, the limit is 5") as at:
            docs.upsert(ids=[5, 6], vectors=np.ones((2, 2), np.float32), if_version=[0, 0])
        assert (at.value.unit, at.value.needed, at.value.used, at.value.limit) == (
            "points", 2, 4, 5,
        )  # fmt: skip
        assert docs.count() == 4
        assert docs.upsert(**rows(5)) == 1
        assert docs.upsert(**rows(1, 2)) == 2, "what is there may be replaced"
        assert docs.upsert(ids=[1], vectors=[[3, 3]], mode="update_only") == 1
        assert docs.update([1], {"a": 1}) == 1
        with pytest.raises(vicinal.QuotaError):
            docs.upsert(**rows(6))
        assert docs.delete([1]) == 1
        assert docs.upsert(**rows(6)) == 1
        assert remote.collection("other").upsert(**rows(7, 8, 9)) == 3, "each has its own"
    assert db.collection("docs").upsert(**rows(*range(10, 20))) == 10, "a limit of the server's"


def test_the_error_has_its_status_in_every_protocol(db: vicinal.Database) -> None:
    with serve(db, collection_points_max=2) as server:
        path, body = "/v1/collections/docs/points", {"points": [{"id": 9, "vector": [1, 2]}]}
        status, answer, _ = http_call(server.url, "POST", path, body)
        assert (status, answer["error"]["code"]) == (507, "quota")
        assert answer["error"]["details"] == {"unit": "points", "needed": 1, "used": 2, "limit": 2}
        channel = grpc.insecure_channel(server.grpc_url.removeprefix("grpc://"))
        request = message_class("UpsertRequest")(
            collection="docs", ids={"numbers": [9]}, vectors=np.ones(2, np.float32).tobytes()
        )
        for name in ("Upsert", "UpsertStream"):
            call = channel.stream_stream(f"/vicinal.v1.Vicinal/{name}")
            with pytest.raises(grpc.RpcError) as caught:
                list(call(iter([request.SerializeToString()])))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        channel.close()
        with fl.connect(server.flight_url.replace("flight", "grpc")) as client:
            vector = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 2)
            batch = pa.record_batch([pa.array([9]), vector], names=["id", "vector"])
            writer, answers = client.do_put(fl.FlightDescriptor.for_path("docs"), batch.schema)
            with pytest.raises(pa.ArrowInvalid, match="the limit is 2"):
                writer.write_batch(batch)
                assert answers.read() is None
                writer.close()
    assert db.collection("docs").count() == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_key_has_a_limit_on_what_its_collections_hold_together(
    db: vicinal.Database, protocol: str
) -> None:
    store = KeyStore(Path(db.path))
    tenant, _ = store.create(role="write", collections=("docs", "other", "absent"), points_max=6)
    free, _ = store.create(role="write")
    with serve(db) as server, vicinal.open(url(server, protocol), api_key=tenant) as remote:
        docs, other = remote.collection("docs"), remote.collection("other")
        assert docs.upsert(**rows(3)) == other.upsert(**rows(3)) == 1
        for full in (docs, other):
            with pytest.raises(vicinal.QuotaError, match="holds 6 points"):
                full.upsert(**rows(4))
        assert other.delete([1, 2]) == 2
        assert docs.upsert(**rows(4, 5)) == 2
        with vicinal.open(url(server, protocol), api_key=free) as unbound:
            assert unbound.collection("docs").upsert(**rows(6, 7, 8)) == 3
            assert unbound.collection("third").upsert(**rows(3)) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_are_those_of_the_files(db: vicinal.Database, protocol: str) -> None:
    store = KeyStore(Path(db.path))
    key, _ = store.create(role="write", collections=("docs",), bytes_max=400_000)
    with serve(db) as server, vicinal.open(url(server, protocol), api_key=key) as remote:
        docs = remote.collection("docs")
        rng = np.random.default_rng(0)
        written = 2
        with pytest.raises(vicinal.QuotaError, match="bytes, the limit is 400000") as caught:
            for start in range(100, 10_000, 100):
                texts = [{"t": rng.bytes(100).hex()} for _ in range(100)]
                ids = list(range(start, start + 100))
                docs.upsert(ids=ids, vectors=np.ones((100, 2), np.float32), payload=texts)
                written += 100
        assert written > 302
        assert docs.count() == written
        assert caught.value.unit == "bytes"
        assert docs.delete(list(range(100, 200))) == 100, "what makes room is done"


def test_writers_at_once_fill_a_limit_exactly(
    db: vicinal.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on beside each other as long as there is room for all, and none is refused for what others may need."""
    at_once, most, lock = 0, 0, threading.Lock()
    real = Writer.upsert

    def upsert(writer: Writer, *arguments: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return real(writer, *arguments)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(Writer, "upsert", upsert)
    with serve(db, collection_points_max=102) as server:

        def write(place: int) -> int:
            done = 0
            with vicinal.open(server.url) as remote:
                docs = remote.collection("docs")
                for n in range(60):
                    try:
                        done += docs.upsert(**rows(1000 * (place + 1) + n))
                    except vicinal.QuotaError:
                        assert docs.count() > 90
            return done

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(write, range(4))) == 100
        assert db.collection("docs").count() == 102
        assert most > 1


def test_a_quota_out_of_range_is_refused(db: vicinal.Database) -> None:
    store = KeyStore(Path(db.path))
    wrong: list[dict[str, Any]] = [{"points_max": 0}, {"bytes_max": -1}, {"points_max": 2**63}]
    for options in wrong:
        with pytest.raises(vicinal.InvalidArgumentError, match=next(iter(options))):
            store.create(**options)
    with pytest.raises(vicinal.InvalidArgumentError, match="collection_points_max"):
        db.serve(http_port=0, collection_points_max=-1)


def test_keys_with_quotas_are_made_over_the_network(db: vicinal.Database) -> None:
    admin, _ = KeyStore(Path(db.path)).create(role="admin")
    with serve(db) as server:
        headers = {"Authorization": f"Bearer {admin}"}
        body = {"role": "write", "points_max": 3, "bytes_max": 10**6, "collections": ["docs"]}
        status, made, _ = http_call(server.url, "POST", "/v1/keys", body, **headers)
        assert status == 200
        assert (made["info"]["points_max"], made["info"]["bytes_max"]) == (3, 10**6)
        with vicinal.open(server.url, api_key=made["key"]) as remote:
            assert remote.collection("docs").upsert(**rows(3)) == 1
            with pytest.raises(vicinal.QuotaError):
                remote.collection("docs").upsert(**rows(4))


def test_the_command_line_sets_quotas(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with vicinal.open(path) as db:
        db.collection("docs", dim=2).upsert(**rows(1, 2))
    words = ["--collection-points", "3", "--collection-bytes", "1MiB", "--http-port", "0"]
    process = subprocess.Popen(
        [COMMAND, "serve", path, *words, "--rest-only", "--json"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        with vicinal.open(json.loads(process.stdout.readline())["url"]) as remote:
            docs = remote.collection("docs")
            assert docs.upsert(**rows(3)) == 1
            with pytest.raises(vicinal.QuotaError, match="points"):
                docs.upsert(**rows(4))
            with pytest.raises(vicinal.QuotaError, match="bytes"):
                docs.upsert(ids=[1], vectors=[[1, 2]], payload=[{"t": "x" * 2**20}])
        process.terminate()
    made = [COMMAND, "keys", "create", path, "--points", "3", "--bytes", "1.5MiB", "--json"]
    shown = json.loads(subprocess.run(made, capture_output=True, text=True, check=True).stdout)
    assert (shown["points_max"], shown["bytes_max"]) == (3, 1_572_864)
    (key,) = KeyStore(path).list()
    assert (key.points_max, key.bytes_max) == (3, 1_572_864)
