"""What the channels to a server have in common: deadlines, and tries again where they are harmless.

A request is tried again after a random pause when nothing can have happened (no connection was made, or the server
says that it did not begin) and, for operations that are repeatable, when the connection broke. A write whose connection
broke is never sent twice: the error says that it may have happened.
"""

from __future__ import annotations

import random
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from vicinal.engine.reader import Found
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import (
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
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

    def check(self, *, secure: bool) -> None:
        """Raise InvalidArgumentError where a value is out of range or does not go with the others."""
        if not isinstance(self.timeout_s, int | float) or not self.timeout_s > 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(
                f"timeout_s is {self.timeout_s!r}; it is a number of seconds above 0"
            )
        if type(self.retries) is not int or not 0 <= self.retries <= 20:
            raise InvalidArgumentError(f"retries is {self.retries!r}; it is an int of 0 to 20")
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
    sends it as often as it is tried. Thread-safe."""

    def __init__(self, address: str, options: ChannelOptions) -> None:
        self.address = address
        self._timeout_s, self._retries = options.timeout_s, options.retries

    def call(
        self, operation: Operation, collection: str | None, request: m.Request, answer: type[A]
    ) -> A:
        """Send a request and return its answer."""
        prepared = self._prepare(operation, collection, request)
        deadline = time.monotonic() + self._timeout_s
        return self._again(
            operation, deadline, lambda left_s: self._send(operation, prepared, left_s, answer)
        )

    def upload(
        self, collection: str, config: CollectionConfig, parts: Sequence[Callable[[], m.Upsert]]
    ) -> None:
        """Send upserts one after the other, each made when it is its turn. An error leaves those before it done."""
        del config  # messages have no columns of a type
        for part in parts:
            self.call(ops.UPSERT, collection, part(), m.Counted)

    def search_batch(
        self,
        collection: str,
        config: CollectionConfig,
        queries: Sequence[npt.NDArray[Any]],
        options: dict[str, Any],
    ) -> Found | None:
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

    def _again(self, operation: Operation, deadline: float, send: Callable[[float], T]) -> T:
        """Call send with the seconds that are left, again where that is harmless."""
        tries = 0
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._late(operation)
            try:
                return send(left_s)
            except (UnavailableError, OverloadedError) as fault:
                harmless = operation.repeatable or isinstance(fault, NotSentError | OverloadedError)
                pause = random.uniform(0, min(PAUSE_S_MAX, PAUSE_S * 2**tries))
                if isinstance(fault, OverloadedError):
                    pause += fault.retry_after_s
                tries += 1
                if not harmless or tries > self._retries or time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)

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


def _unsure(operation: Operation) -> str:
    return "" if operation.repeatable else "; the write may or may not have happened"
