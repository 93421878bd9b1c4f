"""Packed bodies over every protocol: the same answers, and fewer bytes where there is something to gain."""

from __future__ import annotations

import gzip
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from serving import vector_of

import vicinal
from vicinal.model.errors import InvalidArgumentError
from vicinal.wire.compression import PACK_BYTES_MIN

TEXT = "the same words again and again; " * 8


@pytest.mark.parametrize("protocol", ["url", "grpc_url", "flight_url"])
def test_what_is_packed_arrives_as_it_was(empty_server: Any, protocol: str) -> None:
    n = 25_000  # a stream of several parts over gRPC and Flight
    vectors = np.random.default_rng(1).standard_normal((n, 4)).astype(np.float32)
    with vicinal.open(getattr(empty_server, protocol), compression="gzip") as db:
        docs = db.collection("packed", dim=4, metric="l2")
        docs.upsert(ids=range(n), vectors=vectors, payload=[{"n": i, "t": TEXT} for i in range(n)])
        points = docs.get(list(range(0, n, 50)), with_vectors=True)
        assert [p.payload["n"] for p in points] == list(range(0, n, 50))
        assert np.array_equal(np.stack([vector_of(p) for p in points]), vectors[::50])
        hits = docs.search(vectors[:300], k=5)
        assert hits.ids[:, 0].tolist() == list(range(300))
        assert docs.search(vectors[7], k=1).ids.tolist() == [7]


def answer(url: str, **headers: str) -> tuple[http.client.HTTPMessage, bytes]:
    """A page of 500 points, as it comes over the wire."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    body = json.dumps({"limit": 500}).encode()
    path = "/v1/collections/texts/points/scroll"
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200
    connection.close()
    return response.headers, content


def test_answers_are_packed_for_those_who_take_it_and_where_they_are_large(
    empty_server: Any,
) -> None:
    with vicinal.open(empty_server.url) as db:
        docs = db.collection("texts", dim=2)
        docs.upsert([{"id": 1, "vector": [1, 2], "t": TEXT}])
        assert "Content-Encoding" not in answer(empty_server.url, **{"Accept-Encoding": "gzip"})[0]
        docs.upsert([{"id": i, "vector": [1, 2], "t": TEXT} for i in range(500)])
    plain, content = answer(empty_server.url)
    assert "Content-Encoding" not in plain
    assert len(content) > PACK_BYTES_MIN
    for accepted in ("gzip", "br, GZIP;q=0.5"):
        head, packed = answer(empty_server.url, **{"Accept-Encoding": accepted})
        assert (head["Content-Encoding"], head["Vary"]) == ("gzip", "accept-encoding")
        assert len(packed) < len(content) / 5
        assert json.loads(gzip.decompress(packed)) == json.loads(content)
    for refused in ("br", "gzip;q=0", "gzip; q=0.0"):
        assert "Content-Encoding" not in answer(empty_server.url, **{"Accept-Encoding": refused})[0]


def test_a_large_request_is_sent_packed(empty_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str | None, int]] = []
    real = http.client.HTTPConnection.request

    def request(self: Any, method: str, url: str, body: Any, headers: dict[str, str]) -> None:
        sent.append((headers.get("Content-Encoding"), len(body or b"")))
        real(self, method, url, body, headers)

    monkeypatch.setattr(http.client.HTTPConnection, "request", request)
    with vicinal.open(empty_server.url, compression="gzip") as db:
        docs = db.collection("sent", dim=2)
        docs.upsert([{"id": i, "vector": [1, 2], "t": TEXT} for i in range(500)])
        assert docs.count() == 500
    assert [encoding for encoding, _ in sent] == [None, None, "gzip", None]
    assert sent[2][1] < 500 * len(TEXT) / 5


def test_another_compression_is_an_error_that_names_it() -> None:
    with pytest.raises(InvalidArgumentError, match="compression is 'zstd'; it is 'gzip'"):
        vicinal.open("http://127.0.0.1:1", compression="zstd")
    with pytest.raises(InvalidArgumentError, match="compression"):
        vicinal.open(":memory:", compression="gzip")
