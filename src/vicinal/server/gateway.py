"""The gateway: what every protocol hands its requests to, and the only thing that they know of the database.

A request's way: authenticate (on headers alone, before a byte of the body is parsed), admission, result cache,
joining an equal search under way, micro-batch, engine, encode. Consistency: a search sees every write
acknowledged before it came, and no point whose time was over then. The cache and the joining hold to it by the
collection's version, read when the request comes: every acknowledged write has changed it by then, points that
have expired are hidden first, which changes it too, and an answer is only ever given for the version it was
computed at.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vicinal.client.collection import Collection as ClientCollection
from vicinal.client.collection import check_query, compile_where
from vicinal.client.database import Database as ClientDatabase
from vicinal.client.local import LocalCollection, LocalDatabase
from vicinal.engine.collection import Collection
from vicinal.engine.database import Database
from vicinal.model.errors import (
    ClosedError,
    DeadlineError,
    ForbiddenError,
    InternalError,
    NotFoundError,
    UnauthenticatedError,
    VicinalError,
)
from vicinal.server.admission import Admission
from vicinal.server.batcher import SearchBatcher, SearchOptions, Waiting
from vicinal.server.cache import ResultCache
from vicinal.server.config import ServerConfig
from vicinal.server.handlers import ON_COLLECTION, ON_DATABASE, hits_out
from vicinal.server.key_operations import ON_KEYS, check_allowed
from vicinal.server.keys import Key, KeyStore
from vicinal.server.observing import Observer, new_request_id
from vicinal.server.projection import project
from vicinal.server.tracing import Trace
from vicinal.telemetry.log import REQUEST_ID, get_logger
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.codec import Codec, one_vector
from vicinal.wire.faults import code_of
from vicinal.wire.operations import Operation, Role

if TYPE_CHECKING:
    from vicinal.server.tokens import TokenReader

T = TypeVar("T")
Flight = tuple[bytes, Hashable]

WORK_THREADS = 8
"""For everything but single searches."""

SLOW_THREADS = 2
"""For optimize, calibrate and snapshots, which may take minutes."""

_log = get_logger("server")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a protocol hands it over.

    Attributes
    ----------
    key : who asks; None where keys are not asked for.
    deadline : on the monotonic clock.
    request_id : in every line that the log has of it.
    source : the address that it came from, as far as it is known.
    traceparent : the trace that its sender says it belongs to.
    came_s : when its head came, by `time.perf_counter`.
    trace : its spans, where it is traced.
    details : what the audit log is told beside.
    """

    operation: Operation
    collection: str | None
    body: bytes
    codec: Codec
    answer_codec: Codec
    key: Key | None
    deadline: float
    protocol: str
    request_id: str = dataclass_field(default_factory=new_request_id)
    source: str | None = None
    traceparent: str | None = None
    came_s: float = dataclass_field(default_factory=time.perf_counter)
    trace: Trace | None = None
    details: dict[str, Any] = dataclass_field(default_factory=dict[str, Any])


