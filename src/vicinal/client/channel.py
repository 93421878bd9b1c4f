"""What the channels to a server have in common: deadlines, and tries again where they are harmless.

A request is tried again after a random pause when nothing can have happened (no connection was made, or the server
says that it did not begin) and, for operations that are repeatable, when the connection broke. A write whose connection
broke is never sent twice: the error says that it may have happened.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

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
P = TypeVar("P")

PAUSE_S, PAUSE_S_MAX = 0.05, 2.0
"""The pause before the n-th try is random, up to PAUSE_S * 2**n and PAUSE_S_MAX (full jitter)."""


class NotSentError(UnavailableError):
    """No connection was made, so nothing happened."""


class RetryingChannel(ABC, Generic[P]):
    """A channel to one server; see `vicinal.client.remote.Channel`. A subclass prepares a request once (as P), and
    sends it as often as it is tried. Thread-safe."""

    def __init__(self, address: str, *, timeout_s: float, retries: int) -> None:
        self.address = address
        self._timeout_s, self._retries = timeout_s, retries

    def call(
        self, operation: Operation, collection: str | None, request: m.Request, answer: type[A]
    ) -> A:
        """Send a request and return its answer."""
        prepared = self._prepare(operation, collection, request)
        deadline = time.monotonic() + self._timeout_s
        return self._again(
            operation, deadline, lambda left_s: self._send(operation, prepared, left_s, answer)
        )

    def upload(self, collection: str, parts: Sequence[Callable[[], m.Upsert]]) -> None:
        """Send upserts one after the other, each made when it is its turn. An error leaves those before it done."""
        for part in parts:
            self.call(ops.UPSERT, collection, part(), m.Counted)

    @abstractmethod
    def close(self) -> None:
        """Give connections back. Idempotent."""

    @abstractmethod
    def _prepare(self, operation: Operation, collection: str | None, request: m.Request) -> P:
        """Everything of a request but its deadline."""

    @abstractmethod
    def _send(self, operation: Operation, prepared: P, left_s: float, answer: type[A]) -> A:
        """One try within left_s seconds. Raises NotSentError where nothing can have happened."""

    def _again(self, operation: Operation, deadline: float, send: Callable[[float], A]) -> A:
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


def check_key(api_key: str | None) -> None:
    """Raise InvalidArgumentError where it cannot be a header's value."""
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise InvalidArgumentError("api_key holds characters that no key has")


def _unsure(operation: Operation) -> str:
    return "" if operation.repeatable else "; the write may or may not have happened"
