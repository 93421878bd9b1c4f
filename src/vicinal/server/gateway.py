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

from vicinal.client.arguments import search_options, to_queries
from vicinal.client.collection import Collection as ClientCollection
from vicinal.client.database import Database as ClientDatabase
from vicinal.client.local import LocalCollection, LocalDatabase
from vicinal.engine.collection import Collection, Version
from vicinal.engine.database import Database
from vicinal.model.config import CollectionConfig
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
from vicinal.server.batcher import SearchBatcher, Waiting
from vicinal.server.cache import ResultCache
from vicinal.server.config import ServerConfig
from vicinal.server.handlers import ON_COLLECTION, ON_DATABASE, hits_out
from vicinal.server.key_operations import ON_KEYS, check_allowed
from vicinal.server.keys import Key, KeyStore
from vicinal.server.many import join, outcome, split
from vicinal.server.observing import Observer, new_request_id
from vicinal.server.projection import project
from vicinal.server.quotas import Quotas
from vicinal.server.resp import parse_address
from vicinal.server.shared_cache import BODY_BYTES_MAX, SharedCache, pack, shared_key
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


@dataclass(slots=True)
class Call:
    """One request, as a protocol hands it over; nobody changes it. (A frozen one would take twice the time to make.)

    Attributes
    ----------
    key : who asks; None where keys are not asked for.
    deadline : on the monotonic clock.
    request_id : in every line that the log has of it.
    source : the address that it came from, as far as it is known.
    traceparent : the trace that its sender says it belongs to.
    came_s : when its head came, by `time.perf_counter`.
    held_s : for how long it waited to be begun since it was whole.
    trace : its spans, where it is traced.
    details : what the audit log is told beside.
    among_many : whether it is one of the searches of a request, rather than a request of its own.
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
    among_many: bool = False
    held_s: float = 0.0


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
        self._quotas = Quotas(database, config)
        self._cache = ResultCache(config.cache_bytes_max, config.cache_ttl_s)
        self._batcher = SearchBatcher(
            config.threads,
            config.batch_max,
            lambda taken: self.metrics.begun(taken),
            lambda: self.observer.last_search(),
            self.admission.searched,
            lambda: self.admission.holding,
            lambda: self.admission.pressed,
        )
        self.admission.begun = self._batcher.dispatch
        self.observer = Observer(
            database,
            config,
            self.admission,
            self._cache,
            lambda: self._batcher.waiting + self.admission.held,
        )
        self.metrics = self.observer.metrics
        self._shared: SharedCache | None = None
        if config.cache_url is not None:
            self._shared = SharedCache(
                parse_address(config.cache_url),
                config.cache_ttl_s,
                config.cache_wait_ms_max / 1000,
                self.metrics.shared_looked,
                self.metrics.shared_put,
            )
            shared = self._shared
            self.metrics.shared_state(lambda: shared.closed)
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

    def config_of(self, name: str) -> CollectionConfig:
        """The configuration of a collection that was searched just now. Raises NotFoundError where it was dropped."""
        engine = self._engine.opened(name)
        if engine is None:
            raise NotFoundError(f"collection {name!r} was dropped meanwhile")
        return engine.config

    async def handle(self, call: Call) -> bytes:
        """The encoded answer. Raises VicinalError; a bug becomes InternalError and a line in the log."""
        return await self._observed(call, self._handle)

    async def run(self, call: Call, work: Callable[[ClientCollection], T]) -> T:
        """What work gives for the collection, done in a thread as the call's operation: for protocols whose bodies are
        arrays rather than messages. Raises as `handle` does."""

        async def carry_out(call: Call) -> T:
            engine = await self._find(call)
            docs = ClientCollection(
                self._quotas.collection(engine, call.key), self._engine.snapshot
            )
            return await self._in_thread(self._work, call, lambda: work(docs))

        return await self._observed(call, carry_out)

    async def _observed(self, call: Call, answer: Callable[[Call], Awaitable[T]]) -> T:
        """The answer, allowed, counted and timed."""
        began = time.perf_counter() - call.held_s
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

    def start(self) -> None:
        """Begin what runs beside the requests. Called in the event loop."""
        if self._shared is not None:
            self._shared.start()

    async def stop(self) -> None:
        """Finish what is under way, and give threads and connections back. The database stays open."""
        await asyncio.to_thread(self.close)
        if self._shared is not None:
            await self._shared.stop()

    def close(self) -> None:
        """`stop`, for those who did not `start`."""
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
        if operation is ops.SEARCH_MANY:
            return await self._search_many(call, engine)
        threads = self._slow if operation in (ops.OPTIMIZE, ops.CALIBRATE) else self._work
        return await self._in_thread(
            threads, call, noted(call, lambda: self._on_collection(call, engine))
        )

    async def _search(self, call: Call, engine: Collection) -> bytes:
        """Cache, join, or begin."""
        began_s, request = time.perf_counter(), _digest(call)
        key = _key(engine, request)
        while True:
            if engine.has_expired:
                # In a thread, since hiding waits for a write under way.
                await self._in_thread(self._work, call, engine.hide_expired)
            version = engine.version
            body = self._cache.get(key, version)
            self.metrics.looked(hit=body is not None)
            if call.trace is not None:
                outcome = "miss" if body is None else "hit"
                call.trace.stage("cache", began_s, time.perf_counter(), outcome=outcome)
            if body is not None:
                return body
            flight = (key, version)
            future = self._flights.get(flight)
            # One that is over has nothing to wait for, and its error, a deadline's, would come back at once for ever.
            joined = future is not None and not future.done()
            if future is None or not joined:
                future = self._look_or_begin(call, engine, request, version)
                self._flights[flight] = future
                future.add_done_callback(partial(self._land, flight))
            else:
                self.metrics.deduplicated.inc()
            try:
                answer = await _within(future, call.deadline)
                # Who joins waits less than the queue.
                if call.operation is ops.SEARCH and not joined:
                    self.admission.answered(time.perf_counter() - call.came_s)
                return answer
            except DeadlineError:
                # The first one's time was over, not this one's: begin anew.
                if not joined or call.deadline <= time.monotonic():
                    raise

    async def _search_many(self, call: Call, engine: Collection) -> bytes:
        """Each as a search of its own, which cache, joining and batches are there for; those that are not done in the
        time that the request gives are left out. Raises what the first of them raises that fails."""
        request = call.codec.decode(call.body, m.SearchMany)
        parts, end = split(call, request, time.monotonic())
        tasks = [asyncio.ensure_future(self._search(part, engine)) for part in parts]
        try:
            await asyncio.wait(tasks, timeout=end - time.monotonic())
        finally:
            for task in tasks:
                task.cancel()  # nobody waits; what is under way for others too goes on
                if task.done() and not task.cancelled():
                    task.exception()  # one of them is told
        found = [outcome(task) for task in tasks]
        if request.time_ms is None and None in found:
            raise DeadlineError("the request's time was over before all searches were done")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._work, join, call, found)

    def _land(self, flight: Flight, future: asyncio.Future[bytes]) -> None:
        """A search is done: later ones begin anew. (Its error may be one that nobody waits for any more.)"""
        if self._flights.get(flight) is future:  # not begun anew meanwhile
            del self._flights[flight]
        if not future.cancelled():
            future.exception()

    def _look_or_begin(
        self, call: Call, engine: Collection, request: bytes, version: Version
    ) -> asyncio.Future[bytes]:
        """The answer out of the shared cache, where there is one, or else of a search."""
        shared = self._shared
        if shared is None:
            return self._begin(call, engine, request)
        mark = engine.mark
        if mark is None or not engine.held_since(version):
            return self._begin(call, engine, request)

        async def look(name: bytes) -> bytes:
            body = await shared.get(name, lambda: engine.fresh_ms()[0])
            if body is None:
                return await self._begin(call, engine, request)
            # Other points may have expired here than there only where that is still to be noted.
            if engine.held_since(version) and not engine.has_expired:
                self._cache.put(_key(engine, request), version, body)
            return body

        return asyncio.ensure_future(look(shared_key(mark, request)))

    def _keeper(
        self, engine: Collection, request: bytes
    ) -> Callable[[bytes, Hashable], None] | None:
        """What keeps an answer that belongs to a version; called in any thread. None where nothing keeps any."""
        if self._shared is None and not self._cache.enabled:
            return None
        shared, loop, key = self._shared, asyncio.get_running_loop(), _key(engine, request)

        def keep(body: bytes, version: Hashable) -> None:
            self._cache.put(key, version, body)
            if shared is None or len(body) > BODY_BYTES_MAX:
                return
            mark, (now_ms, until_ms) = engine.mark, engine.fresh_ms()
            if mark is None or until_ms <= now_ms or not engine.held_since(version):
                return
            name = shared_key(mark, request)
            value = pack(name, body, now_ms, until_ms)
            loop.call_soon_threadsafe(shared.put, name, value)

        return keep

    def _begin(self, call: Call, engine: Collection, request: bytes) -> asyncio.Future[bytes]:
        """Start a search; the future is done with its answer even where nobody waits any more."""
        loop, keep = asyncio.get_running_loop(), self._keeper(engine, request)
        if call.operation is ops.SEARCH_BATCH:

            def work() -> bytes:
                version = engine.version
                body = self._on_collection(call, engine)
                if keep is not None and engine.held_since(version):
                    keep(body, version)
                return body

            future = asyncio.ensure_future(self._in_thread(self._work, call, work))
        else:
            search = call.codec.decode(call.body, m.Search)
            options = search_options(
                search.k,
                search.where,
                search.ef_search,
                search.recall,
                search.exact,
                search.with_payload,
                search.with_vectors,
            )
            query = one_vector(search.vector, engine.config, query=True)
            queries, _ = to_queries(engine.config, query)
            codec = call.answer_codec
            future = loop.create_future()
            waiting = Waiting(
                queries,
                call.deadline,
                lambda found, place: codec.encode(hits_out(found, place, codec)),
                keep,
                future,
                call.request_id,
                call.trace,
                time.perf_counter() - call.held_s,
            )
            admission = self.admission
            alone = admission.requests <= 1 and admission.together <= 1 and not call.among_many
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
        docs = ClientCollection(self._quotas.collection(engine, call.key), self._engine.snapshot)
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


async def _within(shared: asyncio.Future[T], deadline: float) -> T:
    """What a future gives that others may wait for too: who stops waiting does not end it. TimeoutError at the
    deadline. (`asyncio.shield` in `asyncio.timeout`, for half the time.)"""
    if shared.done():
        return shared.result()
    loop = asyncio.get_running_loop()
    mine: asyncio.Future[T] = loop.create_future()
    late = loop.call_later(max(0.0, deadline - time.monotonic()), _settle, mine, None)
    shared.add_done_callback(partial(_settle, mine))
    try:
        return await mine
    finally:
        late.cancel()


def _settle(mine: asyncio.Future[T], shared: asyncio.Future[T] | None) -> None:
    """Give on what the shared future has, or None: that it comes too late."""
    if mine.done():
        return
    if shared is None:
        mine.set_exception(TimeoutError())
    elif shared.cancelled():
        mine.cancel()
    elif (fault := shared.exception()) is not None:
        mine.set_exception(fault)
    else:
        mine.set_result(shared.result())


def _digest(call: Call) -> bytes:
    """Everything that an answer depends on beside the collection, as 32 bytes."""
    head = f"{call.operation.name}\0{call.codec.name}\0{call.answer_codec.name}\0"
    digest = hashlib.blake2b(head.encode(), digest_size=32)
    digest.update(call.body)
    return digest.digest()


def _key(engine: Collection, request: bytes) -> bytes:
    """A request to one collection of this process, as the 16 bytes that the result cache wants."""
    return hashlib.blake2b(b"%d\0" % engine.incarnation + request, digest_size=16).digest()
