"""The same API for asyncio: every method is the synchronous one, run in a thread of the database's own pool.

One definition: signatures, types, checks and errors are those of `Database` and `Collection`. Native code and waiting
for a server give the GIL up, so the calls of one event loop overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, update_wrapper, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from vicinal.client.collection import Collection
from vicinal.client.database import Database, open

P = ParamSpec("P")
R = TypeVar("R")

CALLS_MAX = 32
"""Calls of one database at the same time; more wait for a thread."""


def _of_collection(
    method: Callable[Concatenate[Collection, P], R],
) -> Callable[Concatenate[AsyncCollection, P], Coroutine[Any, Any, R]]:
    """The method as a coroutine function."""

    @wraps(method)
    async def call(self: AsyncCollection, *args: P.args, **options: P.kwargs) -> R:
        return await self.run(partial(method, self.sync, *args, **options))

    return call


def _of_database(
    method: Callable[Concatenate[Database, P], R],
) -> Callable[Concatenate[AsyncDatabase, P], Coroutine[Any, Any, R]]:
    """The method as a coroutine function."""

    @wraps(method)
    async def call(self: AsyncDatabase, *args: P.args, **options: P.kwargs) -> R:
        return await self.run(partial(method, self.sync, *args, **options))

    return call


class AsyncCollection:
    """A collection for asyncio; made by `AsyncDatabase.collection`. `sync` is the `Collection` it stands for.

    A call that is cancelled goes on in its thread: a write may happen all the same.
    """

    def __init__(self, sync: Collection, database: AsyncDatabase) -> None:
        self.sync = sync
        self.run = database.run

    upsert = _of_collection(Collection.upsert)
    search = _of_collection(Collection.search)
    search_many = _of_collection(Collection.search_many)
    get = _of_collection(Collection.get)
    update = _of_collection(Collection.update)
    delete = _of_collection(Collection.delete)
    count = _of_collection(Collection.count)
    scroll = _of_collection(Collection.scroll)
    explain = _of_collection(Collection.explain)
    stats = _of_collection(Collection.stats)
    snapshot = _of_collection(Collection.snapshot)
    optimize = _of_collection(Collection.optimize)
    calibrate = _of_collection(Collection.calibrate)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.sync.name

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self.sync.dim

    @property
    def metric(self) -> str:
        """l2, ip, cosine, hamming or manhattan."""
        return self.sync.metric

    @property
    def dtype(self) -> str:
        """f32, f16, i8 or bit."""
        return self.sync.dtype

    def __repr__(self) -> str:
        return f"Async{self.sync!r}"


class AsyncDatabase:
    """A database for asyncio; an async context manager. Made by `open_async`. `sync` is the `Database` it stands
    for."""

    def __init__(self, sync: Database, threads: ThreadPoolExecutor) -> None:
        self.sync = sync
        self._threads = threads

    collections = _of_database(Database.collections)
    status = _of_database(Database.status)
    stats = _of_database(Database.stats)
    snapshot = _of_database(Database.snapshot)
    snapshots = _of_database(Database.snapshots)
    drop_snapshot = _of_database(Database.drop_snapshot)
    backup = _of_database(Database.backup)
    drop = _of_database(Database.drop)
    _collection = _of_database(Database.collection)

    async def collection(self, name: str, **options: Any) -> AsyncCollection:
        """As `Database.collection`."""
        return AsyncCollection(await self._collection(name, **options), self)

    @property
    def address(self) -> str:
        """Where it is: a path or a URL."""
        return self.sync.address

    @property
    def read_only(self) -> bool:
        """Whether it refuses writes."""
        return self.sync.read_only

    async def close(self) -> None:
        """Close the database when the calls under way are done. Idempotent."""
        import asyncio  # in functions, since importing it takes longer than most programs need it

        await asyncio.to_thread(self.sync.close)
        self._threads.shutdown(wait=False)

    async def run(self, call: Callable[[], R]) -> R:
        """Carry a call out in a thread of this database."""
        import asyncio

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError:
            if not self.sync.closed:
                raise
        return call()  # closed, and its threads gone: the call itself says so

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self.sync!r}"


# At run time its signature is the synchronous one; as a decorator, type checkers would not bind `self`.
update_wrapper(AsyncDatabase.collection, Database.collection)


@wraps(open)
async def open_async(path: str | Path, **options: Any) -> AsyncDatabase:
    """As `open`, for asyncio: `async with await vicinal.open_async(path) as db:`."""
    import asyncio

    threads = ThreadPoolExecutor(CALLS_MAX, thread_name_prefix="vicinal-async")
    try:
        sync = await asyncio.get_running_loop().run_in_executor(
            threads, partial(open, path, **options)
        )
    except BaseException:
        threads.shutdown(wait=False)
        raise
    return AsyncDatabase(sync, threads)
