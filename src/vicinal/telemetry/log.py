"""Log names and forms: every logger of the product is a child of `vicinal`, silent unless the application configures
logging. `vicinal serve` writes its lines to stderr in one of the forms here.

A line has a message for people and fields for programs; the request that it belongs to is known from the context.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TextIO

from vicinal.model.errors import InvalidArgumentError

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

REQUEST_ID: ContextVar[str] = ContextVar("vicinal_request_id", default="")
"""The request that is being answered; of several in one native call their ids, with commas."""

_FIELDS = "vicinal_fields"


def get_logger(name: str) -> logging.Logger:
    """The logger `vicinal.<name>`."""
    return logging.getLogger(f"vicinal.{name}")


def event(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """Write a line with fields, where the logger is on for the level."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", message, extra={_FIELDS: fields})


class LineLimit:
    """Lets so many lines through in a second; thread-safe."""

    def __init__(self, per_s_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s_max, self._clock, self._lock = per_s_max, clock, threading.Lock()
        self._second, self._lines, self._left_out = 0, 0, 0

    def turn(self) -> int | None:
        """How many lines were left out since the last that was let through; None where this one is left out too."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._lines = second, 0
            if self._lines >= self._per_s_max:
                self._left_out += 1
                return None
            self._lines += 1
            left_out, self._left_out = self._left_out, 0
            return left_out


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id where there is one, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        line |= getattr(record, _FIELDS, {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """`time LEVEL logger: message name=value ...`, one line but for a trace."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields = dict(getattr(record, _FIELDS, {}))
        if request_id := REQUEST_ID.get():
            fields["request_id"] = request_id
        tail = "".join(f" {name}={_value(value)}" for name, value in fields.items())
        # A message may hold what a stranger sent: it stays on its line.
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        line = f"{_time(record)} {record.levelname} {record.name}: {message}{tail}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(form: str, level: str, stream: TextIO) -> logging.Handler:
    """Write the lines of the product to a stream, from a level on; `unconfigure` takes it back.

    Raises InvalidArgumentError for a form or level that is not known.
    """
    for name, value, known in (("log format", form, FORMATS), ("log level", level, LEVELS)):
        if value not in known:
            raise InvalidArgumentError(f"{name} is {value!r}; it is one of {', '.join(known)}")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger("vicinal")
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler


def unconfigure(handler: logging.Handler) -> None:
    """Write no more lines to it."""
    root = logging.getLogger("vicinal")
    root.removeHandler(handler)
    root.setLevel(logging.NOTSET)


def _time(record: logging.LogRecord) -> str:
    when = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    plain = text.isprintable() and text and not any(c in text for c in ' "=')
    return text if plain or not isinstance(value, str) else json.dumps(text, ensure_ascii=False)


logging.getLogger("vicinal").addHandler(logging.NullHandler())
