"""What the protocols over gRPC have in common: a port, who calls, admission, and errors as statuses.

Every call is taken as a stream of raw messages, since only so the key is looked at before the first message is read;
callers see no difference. The size of a message is compared with its bound when its first bytes come.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vicinal.client.collection import Collection
from vicinal.model.errors import DeadlineError, InvalidArgumentError, StorageError, VicinalError
from vicinal.server.gateway import Call, Gateway
from vicinal.server.keys import Key
from vicinal.server.observing import REQUEST_ID_HEADER, new_request_id
from vicinal.server.tls import Tls
from vicinal.telemetry.trace import HEADER
from vicinal.wire.codec import Codec
from vicinal.wire.compression import COMPRESSION_KEY, GZIP, PACK_BYTES_MIN
from vicinal.wire.faults import grpc_status, to_fault
from vicinal.wire.operations import Operation
from vicinal.wire.protobuf import FAULT_KEY, PROTO, PROTO_JSON

T = TypeVar("T")

METADATA_BYTES_MAX = 64 * 1024
MESSAGE_CHARS_MAX = 4_000
"""Of an error, in the trailer: several times as much in bytes still fits METADATA_BYTES_MAX."""

STATUS_CHARS_MAX = 500
PING_S_MIN = 10
STREAMS_MAX = 256
"""Calls of one connection at the same time; a client has more wait, or makes a second connection."""

EOF: Any = grpc.aio.EOF
"""What `read` gives at the end of a caller's messages."""

