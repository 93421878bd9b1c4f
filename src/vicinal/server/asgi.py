"""REST. It turns HTTP, in the terms of ASGI, into calls of the gateway and errors into statuses, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from vicinal.model.errors import (
    DeadlineError,
    ForbiddenError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    VicinalError,
)
from vicinal.server.config import LOOPBACK
from vicinal.server.gateway import Call, Gateway
from vicinal.server.http import HELD_S
from vicinal.server.observing import new_request_id
from vicinal.server.openapi import openapi_json
from vicinal.server.page import Page
from vicinal.wire import messages as m
from vicinal.wire.codec import JSON, Codec, accepted, codec_of
from vicinal.wire.compression import GZIP, PACK_BYTES_MIN, Unpacker, pack, takes_gzip
from vicinal.wire.faults import http_status, to_fault
from vicinal.wire.messages import JSON_TYPE
from vicinal.wire.operations import OPERATIONS, Operation

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Headers = dict[bytes, bytes]
Fields = list[tuple[bytes, bytes]]

ROUTES: dict[tuple[bool, tuple[str, ...]], dict[str, Operation]] = {}
"""(below a collection, path) to the operation of each method."""
for _operation in OPERATIONS:
    ROUTES.setdefault((_operation.on_collection, _operation.path), {})[_operation.method] = (
        _operation
    )

INLINE_BYTES_MAX = 4 * 1024
"""A longer packed body is unpacked in a thread."""

PLAIN = b"text/plain; charset=utf-8"


class RestApp:
    """The application; `close` of the gateway is its owner's business."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._openapi = openapi_json()
        self._page = Page()
        self._refused: Callable[[], None] | None = None
        self._refusal = (0, b"")

    def refusal(self) -> bytes | None:
        """The whole response to a request that was read just now and has no room; None where it has, or is told of
        something else."""
        admission = self._gateway.admission
        if admission.closing or admission.room():
            return None
        if self._refused is None:
            self._refused = self._gateway.observer.refused_by("http", OverloadedError)
        self._refused()
        bound, response = self._refusal
        if bound != admission.requests_max:
            fault = admission.refusal()
            body = JSON.encode(m.Failed(error=to_fault(fault)))
            response = b"\r\n".join(
                (
                    b"HTTP/1.1 503 Service Unavailable",
                    b"content-type: application/json",
                    b"content-length: %d" % len(body),
                    b"retry-after: %d" % max(1, round(fault.retry_after_s)),
                    b"x-content-type-options: nosniff",
                    b"",
                    body,
                )
            )
            self._refusal = admission.requests_max, response
        return response

    async def respond(self, scope: Scope, receive: Receive) -> tuple[int, Fields, bytes]:
        """(status, headers, body) of the answer to one HTTP request; see `vicinal.server.http.App`."""
        headers: Headers = dict(scope["headers"])
        path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
        path = path.partition(b"?")[0]
        request_id = new_request_id(_text(headers, b"x-request-id"))
        client = scope.get("client")
        held_s: float = scope.get(HELD_S, 0.0)
        came = _Came(
            request_id, client[0] if client else None, time.perf_counter() - held_s, held_s
        )
        status, content_type, body, extra = await self._answer(
            scope["method"], path, headers, receive, came
        )
        fields = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", request_id.encode()),
            *extra,
        ]
        return status, fields, b"" if scope["method"] == "HEAD" else body

    async def _answer(
        self, method: str, path: bytes, headers: Headers, receive: Receive, came: _Came
    ) -> tuple[int, bytes, bytes, Fields]:
        """(status, content type, body, further headers)."""
        codec = JSON
        try:
            if method in ("GET", "HEAD"):
                if path in _PLAIN_PATHS:
                    return self._plain(path, headers)
                page = self._page.answer(path, headers.get(b"if-none-match"))
                if page is not None:
                    return page
            codec = accepted(_text(headers, b"accept"), JSON)
            body = await self._operation(method, path, headers, receive, codec, came)
            body, encoded = await self._packed(headers, body)
            return 200, codec.content_type.encode(), body, encoded
        except VicinalError as fault:
            if not came.handed_over:
                self._gateway.observer.refused("http", fault)
            extra: Fields = []
            if isinstance(fault, OverloadedError):
                extra.append((b"retry-after", b"%d" % max(1, round(fault.retry_after_s))))
            status = http_status(fault)
            if status == 401:
                extra.append((b"www-authenticate", b"Bearer"))
            if isinstance(fault, _MethodError):
                status = 405
                extra.append((b"allow", fault.allowed.encode()))
            return (
                status,
                codec.content_type.encode(),
                codec.encode(m.Failed(error=to_fault(fault))),
                extra,
            )

    async def _operation(
        self,
        method: str,
        path: bytes,
        headers: Headers,
        receive: Receive,
        codec: Codec,
        came: _Came,
    ) -> bytes:
        gateway = self._gateway
        key = gateway.authenticate(_token(headers))
        if key is None:
            self._check_host(headers)
        operation, collection = _route(method, path)
        timeout_s = _timeout_s(headers, gateway.config.timeout_s_max)
        deadline = time.monotonic() + timeout_s - came.held_s
        admission = gateway.admission
        admission.enter(key)
        taken = 0
        try:
            declared = headers.get(b"content-length", b"0")
            admission.take_bytes(0, int(declared) if declared.isdigit() else 0)
            chunks: list[bytes] = []
            more = True
            while more:
                try:
                    message = await receive()
                except TimeoutError:
                    raise DeadlineError(
                        f"no part of the body came for {gateway.config.read_s_max:g} s; send it faster"
                    ) from None
                if message["type"] == "http.disconnect":
                    raise InvalidArgumentError("the client went away in the middle of its request")
                chunk: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                if chunk:
                    admission.take_bytes(len(chunk), taken + len(chunk))
                    taken += len(chunk)
                    chunks.append(chunk)
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            encoding = headers.get(b"content-encoding", b"identity").strip().lower()
            if encoding != b"identity":
                chunks.clear()
                body, unpacked = await self._unpacked(encoding, body)
                taken += unpacked
            kind = _text(headers, b"content-type")
            if body and kind is None:
                # Also what keeps web pages of elsewhere from sending requests without asking first.
                raise InvalidArgumentError(f"a body needs the header Content-Type: {JSON_TYPE}")
            call = Call(
                operation,
                collection,
                body,
                codec_of(kind) if body else JSON,
                codec,
                key,
                deadline,
                "http",
                came.request_id,
                came.source,
                _text(headers, b"traceparent"),
                came.at_s,
                held_s=came.held_s,
            )
            came.handed_over = True
            return await gateway.handle(call)
        finally:
            admission.leave(taken)

    async def _unpacked(self, encoding: bytes, packed: bytes) -> tuple[bytes, int]:
        """(the body of a packed one, the bytes that are counted for it). It is counted while it is unpacked, and no
        more of it is unpacked than a body may have."""
        if encoding != GZIP.encode():
            raise InvalidArgumentError(
                f"Content-Encoding is {encoding[:40].decode('latin-1')!r}; it is gzip or identity"
            )
        unpacker, parts, total = Unpacker(packed), list[bytes](), 0
        admission = self._gateway.admission
        try:
            while part := (
                unpacker.step()
                if len(packed) < INLINE_BYTES_MAX
                else await asyncio.to_thread(unpacker.step)
            ):
                admission.take_bytes(len(part), total + len(part))
                total += len(part)
                parts.append(part)
        except BaseException:
            admission.give_back(total)
            raise
        return b"".join(parts), total

    async def _packed(self, headers: Headers, body: bytes) -> tuple[bytes, Fields]:
        """An answer as gzip where its caller takes that and it is large enough, and the headers that say so."""
        if len(body) < PACK_BYTES_MIN or not takes_gzip(_text(headers, b"accept-encoding")):
            return body, []
        packed = await asyncio.to_thread(pack, body)
        return packed, [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]

    def _plain(self, path: bytes, headers: Headers) -> tuple[int, bytes, bytes, Fields]:
        gateway = self._gateway
        if path == b"/livez":
            return 200, PLAIN, b"ok\n", []
        if path in (b"/healthz", b"/readyz"):
            ready = gateway.ready
            return (200 if ready else 503), PLAIN, b"ok\n" if ready else b"stopping\n", []
        if path == b"/openapi.json":
            return 200, JSON_TYPE.encode(), self._openapi, []
        if gateway.authenticate(_token(headers)) is None:
            self._check_host(headers)
        return 200, PLAIN, gateway.metrics.text(), []

    def _check_host(self, headers: Headers) -> None:
        """Without keys a server of this machine answers to its own names only: a web page elsewhere that has its
        name point here (DNS rebinding) sends that name."""
        if not self._gateway.config.local or self._gateway.config.auth is False:
            return
        host = (_text(headers, b"host") or "").lower()
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        if name not in LOOPBACK:
            raise ForbiddenError(
                f"host {host!r} is no name of this machine, and no keys are in use; "
                "create a key to serve others"
            )


