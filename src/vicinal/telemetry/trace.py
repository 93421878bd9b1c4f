"""W3C trace context: what a request says of the trace that it belongs to.

The client sends the span that the calling program is in, where that program uses OpenTelemetry itself: nothing is
imported, and nothing is looked up but a loaded module.
"""

from __future__ import annotations

import re
import sys
from typing import Any

HEADER = "traceparent"
_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def current_traceparent() -> str | None:
    """The header for a request that is sent now; None where the program is in no span."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def parse_traceparent(text: str | None) -> tuple[int, int, int] | None:
    """(trace id, span id, flags) of a header; None where there is none that is right, which the standard says to
    ignore."""
    found = None if text is None else _FORM.fullmatch(text)
    if found is None:
        return None
    trace, span, flags = (int(part, 16) for part in found.groups())
    return (trace, span, flags) if trace and span else None
