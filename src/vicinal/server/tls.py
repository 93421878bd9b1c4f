"""Certificates of a server, read and checked before anything listens."""

from __future__ import annotations

import ssl

from vicinal.model.errors import InvalidArgumentError
from vicinal.server.config import ServerConfig


def read_tls(config: ServerConfig) -> ssl.SSLContext | None:
    """What gRPC and Flight are served with, of the certificates that a configuration names; None where it names none.

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
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
        if config.tls_client_ca is not None:
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as fault:  # ssl.SSLError is an OSError
        named = [
            f for f in (config.tls_cert, config.tls_key, config.tls_client_ca) if f is not None
        ]
        raise InvalidArgumentError(
            f"TLS: {', '.join(named)} cannot be used ({fault}); give PEM files, the key without a password"
        ) from None
    return context


def _no_password() -> str:
    """Else a key with a password would be asked for at the terminal."""
    return ""
