"""Through the gateway with its cache, joining and batching, a collection answers as it does by itself: never stale,
while points are written and expire."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import vicinal
from vicinal.server.config import ServerConfig
from vicinal.server.gateway import Call, Gateway
from vicinal.server.keys import KeyStore
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.codec import JSON, MSGPACK
from vicinal.wire.operations import Operation

FAR_S = 60.0
ASKED_MAX = 8
IDS = st.integers(0, 5)
QUERIES = st.sampled_from([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
AFTER = st.sampled_from([None, -1.0, 0.5, 1.0, 2.0, 5.0])
WHERE = st.sampled_from([None, "n > 1", "n > 1 or id = 2", {"n": {"$gt": 1}}])
OPTIONS = st.fixed_dictionaries(
    {"k": st.integers(1, 4), "where": WHERE},
    optional={"exact": st.just(True), "with_payload": st.booleans(), "with_vectors": st.booleans()},
)


class CachedGateway(RuleBasedStateMachine):
    """Writes come through the gateway or beside it; searches come alone or many at once."""

    @initialize()
    def start(self) -> None:
        self.now = 1_000.0
        self.db = vicinal.open(":memory:", clock=lambda: self.now)
        self.docs = self.db.collection("docs", dim=2, metric="l2")
        self.loop = asyncio.new_event_loop()
        self.gateway = Gateway(
            self.db.engine,
            ServerConfig(search_threads=2, batch_max=3),
            KeyStore(Path("/nonexistent")),
        )
        self.n = 0
        self.asked: list[tuple[list[float], dict[str, Any], Any]] = []

    def teardown(self) -> None:
        if hasattr(self, "gateway"):
            self.gateway.close()
            self.loop.close()
            self.db.close()

    def call(self, operation: Operation, body: Any, codec: Any = JSON) -> Call:
        deadline = time.monotonic() + FAR_S
        raw = codec.encode(body)
        return Call(operation, "docs", raw, codec, codec, None, deadline, "test")

    def run(self, *calls: Call) -> list[bytes]:
        async def all_at_once() -> list[bytes]:
            return await asyncio.gather(*map(self.gateway.handle, calls))

        return self.loop.run_until_complete(all_at_once())

    def expected(self, query: list[float], options: dict[str, Any]) -> list[Any]:
        hits = self.docs.search(query, **options)
        return [
            (h.id, h.distance, h.payload, None if h.vector is None else h.vector.tolist())
            for h in hits
        ]

    @staticmethod
    def given(body: bytes, codec: Any) -> list[Any]:
        hits = codec.decode(body, m.HitsOut).hits
        return [
            (
                h.id,
                h.distance,
                codec.load(h.payload) if h.payload is not m.msgspec.UNSET else None,
                np.frombuffer(h.vector, np.float32).tolist()
                if isinstance(h.vector, bytes)
                else h.vector,
            )
            for h in hits
        ]

    @rule(id_=IDS, x=st.integers(0, 3), after=AFTER, beside=st.booleans())
    def upsert(self, id_: int, x: int, after: float | None, beside: bool) -> None:
        self.n += 1
        vector, expires_at = [x, self.n % 3], None if after is None else self.now + after
        if beside:
            point = {"id": id_, "vector": vector, "n": self.n % 4}
            self.docs.upsert([point], expires_at=expires_at)
        else:
            point = {"id": id_, "vector": vector, "payload": {"n": self.n % 4}}
            self.run(self.call(ops.UPSERT, {"points": [point], "expires_at": expires_at}))

    @rule(ids=st.lists(IDS, min_size=1, unique=True), after=AFTER, beside=st.booleans())
    def expire(self, ids: list[int], after: float | None, beside: bool) -> None:
        if beside:
            self.docs.update(ids, expires_at=math.inf if after is None else self.now + after)
        else:
            expires_at = "never" if after is None else self.now + after
            self.run(self.call(ops.UPDATE, {"ids": ids, "expires_at": expires_at}))

    @rule(seconds=st.sampled_from([1.0, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(id_=IDS, beside=st.booleans())
    def update(self, id_: int, beside: bool) -> None:
        self.n += 1
        if beside:
            self.docs.update([id_], {"n": self.n % 4})
        else:
            self.run(self.call(ops.UPDATE, {"ids": [id_], "payload": {"n": self.n % 4}}))

    @rule(where=st.sampled_from(["n = 1", "n = 2"]), beside=st.booleans())
    def delete(self, where: str, beside: bool) -> None:
        if beside:
            self.docs.delete(where=where)
        else:
            self.run(self.call(ops.DELETE, {"where": where}))

    @rule()
    def optimize(self) -> None:
        self.docs.optimize()

    @precondition(lambda self: self.n > 2)
    @rule(beside=st.booleans())
    def drop_and_make_again(self, beside: bool) -> None:
        if beside:
            self.db.drop("docs")
        else:
            self.run(self.call(ops.DROP, {}))
        self.docs = self.db.collection("docs", dim=2, metric="l2")

    @rule(
        asked=st.lists(st.tuples(QUERIES, OPTIONS, st.sampled_from([JSON, MSGPACK])), max_size=6),
        times=st.integers(1, 3),
    )
    def search(self, asked: list[tuple[list[float], dict[str, Any], Any]], times: int) -> None:
        self.asked = (self.asked + asked)[-ASKED_MAX:]
        self.ask(asked * times)

    @invariant()
    def what_was_asked_before_is_answered_as_of_now(self) -> None:
        self.ask(getattr(self, "asked", []))

    def ask(self, asked: list[tuple[list[float], dict[str, Any], Any]]) -> None:
        calls = [self.call(ops.SEARCH, {"vector": q, **o}, c) for q, o, c in asked]
        for (query, options, codec), body in zip(asked, self.run(*calls), strict=True):
            assert self.given(body, codec) == self.expected(query, options)

    @rule(query=QUERIES, options=OPTIONS)
    def batch(self, query: list[float], options: dict[str, Any]) -> None:
        request = {"vectors": [query, [3.0, 3.0]], **options}
        for _ in range(2):
            (body,) = self.run(self.call(ops.SEARCH_BATCH, request))
            first, second = JSON.decode(body, m.BatchOut).results
            assert self.given(JSON.encode(first), JSON) == self.expected(query, options)
            assert self.given(JSON.encode(second), JSON) == self.expected([3.0, 3.0], options)


TestCachedGateway = CachedGateway.TestCase
TestCachedGateway.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
