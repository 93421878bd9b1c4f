"""What the protocols over gRPC have in common: a port, who calls, admission, and errors as statuses.

The key is looked at before the first message is read. The size of a message is compared with its bound when its first
bytes come.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from vicinal.client.collection import Collection
from vicinal.model.errors import (
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    StorageError,
    VicinalError,
)
from vicinal.server.gateway import Call, Gateway
from vicinal.server.grpc_calls import GrpcCall, GrpcServer, Method, status_of, trailers_of
from vicinal.server.grpc_health import Health
from vicinal.server.http2_machine import Fields
from vicinal.server.keys import Key
from vicinal.server.listening import listen
from vicinal.server.observing import REQUEST_ID_HEADER, new_request_id
from vicinal.telemetry.trace import HEADER
from vicinal.wire.codec import Codec
from vicinal.wire.compression import COMPRESSION_KEY, GZIP
from vicinal.wire.faults import grpc_status, to_fault
from vicinal.wire.operations import Operation
from vicinal.wire.protobuf import FAULT_KEY, PROTO, PROTO_JSON

T = TypeVar("T")

METADATA_BYTES_MAX = 64 * 1024
MESSAGE_CHARS_MAX = 4_000
"""Of an error, in the trailer: several times as much in bytes still fits METADATA_BYTES_MAX."""

STATUS_CHARS_MAX = 500
STREAMS_MAX = 256
"""Calls of one connection at the same time; a client has more wait, or makes a second connection."""

_FAULT_KEY, _REQUEST_ID = FAULT_KEY.encode(), REQUEST_ID_HEADER.encode()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the metadata say.

    Attributes
    ----------
    codec : what shows payloads as the caller wants them.
    deadline : on the monotonic clock; never later than the server's longest time.
    request_id, source, traceparent, came_s : as of `Call`.
    """

    key: Key | None
    codec: Codec
    deadline: float | None
    request_id: str
    source: str | None
    traceparent: str | None
    came_s: float


