"""Who may come in: bounds on requests and bytes under way, and a rate for each key. What is refused was not begun."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from vicinal.model.errors import OverloadedError, RequestTooLargeError
from vicinal.server.config import ServerConfig
from vicinal.server.keys import Key

BUCKETS_MAX = 10_000
"""Keys whose rate is remembered; a key forgotten starts with a full bucket, which is what idleness would give it."""

RETRY_AFTER_S = 1.0


class Admission:
    """Counts what is under way. Used from the event loop's thread only, so it needs no lock."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self.requests, self.body_bytes = 0, 0
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.closing = False

    def enter(self, key: Key | None) -> None:
        """Let one request in, before its body is read; `leave` when it is done.

        key : who asks; its own rate, where it has one, goes before that of the configuration.

        Raises
        ------
        OverloadedError : too many requests are under way, the key's rate is used up, or the server is stopping.
        """
        if self.closing:
            raise OverloadedError(
                "the server is stopping; try again, or another one", RETRY_AFTER_S
            )
        if self.requests >= self._config.requests_max:
            raise OverloadedError(
                f"{self.requests} requests are under way, the limit is {self._config.requests_max}; "
                "try again later",
                RETRY_AFTER_S,
            )
        if key is not None:
            rate = key.requests_per_s or self._config.key_requests_per_s_max
            if rate:
                self._spend(key.id, rate)
        self.requests += 1

    def take_bytes(self, count: int, total: int) -> None:
        """Count bytes of a body that is coming in, `total` of them with these; `leave` gives them back.

        Raises RequestTooLargeError, or OverloadedError where all bodies together are too much.
        """
        config = self._config
        if total > config.request_bytes_max:
            raise RequestTooLargeError(
                f"request body has {total} bytes or more, the limit is {config.request_bytes_max}; "
                "send fewer points at a time"
            )
        if self.body_bytes + count > config.request_bytes_total_max:
            raise OverloadedError(
                f"the bodies of the requests under way have {self.body_bytes} bytes, the limit is "
                f"{config.request_bytes_total_max}; try again later",
                RETRY_AFTER_S,
            )
        self.body_bytes += count

    def give_bytes(self, count: int) -> None:
        """Give back what take_bytes counted, of a body that is no request yet."""
        self.body_bytes -= count

    def leave(self, body_bytes: int) -> None:
        """A request is done; body_bytes is what take_bytes counted for it."""
        self.requests -= 1
        self.body_bytes -= body_bytes

    def _spend(self, key: str, rate: float) -> None:
        """A token bucket: `rate` tokens a second, at most one second's worth of them, at least one."""
        now, burst = self._clock(), max(1.0, rate)
        tokens, since = self._buckets.pop(key, (burst, now))
        tokens = min(burst, tokens + (now - since) * rate)
        if tokens < 1.0:
            self._buckets[key] = (tokens, now)
            raise OverloadedError(
                f"this key may make {rate:g} requests a second; try again later",
                (1.0 - tokens) / rate,
                rate_limited=True,
            )
        self._buckets[key] = (tokens - 1.0, now)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
