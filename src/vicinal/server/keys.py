"""API keys: 256 random bits, shown once, kept as SHA-256 in `keys.json` beside the collections.

A key reads `vk_<id>_<secret>`. The id finds the record and is no secret; the secret's hash is compared in
constant time. A plain hash is enough, because there are 2**256 secrets to guess from. The file is read again
when it changes, so that a key that was revoked stops working within RELOAD_S_MAX.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from vicinal.model.errors import CorruptionError, InvalidArgumentError, NotFoundError
from vicinal.server.config import ServerConfig
from vicinal.storage.files import os_errors, storage_error
from vicinal.wire.operations import Role

KEYS_FILE = "keys.json"
KEYS_MAX = 10_000
NAME_CHARS_MAX = 128
RELOAD_S_MAX = 1.0
RATE_MAX = 1e9
QUOTA_MAX = 2**62
SECRET_BYTES, ID_BYTES = 32, 6


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key.

    Attributes
    ----------
    role : read, write or admin; each includes the ones before it.
    collections : names that it is for; None is all, and only such a key may list or make others.
    created, expires : seconds since 1970; expires None is never.
    requests_per_s : its rate; None is the server's.
    points_max, bytes_max : what the collections that it is for may hold together for it to add more; None is no limit.
    """

    id: str
    name: str
    role: Literal["read", "write", "admin"]
    collections: tuple[str, ...] | None
    created: float
    expires: float | None
    hash: str
    requests_per_s: float | None = None
    points_max: int | None = None
    bytes_max: int | None = None

    def allows(self, role: Role, collection: str | None) -> bool:
        """Whether an operation of that role on that collection is allowed."""
        if Role[self.role.upper()] < role:
            return False
        return collection is None or self.collections is None or collection in self.collections


class KeyStore:
    """The keys of a database directory. Thread-safe."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = directory / KEYS_FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._looked = 0.0
        self._keys: dict[str, Key] = {}

    def create(
        self,
        *,
        name: str = "",
        role: str = "read",
        collections: tuple[str, ...] | None = None,
        valid_s: float | None = None,
        requests_per_s: float | None = None,
        points_max: int | None = None,
        bytes_max: int | None = None,
    ) -> tuple[str, Key]:
        """Make a key. Returns (the key to give to its user, shown this once; what is kept).

        Raises InvalidArgumentError where the role is unknown, or a value is out of range.
        """
        if role not in ("read", "write", "admin"):
            raise InvalidArgumentError(f"role is {role!r}; known are read, write and admin")
        if len(name) > NAME_CHARS_MAX or not name.isprintable():
            raise InvalidArgumentError(
                f"name {name[:40]!r} is no line of at most {NAME_CHARS_MAX} characters"
            )
        if collections is not None and not collections:
            raise InvalidArgumentError("collections is empty; name some, or leave it out for all")
        if valid_s is not None and not 0 < valid_s < 1e10:
            raise InvalidArgumentError(f"a key cannot be valid for {valid_s!r} seconds")
        if requests_per_s is not None and not 0 < requests_per_s <= RATE_MAX:
            raise InvalidArgumentError(
                f"requests_per_s is {requests_per_s!r}; it is above 0, up to {RATE_MAX:g}"
            )
        for what, most in (("points_max", points_max), ("bytes_max", bytes_max)):
            if most is not None and not 0 < most <= QUOTA_MAX:
                raise InvalidArgumentError(f"{what} is {most!r}; it is 1 to {QUOTA_MAX}")
        with self._lock:
            keys = self._read()
            if len(keys) >= KEYS_MAX:
                raise InvalidArgumentError(
                    f"there are {len(keys)} keys, the limit is {KEYS_MAX}; revoke some"
                )
            secret = secrets.token_urlsafe(SECRET_BYTES)
            now = self._clock()
            key = Key(
                id=secrets.token_hex(ID_BYTES),
                name=name,
                role=role,
                collections=collections,
                created=now,
                expires=None if valid_s is None else now + valid_s,
                hash=_hash(secret),
                requests_per_s=requests_per_s,
                points_max=points_max,
                bytes_max=bytes_max,
            )
            self._write({**keys, key.id: key})
        return f"vk_{key.id}_{secret}", key

    def list(self) -> list[Key]:
        """The keys, oldest first; expired ones too."""
        with self._lock:
            return sorted(self._read().values(), key=lambda key: key.created)

    def revoke(self, id_: str) -> Key:
        """Take a key away; NotFoundError where there is none of that id."""
        with self._lock:
            keys = self._read()
            if id_ not in keys:
                raise NotFoundError(f"there is no key {id_!r}; see `vicinal keys list`")
            gone = keys.pop(id_)
            self._write(keys)
        return gone

    def find(self, text: str) -> Key | None:
        """The record of a key that is right and not expired, else None."""
        parts = text.split("_", 2)
        id_, secret = (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "vk" else ("", "")
        given = _hash(secret)
        key = self._current().get(id_)
        # Compared in any case, so that time tells nothing.
        right = hmac.compare_digest(given, key.hash if key is not None else _NOBODY)
        if key is None or not right or (key.expires is not None and key.expires <= self._clock()):
            return None
        return key

    def needed(self, config: ServerConfig) -> bool:
        """Whether a server so configured asks for keys: not where it was told to, nor on this machine without any."""
        if config.auth is not None:
            return config.auth
        return not config.local or config.jwt_key is not None or bool(self)

    def __bool__(self) -> bool:
        return bool(self._current())

    def _current(self) -> dict[str, Key]:
        now = time.monotonic()
        if now - self._looked < RELOAD_S_MAX and self._looked:
            return self._keys
        with self._lock:
            self._read()
        self._looked = now
        return self._keys

    def _read(self) -> dict[str, Key]:
        """The file's keys, read where it changed."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
            return {}
        except OSError as fault:
            raise storage_error("reading the API keys", fault) from fault
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            with os_errors("reading the API keys"):
                raw = self._path.read_bytes()
            self._keys, self._stamp = _decode(raw, self._path), stamp
        return dict(self._keys)

    def _write(self, keys: dict[str, Key]) -> None:
        """Replace the file as a whole; only its owner may read it."""
        temporary = self._path.with_name(f".{KEYS_FILE}.{os.getpid()}")
        raw = msgspec.json.encode(_File(1, list(keys.values())))
        with os_errors("writing the API keys"):
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        self._stamp, self._looked = None, 0.0


_NOBODY = "0" * 64


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    keys: list[Key]


def _decode(raw: bytes, path: Path) -> dict[str, Key]:
    try:
        return {key.id: key for key in msgspec.json.decode(raw, type=_File).keys}
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise CorruptionError(
            f"{path} is not a list of API keys ({fault}); delete it and create keys anew"
        ) from None
