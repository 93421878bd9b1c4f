"""For tests that look behind the public face of an embedded collection."""

from __future__ import annotations

import vicinal
from vicinal.client.local import LocalCollection
from vicinal.engine.collection import Collection


def engine_of(docs: vicinal.Collection) -> Collection:
    """The engine's collection."""
    transport = docs._transport
    assert isinstance(transport, LocalCollection)
    return transport.engine
