"""The services that tools expect beside one of gRPC: health, and reflection, which shows its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from vicinal.model.errors import VicinalError
from vicinal.server.grpc_calls import GrpcCall, Method

_pb: Any = health_pb2
_SERVING = _pb.HealthCheckResponse(status=_pb.HealthCheckResponse.SERVING)
_NOT_SERVING = _pb.HealthCheckResponse(status=_pb.HealthCheckResponse.NOT_SERVING)
_UNKNOWN = _pb.HealthCheckResponse(status=_pb.HealthCheckResponse.SERVICE_UNKNOWN)

REFLECTIONS = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
"""Their messages are the same bytes."""


class Health:
    """Whether each service takes calls: all do, until `leave`.

    names : of the services.
    """

    name = "grpc.health.v1.Health"

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = frozenset(("", *names))
        self._leaving = asyncio.Event()

    def methods(self) -> dict[str, Method]:
        """By path."""
        return {
            f"/{self.name}/Check": Method(_told(self._check)),
            f"/{self.name}/List": Method(_told(self._list)),
            f"/{self.name}/Watch": Method(_told(self._watch)),
        }

    def leave(self) -> None:
        """From now on none does."""
        self._leaving.set()

    def _of(self, name: str) -> Any:
        if name not in self._names:
            return _UNKNOWN
        return _NOT_SERVING if self._leaving.is_set() else _SERVING

    async def _check(self, call: GrpcCall) -> None:
        name = _pb.HealthCheckRequest.FromString(await call.read() or b"").service
        if name in self._names:
            await call.reply(self._of(name).SerializeToString(), ())
        else:
            call.fail("NOT_FOUND", "there is no such service")

    async def _list(self, call: GrpcCall) -> None:
        await call.read()
        found = {name: self._of(name) for name in self._names}
        await call.reply(_pb.HealthListResponse(statuses=found).SerializeToString(), ())

    async def _watch(self, call: GrpcCall) -> None:
        name = _pb.HealthCheckRequest.FromString(await call.read() or b"").service
        await call.write(self._of(name).SerializeToString())
        if not self._leaving.is_set():
            await self._leaving.wait()
            await call.write(self._of(name).SerializeToString())
        call.end(())


def reflection_methods(names: tuple[str, ...]) -> dict[str, Method]:
    """By path. names : of the services that are shown beside reflection itself."""
    servicer: Any = reflection.ReflectionServicer((*names, *REFLECTIONS))
    request: Any = reflection_pb2.ServerReflectionRequest  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    async def show(call: GrpcCall) -> None:
        while (body := await call.read()) is not None:
            for answer in servicer.ServerReflectionInfo(iter((request.FromString(body),)), None):
                await call.write(answer.SerializeToString())
        call.end(())

    return {f"/{name}/ServerReflectionInfo": Method(_told(show)) for name in REFLECTIONS}


def _told(run: Callable[[GrpcCall], Awaitable[None]]) -> Callable[[GrpcCall], Awaitable[None]]:
    """A caller's mistakes are its own."""

    async def told(call: GrpcCall) -> None:
        try:
            await run(call)
        except (VicinalError, DecodeError) as fault:
            call.fail("INVALID_ARGUMENT", str(fault))

    return told