class GrpcPort(ABC):
    """One listening port, with the health service beside what it serves."""

    protocol = "grpc"
    """How it is called in figures."""

    option = "grpc_port"

    def __init__(self, gateway: Gateway, port: int, tls: ssl.SSLContext | None) -> None:
        self.gateway, self.config, self._tls = gateway, gateway.config, tls
        self._server: GrpcServer | None = None
        self._health: Health | None = None
        self._refused: Callable[[], None] | None = None
        self._refusal_trailers: tuple[int, Fields] = (0, ())
        self.port = port

    @abstractmethod
    def services(self) -> dict[str, dict[str, Method]]:
        """The methods of each service."""

    def others(self, names: tuple[str, ...]) -> dict[str, Method]:
        """Methods of further services, by path. names : of all services."""
        del names
        return {}

    async def start(self) -> None:
        """Return when calls are answered. Raises StorageError where the port cannot be had."""
        config, services = self.config, self.services()
        self._health = Health(tuple(services))
        methods = {
            f"/{s}/{n}": method for s, found in services.items() for n, method in found.items()
        }
        methods |= self._health.methods()
        methods |= self.others((*services, self._health.name))
        try:
            listener = listen(config.host, self.port)
        except StorageError as fault:
            raise StorageError(
                f"{fault}; is the port in use? choose another with {self.option}"
            ) from None
        self._server = GrpcServer(
            methods,
            message_bytes_max=config.request_bytes_max,
            header_bytes_max=METADATA_BYTES_MAX,
            streams_max=STREAMS_MAX,
            calls_max=2 * config.requests_max,
            read_s_max=config.read_s_max,
        )
        await self._server.start(listener, self._tls)
        self.port = listener.getsockname()[1]

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait for those under way, at most grace_s."""
        if self._server is not None and self._health is not None:
            self._health.leave()
            await self._server.stop(grace_s)

    def unary(self, answer: Callable[[Caller, GrpcCall], Awaitable[bytes]]) -> Method:
        """A method with one answer."""

        async def run(call: GrpcCall) -> None:
            metadata = dict(call.metadata)
            request_id = new_request_id(metadata.get(REQUEST_ID_HEADER))
            try:
                caller = self._caller(call, metadata, request_id)
                body = await answer(caller, call)
            except VicinalError as fault:
                _fail(call, fault, request_id)
            else:
                await call.reply(body, trailers_of((_REQUEST_ID, request_id.encode())))

        return Method(run, self._refusal)

    def stream(self, answers: Callable[[Caller, GrpcCall], AsyncGenerator[bytes]]) -> Method:
        """A method with any number of answers."""

        async def run(call: GrpcCall) -> None:
            metadata = dict(call.metadata)
            request_id = new_request_id(metadata.get(REQUEST_ID_HEADER))
            try:
                caller = self._caller(call, metadata, request_id)
                async with (
                    asyncio.timeout(_left_s(call.deadline)),
                    aclosing(answers(caller, call)) as messages,
                ):
                    async for message in messages:
                        await call.write(message)
            except VicinalError as fault:
                _fail(call, fault, request_id)
            except TimeoutError:
                _fail(call, DeadlineError("the call's time is over"), request_id)
            else:
                call.end(trailers_of((_REQUEST_ID, request_id.encode())))

        return Method(run)

    async def read_one(self, call: GrpcCall) -> bytes:
        """The request message of a call that has one."""
        body = await self.read(call, self.config.read_s_max)
        if body is None:
            raise InvalidArgumentError("the call has no request message")
        return body

    async def read(self, call: GrpcCall, limit_s: float) -> bytes | None:
        """The next message; None at the end. Raises DeadlineError where none comes for limit_s."""
        if call.ready:
            return await call.read()
        left_s = _left_s(call.deadline)
        try:
            async with asyncio.timeout(limit_s if left_s is None else min(left_s, limit_s)):
                return await call.read()
        except TimeoutError:
            raise DeadlineError(f"no message came for {limit_s:g} s; send it sooner") from None

    async def answer_one(
        self, caller: Caller, call: GrpcCall, begin: Callable[[bytes], Coroutine[Any, Any, T]]
    ) -> T:
        """Read the request of a call that has one, and do it; it counts as under way while it comes, too, and until
        it is done, whether or not its caller still waits."""
        admission, taken = self.gateway.admission, 0
        try:
            admission.enter(caller.key)
            try:
                body = await self.read_one(call)
                admission.take_bytes(len(body), len(body))
                taken = len(body)
                work = begin(body)
                call.begun = True
                return await work
            finally:
                admission.leave(taken)
        except VicinalError as fault:
            if not call.begun:
                self.gateway.observer.refused(self.protocol, fault)
            raise

    def handled(
        self,
        caller: Caller,
        operation: Operation,
        collection: str | None,
        body: bytes,
        codec: Codec,
        answer_codec: Codec,
    ) -> asyncio.Task[bytes]:
        """Hand a message of a stream to the gateway as a request of its own."""
        call = self.call(caller, operation, collection, body, codec, answer_codec)
        return self.let_in(caller, len(body), lambda: self.gateway.handle(call))

    def run(
        self,
        caller: Caller,
        operation: Operation,
        collection: str,
        size: int,
        work: Callable[[Collection], T],
    ) -> asyncio.Task[T]:
        """Have the gateway carry out work on a collection, in a thread, as a request of `size` bytes."""
        call = self.call(caller, operation, collection, b"", PROTO, PROTO)
        return self.let_in(caller, size, lambda: self.gateway.run(call, work))

    def let_in(
        self,
        caller: Caller,
        size: int,
        begin: Callable[[], Awaitable[T]],
    ) -> asyncio.Task[T]:
        """Admit a request, and begin it. It counts as under way until it is done, whether or not its caller still
        waits; so what waits for it shields it."""
        admission = self.gateway.admission
        with self._refusals():
            admission.enter(caller.key)
            try:
                admission.take_bytes(size, size)
            except VicinalError:
                admission.leave(0)
                raise
        task = asyncio.ensure_future(begin())

        def leave(done: asyncio.Future[T]) -> None:
            admission.leave(size)
            if not done.cancelled():
                done.exception()  # somebody may have stopped waiting for it

        task.add_done_callback(leave)
        return task

    def call(
        self,
        caller: Caller,
        operation: Operation,
        collection: str | None,
        body: bytes,
        codec: Codec,
        answer_codec: Codec,
        came_s: float | None = None,
    ) -> Call:
        """A message as the gateway takes it. came_s : when it came; None is now."""
        longest = time.monotonic() + self.config.timeout_s_max
        deadline = longest if caller.deadline is None else min(longest, caller.deadline)
        return Call(
            operation,
            collection,
            body,
            codec,
            answer_codec,
            caller.key,
            deadline,
            self.protocol,
            caller.request_id,
            caller.source,
            caller.traceparent,
            time.perf_counter() if came_s is None else came_s,
        )

    @contextmanager
    def _refusals(self) -> Generator[None]:
        """Count what is refused before it is handed to the gateway."""
        try:
            yield
        except VicinalError as fault:
            self.gateway.observer.refused(self.protocol, fault)
            raise

    def _refusal(self) -> Fields | None:
        """The trailers of a call that came just now and has no room; None where it has."""
        admission = self.gateway.admission
        if admission.closing or admission.room():
            return None
        if self._refused is None:
            self._refused = self.gateway.observer.refused_by(self.protocol, OverloadedError)
        self._refused()
        bound, trailers = self._refusal_trailers
        if bound != admission.requests_max:
            trailers = _trailers(admission.refusal())
            self._refusal_trailers = admission.requests_max, trailers
        return trailers

    def _caller(self, call: GrpcCall, metadata: Mapping[str, str], request_id: str) -> Caller:
        """Who calls. Raises UnauthenticatedError, before a message is read."""
        came_s = time.perf_counter()
        token: str | None = None
        given = metadata.get("authorization")
        if given is not None:
            scheme, _, rest = given.partition(" ")
            token = rest.strip() if scheme.lower() == "bearer" else None
        wanted = metadata.get("vicinal-payload")
        codec = PROTO if wanted is None else _payload_codec(wanted)
        packing = metadata.get(COMPRESSION_KEY)
        if packing is not None:
            call.packs = _wants_gzip(packing)
        try:
            key = self.gateway.authenticate(token)
        except VicinalError as fault:
            self.gateway.observer.refused(self.protocol, fault)
            raise
        trace = metadata.get(HEADER)
        return Caller(key, codec, call.deadline, request_id, call.source, trace, came_s)


def _left_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _payload_codec(value: str) -> Codec:
    if value not in ("json", "msgpack"):
        raise InvalidArgumentError(f"vicinal-payload is {value[:40]!r}; it is json or msgpack")
    return PROTO_JSON if value == "json" else PROTO


def _wants_gzip(value: str) -> bool:
    if value != GZIP:
        raise InvalidArgumentError(f"{COMPRESSION_KEY} is {value[:40]!r}; it is {GZIP}")
    return True


def _fail(call: GrpcCall, error: VicinalError, request_id: str) -> None:
    """End a call with an error."""
    fault = to_fault(error)
    fault.message = fault.message[:MESSAGE_CHARS_MAX]
    trailers = trailers_of((_FAULT_KEY, PROTO.encode(fault)), (_REQUEST_ID, request_id.encode()))
    call.fail(grpc_status(error), fault.message[:STATUS_CHARS_MAX], trailers)


def _trailers(error: VicinalError) -> Fields:
    """The whole of what a call is refused with."""
    fault = to_fault(error)
    return status_of(grpc_status(error), fault.message) + trailers_of(
        (_FAULT_KEY, PROTO.encode(fault))
    )
