"""gRPC: the service of `proto/vicinal/v1/vicinal.proto` over the gateway, on the event loop that REST runs on.

Every call is taken as a stream of raw messages, since only so the key is looked at before the first message is read;
callers see no difference. The size of a message is compared with its bound when its first bytes come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vicinal.model.errors import (
    DeadlineError,
    InvalidArgumentError,
    StorageError,
    VicinalError,
)
from vicinal.server.gateway import Call, Gateway
from vicinal.server.keys import Key
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.faults import grpc_status, to_fault
from vicinal.wire.operations import OPERATIONS, Operation
from vicinal.wire.protobuf import (
    FAULT_KEY,
    PROTO,
    PROTO_JSON,
    collection_of,
    encode_request,
    message_class,
)
from vicinal.wire.schema import PACKAGE, SERVICE, method_name

FULL_NAME = f"{PACKAGE}.{SERVICE}"

METADATA_BYTES_MAX = 64 * 1024
MESSAGE_CHARS_MAX = 4_000
"""Of an error, in the trailer: several times as much in bytes still fits METADATA_BYTES_MAX."""

STATUS_CHARS_MAX = 500
STREAM_WINDOW = 32
"""Searches of one stream that are under way; the next is read when the first of them is answered."""

PING_S_MIN = 10
STREAMS_MAX = 256
"""Calls of one connection at the same time; a client has more wait, or makes a second connection."""

_EOF: Any = grpc.aio.EOF
Context = Any  # grpc.aio.ServicerContext, of bytes


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who calls, as the metadata say."""

    key: Key | None
    codec: Any
    deadline: float | None


