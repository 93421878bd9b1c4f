"""The gRPC channel: one connection, over which every call is a stream of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc

from vicinal.client.channel import RetryingChannel, check_key
from vicinal.model.errors import (
    ClosedError,
    InvalidArgumentError,
    OverloadedError,
    RequestTooLargeError,
    UnavailableError,
    VicinalError,
)
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.faults import from_fault
from vicinal.wire.operations import Operation
from vicinal.wire.protobuf import FAULT_KEY, PROTO, encode_request
from vicinal.wire.schema import PACKAGE, SERVICE, method_name

A = TypeVar("A", bound=m.Answer)

PORT = 7334
METADATA_BYTES_MAX = 64 * 1024
KEEPALIVE_S = 60
"""Seconds after which a silent connection is asked whether it still stands."""

RECONNECT_S_MAX = 2.0
OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.max_reconnect_backoff_ms", round(RECONNECT_S_MAX * 1000)),
    ("grpc.enable_retries", 0),  # ours know which operations may be repeated
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcChannel(RetryingChannel[bytes]):
    """A channel to one gRPC server. Thread-safe."""

    def __init__(
        self, address: str, *, api_key: str | None, timeout_s: float, retries: int
    ) -> None:
        super().__init__(address, timeout_s=timeout_s, retries=retries)
        check_key(api_key)
        self._metadata = [] if api_key is None else [("authorization", f"Bearer {api_key}")]
        self._channel: Any = grpc.insecure_channel(host_and_port(address, PORT), OPTIONS)
        self._calls: dict[str, Any] = {}
        self._closed = False

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._closed = True
        self._channel.close()

    def upload(self, collection: str, parts: Sequence[Callable[[], m.Upsert]]) -> None:
        """Send upserts as one stream: the next is on its way while the server writes the one before."""
        if len(parts) == 1:
            self.call(ops.UPSERT, collection, parts[0](), m.Counted)
            return
        done = 0

        def send(left_s: float) -> m.Counted:
            nonlocal done
            stop = threading.Event()

            def requests() -> Iterator[bytes]:
                for part in parts[done:]:
                    if stop.is_set():
                        return
                    yield encode_request(ops.UPSERT, collection, part())

            try:
                stream = self._method("UpsertStream", self._channel.stream_stream)
                for _ in stream(requests(), timeout=left_s, metadata=self._metadata):
                    done += 1
            except grpc.RpcError as fault:
                raise self._error(ops.UPSERT, fault) from None
            finally:
                stop.set()
            if done < len(parts):
                raise self._broken(ops.UPSERT, "the server ended the stream early")
            return m.Counted(count=done)

        self._again(ops.UPSERT, time.monotonic() + self._timeout_s * len(parts), send)

    def _prepare(self, operation: Operation, collection: str | None, request: m.Request) -> bytes:
        return encode_request(operation, collection, request)

    def _send(self, operation: Operation, prepared: bytes, left_s: float, answer: type[A]) -> A:
        method = self._method(method_name(operation), self._channel.unary_unary)
        try:
            raw = method(prepared, timeout=left_s, metadata=self._metadata)
        except grpc.RpcError as fault:
            raise self._error(operation, fault) from None
        except ValueError as fault:  # what grpc says of a closed channel
            raise ClosedError(f"{self.address}: {fault}; call vicinal.open again") from None
        return PROTO.decode(raw, answer)

    def _method(self, name: str, kind: Callable[[str], Any]) -> Any:
        """The callable of a method, made once."""
        found = self._calls.get(name)
        if found is None:
            found = self._calls[name] = kind(f"/{PACKAGE}.{SERVICE}/{name}")
        return found

    def _error(self, operation: Operation, fault: Any) -> VicinalError:
        """The error that the server sent, or what became of the connection."""
        for name, value in fault.trailing_metadata() or ():
            if name == FAULT_KEY:
                return from_fault(PROTO.decode(value, m.Fault))
        code, details = fault.code(), str(fault.details())
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._late(operation)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            if "larger than max" in details:
                return RequestTooLargeError(
                    f"{self.address}: {details}; send fewer points at a time"
                )
            return OverloadedError(f"{self.address}: {details}; try again later")
        if code is grpc.StatusCode.UNAVAILABLE:
            if details.startswith("failed to connect"):
                return self._nobody(details)
            return self._broken(operation, details)
        if code is grpc.StatusCode.CANCELLED:
            if self._closed:
                return ClosedError(f"database {self.address!r} is closed; call vicinal.open again")
            return self._broken(operation, details)
        return UnavailableError(
            f"{self.address}: gRPC status {code.name}, which is not a Vicinal server's answer: {details[:200]!r}"
        )


def host_and_port(address: str, default: int) -> str:
    """`host:port` of an address. Raises InvalidArgumentError where it has more than that."""
    parts = urlsplit(address)
    try:
        port = parts.port or default
    except ValueError:
        raise InvalidArgumentError(f"address {address!r} has no valid port") from None
    if (
        not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise InvalidArgumentError(
            f"address {address!r} is not of the form {parts.scheme}://host:port; keys go into api_key="
        )
    return f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"
