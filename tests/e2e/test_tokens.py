"""JSON Web Tokens: one that is signed, for us, and not over opens what its scopes say; every other opens nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.utils import base64url_encode
from serving import flight_of, grpc_of

import vicinal
from vicinal.server.config import ServerConfig
from vicinal.server.keys import KeyStore
from vicinal.server.tokens import TokenReader

SECRET = "s" * 40


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that open everything, with changes; None takes one away."""
    made = {
        "sub": "me",
        "aud": "vicinal",
        "iss": "us",
        "exp": time.time() + 300,
        "scope": "openid vicinal:admin",
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def reader(path: Path, **options: Any) -> TokenReader:
    """A reader of HS256 tokens, or as the options say."""
    if not path.exists():
        path.write_text(SECRET + "\n")
    return TokenReader(
        ServerConfig(
            **{
                "jwt_key": str(path),
                "jwt_algorithm": "HS256",
                "jwt_audience": "vicinal",
                "jwt_issuer": "us",
                **options,
            }
        )
    )


def pair(kind: str, folder: Path) -> tuple[Any, Path]:
    """(private key, file of the public one)."""
    private: Any = (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if kind == "RS256"
        else ec.generate_private_key(ec.SECP256R1())
    )
    public = folder / f"{kind}.pem"
    public.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
def test_a_token_opens_every_protocol_as_its_scopes_say(tmp_path: Path, algorithm: str) -> None:
    if algorithm == "HS256":
        private, public = SECRET, tmp_path / "secret"
        public.write_text(SECRET)
    else:
        private, public = pair(algorithm, tmp_path)
    options = {"jwt_key": str(public), "jwt_algorithm": algorithm, "jwt_audience": "vicinal"}
    ports = {"http_port": 0, "grpc_port": 0, "flight_port": 0}
    with vicinal.open(tmp_path / "db") as db:
        for name in ("docs", "other"):
            db.collection(name, dim=2)
        key, _ = KeyStore(tmp_path / "db").create(role="read")
        writer = jwt.encode(
            claims(scope=None, scopes=["vicinal:write"], collections=["docs"]), private, algorithm
        )
        with db.serve(**ports, **options) as server:
            for url in (server.url, grpc_of(server), flight_of(server)):
                with vicinal.open(url, api_key=writer) as remote:
                    docs = remote.collection("docs")
                    assert docs.upsert([{"id": 1, "vector": [1, 2]}]) == 1
                    with pytest.raises(vicinal.ForbiddenError):
                        remote.collection("other")
                    with pytest.raises(vicinal.ForbiddenError):
                        remote.drop("docs")
                with vicinal.open(url, api_key=key) as remote:
                    assert remote.collections() == ["docs", "other"], "keys go on working"
                for wrong in (None, writer[:-4] + "AAAA"):
                    with pytest.raises(vicinal.UnauthenticatedError):
                        vicinal.open(url, api_key=wrong)


@pytest.mark.parametrize(
    ("changes", "role"),
    [
        ({}, "admin"),
        ({"scope": "vicinal:read"}, "read"),
        ({"scope": "vicinal:read vicinal:write"}, "write"),
        ({"scope": None, "scopes": ["vicinal:write", "x"]}, "write"),
        ({"aud": ["x", "vicinal"]}, "admin"),
        ({"scope": "read"}, None),
        ({"scope": None}, None),
        ({"scope": 7}, None),
        ({"scope": {"vicinal:admin": 1}}, None),
        ({"collections": "docs"}, None),
        ({"collections": [1]}, None),
        ({"exp": None}, None),
        ({"exp": 1}, None),
        ({"nbf": 2**33}, None),
        ({"aud": None}, None),
        ({"aud": "others"}, None),
        ({"iss": None}, None),
        ({"iss": "them"}, None),
    ],
)
def test_only_claims_that_are_right_in_everything_open_something(
    tmp_path: Path, changes: dict[str, Any], role: str | None
) -> None:
    found = reader(tmp_path / "secret").read(jwt.encode(claims(**changes), SECRET, "HS256"))
    assert (None if found is None else found.role) == role


def test_a_token_of_another_algorithm_opens_nothing(tmp_path: Path) -> None:
    """Above all none at all, and a public key taken for a secret."""
    private, public = pair("RS256", tmp_path)
    asymmetric = reader(public, jwt_algorithm="RS256")
    assert asymmetric.read(jwt.encode(claims(), private, "RS256")) is not None
    unsigned = jwt.encode(claims(), "", "none")
    head = base64url_encode(b'{"alg":"HS256","typ":"JWT"}')
    body = unsigned.split(".")[1].encode()
    mac = jwt.get_algorithm_by_name("HS256").sign(head + b"." + body, public.read_bytes())
    confused = b".".join([head, body, base64url_encode(mac)]).decode()
    for token in (unsigned, confused, "..", "a.b.c", "x" * 20_000 + ".."):
        assert asymmetric.read(token) is None
        assert reader(tmp_path / "secret").read(token) is None


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("short", {}, "32"),
        ("no key", {"jwt_algorithm": "RS256"}, "RS256"),
        ("no key", {"jwt_algorithm": "ES256"}, "ES256"),
    ],
)
def test_a_key_that_is_none_is_refused(
    tmp_path: Path, content: str, options: dict[str, str], words: str
) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(vicinal.InvalidArgumentError, match=words):
        reader(tmp_path / "key", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"jwt_key": "k"},
        {"jwt_audience": "a"},
        {"jwt_issuer": "i"},
        {"jwt_key": "k", "jwt_audience": "a", "jwt_algorithm": "none"},
        {"jwt_key": "nowhere", "jwt_audience": "a"},
    ],
)
def test_options_that_do_not_go_together_are_refused(
    local: vicinal.Database, options: dict[str, str]
) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match="jwt_"):
        local.serve(http_port=0, **options)