class Gateway:
    """Serves one database. Methods belong to one event loop's thread unless they say otherwise."""

    def __init__(self, database: Database, config: ServerConfig, keys: KeyStore) -> None:
        self.config, self.keys = config, keys
        self._tokens: TokenReader | None = None
        if config.jwt_key is not None:
            from vicinal.server.tokens import TokenReader  # it needs the extra `jwt`

            self._tokens = TokenReader(config)
        self._engine = database
        self._client = ClientDatabase(LocalDatabase(database))
        self.admission = Admission(config)
        self._cache = ResultCache(config.cache_bytes_max, config.cache_ttl_s)
        self._batcher = SearchBatcher(
            config.threads,
            config.batch_max,
            lambda taken: self.metrics.begun(taken),
            lambda: self.observer.last_search(),
            self.admission.searched,
        )
        self.observer = Observer(
            database, config, self.admission, self._cache, lambda: self._batcher.waiting
        )
        self.metrics = self.observer.metrics
        self._flights: dict[Flight, asyncio.Future[bytes]] = {}
        self._work = ThreadPoolExecutor(WORK_THREADS, thread_name_prefix="vicinal-work")
        self._slow = ThreadPoolExecutor(SLOW_THREADS, thread_name_prefix="vicinal-slow")

    def authenticate(self, token: str | None) -> Key | None:
        """Who has this key; None where keys are not asked for.

        Raises UnauthenticatedError where there is no key, or it is wrong, revoked or expired: always with one message.
        """
        if not self.keys.needed(self.config):
            return None
        key = self._who(token) if token else None
        if key is None:
            raise UnauthenticatedError(
                "an API key is needed, and this is none that is valid now; "
                "send `Authorization: Bearer <key>`, made with `vicinal keys create`"
            )
        return key

    def _who(self, token: str) -> Key | None:
        if self._tokens is not None and token.count(".") == 2:  # an API key has no dots
            return self._tokens.read(token)
        return self.keys.find(token)

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self.admission.closing and not self._engine.closed

    async def handle(self, call: Call) -> bytes:
        """The encoded answer. Raises VicinalError; a bug becomes InternalError and a line in the log."""
        return await self._observed(call, self._handle)

    async def run(self, call: Call, work: Callable[[ClientCollection], T]) -> T:
        """What work gives for the collection, done in a thread as the call's operation: for protocols whose bodies are
        arrays rather than messages. Raises as `handle` does."""

        async def carry_out(call: Call) -> T:
            engine = await self._find(call)
            docs = ClientCollection(LocalCollection(engine), self._engine.snapshot)
            return await self._in_thread(self._work, call, lambda: work(docs))

        return await self._observed(call, carry_out)

    async def _observed(self, call: Call, answer: Callable[[Call], Awaitable[T]]) -> T:
        """The answer, allowed, counted and timed."""
        began = time.perf_counter()
        code = "ok"
        REQUEST_ID.set(call.request_id)
        call = self.observer.begin(call, began)
        try:
            self._authorize(call)
            return await answer(call)
        except VicinalError as fault:
            code = code_of(type(fault))
            if isinstance(fault, ForbiddenError):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._work, self.observer.forbidden, call)
            raise
        except TimeoutError:
            code = "deadline"
            raise DeadlineError(
                f"no answer to {call.operation.name} within the request's time; allow it more"
            ) from None
        except asyncio.CancelledError:
            code = "gone"
            raise
        except Exception as fault:
            code = "internal"
            _log.exception("%s failed", call.operation.name)
            raise InternalError(
                f"{call.operation.name} failed by a fault of the server ({type(fault).__name__}); its log has the trace"
            ) from fault
        finally:
            self.observer.end(call, code, time.perf_counter() - began)

    def close(self) -> None:
        """Finish what is under way and give threads back. The database stays open."""
        self._batcher.close()
        self._work.shutdown(wait=True)
        self._slow.shutdown(wait=True)
        self._cache.clear()
        self.observer.close()

    async def _handle(self, call: Call) -> bytes:
        operation = call.operation
        noted = self.observer.audited
        if operation in ON_DATABASE:
            threads = self._slow if operation is ops.SNAPSHOT else self._work
            return await self._in_thread(
                threads, call, noted(call, lambda: self._on_database(call))
            )
        if operation in ON_KEYS:
            return await self._in_thread(self._work, call, noted(call, lambda: self._on_keys(call)))
        if operation is ops.OPEN:
            return await self._in_thread(self._work, call, noted(call, lambda: self._open(call)))
        if operation is ops.DROP:
            return await self._in_thread(self._work, call, noted(call, lambda: self._drop(call)))
        engine = await self._find(call)
        if operation is ops.DESCRIBE:
            return call.answer_codec.encode(
                m.CollectionInfo(name=engine.name, config=engine.config)
            )
        if operation is ops.SEARCH or operation is ops.SEARCH_BATCH:
            return await self._search(call, engine)
        threads = self._slow if operation in (ops.OPTIMIZE, ops.CALIBRATE) else self._work
        return await self._in_thread(
            threads, call, noted(call, lambda: self._on_collection(call, engine))
        )

    async def _search(self, call: Call, engine: Collection) -> bytes:
        """Cache, join, or begin."""
        key, began_s = _digest(call, engine), time.perf_counter()
        while True:
            if engine.has_expired:
                # In a thread, since hiding waits for a write under way.
                await self._in_thread(self._work, call, engine.hide_expired)
            version = engine.version
            body = self._cache.get(key, version)
            outcome = "miss" if body is None else "hit"
            self.metrics.cache.labels(outcome).inc()
            if call.trace is not None:
                call.trace.stage("cache", began_s, time.perf_counter(), outcome=outcome)
            if body is not None:
                return body
            flight = (key, version)
            future = self._flights.get(flight)
            joined = future is not None
            if future is None:
                future = self._begin(call, engine, key)
                self._flights[flight] = future
                future.add_done_callback(partial(self._land, flight))
            else:
                self.metrics.deduplicated.inc()
            try:
                async with asyncio.timeout(call.deadline - time.monotonic()):
                    answer = await asyncio.shield(future)
                if (
                    call.operation is ops.SEARCH and not joined
                ):  # who joins waits less than the queue
                    self.admission.answered(time.perf_counter() - call.came_s)
                return answer
            except DeadlineError:
                # The first one's time was over, not this one's: begin anew.
                if not joined or call.deadline <= time.monotonic():
                    raise

    def _land(self, flight: Flight, future: asyncio.Future[bytes]) -> None:
        """A search is done: later ones begin anew. (Its error may be one that nobody waits for any more.)"""
        del self._flights[flight]
        if not future.cancelled():
            future.exception()

    def _begin(self, call: Call, engine: Collection, key: bytes) -> asyncio.Future[bytes]:
        """Start a search; the future is done with its answer even where nobody waits any more."""
        loop = asyncio.get_running_loop()
        if call.operation is ops.SEARCH_BATCH:

            def work() -> bytes:
                version = engine.version
                body = self._on_collection(call, engine)
                if engine.held_since(version):
                    self._cache.put(key, version, body)
                return body

            future = asyncio.ensure_future(self._in_thread(self._work, call, work))
        else:
            request = call.codec.decode(call.body, m.Search)
            queries, _ = check_query(
                engine.config,
                one_vector(request.vector, engine.config, query=True),
                request.k,
                request.ef_search,
                request.recall,
                exact=request.exact,
            )
            where = None if request.where is None else compile_where(request.where)
            options = SearchOptions(
                engine.incarnation,
                request.k,
                where,
                request.ef_search,
                request.recall,
                request.exact,
                request.with_payload,
                request.with_vectors,
            )
            codec = call.answer_codec
            future = loop.create_future()
            waiting = Waiting(
                queries,
                call.deadline,
                lambda found, place: codec.encode(hits_out(found, place, codec)),
                lambda body, version: self._cache.put(key, version, body),
                future,
                call.request_id,
                call.trace,
            )
            alone = self.admission.requests <= 1
            self._batcher.submit(LocalCollection(engine), options, waiting, alone=alone)
        return future

    async def _in_thread(self, threads: ThreadPoolExecutor, call: Call, work: Callable[[], T]) -> T:
        """Run work unless the request's time is over before a thread is free. What has begun is waited for."""

        came_s = time.perf_counter()

        def begin() -> T:
            REQUEST_ID.set(call.request_id)
            if call.deadline <= time.monotonic():
                raise DeadlineError(
                    "the request's time was over before a thread was free; nothing was done"
                )
            if call.trace is None:
                return work()
            began_s = time.perf_counter()
            call.trace.stage("wait", came_s, began_s)
            try:
                return work()
            finally:
                record = self.observer.last_search()
                call.trace.stage("work", began_s, time.perf_counter(), record)

        future = asyncio.get_running_loop().run_in_executor(threads, begin)
        if call.operation.role is not Role.READ:
            return await asyncio.shield(future)
        async with asyncio.timeout(call.deadline - time.monotonic()):
            return await future

    async def _find(self, call: Call) -> Collection:
        name = cast("str", call.collection)
        engine = self._engine.opened(name)
        if engine is not None and not self._engine.closed:
            return engine
        return await self._in_thread(self._work, call, lambda: self._look_up(call, name))

    def _look_up(self, call: Call, name: str) -> Collection:
        try:
            return self._engine.collection(name, None, {})
        except NotFoundError:
            if call.key is not None and call.key.collections is not None:
                raise NotFoundError(f"there is no collection {name!r}") from None
            raise

    def _on_database(self, call: Call) -> bytes:
        request = call.codec.decode(call.body, call.operation.request)
        answer = ON_DATABASE[call.operation](self._client, request)
        if isinstance(answer, m.SnapshotTaken):
            call.details["snapshot"] = answer.snapshot.name
        elif isinstance(request, m.DropSnapshot):
            call.details["snapshot"] = request.name
        if isinstance(answer, m.CollectionNames) and call.key is not None:
            answer.names = [n for n in answer.names if call.key.allows(Role.READ, n)]
        elif isinstance(answer, m.Statuses) and call.key is not None:
            found = answer.collections.items()
            answer.collections = {n: s for n, s in found if call.key.allows(Role.READ, n)}
        elif isinstance(answer, m.ServerInfo) and call.key is not None:
            answer.role = call.key.role
            answer.collections = (
                None if call.key.collections is None else list(call.key.collections)
            )
        return call.answer_codec.encode(answer)

    def _on_keys(self, call: Call) -> bytes:
        check_allowed(self.config)
        request = call.codec.decode(call.body, call.operation.request)
        answer = ON_KEYS[call.operation](self.keys, request)
        for info in (answer, getattr(answer, "info", None)):
            if isinstance(info, m.KeyInfo):
                call.details.update(concerns=info.id, role=info.role, collections=info.collections)
        return call.answer_codec.encode(answer)

    def _on_collection(self, call: Call, engine: Collection) -> bytes:
        request = call.codec.decode(call.body, call.operation.request)
        if isinstance(request, m.Project):
            return call.answer_codec.encode(project(engine, request))
        docs = ClientCollection(LocalCollection(engine), self._engine.snapshot)
        answer = ON_COLLECTION[call.operation](
            docs, engine.config, request, call.codec, call.answer_codec
        )
        return call.answer_codec.encode(answer)

    def _open(self, call: Call) -> bytes:
        request = call.codec.decode(call.body, m.OpenCollection)
        name = cast("str", call.collection)
        options: dict[str, Any] = {
            field: getattr(request, field) for field in m.OpenCollection.__struct_fields__
        }
        may_create = call.key is None or call.key.allows(Role.ADMIN, name)
        if not may_create:
            try:
                self._look_up(call, name)
            except NotFoundError:
                if request.dim is None:
                    raise
                raise ForbiddenError(
                    f"there is no collection {name!r}, and this key may not make one; it takes the role admin"
                ) from None
        if request.dim is not None and name not in self._engine.collections():
            call.details["made"] = True
        config = self._client.collection(name, **options).config
        return call.answer_codec.encode(m.CollectionInfo(name=name, config=config))

    def _drop(self, call: Call) -> bytes:
        name = cast("str", call.collection)
        self._client.drop(name)
        return call.answer_codec.encode(m.Dropped(name=name))

    def _authorize(self, call: Call) -> None:
        if self._engine.closed:
            raise ClosedError("the database of this server is closed")
        key, role = call.key, call.operation.role
        if key is None:
            return
        if key.allows(role, call.collection):
            if key.collections is None or not call.operation.every_collection:
                return
            raise ForbiddenError(
                f"key {key.id} is for some collections only; {call.operation.name} takes one that is for all"
            )
        where = "" if call.collection is None else f" on collection {call.collection!r}"
        raise ForbiddenError(
            f"key {key.id} (role {key.role}) may not {call.operation.name}{where}; "
            f"it takes the role {role.name.lower()}"
        )


def _digest(call: Call, engine: Collection) -> bytes:
    """Everything that an answer depends on beside the collection's version, as 16 bytes."""
    head = f"{call.operation.name}\0{call.codec.name}\0{call.answer_codec.name}\0{engine.incarnation}\0"
    digest = hashlib.blake2b(head.encode(), digest_size=16)
    digest.update(call.body)
    return digest.digest()
