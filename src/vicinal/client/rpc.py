"""The gRPC channel: one connection, over which every call is a stream of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc

from vicinal.client.channel import ChannelOptions, RetryingChannel, noting
from vicinal.client.pacing import Upload
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import (
    ClosedError,
    InvalidArgumentError,
    OverloadedError,
    RequestTooLargeError,
    UnavailableError,
    VicinalError,
)
from vicinal.telemetry.trace import HEADER, current_traceparent
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.compression import COMPRESSION_KEY, GZIP, PACK_BYTES_MIN
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

    port = PORT
    """Of an address that names none."""

    def __init__(self, address: str, options: ChannelOptions) -> None:
        super().__init__(address, options)
        api_key = options.api_key
        self._own = [] if api_key is None else [("authorization", f"Bearer {api_key}")]
        self._options = options
        self._compress = options.compression is not None
        if self._compress:
            self._own.append((COMPRESSION_KEY, GZIP))
        self._channel: Any = _connect(address, self.port, options)
        self._second: Any = None
        self._lock = threading.Lock()
        self._calls: dict[tuple[bool, str], Any] = {}
        self._closed = False

    @property
    def _metadata(self) -> list[tuple[str, str]]:
        """What goes with a call: the key, wishes, and the span that its caller is in."""
        trace = current_traceparent()
        return self._own if trace is None else [*self._own, (HEADER, trace)]

    def close(self) -> None:
        """Close the connection. Idempotent."""
        with self._lock:
            self._closed = True
            second = self._second
        self._channel.close()
        if second is not None:
            second.close()

    def upload(self, collection: str, config: CollectionConfig, upload: Upload) -> None:
        """Send an upsert as one stream: the next part is on its way while the server writes the one before. Where
        progress may stop it between two parts, and where there is one part, it goes as messages."""
        if upload.whole or upload.reports:
            super().upload(collection, config, upload)
            return

        def requests(run: int) -> Iterator[bytes]:
            while (part := upload.cut(run)) is not None:
                yield encode_request(ops.UPSERT, collection, part)

        self._upload(self._path("UpsertStream"), requests, upload)

    def _upload(
        self, path: str, requests: Callable[[int], Iterator[bytes]], upload: Upload
    ) -> None:
        """Send an upload as a stream whose parts are answered in their order; refused in its middle it goes on from
        there. `requests` makes the messages of a run."""

        def send(left_s: float) -> None:
            with noting(upload):
                for _ in self._stream(path, requests(upload.begin()), left_s, ops.UPSERT):
                    upload.acknowledged()
            if not upload.finished:
                raise self._broken(ops.UPSERT, "the server ended the stream early")

        while not upload.finished:
            try:
                seconds = self._timeout_s * upload.parts_left
                self._again(ops.UPSERT, self._clock() + seconds, send)
            except RequestTooLargeError:
                if not upload.too_large():
                    raise

    def _stream(
        self, path: str, requests: Iterator[bytes], left_s: float, operation: Operation
    ) -> Iterator[bytes]:
        """The answers to a stream of messages."""
        stopped = threading.Event()

        def until_stopped() -> Iterator[bytes]:
            for request in requests:
                if stopped.is_set():
                    return
                yield request

        try:
            method = self._method(path, _stream_stream)
            yield from method(
                until_stopped(),
                timeout=left_s,
                metadata=self._metadata,
                compression=grpc.Compression.Gzip if self._compress else None,
            )
        except grpc.RpcError as fault:
            raise self._error(operation, fault) from None
        except ValueError as fault:
            raise self._shut(fault) from None
        finally:
            stopped.set()

    def _prepare(self, operation: Operation, collection: str | None, request: m.Request) -> bytes:
        return encode_request(operation, collection, request)

    def _send(self, operation: Operation, prepared: bytes, left_s: float, answer: type[A]) -> A:
        return self._decode(self._unary(operation, prepared, left_s), answer)

    def _begin(self, operation: Operation, prepared: bytes, left_s: float, *, second: bool) -> Any:
        method = self._method(self._path_of(operation), _unary_unary, second=second)
        try:
            return method.future(prepared, **self._call_options(prepared, left_s))
        except ValueError as fault:
            raise self._shut(fault) from None

    def _ready(self, begun: Sequence[Any], timeout_s: float) -> Any:
        came = threading.Event()

        def note(call: Any) -> None:
            del call
            came.set()

        for call in begun:
            call.add_done_callback(note)
        came.wait(timeout_s)
        return next((call for call in begun if call.done()), None)

    def _finish(self, operation: Operation, begun: Any, left_s: float, answer: type[A]) -> A:
        del left_s  # the call has its deadline
        try:
            return self._decode(begun.result(), answer)
        except grpc.RpcError as fault:
            raise self._error(operation, fault) from None
        except grpc.FutureCancelledError:
            raise ClosedError(f"{self.address}: the channel was closed") from None

    def _cancel(self, begun: Any) -> None:
        begun.cancel()

    def _path_of(self, operation: Operation) -> str:
        """The method that an operation is called by."""
        return self._path(method_name(operation))

    def _decode(self, raw: bytes, answer: type[A]) -> A:
        return PROTO.decode(raw, answer)

    def _unary(self, operation: Operation, message: bytes, left_s: float) -> bytes:
        method = self._method(self._path_of(operation), _unary_unary)
        try:
            return method(message, **self._call_options(message, left_s))
        except grpc.RpcError as fault:
            raise self._error(operation, fault) from None
        except ValueError as fault:
            raise self._shut(fault) from None

    def _call_options(self, message: bytes, left_s: float) -> dict[str, Any]:
        packed = self._compress and len(message) >= PACK_BYTES_MIN
        return {
            "timeout": left_s,
            "metadata": self._metadata,
            "compression": grpc.Compression.Gzip if packed else None,
        }

    def _path(self, name: str) -> str:
        return f"/{PACKAGE}.{SERVICE}/{name}"

    def _method(self, path: str, kind: Callable[[Any, str], Any], *, second: bool = False) -> Any:
        """The callable of a method, made once; of the second connection, which is made when it is first wanted."""
        found = self._calls.get((second, path))
        if found is None:
            channel = self._second_channel() if second else self._channel
            found = self._calls[second, path] = kind(channel, path)
        return found

    def _second_channel(self) -> Any:
        with self._lock:
            if self._second is None and not self._closed:
                self._second = _connect(self.address, self.port, self._options)
            return self._channel if self._second is None else self._second

    def _shut(self, fault: ValueError) -> ClosedError:
        """What grpc says of a closed channel."""
        return ClosedError(f"{self.address}: {fault}; call vicinal.open again")

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


def _unary_unary(channel: Any, path: str) -> Any:
    return channel.unary_unary(path)


def _stream_stream(channel: Any, path: str) -> Any:
    return channel.stream_stream(path)


def _connect(address: str, port: int, options: ChannelOptions) -> Any:
    """A channel, which connects when it is first used."""
    target = host_and_port(address, port)
    if not address.partition("://")[0].endswith("s"):
        return grpc.insecure_channel(target, OPTIONS)
    options.context()  # says which file is wrong
    files = (options.tls_ca, options.tls_key, options.tls_cert)
    pems = [None if file is None else Path(file).read_bytes() for file in files]
    credentials: Any = grpc.ssl_channel_credentials(*pems)
    return grpc.secure_channel(target, credentials, OPTIONS)


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
