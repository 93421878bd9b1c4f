"""Servers that share results in Redis: found by each of them and after a restart, never stale, and never missed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_redis import CUT, FakeRedis
from serving import http_call, metric

import vicinal
from vicinal.server import shared_cache
from vicinal.server.running import Running

WAIT_S = 20.0


@pytest.fixture
def redis() -> Iterator[FakeRedis]:
    fake = FakeRedis()
    yield fake
    fake.stop()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The breaker tries again at once."""
    monkeypatch.setattr(shared_cache, "PAUSE_S", 0.01)
    monkeypatch.setattr(shared_cache, "PAUSE_S_MAX", 0.02)


@contextmanager
def serving(db: vicinal.Database, redis: Any, **options: Any) -> Iterator[Running]:
    """A server that has found the shared cache."""
    options = {"cache_wait_ms_max": 1000.0, **options}
    with db.serve(http_port=0, cache_url=redis.url, **options) as server:
        until(lambda: metric(server.url, "vicinal_shared_cache_up") == 1)
        yield server


def until(true: Any) -> None:
    """Wait for something that will be."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def looked(server: Running, outcome: str) -> float:
    return metric(server.url, f'vicinal_shared_cache_total{{outcome="{outcome}"}}')


def search(server: Running, **body: Any) -> list[Any]:
    """Ids of the nearest two."""
    status, answer, _ = http_call(
        server.url, "POST", "/v1/collections/docs/search", {"vector": [3.0, 0.0], "k": 2, **body}
    )
    assert status == 200
    return [hit["id"] for hit in answer["hits"]]


def kept(server: Running, puts: int = 1) -> None:
    """Wait until so many results are at the other side."""
    until(lambda: metric(server.url, 'vicinal_shared_cache_puts_total{outcome="ok"}') >= puts)


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[vicinal.Collection]:
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("docs", dim=2, metric="l2")
        docs.upsert([{"id": i, "vector": [i, 0], "n": i} for i in range(20)])
        yield docs


def opened(tmp_path: Path, **options: Any) -> vicinal.Database:
    return vicinal.open(tmp_path / "db", **options)


def test_one_server_finds_what_the_other_computed(
    docs: vicinal.Collection, tmp_path: Path, redis: FakeRedis
) -> None:
    with (
        opened(tmp_path, read_only=True) as reading,
        serving(reading, redis) as second,
        serving(reading, redis) as first,
    ):
        assert search(first) == search(first) == [3, 2]
        kept(first)
        assert search(second) == [3, 2]
        assert looked(second, "hit") == 1
        assert search(second) == [3, 2]
        assert looked(second, "hit") == 1, "now its own cache has it"
        assert metric(second.url, 'vicinal_result_cache_total{outcome="hit"}') == 1


def test_a_process_that_reads_the_same_files_shares_the_writers_results_until_it_writes(
    tmp_path: Path, redis: FakeRedis
) -> None:
    with opened(tmp_path) as db:
        docs = db.collection("docs", dim=2, metric="l2")
        docs.upsert([{"id": i, "vector": [i, 0]} for i in range(20)])
        with (
            opened(tmp_path, read_only=True) as reading,
            serving(db, redis) as writer,
            serving(reading, redis) as reader,
        ):
            assert search(writer) == [3, 2]
            kept(writer)
            assert search(reader) == [3, 2]
            assert looked(reader, "hit") == 1
            docs.delete([3])
            assert search(writer) == [2, 4]
            kept(writer, 2)
            assert search(reader, k=3) == [3, 2, 4], "it reads the moment when it opened"
            assert search(writer, k=3)[0] == 2


def test_a_restarted_server_finds_results_until_it_writes(tmp_path: Path, redis: FakeRedis) -> None:
    with opened(tmp_path) as db, serving(db, redis) as server:
        docs = db.collection("docs", dim=2, metric="l2")
        docs.upsert([{"id": i, "vector": [i, 0]} for i in range(20)])
        assert search(server) == [3, 2]
        kept(server)
    with opened(tmp_path) as db, serving(db, redis) as server:
        assert search(server) == [3, 2]
        assert looked(server, "hit") == 1
        db.collection("docs").delete([3])
        assert search(server) == [2, 4]
        assert looked(server, "hit") == 1


def test_writes_that_a_crash_undid_leave_no_results_behind(
    tmp_path: Path, redis: FakeRedis
) -> None:
    """Under `interval` the number of a lost record is given again, to another one."""
    with opened(tmp_path) as db:
        docs = db.collection("docs", dim=2, metric="l2")
        docs.upsert([{"id": i, "vector": [i, 0]} for i in range(20)])
    shutil.copytree(tmp_path / "db", tmp_path / "before")
    with opened(tmp_path) as db, serving(db, redis) as server:
        db.collection("docs").delete([3])
        assert search(server) == [2, 4]
        kept(server)
    shutil.rmtree(tmp_path / "db")
    (tmp_path / "before").rename(tmp_path / "db")
    with opened(tmp_path) as db, serving(db, redis) as server:
        assert search(server) == [3, 2]
        db.collection("docs").delete([2])
        assert search(server) == [3, 4]
        assert looked(server, "hit") == 0


def test_no_shared_result_has_a_point_that_has_expired(tmp_path: Path, redis: FakeRedis) -> None:
    now = 1_000.0
    with opened(tmp_path, clock=lambda: now) as db:
        docs = db.collection("docs", dim=2, metric="l2")
        docs.upsert(ids=[1, 2, 3], vectors=[[3, 0], [4, 0], [5, 0]], expires_at=[1010, None, None])
        with (
            opened(tmp_path, read_only=True, clock=lambda: now) as reading,
            serving(db, redis) as first,
            serving(reading, redis) as second,
        ):
            assert search(first) == [1, 2]
            kept(first)
            now = 1_005.0
            assert search(second) == [1, 2]
            assert looked(second, "hit") == 1
            now = 1_010.0
            assert search(second) == [2, 3]
            assert looked(second, "hit") == 1


def test_two_databases_with_equal_names_and_numbers_share_nothing(
    tmp_path: Path, redis: FakeRedis
) -> None:
    for place, ids in (("a", [1, 2]), ("b", [3, 4])):
        with vicinal.open(tmp_path / place) as db, serving(db, redis) as server:
            docs = db.collection("docs", dim=2, metric="l2")
            docs.upsert([{"id": i, "vector": [3, i]} for i in ids])
            assert search(server) == ids
            kept(server)
            assert looked(server, "hit") == 0


def hang(_: bytes) -> None:
    return None


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(hang, id="none"),
        pytest.param(lambda _: b"-LOADING dataset in memory\r\n", id="refusal"),
        pytest.param(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
        pytest.param(lambda _: b"$5\r\nhello\r\n", id="somebody's value"),
        pytest.param(lambda _: b"$99999999999\r\n", id="a value without end"),
        pytest.param(lambda _: b"\xff" * 10_000, id="bytes"),
        pytest.param(lambda right: right[: len(right) // 2] + CUT, id="half a reply"),
        pytest.param(lambda right: right + right, id="two replies"),
    ],
)
def test_a_shared_cache_that_answers_badly_fails_no_search_and_is_left_alone(
    docs: vicinal.Collection, tmp_path: Path, redis: FakeRedis, soon: None, reply: Any
) -> None:
    with (
        opened(tmp_path, read_only=True) as reading,
        serving(reading, redis, cache_wait_ms_max=50.0) as first,
        serving(reading, redis, cache_wait_ms_max=50.0) as second,
    ):
        right = [search(first, k=k) for k in range(1, 12)]
        kept(first, 11)
        redis.replies["GET"] = reply
        redis.replies["PING"] = hang  # so that it stays as it is
        assert [search(second, k=k) for k in range(1, 9)] == right[:8]
        until(lambda: metric(second.url, "vicinal_shared_cache_up") == 0)
        asked = redis.commands.count(b"GET")
        assert [search(second, k=k) for k in range(9, 12)] == right[8:]
        assert redis.commands.count(b"GET") == asked, "the breaker is open"
        assert looked(second, "open") >= 3


def test_a_shared_cache_that_goes_away_is_used_again_when_it_is_back(
    docs: vicinal.Collection, tmp_path: Path, redis: FakeRedis, soon: None
) -> None:
    with opened(tmp_path, read_only=True) as reading, serving(reading, redis) as server:
        assert search(server) == [3, 2]
        kept(server)
        redis.stop()
        until(lambda: metric(server.url, "vicinal_shared_cache_up") == 0)
        assert search(server, k=3) == [3, 2, 4]
        redis.start()
        until(lambda: metric(server.url, "vicinal_shared_cache_up") == 1)
        assert len(search(server, k=4)) == 4
        kept(server, 2)


def test_a_server_starts_without_its_shared_cache(docs: vicinal.Collection, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{closed.getsockname()[1]}"
        with (
            opened(tmp_path, read_only=True) as reading,
            reading.serve(http_port=0, cache_url=url) as server,
        ):
            assert search(server) == [3, 2]
            assert metric(server.url, "vicinal_shared_cache_up") == 0


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:6379", "http://a", "redis://", "redis://a/b", "redis://a:x", "redis://:pw@a/-1"],
)
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with (
        vicinal.open(":memory:") as db,
        pytest.raises(vicinal.InvalidArgumentError, match="cache_url is not of the form") as raised,
    ):
        db.serve(http_port=0, cache_url=url)
    assert "pw" not in str(raised.value)


class RealRedis:
    """A server of the machine's own Redis or Valkey."""

    def __init__(self, program: str, password: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"redis://:{password}@127.0.0.1:{port}/3"
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--requirepass", password]
        self.process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture
def real() -> Iterator[RealRedis]:
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        warnings.warn("NO REDIS: the shared cache is tested with a fake one only", stacklevel=1)
        pytest.skip("neither redis-server nor valkey-server is installed")
    server = RealRedis(program, f"p{os.getpid()}")
    yield server
    server.process.kill()
    server.process.wait()


def test_a_real_server_shares_results_and_may_be_killed(
    docs: vicinal.Collection, tmp_path: Path, real: RealRedis, soon: None
) -> None:
    with (
        opened(tmp_path, read_only=True) as reading,
        serving(reading, real) as second,
        serving(reading, real) as first,
    ):
        for k in range(1, 9):
            assert len(search(first, k=k)) == k
        kept(first, 8)
        for k in range(1, 9):
            assert len(search(second, k=k)) == k
        assert looked(second, "hit") == 8
        real.process.kill()
        until(lambda: metric(second.url, "vicinal_shared_cache_up") == 0)
        assert len(search(second, k=9)) == 9
