"""What a server is started with. Every bound has its default here and a test."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

from vicinal.model.errors import InvalidArgumentError

HTTP_PORT = 7333
JWT_ALGORITHMS = ("HS256", "RS256", "ES256")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Options of a server.

    Attributes
    ----------
    host, http_port, grpc_port, flight_port : where it listens; port 0 is any free one, and None of gRPC or Flight is
        not served.
    auth : True asks for a key always, False never; None asks wherever keys exist or the host is not this machine alone.
    search_threads : searches carried out at the same time; 0 is one for each core. More wait and become batches.
    batch_max : waiting searches with equal options that become one native call.
    cache_bytes_max : memory for results; 0 is no cache.
    cache_ttl_s : seconds after which a cached result is forgotten, though it would still be right.
    cache_url : Redis or Valkey that several servers share results in, redis://[[user]:password@]host[:port][/number]
        (rediss:// for TLS).
    cache_wait_ms_max : the longest that a look-up there takes from a search.
    requests_max : requests under way, waiting ones included; more are refused with 503. Where searches wait too long in
        the server, fewer are let in (`vicinal.server.admission`).
    request_bytes_max : a larger body is refused with 413.
    request_bytes_total_max : bytes of the bodies of all requests under way; more are refused with 503.
    key_requests_per_s_max : of one key, with a burst of as many; more are refused with 429. 0 is no limit.
    collection_points_max, collection_bytes_max : what each collection may hold, its files for bytes; writes that would
        exceed it are refused with 507. 0 is no limit. A key may have limits of its own.
    timeout_s_max : time for a request that names none, and the longest that one may name.
    read_s_max : time for the headers of a request, and longest pause between two parts of its body; slower senders
        are cut off.
    shutdown_s_max : time that requests under way are given when the server is asked to stop.
    tls_cert, tls_key : PEM files of a certificate, with those that it is signed by, and of its key; every protocol
        speaks TLS then.
    tls_client_ca : PEM file; clients need a certificate that it signed.
    jwt_key : file with the secret (HS256) or public key (RS256, ES256) of JSON Web Tokens that are accepted beside
        API keys.
    jwt_algorithm : the one that they are signed by.
    jwt_audience : whom they must be for.
    jwt_issuer : who must have made them; None is anybody with the key.
    slow_query_ms : searches that take longer are logged with their plan; None is none.
    recall_share : of the searches, how many are repeated exactly in the background to measure recall, at most one a
        second; 0 is none.
    otlp_endpoint : collector that traces are sent to, such as http://localhost:4318; None sends nothing anywhere.
    trace_share : of the requests that bring no trace context, how many are traced.
    """

    host: str = "127.0.0.1"
    http_port: int = HTTP_PORT
    grpc_port: int | None = None
    flight_port: int | None = None
    auth: bool | None = None
    search_threads: int = 0
    batch_max: int = 64
    cache_bytes_max: int = 64 * 2**20
    cache_ttl_s: float = 60.0
    cache_url: str | None = field(default=None, repr=False)
    cache_wait_ms_max: float = 5.0
    requests_max: int = 1024
    request_bytes_max: int = 256 * 2**20
    request_bytes_total_max: int = 1024 * 2**20
    key_requests_per_s_max: float = 0.0
    collection_points_max: int = 0
    collection_bytes_max: int = 0
    timeout_s_max: float = 300.0
    read_s_max: float = 20.0
    shutdown_s_max: float = 10.0
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    jwt_key: str | None = None
    jwt_algorithm: str = "RS256"
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    slow_query_ms: float | None = None
    recall_share: float = 0.001
    otlp_endpoint: str | None = None
    trace_share: float = 1.0

    def check(self) -> None:
        """Raise InvalidArgumentError where a value is out of range."""
        optional = [n for n in ("grpc_port", "flight_port") if getattr(self, n) is not None]
        for name, low, high in (
            *((name, 0, 65_535) for name in ("http_port", *optional)),
            ("search_threads", 0, 256),
            ("batch_max", 1, 4_096),
            ("cache_bytes_max", 0, 2**40),
            ("cache_ttl_s", 0.001, 86_400.0),
            ("cache_wait_ms_max", 0.1, 1_000.0),
            ("requests_max", 1, 1_000_000),
            ("request_bytes_max", 1_024, 2**31 - 1),
            ("request_bytes_total_max", 1_024, 2**40),
            ("key_requests_per_s_max", 0.0, 1e9),
            ("collection_points_max", 0, 2**63 - 1),
            ("collection_bytes_max", 0, 2**63 - 1),
            ("timeout_s_max", 0.001, 86_400.0),
            ("read_s_max", 0.001, 3_600.0),
            ("shutdown_s_max", 0.0, 3_600.0),
            ("recall_share", 0.0, 1.0),
            ("trace_share", 0.0, 1.0),
        ):
            value = getattr(self, name)
            kind = int if isinstance(low, int) else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                raise InvalidArgumentError(f"{name} is {value!r}; it is {low} to {high}")
        if self.jwt_algorithm not in JWT_ALGORITHMS:
            raise InvalidArgumentError(
                f"jwt_algorithm is {self.jwt_algorithm!r}; known are {', '.join(JWT_ALGORITHMS)}"
            )
        if (self.jwt_key is None) != (self.jwt_audience is None):
            raise InvalidArgumentError("give both jwt_key and jwt_audience, or neither")
        if self.jwt_issuer is not None and self.jwt_key is None:
            raise InvalidArgumentError("jwt_issuer needs jwt_key and jwt_audience")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK

    @property
    def threads(self) -> int:
        """search_threads, counted."""
        if self.search_threads:
            return self.search_threads
        return _cores()

    @property
    def one_core(self) -> bool:
        """Whether the process may use no more."""
        return _cores() == 1


def server_config(options: dict[str, Any]) -> ServerConfig:
    """A checked configuration; InvalidArgumentError names an option that is not known."""
    known = [known.name for known in fields(ServerConfig)]
    for name in options:
        if name not in known:
            raise InvalidArgumentError(f"serve has no option {name!r}; it has {', '.join(known)}")
    config = ServerConfig(**options)
    config.check()
    return config


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
