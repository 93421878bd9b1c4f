"""The conformance suite through the asynchronous API, on a directory and on a server; and calls that overlap."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import Conformance

import vicinal
from vicinal.engine.reader import Reader


class Blocking:
    """An asynchronous object whose coroutines are awaited at once, for a suite that knows no await."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target, self._loop = target, loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not inspect.iscoroutinefunction(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            result = self._loop.run_until_complete(value(*args, **options))
            return (
                Blocking(result, self._loop)
                if type(result).__name__.startswith("Async")
                else result
            )

        return call

    def __len__(self) -> int:
        return self.count()

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._target)


class TestAsyncDirectory(Conformance):
    """`open_async` of a path."""

    @pytest.fixture
    def address(self, tmp_path: Path) -> Any:
        return tmp_path / "db"

    @pytest.fixture
    def db(self, address: Any) -> Iterator[Any]:
        loop = asyncio.new_event_loop()
        db = Blocking(loop.run_until_complete(vicinal.open_async(address)), loop)
        yield db
        db.close()
        loop.close()


class TestAsyncRest(TestAsyncDirectory):
    """`open_async` of a server."""

    @pytest.fixture
    def address(self) -> Iterator[Any]:
        with vicinal.open(":memory:") as local, local.serve(http_port=0) as server:
            yield server.url


def test_calls_of_one_event_loop_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)
    real = Reader.count

    def count(reader: Reader, where: Any) -> int:
        both.wait()  # breaks, and fails the test, unless two calls are inside at once
        return real(reader, where)

    async def main() -> list[int]:
        async with await vicinal.open_async(":memory:") as db:
            docs = await db.collection("docs", dim=2)
            await docs.upsert([{"id": 1, "vector": [1, 2]}])
            monkeypatch.setattr(Reader, "count", count)
            return list(await asyncio.gather(docs.count(), docs.count()))

    assert asyncio.run(main()) == [1, 1]


def test_every_method_is_there_with_its_signature() -> None:
    for plain, other in (
        (vicinal.Collection, vicinal.AsyncCollection),
        (vicinal.Database, vicinal.AsyncDatabase),
    ):
        for name, method in vars(plain).items():
            if name.startswith("_") or not inspect.isfunction(method) or name == "serve":
                continue
            twin = getattr(other, name)
            assert inspect.iscoroutinefunction(twin), name
            assert list(inspect.signature(twin).parameters) == list(
                inspect.signature(method).parameters
            )
