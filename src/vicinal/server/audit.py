"""The audit log: who made and revoked keys, made and dropped collections, and did what else takes an admin.

`audit.jsonl` in the database's directory, a JSON object a line, readable by its owner only. It is only ever appended
to; at FILE_BYTES_MAX it becomes `audit.1.jsonl` and a new one begins, so that it cannot fill the disk.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import threading
from pathlib import Path
from typing import Any

import msgspec

from vicinal.telemetry.log import event, get_logger

AUDIT_FILE, AUDIT_FILE_OLD = "audit.jsonl", "audit.1.jsonl"
FILE_BYTES_MAX = 16 * 2**20

_log = get_logger("audit")


class AuditLog:
    """The audit log of a database directory. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._path, self._old = directory / AUDIT_FILE, directory / AUDIT_FILE_OLD
        self._lock = threading.Lock()

    def write(self, action: str, outcome: str, **details: Any) -> None:
        """Append a line and make it durable; details that are None are left out. Also a line of the logger
        `vicinal.audit`.

        What was done stands, whether or not the line could be written: the log says where it could not.
        """
        known = {name: value for name, value in details.items() if value is not None}
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        event(_log, logging.INFO, action, outcome=outcome, **known)
        raw = (
            msgspec.json.encode({"time": now, "action": action, "outcome": outcome, **known})
            + b"\n"
        )
        try:
            with self._lock:
                self._append(raw)
        except OSError as fault:
            _log.error("%s could not be written to %s: %s", action, self._path, fault)

    def _append(self, raw: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(fd).st_size + len(raw) > FILE_BYTES_MAX:
                os.close(fd)
                fd = -1
                self._path.replace(self._old)
                fd = os.open(self._path, flags, 0o600)
            os.write(fd, raw)
            os.fsync(fd)
        finally:
            if fd >= 0:
                os.close(fd)
