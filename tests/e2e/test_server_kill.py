"""kill -9 of the server while clients write: what they were told is done is there, and they go on by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import vector_of

import vicinal

COMMAND = str(Path(sys.executable).parent / "vicinal")
KILLS, WRITERS, POINTS = 2, 3, 4
ACKNOWLEDGED_MIN = 8
"""Writes of each client between two kills: the first ones after a kill are on new connections."""

WAIT_S = 50.0


class Server:
    """`vicinal serve`, which comes back at the ports that it had."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.urls: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        ports = [
            option
            for name in ("http", "grpc", "flight")
            for option in (f"--{name}-port", self.urls.get(name, ":0").rpartition(":")[2])
        ]
        self.process = subprocess.Popen(
            [COMMAND, "serve", self.path, "--json", *ports], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        record = json.loads(self.process.stdout.readline())
        self.urls = {
            "http": record["url"], "grpc": record["grpc_url"], "flight": record["flight_url"]
        }  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Writer(threading.Thread):
    """Writes batches and deletes some of them again, and logs what it means to do and what it was told."""

    def __init__(self, docs: vicinal.Collection, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.docs, self.number, self.stop = docs, number, stop
        self.log: dict[int, str] = {}
        """Of each batch: `there`, `gone`, or `unsure`."""
        self.acknowledged, self.broken = 0, 0
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            n = 0
            while not self.stop.is_set():
                self.attempt(n, "there", lambda n=n: self.docs.upsert(**batch(self.number, n)))
                if n % 3 == 2 and self.log[n - 1] == "there":
                    ids = batch(self.number, n - 1)["ids"]
                    self.attempt(n - 1, "gone", lambda ids=ids: self.docs.delete(ids))
                n += 1
        except BaseException as fault:
            self.fault = fault

    def attempt(self, n: int, then: str, call: Callable[[], Any]) -> None:
        self.log[n] = "unsure"
        try:
            assert call() == POINTS
        except (vicinal.UnavailableError, vicinal.DeadlineError):
            self.broken += 1
            time.sleep(0.01)  # nobody listens now
        else:
            self.log[n] = then
            self.acknowledged += 1


def batch(writer: int, n: int) -> dict[str, Any]:
    """The points of a batch; their vectors and payloads follow from it."""
    ids = [f"{writer}-{n}-{i}" for i in range(POINTS)]
    vectors = np.random.default_rng([writer, n]).random((POINTS, 8), np.float32)
    return {"ids": ids, "vectors": vectors, "payload": [{"writer": writer, "n": n}] * POINTS}


def search_until(docs: vicinal.Collection, stop: threading.Event, faults: list[Any]) -> None:
    """Searches go on, and give points that somebody wrote."""
    while not stop.is_set():
        try:
            for hit in docs.search(np.ones(8), k=3):
                writer, n, _ = hit.id.split("-")
                if hit.payload != {"writer": int(writer), "n": int(n)}:
                    faults.append(hit)
        except (vicinal.UnavailableError, vicinal.DeadlineError):
            continue
        except BaseException as fault:
            faults.append(fault)
            return


def until(true: Callable[[], bool], writers: list[Writer]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, [w.log for w in writers]
        assert [w.fault for w in writers if w.fault is not None] == []
        time.sleep(0.005)


@pytest.mark.parametrize("protocol", ["http", "grpc", "flight"])
def test_a_killed_server_loses_nothing_it_acknowledged_and_clients_come_back(
    tmp_path: Path, protocol: str
) -> None:
    server, stop, faults = Server(tmp_path / "db"), threading.Event(), []
    writers: list[Writer] = []
    try:
        with vicinal.open(server.urls[protocol], timeout_s=5, retries=1) as db:
            docs = db.collection("docs", dim=8)
            writers = [Writer(docs, i, stop) for i in range(WRITERS)]
            reader = threading.Thread(target=search_until, args=(docs, stop, faults))
            for thread in (*writers, reader):
                thread.start()
            for _ in range(KILLS):
                goals = [w.acknowledged + ACKNOWLEDGED_MIN for w in writers]
                until(
                    lambda goals=goals: all(
                        w.acknowledged >= goal for w, goal in zip(writers, goals, strict=True)
                    ),
                    writers,
                )
                broken = [w.broken for w in writers]
                server.kill()
                until(lambda broken=broken: [w.broken for w in writers] != broken, writers)
                server.start()
            goals = [w.acknowledged + ACKNOWLEDGED_MIN for w in writers]
            until(
                lambda: all(w.acknowledged >= g for w, g in zip(writers, goals, strict=True)),
                writers,
            )
            stop.set()
            for thread in (*writers, reader):
                thread.join(30)
    finally:
        stop.set()
        server.kill()
    assert faults == []
    assert [w.fault for w in writers] == [None] * WRITERS
    with vicinal.open(tmp_path / "db") as db:
        docs = db.collection("docs")
        expected = 0
        for writer in writers:
            for n, state in writer.log.items():
                points = batch(writer.number, n)
                found = docs.get(points["ids"], with_vectors=True)
                there = [p is not None for p in found]
                assert there in ([True] * POINTS, [False] * POINTS), "a batch is whole or absent"
                if state != "unsure":
                    assert there[0] == (state == "there"), (writer.number, n, state)
                expected += sum(there)
                for point, vector, payload in zip(
                    found, points["vectors"], points["payload"], strict=True
                ):
                    if point is not None:
                        assert np.array_equal(vector_of(point), vector)
                        assert point.payload == payload
        assert docs.count() == expected, "and nothing else"
