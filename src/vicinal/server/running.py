"""A server's life: listen, run on an event loop of its own, stop without breaking what is under way.

`serve` runs it in a thread beside the caller (`db.serve()`), `serve_until_stopped` in the caller's thread until
a signal comes (`vicinal serve`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from vicinal.engine.database import Database
from vicinal.model.errors import InvalidArgumentError, UnavailableError
from vicinal.server.config import ServerConfig, server_config
from vicinal.server.keys import KeyStore
from vicinal.server.listening import listen
from vicinal.server.tls import read_tls
from vicinal.telemetry.log import event, get_logger

_log = get_logger("server")

START_S_MAX = 30.0
SWITCH_S = 0.0005
GC_THRESHOLDS = (50_000, 10, 50)
"""Of Python's collector of cycles. With its usual ones it looked through everything that is alive twice in three
seconds, which took 23 ms on an idle server and 100 ms, for everybody, on one with a thousand requests under way. Some
hundreds of requests under way, which are no cycles, are less than the first."""


class _Server(Protocol):
    """What listens on one port."""

    async def start(self) -> None:
        """Return when it answers."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Refuse what comes, finish what is under way within grace_s."""
        ...


class Running:
    """A server that runs; made by `Database.serve`. A context manager that stops it at the end."""

    def __init__(self, database: Database, config: ServerConfig) -> None:
        self._database, self._config = database, config
        self._keys = KeyStore(Path(database.path))
        _check_open_door(config, self._keys)
        self._tls = read_tls(config)
        self._socket = listen(config.host, config.http_port)
        self._port: int = self._socket.getsockname()[1]
        self._grpc_port, self._flight_port = config.grpc_port, config.flight_port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started, self._stopped = threading.Event(), threading.Event()
        self._failure: BaseException | None = None

    @property
    def port(self) -> int:
        """The port of HTTP."""
        return self._port

    @property
    def url(self) -> str:
        """What `vicinal.open` takes to connect."""
        return self._url("http", self._port)

    @property
    def grpc_url(self) -> str | None:
        """What `vicinal.open` takes to connect by gRPC; None where that is not served."""
        return None if self._grpc_port is None else self._url("grpc", self._grpc_port)

    @property
    def flight_url(self) -> str | None:
        """What `vicinal.open` takes to connect by Arrow Flight; None where that is not served."""
        return None if self._flight_port is None else self._url("flight", self._flight_port)

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need a key now."""
        return self._keys.needed(self._config)

    def start(self) -> Running:
        """Run in a thread of its own and return when it answers."""
        thread = threading.Thread(target=self._run, name="vicinal-server", daemon=True)
        thread.start()
        if not self._started.wait(START_S_MAX):
            raise UnavailableError(f"the server did not start within {START_S_MAX:g} s")
        self._check()
        return self

    def run(self, started: Callable[[], None]) -> None:
        """Run in this thread, which must be the main one, until SIGINT or SIGTERM."""
        # The loop's thread and those that come back from native code take turns; 5 ms a turn is long beside a search.
        sys.setswitchinterval(SWITCH_S)
        gc.set_threshold(*GC_THRESHOLDS)

        def ready() -> None:
            gc.collect()
            gc.freeze()  # what is here now stays
            started()

        self._run(ready, signals=True)
        self._check()

    def close(self) -> None:
        """Stop: refuse what comes, finish what is under way, give the port back. The database stays open.
        Idempotent."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and not self._stopped.is_set():
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:  # the loop was closed between the two lines
                self._stopped.wait(START_S_MAX)
        self.wait()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has stopped; whether it has."""
        return self._stopped.wait(timeout_s)

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "stopped" if self._stopped.is_set() else "running"
        return f"Running({self.url!r}, {state})"

    def _url(self, scheme: str, port: int) -> str:
        host = self._config.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
        scheme = scheme if self._tls is None else f"{scheme}s"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def _run(self, started: Callable[[], None] = lambda: None, *, signals: bool = False) -> None:
        try:
            _loop_runner()(self._serve(started, signals=signals))
        except BaseException as fault:  # handed to whoever started it
            self._failure = fault
        finally:
            self._socket.close()
            self._stopped.set()
            self._started.set()

    async def _serve(self, started: Callable[[], None], *, signals: bool) -> None:
        from vicinal.server.asgi import RestApp
        from vicinal.server.gateway import Gateway
        from vicinal.server.http import HttpServer

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if signals:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._stop.set)
        gateway = Gateway(self._database, self._config, self._keys)
        rpc: Any = None
        flight: Any = None
        rest = RestApp(gateway)
        servers: list[_Server] = [
            HttpServer(
                rest,
                self._socket,
                self._config,
                rest.refusal,
                gateway.admission.start,
                gateway.admission.ended,
                gateway.admission.rushed,
            )
        ]
        if self._config.grpc_port is not None:
            from vicinal.server.rpc import RpcServer

            servers.append(rpc := RpcServer(gateway, self._config.grpc_port, self._tls))
        if self._config.flight_port is not None:
            from vicinal.server.flight import FlightServer

            flight = FlightServer(gateway, self._config.flight_port, self._tls)
            servers.append(flight)
        try:
            gateway.start()
            for server in servers:
                await server.start()
            if rpc is not None:
                self._grpc_port = rpc.port
            if flight is not None:
                self._flight_port = flight.port
            self._started.set()
            event(_log, logging.INFO, "serving", url=self.url, grpc_url=self.grpc_url)
            started()
            await self._stop.wait()
        finally:
            event(_log, logging.INFO, "stopping", under_way=gateway.admission.requests)
            gateway.admission.close()
            await asyncio.gather(*[s.stop(self._config.shutdown_s_max) for s in servers])
            await gateway.stop()
            event(_log, logging.INFO, "stopped")

    def _check(self) -> None:
        if self._failure is None:
            return
        if isinstance(self._failure, ImportError):
            raise InvalidArgumentError(
                f"serving needs {self._failure.name}: pip install 'vicinal[server]'"
            ) from self._failure
        raise self._failure


def serve(database: Database, **options: Any) -> Running:
    """Serve a database from a background thread; see `Database.serve`."""
    return Running(database, server_config(options)).start()


def _loop_runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    """uvloop where it is installed: about a fifth more requests (docs/decisions/0004-asgi-server.md)."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _check_open_door(config: ServerConfig, keys: KeyStore) -> None:
    """Nothing is served to the network without keys by mistake."""
    if config.jwt_key is not None:
        return
    if config.auth is None and not config.local and not keys:
        raise InvalidArgumentError(
            f"host {config.host!r} is open to the network and the database has no API keys; make one with "
            "`vicinal keys create DATABASE --role admin`, or say auth=False (--no-auth) to let everybody in"
        )
    if config.auth is True and not keys:
        raise InvalidArgumentError(
            "auth=True and the database has no API keys; make one with `vicinal keys create DATABASE --role admin`"
        )
