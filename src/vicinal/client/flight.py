"""The Arrow Flight channel: points and batches of queries as columns, every other call as an action."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import numpy.typing as npt

from vicinal.client import tables
from vicinal.client.pacing import Upload
from vicinal.client.rpc import GrpcChannel
from vicinal.model.config import CollectionConfig
from vicinal.model.hits import HitsBatch
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.arrow import SERVICE, Inbound, fields_of, flight, pa, stream_of
from vicinal.wire.codec import MSGPACK
from vicinal.wire.commands import Command
from vicinal.wire.operations import Operation

A = TypeVar("A", bound=m.Answer)

FLIGHT_PORT = 7335


class FlightChannel(GrpcChannel):
    """A channel to one Flight server. Thread-safe."""

    port = FLIGHT_PORT

    def upload(self, collection: str, config: CollectionConfig, upload: Upload) -> None:
        """Send an upsert as record batches of one stream. What has conditions or times, or reports to progress, goes as
        messages."""
        if not upload.plain or upload.reports:
            super(GrpcChannel, self).upload(collection, config, upload)
            return
        descriptor = flight.FlightDescriptor.for_path(collection).serialize()

        def made(run: int) -> Iterator[Any]:
            while (part := upload.cut(run)) is not None:
                yield tables.upsert_batch(part, config)

        def requests(run: int) -> Iterator[bytes]:
            return stream_of(tables.upsert_schema(config), made(run), descriptor)

        self._upload(self._path("DoPut"), requests, upload)

    def search_batch(
        self,
        collection: str,
        config: CollectionConfig,
        queries: Sequence[npt.NDArray[Any]],
        options: dict[str, Any],
    ) -> HitsBatch | None:
        """Send queries as record batches of one stream; each is answered by one of hits."""
        given = {name: value for name, value in options.items() if value is not None}
        command = Command(collection=collection, request=msgspec.Raw(MSGPACK.encode(given)))
        descriptor = flight.FlightDescriptor.for_command(MSGPACK.encode(command)).serialize()

        def made() -> Iterator[Any]:
            for part in queries:
                yield pa.record_batch([tables.vector_column(part)], names=[tables.VECTOR])

        def send(left_s: float) -> tuple[list[Any], list[float | None]]:
            schema = pa.schema([(tables.VECTOR, tables.vector_type(config, query=True))])
            requests = stream_of(schema, made(), descriptor)
            inbound = Inbound()
            answers = self._stream(self._path("DoExchange"), requests, left_s, ops.SEARCH_BATCH)
            found: list[Any] = []
            recalls: list[float | None] = []
            for answer in answers:
                batch = inbound.take(answer)
                if batch is not None:
                    found.append(batch)
                    recalls.append(tables.recall_of(inbound.metadata))
            if len(found) != len(queries):
                raise self._broken(ops.SEARCH_BATCH, "the server ended the stream early")
            return found, recalls

        deadline = self._clock() + self._timeout_s * len(queries)
        found, recalls = self._again(ops.SEARCH_BATCH, deadline, send)
        return tables.found_of(found, [len(part) for part in queries], recalls, config)

    def _prepare(self, operation: Operation, collection: str | None, request: m.Request) -> bytes:
        command = Command(collection=collection, request=msgspec.Raw(MSGPACK.encode(request)))
        return fields_of(operation.name.encode(), MSGPACK.encode(command))

    def _path_of(self, operation: Operation) -> str:
        del operation  # the message names it
        return self._path("DoAction")

    def _decode(self, raw: bytes, answer: type[A]) -> A:
        return MSGPACK.decode(flight.Result.deserialize(raw).body, answer)

    def _path(self, name: str) -> str:
        return f"/{SERVICE}/{name}"
