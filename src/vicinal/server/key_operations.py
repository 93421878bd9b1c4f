"""Keys over the network: list, make and revoke, by admins of all collections.

A server that asks nobody for a key (`auth=False`) refuses them: a stranger would make a key that outlives the open
door. The first key is an admin's, since from then on the server asks for keys, and only an admin makes more.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from vicinal.model.errors import ForbiddenError, InvalidArgumentError
from vicinal.server.config import ServerConfig
from vicinal.server.keys import Key, KeyStore
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.operations import Operation

OnKeys = Callable[[KeyStore, Any], m.Answer]


def check_allowed(config: ServerConfig) -> None:
    """Raise ForbiddenError where the server was told to ask nobody for a key."""
    if config.auth is False:
        raise ForbiddenError(
            "this server asks nobody for a key, so that anybody could make one; use `vicinal keys` on its machine"
        )


def list_keys(store: KeyStore, request: m.Empty) -> m.Keys:
    """All of them."""
    del request
    return m.Keys(keys=[key_info(key) for key in store.list()])


def create_key(store: KeyStore, request: m.CreateKey) -> m.KeyCreated:
    """One more."""
    everything = request.role == "admin" and request.collections is None
    if not store and (not everything or request.valid_s is not None):
        raise InvalidArgumentError(
            "the first key has role='admin', all collections and no end: once there is a key the server asks for one"
        )
    text, key = store.create(
        name=request.name,
        role=request.role,
        collections=None if request.collections is None else tuple(request.collections),
        valid_s=request.valid_s,
        requests_per_s=request.requests_per_s,
        points_max=request.points_max,
        bytes_max=request.bytes_max,
    )
    return m.KeyCreated(key=text, info=key_info(key))


def revoke_key(store: KeyStore, request: m.RevokeKey) -> m.KeyInfo:
    """One less."""
    return key_info(store.revoke(request.id))


def key_info(key: Key) -> m.KeyInfo:
    """What may be shown of a key."""
    return m.KeyInfo(
        id=key.id,
        name=key.name,
        role=key.role,
        collections=None if key.collections is None else list(key.collections),
        created=_time(key.created),
        expires=None if key.expires is None else _time(key.expires),
        requests_per_s=key.requests_per_s,
        points_max=key.points_max,
        bytes_max=key.bytes_max,
    )


ON_KEYS: dict[Operation, OnKeys] = {
    ops.KEYS: list_keys,
    ops.CREATE_KEY: create_key,
    ops.REVOKE_KEY: revoke_key,
}


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