@dataclass(slots=True)
class _Came:
    """A request as it came: its id, from which address, when, for how long it was held since, and whether the gateway
    has it."""

    request_id: str
    source: str | None
    at_s: float
    held_s: float
    handed_over: bool = False


_PLAIN_PATHS = frozenset({b"/livez", b"/healthz", b"/readyz", b"/metrics", b"/openapi.json"})


class _MethodError(InvalidArgumentError):
    """The path is there, for other methods."""

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


def _route(method: str, path: bytes) -> tuple[Operation, str | None]:
    parts = path.split(b"/")[1:]
    found: dict[str, Operation] | None = None
    collection: str | None = None
    try:
        if parts[0] == b"v1" and len(parts) >= 2:
            if parts[1] == b"collections" and len(parts) >= 3:
                rest = tuple(part.decode("ascii") for part in parts[3:])
                found = ROUTES.get((True, rest))
                collection = unquote_to_bytes(parts[2]).decode("utf-8")
            else:
                rest = tuple(part.decode("ascii") for part in parts[1:])
                found = ROUTES.get((False, rest))
    except UnicodeDecodeError:
        raise InvalidArgumentError("the path is not UTF-8, percent-encoded") from None
    if found is None:
        raise NotFoundError(
            f"there is no {path.decode('ascii', 'replace')[:200]}; GET /openapi.json lists what there is"
        )
    if method not in found:
        allowed = ", ".join(sorted(found))
        raise _MethodError(f"{method} does not apply here; {allowed} does", allowed)
    return found[method], collection


def _token(headers: Headers) -> str | None:
    value = headers.get(b"authorization")
    if value is None:
        return None
    scheme, _, token = value.decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _timeout_s(headers: Headers, most: float) -> float:
    value = headers.get(b"vicinal-timeout-ms")
    if value is None:
        return most
    if not value.isdigit() or len(value) > 12 or int(value) == 0:
        raise InvalidArgumentError(
            f"header Vicinal-Timeout-Ms is {value[:20]!r}; it is a whole number of milliseconds"
        )
    return min(most, int(value) / 1000)


def _text(headers: Headers, name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
