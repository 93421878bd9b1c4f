"""JSON Web Tokens of somebody whom the server was told to trust, accepted beside API keys.

A token names its algorithm, and is believed in that only where it is the configured one (RFC 8725, 3.1). It must have
an end (`exp`) and be for this audience. What it allows is in its scopes: `vicinal:read`, `vicinal:write` or
`vicinal:admin`, as a list or as words of `scope`; `collections`, a list of names, narrows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import jwt

from vicinal.model.errors import InvalidArgumentError
from vicinal.server.config import ServerConfig
from vicinal.server.keys import Key

SCOPE = "vicinal:"
ROLES: tuple[Literal["admin", "write", "read"], ...] = ("admin", "write", "read")
SECRET_BYTES_MIN = 32
"""An HS256 secret that is shorter could be guessed (RFC 7518, 3.2)."""

TOKEN_CHARS_MAX = 16_384
SUBJECT_CHARS_MAX = 64
LEEWAY_S = 10
"""By how much clocks may differ."""


class TokenReader:
    """Reads tokens. Raises InvalidArgumentError where the configured key cannot be one."""

    def __init__(self, config: ServerConfig) -> None:
        path = Path(cast("str", config.jwt_key))
        self._algorithm, self._audience = config.jwt_algorithm, config.jwt_audience
        self._issuer = config.jwt_issuer
        try:
            raw = path.read_bytes()
        except OSError as fault:
            raise InvalidArgumentError(f"jwt_key: {path} cannot be read ({fault})") from None
        if self._algorithm == "HS256":
            raw = raw.strip()
            if len(raw) < SECRET_BYTES_MIN:
                raise InvalidArgumentError(
                    f"jwt_key: {path} has a secret of {len(raw)} bytes; HS256 takes {SECRET_BYTES_MIN} or more"
                )
        try:
            self._key: Any = jwt.get_algorithm_by_name(self._algorithm).prepare_key(raw)
        except (jwt.InvalidKeyError, ValueError, TypeError) as fault:
            raise InvalidArgumentError(
                f"jwt_key: {path} holds no key for {self._algorithm} ({fault}); give a public key as PEM"
            ) from None

    def read(self, token: str) -> Key | None:
        """Who has this token; None where it is not valid now, or allows nothing."""
        if len(token) > TOKEN_CHARS_MAX:
            return None
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[self._algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        return _key(claims)


def _key(claims: dict[str, Any]) -> Key | None:
    """What claims allow, as a key."""
    scopes: Any = claims.get("scopes", claims.get("scope", []))
    words = cast("list[Any]", scopes.split() if isinstance(scopes, str) else scopes)
    if not isinstance(words, list):  # pyright: ignore[reportUnnecessaryIsInstance] - a stranger wrote it
        return None
    role = next((role for role in ROLES if SCOPE + role in words), None)
    names: Any = claims.get("collections")
    if role is None or not (names is None or _are_texts(names)):
        return None
    return Key(
        id=f"jwt:{str(claims.get('sub', ''))[:SUBJECT_CHARS_MAX]}",
        name="",
        role=cast("Literal['read', 'write', 'admin']", role),
        collections=None if names is None else tuple(names),
        created=0.0,
        expires=float(claims["exp"]),
        hash="",
    )


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and all(
        isinstance(name, str) for name in cast("list[Any]", names)
    )
