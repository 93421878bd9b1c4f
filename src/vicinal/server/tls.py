"""Certificates of a server, read and checked before anything listens."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from vicinal.model.errors import InvalidArgumentError
from vicinal.server.config import ServerConfig


@dataclass(frozen=True, slots=True)
class Tls:
    """What a server proves itself with, as PEM.

    Attributes
    ----------
    client_ca : who signs the certificates that clients must have; None asks them for none.
    """

    cert: bytes
    key: bytes
    client_ca: bytes | None


def read_tls(config: ServerConfig) -> Tls | None:
    """The certificates that a configuration names; None where it names none.

    Raises InvalidArgumentError where a file cannot be read, is no certificate, or the key belongs to another one.
    """
    if config.tls_cert is None and config.tls_key is None:
        if config.tls_client_ca is not None:
            raise InvalidArgumentError(
                "tls_client_ca needs tls_cert and tls_key: clients prove themselves over TLS"
            )
        return None
    if config.tls_cert is None or config.tls_key is None:
        raise InvalidArgumentError("give both tls_cert and tls_key, or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
        if config.tls_client_ca is not None:
            context.load_verify_locations(config.tls_client_ca)
    except (OSError, ValueError) as fault:  # ssl.SSLError is an OSError
        named = [
            f for f in (config.tls_cert, config.tls_key, config.tls_client_ca) if f is not None
        ]
        raise InvalidArgumentError(
            f"TLS: {', '.join(named)} cannot be used ({fault}); give PEM files, the key without a password"
        ) from None
    ca = config.tls_client_ca
    return Tls(
        Path(config.tls_cert).read_bytes(),
        Path(config.tls_key).read_bytes(),
        None if ca is None else Path(ca).read_bytes(),
    )


def _no_password() -> str:
    """Else a key with a password would be asked for at the terminal."""
    return ""