class RpcServer:
    """One listening port.

    Raises StorageError where the port cannot be had.
    """

    def __init__(self, gateway: Gateway, host: str, port: int) -> None:
        self._gateway, self._config = gateway, gateway.config
        bracketed = f"[{host}]" if ":" in host else host
        self._address = f"{bracketed}:{port}"
        self._server: Any = None
        self._health: Any = None
        self.port = port

    async def start(self) -> None:
        """Return when calls are answered."""
        config = self._config
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
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(FULL_NAME, self._handlers()),)
        )
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        message_class("Fault")  # its file is in the pool from here on
        reflection.enable_server_reflection(
            (FULL_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        try:
            self.port = server.add_insecure_port(self._address)
        except RuntimeError as fault:
            raise StorageError(
                f"listening on {self._address}: {fault}; is the port in use? choose another with grpc_port"
            ) from None
        await server.start()
        for name in ("", FULL_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait for those under way, at most grace_s."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)

    def _handlers(self) -> dict[str, Any]:
        handlers: dict[str, Any] = {
            method_name(operation): grpc.stream_unary_rpc_method_handler(self._unary(operation))
            for operation in OPERATIONS
        }
        for name, stream in (
            ("UpsertStream", self._upserts),
            ("SearchStream", self._searches),
            ("ScrollStream", self._pages),
        ):
            handlers[name] = grpc.stream_stream_rpc_method_handler(self._stream(stream))
        return handlers

    def _unary(self, operation: Operation) -> Callable[[Any, Context], Awaitable[bytes]]:
        async def handle(requests: Any, context: Context) -> bytes:
            del requests  # read from the context, when it is time
            try:
                return await self._one(operation, self._caller(context), context)
            except VicinalError as fault:
                return await _abort(context, fault)

        return handle

    def _stream(
        self, answers: Callable[[_Caller, Context], AsyncIterator[bytes]]
    ) -> Callable[[Any, Context], Awaitable[None]]:
        async def handle(requests: Any, context: Context) -> None:
            del requests
            try:
                async for answer in answers(self._caller(context), context):
                    await context.write(answer)
            except VicinalError as fault:
                await _abort(context, fault)

        return handle

    async def _one(self, operation: Operation, caller: _Caller, context: Context) -> bytes:
        """Read one message and answer it."""
        admission = self._gateway.admission
        admission.enter(caller.key)
        try:
            body = await self._read(context, self._config.read_s_max)
            if body is _EOF:
                raise InvalidArgumentError("the call has no request message")
            task = self._begin(operation, caller, body)
        except BaseException:  # it was not begun, or its caller went away
            admission.leave(0)
            raise
        return await asyncio.shield(task)

    def _begin(self, operation: Operation, caller: _Caller, body: bytes) -> asyncio.Task[bytes]:
        """Hand a request that was let in to the gateway. It counts as under way until it is done, whether or not
        its caller still waits."""
        gateway, taken = self._gateway, len(body)
        collection = collection_of(body) if operation.on_collection else None
        longest = time.monotonic() + self._config.timeout_s_max
        deadline = longest if caller.deadline is None else min(longest, caller.deadline)
        call = Call(operation, collection, body, PROTO, caller.codec, caller.key, deadline, "grpc")
        gateway.admission.take_bytes(taken, taken)
        task = asyncio.ensure_future(gateway.handle(call))

        def leave(done: asyncio.Task[bytes]) -> None:
            gateway.admission.leave(taken)
            if not done.cancelled():
                done.exception()  # somebody may have stopped waiting for it

        task.add_done_callback(leave)
        return task

    async def _read(self, context: Context, limit_s: float) -> bytes:
        try:
            async with asyncio.timeout(limit_s):
                return cast("bytes", await context.read())
        except TimeoutError:
            raise DeadlineError(f"no message came for {limit_s:g} s; send it sooner") from None

    def _let_in(self, caller: _Caller, operation: Operation, body: bytes) -> asyncio.Task[bytes]:
        admission = self._gateway.admission
        admission.enter(caller.key)
        try:
            return self._begin(operation, caller, body)
        except VicinalError:
            admission.leave(0)
            raise

    async def _upserts(self, caller: _Caller, context: Context) -> AsyncIterator[bytes]:
        """One after the other, so that a client which sends faster is slowed down by the connection's flow
        control."""
        while (body := await self._read(context, self._config.timeout_s_max)) is not _EOF:
            yield await asyncio.shield(self._let_in(caller, ops.UPSERT, body))

    async def _searches(self, caller: _Caller, context: Context) -> AsyncIterator[bytes]:
        """Several at a time, answered in their order."""
        under_way: asyncio.Queue[asyncio.Task[bytes] | VicinalError | None] = asyncio.Queue(
            STREAM_WINDOW
        )

        async def take() -> None:
            try:
                while (body := await self._read(context, self._config.timeout_s_max)) is not _EOF:
                    await under_way.put(self._let_in(caller, ops.SEARCH, body))
                await under_way.put(None)
            except VicinalError as fault:
                await under_way.put(fault)

        taking = asyncio.ensure_future(take())
        try:
            while (task := await under_way.get()) is not None:
                if isinstance(task, VicinalError):
                    raise task
                yield await asyncio.shield(task)
        finally:
            taking.cancel()

    async def _pages(self, caller: _Caller, context: Context) -> AsyncIterator[bytes]:
        """Page after page; the next is made when the connection took the last."""
        body = await self._read(context, self._config.read_s_max)
        if body is _EOF:
            raise InvalidArgumentError("the call has no request message")
        page_class, request = message_class("PageOut"), PROTO.decode(body, m.Scroll)
        name = collection_of(body)
        while True:
            answer = await asyncio.shield(self._let_in(caller, ops.SCROLL, body))
            yield answer
            page = page_class.FromString(answer)
            if not page.HasField("cursor"):
                return
            request.cursor = page.cursor
            body = encode_request(ops.SCROLL, name, request)

    def _caller(self, context: Context) -> _Caller:
        """Who calls. Raises UnauthenticatedError, before a message is read."""
        token: str | None = None
        codec = PROTO
        for name, value in context.invocation_metadata() or ():
            if name == "authorization":
                scheme, _, given = value.partition(" ")
                token = given.strip() if scheme.lower() == "bearer" else None
            elif name == "vicinal-payload":
                codec = _payload_codec(value)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        return _Caller(self._gateway.authenticate(token), codec, deadline)


def _payload_codec(value: str) -> Any:
    if value not in ("json", "msgpack"):
        raise InvalidArgumentError(f"vicinal-payload is {value[:40]!r}; it is json or msgpack")
    return PROTO_JSON if value == "json" else PROTO


async def _abort(context: Context, error: VicinalError) -> Any:
    """End a call with an error."""
    fault = to_fault(error)
    fault.message = fault.message[:MESSAGE_CHARS_MAX]
    await context.abort(
        grpc.StatusCode[grpc_status(error)],
        fault.message[:STATUS_CHARS_MAX],
        ((FAULT_KEY, PROTO.encode(fault)),),
    )
