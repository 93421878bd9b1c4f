"""TLS on every protocol: who cannot prove itself, server or client, is not spoken to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

import vicinal

PROTOCOLS = ("url", "grpc_url", "flight_url")


@dataclass
class Files:
    """Certificates in PEM files."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path
    stranger_ca: Path
    stranger_cert: Path
    stranger_key: Path

    @property
    def server(self) -> dict[str, str]:
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")

    def write(name: str, *blobs: Any) -> Path:
        path = folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    ca, stranger = trustme.CA(), trustme.CA()
    server = ca.issue_cert("127.0.0.1", "localhost")
    client, other = ca.issue_cert("client@here"), stranger.issue_cert("client@there")
    return Files(
        write("ca.pem", ca.cert_pem),
        write("cert.pem", *server.cert_chain_pems),
        write("key.pem", server.private_key_pem),
        write("client.pem", *client.cert_chain_pems),
        write("client-key.pem", client.private_key_pem),
        write("stranger-ca.pem", stranger.cert_pem),
        write("stranger.pem", *other.cert_chain_pems),
        write("stranger-key.pem", other.private_key_pem),
    )


PORTS = {"http_port": 0, "grpc_port": 0, "flight_port": 0}


@pytest.fixture(scope="module")
def over_tls(files: Files) -> Iterator[Any]:
    with vicinal.open(":memory:") as local, local.serve(**PORTS, **files.server) as server:
        local.collection("docs", dim=2, metric="l2").upsert([{"id": 1, "vector": [1, 2]}])
        yield server


@pytest.fixture(scope="module")
def over_mtls(files: Files) -> Iterator[Any]:
    with (
        vicinal.open(":memory:") as local,
        local.serve(**PORTS, **files.server, tls_client_ca=str(files.ca)) as server,
    ):
        local.collection("docs", dim=2, metric="l2").upsert([{"id": 1, "vector": [1, 2]}])
        yield server


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_trusts_the_signer_is_served(
    over_tls: Any, files: Files, protocol: str
) -> None:
    url = getattr(over_tls, protocol)
    assert url.partition("://")[0] in ("https", "grpcs", "flights")
    with vicinal.open(url, tls_ca=files.ca) as db:
        docs = db.collection("docs")
        assert docs.search([1, 2], k=1)[0].id == 1
        assert docs.search([[1, 2], [3, 4]], k=1).ids.tolist() == [[1], [1]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_does_not_trust_the_signer_goes_away(
    over_tls: Any, files: Files, protocol: str
) -> None:
    for ca in (None, files.stranger_ca):
        with pytest.raises(vicinal.UnavailableError):
            vicinal.open(getattr(over_tls, protocol), tls_ca=ca, retries=0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_without_tls_gets_nothing(over_tls: Any, protocol: str) -> None:
    scheme, _, rest = getattr(over_tls, protocol).partition("://")
    with pytest.raises(vicinal.UnavailableError):
        vicinal.open(f"{scheme.removesuffix('s')}://{rest}", retries=0, timeout_s=10)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_asks_for_certificates_serves_those_who_have_one(
    over_mtls: Any, files: Files, protocol: str
) -> None:
    url = getattr(over_mtls, protocol)
    with vicinal.open(
        url, tls_ca=files.ca, tls_cert=files.client_cert, tls_key=files.client_key
    ) as db:
        assert db.collection("docs").count() == 1
    strange: dict[str, Any] = {"tls_cert": files.stranger_cert, "tls_key": files.stranger_key}
    for proof in (dict[str, Any](), strange):
        with pytest.raises(vicinal.UnavailableError):
            vicinal.open(url, tls_ca=files.ca, **proof, retries=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls_cert": "cert"}, "both"),
        ({"tls_key": "key"}, "both"),
        ({"tls_client_ca": "ca"}, "tls_cert"),
        ({"tls_cert": "cert", "tls_key": "client_key"}, "cannot be used"),
        ({"tls_cert": "key", "tls_key": "key"}, "cannot be used"),
        ({"tls_cert": "cert", "tls_key": "key", "tls_client_ca": "client_key"}, "cannot be used"),
    ],
)
def test_certificates_that_do_not_fit_stop_the_server_before_it_starts(
    local: vicinal.Database, files: Files, options: dict[str, str], words: str
) -> None:
    given = {option: str(getattr(files, name)) for option, name in options.items()}
    with pytest.raises(vicinal.InvalidArgumentError, match=words):
        local.serve(http_port=0, **given)


def test_a_file_that_is_not_there_is_named(local: vicinal.Database, over_tls: Any) -> None:
    with pytest.raises(vicinal.InvalidArgumentError, match=r"nowhere\.pem"):
        local.serve(http_port=0, tls_cert="nowhere.pem", tls_key="nowhere.pem")
    for protocol in PROTOCOLS:
        with pytest.raises(vicinal.InvalidArgumentError, match=r"nowhere\.pem"):
            vicinal.open(getattr(over_tls, protocol), tls_ca="nowhere.pem")


def test_certificates_of_a_client_need_each_other_and_tls(files: Files) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("http://localhost", {"tls_ca": files.ca}),
        ("grpc://localhost", {"tls_ca": files.ca}),
        ("https://localhost", {"tls_cert": files.cert}),
        ("./directory", {"tls_ca": files.ca}),
    ]
    for address, options in cases:
        with pytest.raises(vicinal.InvalidArgumentError, match="tls_"):
            vicinal.open(address, **options)
