"""Two gateways that share a cache answer as the collection does: never older than the last acknowledged write, while
points are written and expire, processes are restarted, and crashes undo what was not durable."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import vicinal
from vicinal.server.config import ServerConfig
from vicinal.server.gateway import Call, Gateway
from vicinal.server.keys import KeyStore
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.codec import JSON
from vicinal.wire.operations import Operation

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from fake_redis import FakeRedis

IDS = st.integers(0, 4)
AFTER = st.sampled_from([None, None, -1.0, 1.0, 3.0])
QUERY = st.sampled_from([[0.0, 0.0], [1.0, 1.0]])


class SharedCache(RuleBasedStateMachine):
    """Gateways 0 and 1 serve the writer's database, gateway 2 whatever a reader of the files sees."""

    @initialize()
    def start(self) -> None:
        self.now, self.n = 1_000.0, 0
        self.folder = Path(tempfile.mkdtemp(prefix="vicinal-shared-"))
        self.redis = FakeRedis()
        self.loop = asyncio.new_event_loop()
        self.config = ServerConfig(
            search_threads=1,
            cache_bytes_max=0,  # so that every search asks the shared cache
            cache_url=self.redis.url,
            cache_wait_ms_max=1_000.0,
            recall_share=0.0,
        )
        self.kept: Path | None = None
        self.open()

    def open(self) -> None:
        self.db = self.vicinal(read_only=False)
        self.docs = self.db.collection("docs", dim=2, metric="l2")
        self.reading: vicinal.Database | None = None
        self.gateways = [self.gateway(self.db), self.gateway(self.db)]

    def vicinal(self, *, read_only: bool) -> vicinal.Database:
        mode = None if read_only else "none"
        path = self.folder / "db"
        return vicinal.open(path, read_only=read_only, durability=mode, clock=lambda: self.now)

    def gateway(self, db: vicinal.Database) -> Gateway:
        gateway = Gateway(db.engine, self.config, KeyStore(Path("/nonexistent")))

        async def connect() -> None:
            gateway.start()
            shared: Any = gateway._shared
            deadline = time.monotonic() + 20
            while not shared.closed:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(connect())
        return gateway

    def close(self) -> None:
        for gateway in self.gateways:
            self.loop.run_until_complete(gateway.stop())
        if self.reading is not None:
            self.reading.close()
        self.db.close()

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.close()
            self.loop.close()
            self.redis.stop()
            shutil.rmtree(self.folder)

    def ask(self, who: int, operation: Operation, body: Any) -> bytes:
        """One request, and whatever it puts into the shared cache."""
        deadline = time.monotonic() + 60
        call = Call(operation, "docs", JSON.encode(body), JSON, JSON, None, deadline, "test")

        async def answer() -> bytes:
            body = await self.gateways[who].handle(call)
            await asyncio.sleep(0)
            shared: Any = self.gateways[who]._shared
            await shared._connection.call(b"PING")  # what was put before is there now
            return body

        return self.loop.run_until_complete(answer())

    @rule(who=st.integers(0, 1), id_=IDS, x=st.integers(0, 2), after=AFTER)
    def upsert(self, who: int, id_: int, x: int, after: float | None) -> None:
        self.n += 1
        time_ = None if after is None else self.now + after
        point = {"id": id_, "vector": [x, self.n % 3], "payload": {"n": self.n}}
        self.ask(who, ops.UPSERT, {"points": [point], "expires_at": time_})

    @rule(who=st.integers(0, 1), id_=IDS)
    def delete(self, who: int, id_: int) -> None:
        self.ask(who, ops.DELETE, {"ids": [id_]})

    @rule(id_=IDS)
    def update_beside(self, id_: int) -> None:
        self.n += 1
        self.docs.update([id_], {"n": self.n})

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=st.integers(0, 2), query=QUERY, k=st.integers(1, 3), many=st.booleans())
    def search(self, who: int, query: list[float], k: int, many: bool) -> None:
        if who >= len(self.gateways):
            return
        docs = self.docs if who < 2 else self.reading.collection("docs")  # type: ignore[union-attr]
        if many:
            body = self.ask(who, ops.SEARCH_BATCH, {"vectors": [query], "k": k})
            hits = JSON.decode(body, m.BatchOut).results[0].hits
        else:
            body = self.ask(who, ops.SEARCH, {"vector": query, "k": k})
            hits = JSON.decode(body, m.HitsOut).hits
        right = [(h.id, h.distance, h.payload) for h in docs.search(query, k=k)]
        given = [(h.id, h.distance, JSON.load(h.payload)) for h in hits]
        # Of points that are equally far away one is as good as the other.
        assert sorted(d for _, d, _ in given) == sorted(d for _, d, _ in right)
        ids: Any = [i for i, _, _ in given]
        stored = {p.id: p.payload for p in docs.get(ids) if p is not None}
        assert {i: p for i, _, p in given} == stored

    @rule()
    def read_the_files(self) -> None:
        if self.reading is not None:
            self.loop.run_until_complete(self.gateways.pop().stop())
            self.reading.close()
        self.reading = self.vicinal(read_only=True)
        self.gateways.append(self.gateway(self.reading))

    @rule()
    def restart(self) -> None:
        self.close()
        self.open()

    @rule()
    def keep_the_files(self) -> None:
        """As a disk has them that loses what comes after."""
        self.close()
        if self.kept is not None:
            shutil.rmtree(self.kept)
        self.kept = self.folder / "kept"
        shutil.copytree(self.folder / "db", self.kept)
        self.open()

    @rule()
    def crash(self) -> None:
        if self.kept is None:
            return
        self.close()
        shutil.rmtree(self.folder / "db")
        shutil.copytree(self.kept, self.folder / "db")
        self.open()


TestSharedCache = SharedCache.TestCase
TestSharedCache.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
