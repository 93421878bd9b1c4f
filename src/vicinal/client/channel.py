"""What the channels to a server have in common: deadlines, and tries again where they are harmless.

A request is tried again after a random pause when nothing can have happened (no connection was made, or the server
says that it did not begin) and, for operations that are repeatable, when the connection broke. A write whose connection
broke is never sent twice: the error says that it may have happened. A server that fails again and again is left
alone for a while (`client/breaker.py`); a read that takes long may be asked twice (`client/hedging.py`).
"""

from __future__ import annotations

import random
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from vicinal.client.breaker import Breaker, OpenCircuitError
from vicinal.client.hedging import HEDGED, Hedger, check_hedge_ms
from vicinal.client.pacing import Upload
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import (
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    RequestTooLargeError,
    UnavailableError,
)
from vicinal.model.hits import HitsBatch
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.compression import GZIP
from vicinal.wire.operations import Operation

A = TypeVar("A", bound=m.Answer)
T = TypeVar("T")
P = TypeVar("P")

PAUSE_S, PAUSE_S_MAX = 0.05, 2.0
"""The pause before the n-th try is random, up to PAUSE_S * 2**n and PAUSE_S_MAX (full jitter)."""


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """How to connect; see `vicinal.open`. Certificates are PEM files."""

    api_key: str | None
    timeout_s: float
    retries: int
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    hedge_ms: float | str | None = None
    compression: str | None = None

    def check(self, *, secure: bool) -> None:
        """Raise InvalidArgumentError where a value is out of range or does not go with the others."""
        if not isinstance(self.timeout_s, int | float) or not self.timeout_s > 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(
                f"timeout_s is {self.timeout_s!r}; it is a number of seconds above 0"
            )
        if type(self.retries) is not int or not 0 <= self.retries <= 20:
            raise InvalidArgumentError(f"retries is {self.retries!r}; it is an int of 0 to 20")
        if self.hedge_ms is not None:
            check_hedge_ms(self.hedge_ms)
        if self.compression not in (None, GZIP):
            raise InvalidArgumentError(
                f"compression is {self.compression!r}; it is {GZIP!r} or None"
            )
        key = self.api_key
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InvalidArgumentError("api_key holds characters that no key has")
        files = (self.tls_ca, self.tls_cert, self.tls_key)
        if any(file is not None for file in files) and not secure:
            raise InvalidArgumentError(
                "tls_ca, tls_cert and tls_key go with https://, grpcs:// and flights://"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgumentError("give both tls_cert and tls_key, or neither")

    def context(self) -> ssl.SSLContext:
        """Certificates as Python's ssl takes them. Raises InvalidArgumentError where a file is none."""
        try:
            made = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                made.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as fault:  # ssl.SSLError is one
            named = [f for f in (self.tls_ca, self.tls_cert, self.tls_key) if f is not None]
            raise InvalidArgumentError(
                f"TLS: {', '.join(named)} cannot be used ({fault})"
            ) from None
        return made


class NotSentError(UnavailableError):
    """No connection was made, so nothing happened."""


class RetryingChannel(ABC, Generic[P]):
    """A channel to one server; see `vicinal.client.remote.Channel`. A subclass prepares a request once (as P), and
    sends it as often as it is tried. A read that may be asked twice is begun, waited for, and finished instead; what
    stands for one that was begun is the subclass's own. Thread-safe.

    clock : seconds that only grow. pause : waits so many of them.
    """

    def __init__(
        self,
        address: str,
        options: ChannelOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self._timeout_s, self._retries = options.timeout_s, options.retries
        self._clock, self._pause = clock, pause
        self._breaker = Breaker(address, clock)
        hedge_ms = options.hedge_ms
        self._hedger = None if hedge_ms is None else Hedger(check_hedge_ms(hedge_ms))

    def call(
        self, operation: Operation, collection: str | None, request: m.Request, answer: type[A]
    ) -> A:
        """Send a request and return its answer."""
        prepared = self._prepare(operation, collection, request)
        deadline = self._clock() + self._timeout_s
        hedger = self._hedger
        if hedger is not None and operation in HEDGED:
            return self._again(
                operation,
                deadline,
                lambda left_s: self._hedged(hedger, operation, prepared, left_s, answer),
            )
        return self._again(
            operation, deadline, lambda left_s: self._send(operation, prepared, left_s, answer)
        )

    def upload(self, collection: str, config: CollectionConfig, upload: Upload) -> None:
        """Send an upsert part by part. An error leaves the parts before it done."""
        del config  # messages have no columns of a type

        def send(left_s: float) -> None:
            part = upload.cut(upload.begin())
            if part is None:
                return
            prepared = self._prepare(ops.UPSERT, collection, part)
            with noting(upload):
                self._send(ops.UPSERT, prepared, left_s, m.Counted)

        while not upload.finished:
            try:
                self._again(ops.UPSERT, self._clock() + self._timeout_s, send)
            except RequestTooLargeError:
                if not upload.too_large():
                    raise
                continue
            upload.acknowledged()

    def search_batch(
        self,
        collection: str,
        config: CollectionConfig,
        queries: Sequence[npt.NDArray[Any]],
        options: dict[str, Any],
    ) -> HitsBatch | None:
        """Batches of queries by a way of the channel's own; None where messages are the way."""
        del collection, config, queries, options
        return None

    @abstractmethod
    def close(self) -> None:
        """Give connections back. Idempotent."""

    @abstractmethod
    def _prepare(self, operation: Operation, collection: str | None, request: m.Request) -> P:
        """Everything of a request but its deadline."""

    @abstractmethod
    def _send(self, operation: Operation, prepared: P, left_s: float, answer: type[A]) -> A:
        """One try within left_s seconds. Raises NotSentError where nothing can have happened."""

    @abstractmethod
    def _begin(self, operation: Operation, prepared: P, left_s: float, *, second: bool) -> Any:
        """Send a read and return what stands for it. The second goes over a connection that the first does not use.
        Raises as `_send` does."""

    @abstractmethod
    def _ready(self, begun: Sequence[Any], timeout_s: float) -> Any:
        """The first of those begun whose answer, or failure, has come; None where none has within timeout_s."""

    @abstractmethod
    def _finish(self, operation: Operation, begun: Any, left_s: float, answer: type[A]) -> A:
        """The answer of one that is ready. Raises as `_send` does."""

    @abstractmethod
    def _cancel(self, begun: Any) -> None:
        """Nobody waits for it any more. Idempotent, also of one that is finished."""

    def _hedged(
        self, hedger: Hedger, operation: Operation, prepared: P, left_s: float, answer: type[A]
    ) -> A:
        """One try of a read, asked twice where its answer takes long."""
        began = self._clock()
        end = began + left_s
        under_way = [self._begin(operation, prepared, left_s, second=False)]
        try:
            delay_s = hedger.delay_s(operation)
            if (
                delay_s is not None
                and delay_s < left_s
                and self._ready(under_way, delay_s) is None
                and hedger.spend()
            ):
                try:
                    left_s = max(0.001, end - self._clock())
                    under_way.append(self._begin(operation, prepared, left_s, second=True))
                except UnavailableError:
                    delay_s = None  # no second connection: the first question still stands
            while True:
                begun = self._ready(under_way, max(0.0, end - self._clock()))
                if begun is None:
                    raise self._late(operation)
                try:
                    found = self._finish(operation, begun, max(0.001, end - self._clock()), answer)
                except (UnavailableError, OverloadedError):
                    under_way.remove(begun)
                    if not under_way:
                        raise
                    continue  # the other one may still be answered
                under_way.remove(begun)
                hedger.note(operation, self._clock() - began)
                return found
        finally:
            for begun in under_way:
                self._cancel(begun)

    def _again(self, operation: Operation, deadline: float, send: Callable[[float], T]) -> T:
        """Call send with the seconds that are left, again where that is harmless."""
        tries = 0
        while True:
            left_s = deadline - self._clock()
            if left_s <= 0:
                raise self._late(operation)
            try:
                return self._breaker.attempt(partial(send, left_s))
            except OpenCircuitError:
                raise
            except (UnavailableError, OverloadedError) as fault:
                harmless = operation.repeatable or isinstance(fault, NotSentError | OverloadedError)
                pause = random.uniform(0, min(PAUSE_S_MAX, PAUSE_S * 2**tries))
                if isinstance(fault, OverloadedError):
                    pause += fault.retry_after_s
                tries += 1
                if not harmless or tries > self._retries or self._clock() + pause >= deadline:
                    raise
            self._pause(pause)

    def _late(self, operation: Operation) -> DeadlineError:
        return DeadlineError(
            f"{self.address}: no answer to {operation.name} within {self._timeout_s:g} s; "
            f"give vicinal.open a larger timeout_s{_unsure(operation)}"
        )

    def _broken(self, operation: Operation, why: str) -> UnavailableError:
        return UnavailableError(f"{self.address}: the connection broke ({why}){_unsure(operation)}")

    def _nobody(self, why: str) -> NotSentError:
        return NotSentError(
            f"{self.address}: no connection ({why}); is `vicinal serve` running there?"
        )


@contextmanager
def noting(upload: Upload) -> Generator[None]:
    """A part that is refused, or not answered in time, makes the next one smaller."""
    try:
        yield
    except (OverloadedError, DeadlineError):
        upload.refused()
        raise


def _unsure(operation: Operation) -> str:
    return "" if operation.repeatable else "; the write may or may not have happened"
