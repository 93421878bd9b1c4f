"""gRPC: the service of `proto/vicinal/v1/vicinal.proto` over the gateway, on the event loop that REST runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

from vicinal.model.errors import VicinalError
from vicinal.server.grpc_calls import GrpcCall, Method
from vicinal.server.grpc_health import reflection_methods
from vicinal.server.grpc_port import Caller, GrpcPort
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.operations import OPERATIONS, Operation
from vicinal.wire.protobuf import (
    PROTO,
    check_empty,
    collection_of,
    encode_request,
    message_class,
)
from vicinal.wire.schema import PACKAGE, SERVICE, method_name

FULL_NAME = f"{PACKAGE}.{SERVICE}"
STREAM_WINDOW = 32
"""Searches of one stream that are under way; the next is read when the first of them is answered."""


class RpcServer(GrpcPort):
    """The port of gRPC."""

    def services(self) -> dict[str, dict[str, Method]]:
        """Each operation, and the streams."""
        handlers = {method_name(o): self.unary(self._operation(o)) for o in OPERATIONS}
        handlers["UpsertStream"] = self.stream(self._upserts)
        handlers["SearchStream"] = self.stream(self._searches)
        handlers["ScrollStream"] = self.stream(self._pages)
        return {FULL_NAME: handlers}

    def others(self, names: tuple[str, ...]) -> dict[str, Method]:
        """Show the services to tools."""
        message_class("Fault")  # its file is in the pool from here on
        return reflection_methods(names)

    def _operation(self, operation: Operation) -> Callable[[Caller, GrpcCall], Awaitable[bytes]]:
        async def answer(caller: Caller, call: GrpcCall) -> bytes:
            def begin(body: bytes) -> Coroutine[Any, Any, bytes]:
                name = _collection(operation, body)
                return self.gateway.handle(
                    self.call(caller, operation, name, body, PROTO, caller.codec, caller.came_s)
                )

            return await self.answer_one(caller, call, begin)

        return answer

    def _message(self, caller: Caller, operation: Operation, body: bytes) -> asyncio.Task[bytes]:
        name = _collection(operation, body)
        return self.handled(caller, operation, name, body, PROTO, caller.codec)

    async def _upserts(self, caller: Caller, call: GrpcCall) -> AsyncGenerator[bytes]:
        """One after the other, so that a client which sends faster is slowed down by the connection's flow
        control."""
        while (body := await self.read(call, self.config.timeout_s_max)) is not None:
            yield await asyncio.shield(self._message(caller, ops.UPSERT, body))

    async def _searches(self, caller: Caller, call: GrpcCall) -> AsyncGenerator[bytes]:
        """Several at a time, answered in their order."""
        under_way: asyncio.Queue[asyncio.Task[bytes] | VicinalError | None] = asyncio.Queue(
            STREAM_WINDOW
        )

        async def take() -> None:
            try:
                while (body := await self.read(call, self.config.timeout_s_max)) is not None:
                    await under_way.put(self._message(caller, ops.SEARCH, body))
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

    async def _pages(self, caller: Caller, call: GrpcCall) -> AsyncGenerator[bytes]:
        """Page after page; the next is made when the connection took the last."""
        body = await self.read_one(call)
        page_class, request = message_class("PageOut"), PROTO.decode(body, m.Scroll)
        name = collection_of(body)
        while True:
            answer = await asyncio.shield(self._message(caller, ops.SCROLL, body))
            yield answer
            page = page_class.FromString(answer)
            if not page.HasField("cursor"):
                return
            request.cursor = page.cursor
            body = encode_request(ops.SCROLL, name, request)


def _collection(operation: Operation, body: bytes) -> str | None:
    """The collection that a message names. Raises InvalidArgumentError where an empty one has fields."""
    if operation.request is m.Empty:
        check_empty(operation, body)
    return collection_of(body) if operation.on_collection else None
