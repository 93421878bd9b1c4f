"""A name for what a collection holds that other processes, and this one after a restart, give to the same content only.

The name is a random token and the number of the newest log record. A process that opens a collection for writing puts
a new token into its first batch. So whatever was lost before it opened (a crash under `interval`), and whatever copies
of the files go their own ways, no two states share a name: up to that batch the old token names states that are the
same everywhere, and behind it nobody else has the new one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from vicinal.storage.store import Store

LINEAGE_KEY = "lineage"
TOKEN_BYTES = 16


def new_token() -> bytes:
    """A token that nobody has."""
    return secrets.token_bytes(TOKEN_BYTES)


class Lineage:
    """The token and number of one open collection. Written under the writers' lock, read without."""

    def __init__(self, store: Store) -> None:
        self._token = store.get_meta(LINEAGE_KEY)
        self._seq = store.last_seq
        self._next = None if store.read_only else new_token()
        """Goes into the first batch; None once it is there."""

    def meta(self) -> Mapping[str, bytes] | None:
        """What the next batch puts into the store beside its record."""
        return None if self._next is None else {LINEAGE_KEY: self._next}

    def wrote(self, seq: int) -> None:
        """The batch that `meta` was asked for is in the store, as this record of the log."""
        if self._next is not None:
            self._token, self._next = self._next, None
        self._seq = seq

    @property
    def name(self) -> bytes | None:
        """The name of the state now; None where the collection was never written by a version that names states."""
        token, seq = self._token, self._seq
        return None if token is None else token + seq.to_bytes(8, "big")
