"""What a server notes of its requests, in one place: metrics, the slow-query log, the recall monitor, traces and the
audit log. Each costs nothing on a request's way while it is off.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vicinal.engine.database import Database
from vicinal.engine.slow import SlowLog
from vicinal.engine.watch import SearchRecord, Watcher
from vicinal.model.errors import ForbiddenError, VicinalError
from vicinal.server.admission import Admission
from vicinal.server.audit import AuditLog
from vicinal.server.cache import ResultCache
from vicinal.server.config import ServerConfig
from vicinal.server.metrics import Metrics
from vicinal.server.recall_monitor import RecallMonitor
from vicinal.server.tracing import Tracing
from vicinal.telemetry.log import LineLimit, event, get_logger
from vicinal.wire import operations as ops
from vicinal.wire.faults import code_of
from vicinal.wire.operations import OPERATIONS, Role

if TYPE_CHECKING:
    from vicinal.server.gateway import Call

T = TypeVar("T")

AUDITED = {o for o in OPERATIONS if o.role is Role.ADMIN and o.method != "GET"} | {ops.OPEN}
"""Operations that the audit log has; opening a collection only where that made it."""

REFUSALS_PER_S_MAX = 10
"""Lines of the audit log about what a key was not allowed; more are counted in the next one."""

REQUEST_ID_HEADER = "x-request-id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,64}")
_PREFIX, _NUMBERS = secrets.token_hex(4), itertools.count(1)

_log = get_logger("requests")


def new_request_id(given: str | None = None) -> str:
    """The id that a client gave, where it is one of up to 64 plain characters; else a new one."""
    if given is not None and _GIVEN_ID.fullmatch(given):
        return given
    return f"{_PREFIX}-{next(_NUMBERS):x}"


class Observer:
    """Notes what one server does. `close` when the last request is done."""

    def __init__(
        self,
        database: Database,
        config: ServerConfig,
        admission: Admission,
        cache: ResultCache,
        waiting: Callable[[], float],
    ) -> None:
        self._tracing: Tracing | None = None
        if config.otlp_endpoint is not None:
            self._tracing = Tracing(config.otlp_endpoint, config.trace_share)
        self.metrics = Metrics(database, admission, cache, waiting)
        self._audit = AuditLog(Path(database.path))
        self._refusals = LineLimit(REFUSALS_PER_S_MAX)
        self._recall: RecallMonitor | None = None
        self._watching = database.watchers
        self._watchers: list[Watcher] = [self.metrics.searched]
        if config.slow_query_ms is not None:
            self._watchers.append(SlowLog(config.slow_query_ms))
        if config.recall_share:
            self._recall = RecallMonitor(config.recall_share, self.metrics.recalled)
            self._watchers.append(self._recall)
        if self._tracing is not None:
            self._watchers.append(self._tracing.watch)
        for watcher in self._watchers:
            self._watching.add(watcher)

    def begin(self, call: Call, now_s: float) -> Call:
        """A request is whole; the call with its trace."""
        if self._tracing is None:
            return call
        trace = self._tracing.begin(call, call.came_s)
        if trace is None:
            return call
        trace.stage("read", call.came_s, now_s, bytes=len(call.body))
        return replace(call, trace=trace)

    def end(self, call: Call, code: str, seconds: float) -> None:
        """A request is answered."""
        name = call.operation.name
        self.metrics.answered(name, call.protocol, code, seconds)
        if call.trace is not None:
            call.trace.end(code)
        if _log.isEnabledFor(logging.DEBUG):
            event(
                _log,
                logging.DEBUG,
                name,
                collection=call.collection,
                code=code,
                ms=round(seconds * 1e3, 3),
                key=None if call.key is None else call.key.id,
                protocol=call.protocol,
                bytes=len(call.body),
            )

    def refused(self, protocol: str, error: VicinalError) -> None:
        """A request was refused before it was handed to the gateway."""
        self.metrics.refused.labels(protocol, code_of(type(error))).inc()

    def refused_by(self, protocol: str, kind: type[VicinalError]) -> Callable[[], None]:
        """What notes one such refusal, for where there are many."""
        return self.metrics.refused.labels(protocol, code_of(kind)).inc

    def audited(self, call: Call, work: Callable[[], T]) -> Callable[[], T]:
        """The work, which writes what came of it to the audit log, where the operation is one for it."""
        if call.operation not in AUDITED:
            return work

        def noted() -> T:
            try:
                result = work()
            except VicinalError as fault:
                if call.operation is not ops.OPEN and not isinstance(fault, ForbiddenError):
                    self._note(call, code_of(type(fault)))
                raise
            if call.operation is not ops.OPEN or "made" in call.details:
                self._note(call, "ok")
            return result

        return noted

    def forbidden(self, call: Call) -> None:
        """A key was not allowed what it asked for."""
        left_out = self._refusals.turn() if call.operation in AUDITED else None
        if left_out is not None:
            if left_out:
                call.details["lines_left_out"] = left_out
            self._note(call, "forbidden")

    def last_search(self) -> SearchRecord | None:
        """The search that this thread carried out last, where traces are made."""
        return None if self._tracing is None else self._tracing.last_search()

    def close(self) -> None:
        """Watch no more, and finish what is under way."""
        for watcher in self._watchers:
            self._watching.remove(watcher)
        if self._recall is not None:
            self._recall.close()
        if self._tracing is not None:
            self._tracing.close()

    def _note(self, call: Call, outcome: str) -> None:
        key = call.key
        self._audit.write(
            call.operation.name,
            outcome,
            collection=call.collection,
            key=None if key is None else key.id,
            key_name=None if key is None else key.name or None,
            source=call.source,
            protocol=call.protocol,
            request_id=call.request_id,
            **call.details,
        )