Context = Any  # grpc.aio.ServicerContext, of bytes


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the metadata say.

    Attributes
    ----------
    codec : what shows payloads as the caller wants them.
    deadline : on the monotonic clock; never later than the server's longest time.
    packed : whether it wants large answers as gzip.
    request_id, source, traceparent, came_s : as of `Call`.
    """

    key: Key | None
    codec: Codec
    deadline: float | None
    packed: bool
    request_id: str
    source: str | None
    traceparent: str | None
    came_s: float


class GrpcPort(ABC):
    """One listening port, with the health service beside what it serves."""

    protocol = "grpc"
    """How it is called in figures."""

    option = "grpc_port"

    def __init__(self, gateway: Gateway, port: int, tls: Tls | None) -> None:
        self.gateway, self.config, self._tls = gateway, gateway.config, tls
        host = self.config.host
        bracketed = f"[{host}]" if ":" in host else host
        self._address = f"{bracketed}:{port}"
        self._server: Any = None
        self._health: Any = None
        self.port = port

    @abstractmethod
    def services(self) -> dict[str, dict[str, Any]]:
        """The handlers of each method of each service."""

    async def start(self) -> None:
        """Return when calls are answered. Raises StorageError where the port cannot be had."""
        config = self.config
        self._server = server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.request_bytes_max),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", METADATA_BYTES_MAX),
                ("grpc.max_concurrent_streams", STREAMS_MAX),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", PING_S_MIN * 1000),
            ],
            maximum_concurrent_rpcs=2 * config.requests_max,
        )
        services = self.services()
        for name, handlers in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.reflect(server, (health.SERVICE_NAME, reflection.SERVICE_NAME))
        try:
            self.port = self._listen(server)
        except RuntimeError as fault:
            raise StorageError(
                f"listening on {self._address}: {fault}; is the port in use? choose another with {self.option}"
            ) from None
        await server.start()
        for name in ("", *services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _listen(self, server: Any) -> int:
        if self._tls is None:
            return server.add_insecure_port(self._address)
        credentials: Any = grpc.ssl_server_credentials(
            [(self._tls.key, self._tls.cert)],
            self._tls.client_ca,
            require_client_auth=self._tls.client_ca is not None,
        )
        return server.add_secure_port(self._address, credentials)

    def reflect(self, server: Any, others: tuple[str, ...]) -> None:
        """Add the reflection service, where descriptors are known."""
        del server, others

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait for those under way, at most grace_s."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)

    def unary(self, answer: Callable[[Caller, Context], Awaitable[bytes]]) -> Any:
        """The handler of a method with one answer."""

        async def handle(requests: Any, context: Context) -> bytes:
            del requests  # read from the context, when it is time
            request_id = _name(context)
            try:
                caller = self._caller(context, request_id)
                body = await answer(caller, context)
                if caller.packed and len(body) >= PACK_BYTES_MIN:
                    context.set_compression(grpc.Compression.Gzip)
                return body
            except VicinalError as fault:
                return await _abort(context, fault, request_id)

        made: Any = grpc.stream_unary_rpc_method_handler(handle)  # pyright: ignore[reportUnknownVariableType]
        return made

    def stream(self, answers: Callable[[Caller, Context], AsyncIterator[bytes]]) -> Any:
        """The handler of a method with any number of answers."""

        async def handle(requests: Any, context: Context) -> None:
            del requests
            request_id = _name(context)
            try:
                caller = self._caller(context, request_id)
                if caller.packed:
                    context.set_compression(grpc.Compression.Gzip)
                async for answer in answers(caller, context):
                    await context.write(answer)
            except VicinalError as fault:
                await _abort(context, fault, request_id)

        made: Any = grpc.stream_stream_rpc_method_handler(handle)  # pyright: ignore[reportUnknownVariableType]
        return made

    async def read_one(self, context: Context) -> bytes:
        """The request message of a call that has one."""
        body = await self.read(context, self.config.read_s_max)
        if body is EOF:
            raise InvalidArgumentError("the call has no request message")
        return body

    async def read(self, context: Context, limit_s: float) -> bytes:
        """The next message, or EOF. Raises DeadlineError where none comes for limit_s."""
        try:
            async with asyncio.timeout(limit_s):
                return cast("bytes", await context.read())
        except TimeoutError:
            raise DeadlineError(f"no message came for {limit_s:g} s; send it sooner") from None

    async def answer_one(
        self, caller: Caller, context: Context, begin: Callable[[bytes], asyncio.Task[T]]
    ) -> T:
        """Read the request of a call that has one, and begin it with `entered`; it counts as under way while it comes,
        too."""
        admission = self.gateway.admission
        with self._refusals():
            admission.enter(caller.key)
            try:
                task = begin(await self.read_one(context))
            except BaseException:  # not begun: refused, or its caller went away
                admission.leave(0)
                raise
        return await asyncio.shield(task)

    def handled(
        self,
        caller: Caller,
        operation: Operation,
        collection: str | None,
        body: bytes,
        codec: Codec,
        answer_codec: Codec,
        *,
        entered: bool = False,
    ) -> asyncio.Task[bytes]:
        """Hand a message to the gateway as a request of its own."""
        call = self._call(
            caller,
            operation,
            collection,
            body,
            codec,
            answer_codec,
            caller.came_s if entered else None,
        )
        return self.let_in(caller, len(body), lambda: self.gateway.handle(call), entered)

    def run(
        self,
        caller: Caller,
        operation: Operation,
        collection: str,
        size: int,
        work: Callable[[Collection], T],
    ) -> asyncio.Task[T]:
        """Have the gateway carry out work on a collection, in a thread, as a request of `size` bytes."""
        call = self._call(caller, operation, collection, b"", PROTO, PROTO)
        return self.let_in(caller, size, lambda: self.gateway.run(call, work))

    def let_in(
        self,
        caller: Caller,
        size: int,
        begin: Callable[[], Awaitable[T]],
        entered: bool = False,
    ) -> asyncio.Task[T]:
        """Admit a request, unless it has entered, and begin it. It counts as under way until it is done, whether or
        not its caller still waits; so what waits for it shields it."""
        admission = self.gateway.admission
        with nullcontext() if entered else self._refusals():
            if not entered:
                admission.enter(caller.key)
            try:
                admission.take_bytes(size, size)
            except VicinalError:
                if not entered:
                    admission.leave(0)
                raise
        task = asyncio.ensure_future(begin())

        def leave(done: asyncio.Future[T]) -> None:
            admission.leave(size)
            if not done.cancelled():
                done.exception()  # somebody may have stopped waiting for it

        task.add_done_callback(leave)
        return task

    def _call(
        self,
        caller: Caller,
        operation: Operation,
        collection: str | None,
        body: bytes,
        codec: Codec,
        answer_codec: Codec,
        came_s: float | None = None,
    ) -> Call:
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

    def _caller(self, context: Context, request_id: str) -> Caller:
        """Who calls. Raises UnauthenticatedError, before a message is read."""
        came_s = time.perf_counter()
        token: str | None = None
        traceparent: str | None = None
        codec, packed = PROTO, False
        for name, value in context.invocation_metadata() or ():
            if name == "authorization":
                scheme, _, given = value.partition(" ")
                token = given.strip() if scheme.lower() == "bearer" else None
            elif name == "vicinal-payload":
                codec = _payload_codec(value)
            elif name == HEADER:
                traceparent = value
            elif name == COMPRESSION_KEY:
                packed = _wants_gzip(value)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        with self._refusals():
            key = self.gateway.authenticate(token)
        source = _source(context.peer())
        return Caller(key, codec, deadline, packed, request_id, source, traceparent, came_s)


def _name(context: Context) -> str:
    """The id of a call, which its caller gave or which is new, and which goes with its end."""
    metadata: Any = context.invocation_metadata() or ()
    given = [value for name, value in metadata if name == REQUEST_ID_HEADER]
    request_id = new_request_id(*given[:1])
    context.set_trailing_metadata(((REQUEST_ID_HEADER, request_id),))
    return request_id


def _source(peer: str) -> str | None:
    """The address in `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None


def _payload_codec(value: str) -> Codec:
    if value not in ("json", "msgpack"):
        raise InvalidArgumentError(f"vicinal-payload is {value[:40]!r}; it is json or msgpack")
    return PROTO_JSON if value == "json" else PROTO


def _wants_gzip(value: str) -> bool:
    if value != GZIP:
        raise InvalidArgumentError(f"{COMPRESSION_KEY} is {value[:40]!r}; it is {GZIP}")
    return True


async def _abort(context: Context, error: VicinalError, request_id: str) -> Any:
    """End a call with an error."""
    fault = to_fault(error)
    fault.message = fault.message[:MESSAGE_CHARS_MAX]
    await context.abort(
        grpc.StatusCode[grpc_status(error)],
        fault.message[:STATUS_CHARS_MAX],
        ((FAULT_KEY, PROTO.encode(fault)), (REQUEST_ID_HEADER, request_id)),
    )
