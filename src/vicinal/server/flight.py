"""Arrow Flight over the gateway: points and hits as columns, every other operation as an action.

The service is spoken here rather than by pyarrow's own server, which takes messages of any size, reads before it
asks who calls, and waits for idle streams when it is stopped; see docs/decisions/0008-flight.md. Vectors of queries and
points reach the native call as they lie in the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
import numpy as np

from vicinal.client import tables
from vicinal.client.collection import Collection
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import InvalidArgumentError
from vicinal.model.hits import HitsBatch, id_array
from vicinal.model.metric import VectorType
from vicinal.server.grpc_calls import GrpcCall, Method
from vicinal.server.grpc_port import Caller, GrpcPort
from vicinal.server.handlers import found_by, page_of, times
from vicinal.wire import messages as m
from vicinal.wire import operations as ops
from vicinal.wire.arrow import SERVICE, Inbound, data_of, fields_of, flight, pa, parse
from vicinal.wire.codec import JSON, MSGPACK, Codec, from_wire_id
from vicinal.wire.commands import (
    Command,
    body_of,
    collection_name,
    operation_of,
    read_command,
    read_request,
)
from vicinal.wire.operations import OPERATIONS, Operation
from vicinal.wire.protobuf import PROTO

SCAN_ROWS = 1_000
"""Points of one record batch of a scan that does not say."""

INLINE_BYTES_MAX = 256 * 1024
"""A larger message is looked through in a thread, since that takes longer than the way there."""


class FlightServer(GrpcPort):
    """The port of Flight."""

    protocol = "flight"
    option = "flight_port"

    def services(self) -> dict[str, dict[str, Method]]:
        """The methods of Flight that there are; others are answered as not implemented."""
        return {
            SERVICE: {
                "ListFlights": self.stream(self._list),
                "GetFlightInfo": self.unary(self._info),
                "GetSchema": self.unary(self._schema),
                "DoGet": self.stream(self._get),
                "DoPut": self.stream(self._put),
                "DoExchange": self.stream(self._exchange),
                "DoAction": self.unary(self._action),
                "ListActions": self.stream(self._actions),
            }
        }

    async def _action(self, caller: Caller, call: GrpcCall) -> bytes:
        """Any operation; the answer is in the encoding of the command."""

        def begin(body: bytes) -> Coroutine[Any, Any, bytes]:
            action = _decoded(flight.Action.deserialize, body)
            operation = operation_of(action.type)
            command, codec = read_command(memoryview(action.body))
            name = collection_name(command) if operation.on_collection else None
            return self.gateway.handle(
                self.call(caller, operation, name, body_of(command), codec, codec, caller.came_s)
            )

        answer = await self.answer_one(caller, call, begin)
        return flight.Result(answer).serialize()

    async def _actions(self, caller: Caller, call: GrpcCall) -> AsyncGenerator[bytes]:
        await self.read_one(call)
        del caller
        for operation in OPERATIONS:
            yield fields_of(operation.name.encode(), operation.summary.encode())

    async def _get(self, caller: Caller, call: GrpcCall) -> AsyncGenerator[bytes]:
        """A scan, or what one search or a batch of searches finds."""
        ticket = _decoded(flight.Ticket.deserialize, await self.read_one(call))
        command, codec = read_command(memoryview(ticket.ticket))
        operation = operation_of(command.operation)
        if operation is ops.SCROLL:
            async for message in self._scan(caller, command, codec):
                yield message
        elif operation is ops.SEARCH:
            for message in await self._search(caller, command, codec):
                yield message
        elif operation is ops.SEARCH_BATCH:
            request = read_request(command, codec, m.SearchBatch)
            if not isinstance(request.vectors, list):
                raise InvalidArgumentError(
                    "a ticket's vectors are lists of numbers; DoExchange takes columns"
                )
            work = partial(_search_batch, request, np.asarray(request.vectors), command.json)
            size = len(ticket.ticket)
            for message in await self._run(caller, ops.SEARCH_BATCH, command, size, work):
                yield message
        else:
            raise InvalidArgumentError(
                f"a ticket is for scroll, search or search_batch; {operation.name} is an action"
            )

    async def _scan(self, caller: Caller, command: Command, codec: Codec) -> AsyncGenerator[bytes]:
        """Page after page; the next is made when the connection took the last."""
        fields = read_request(command, codec, m.Scroll)
        if fields.limit == m.Scroll().limit:
            fields.limit = SCAN_ROWS
        first = True
        while first or fields.cursor is not None:
            schema, batch, fields.cursor = await self._run(
                caller, ops.SCROLL, command, 0, partial(_page, fields, command.json)
            )
            if first:
                yield data_of(schema.serialize())
                first = False
            yield batch

    async def _search(self, caller: Caller, command: Command, codec: Codec) -> list[bytes]:
        """One search: as over REST it may come out of the cache, join another, or go in a batch."""
        name = collection_name(command)
        body = body_of(command)
        answer = await asyncio.shield(self.handled(caller, ops.SEARCH, name, body, codec, MSGPACK))
        config = self.gateway.config_of(name)
        request = codec.decode(body, m.Search)
        found = _found(MSGPACK.decode(answer, m.HitsOut), request, config)
        schema = tables.hits_schema(
            config,
            with_payload=request.with_payload,
            with_vectors=request.with_vectors,
            json=command.json,
        )
        return [data_of(schema.serialize()), tables.hits_message(found, schema)]

    async def _put(self, caller: Caller, call: GrpcCall) -> AsyncGenerator[bytes]:
        """Each record batch is an upsert, answered when it is durable. The next is read meanwhile, and no more:
        a sender that is too fast is slowed down by the connection's flow control."""
        async for command, codec, size, batch in self._batches(call, ops.UPSERT):
            request = read_request(command, codec, m.Upsert, ids=None, vectors=None, payloads=None)
            if request.points is not None or isinstance(request.if_version, list):
                raise InvalidArgumentError(
                    "points and lists parallel to them travel as Arrow columns"
                )
            count = await self._run(
                caller, ops.UPSERT, command, size, partial(_upsert, request, batch)
            )
            yield fields_of(msgspec.json.encode(m.Counted(count=count)))

    async def _exchange(self, caller: Caller, call: GrpcCall) -> AsyncGenerator[bytes]:
        """Each record batch of queries is one native call; its hits are one record batch."""
        first = True
        async for command, codec, size, batch in self._batches(call, ops.SEARCH_BATCH):
            if batch.schema.names != [tables.VECTOR]:
                raise InvalidArgumentError(
                    f"queries have the columns {batch.schema.names}; give one, {tables.VECTOR!r}"
                )
            request = read_request(command, codec, m.SearchBatch, vectors=b"")
            queries = tables.vector_matrix(batch.column(0), "query")
            work = partial(_search_stored, request, queries, command.json)
            schema, message = await self._run(caller, ops.SEARCH_BATCH, command, size, work)
            if first:
                yield schema
                first = False
            yield message

    async def _batches(
        self, call: GrpcCall, operation: Operation
    ) -> AsyncGenerator[tuple[Command, Codec, int, Any]]:
        """(command, its codec, bytes, record batch) of each batch that comes; the next message is on its way
        meanwhile, and counts among the bytes under way from when it is here."""
        inbound, command, codec = Inbound(), None, MSGPACK
        admission, held = self.gateway.admission, 0

        async def read() -> bytes | None:
            nonlocal held
            message = await self.read(call, self.config.timeout_s_max)
            if message is not None:
                admission.take_bytes(len(message), len(message))
                held += len(message)
            return message

        def give_back(count: int) -> None:
            nonlocal held
            held -= count
            admission.give_back(count)

        coming = asyncio.ensure_future(read())
        try:
            while (message := await coming) is not None:
                coming = asyncio.ensure_future(read())
                if command is None:
                    command, codec = _described(parse(message).descriptor, operation)
                if len(message) < INLINE_BYTES_MAX:
                    batch = inbound.take(message)
                else:
                    batch = await asyncio.to_thread(inbound.take, message)
                give_back(len(message))  # the request that it becomes counts it at once
                if batch is not None and batch.num_rows:
                    yield command, codec, len(message), batch
        finally:
            coming.cancel()
            give_back(held)

    async def _list(self, caller: Caller, call: GrpcCall) -> AsyncGenerator[bytes]:
        """A flight for each collection that the key may see; one request of its rate, however many there are."""
        await self.read_one(call)

        async def flights() -> list[bytes]:
            listed = self.call(caller, ops.LIST, None, b"", JSON, MSGPACK)
            answer = await self.gateway.handle(listed)
            names = MSGPACK.decode(answer, m.CollectionNames).names
            return [(await self._look(caller, name)).serialize() for name in names]

        for info in await asyncio.shield(self.let_in(caller, 0, flights)):
            yield info

    async def _info(self, caller: Caller, call: GrpcCall) -> bytes:
        return (await self._flight_info(caller, await self._named(call))).serialize()

    async def _schema(self, caller: Caller, call: GrpcCall) -> bytes:
        info = await self._flight_info(caller, await self._named(call))
        return flight.SchemaResult(info.schema).serialize()

    async def _named(self, call: GrpcCall) -> str:
        """The collection of a descriptor."""
        raw = await self.read_one(call)
        return collection_name(_described(memoryview(raw), ops.SCROLL)[0])

    async def _flight_info(self, caller: Caller, name: str) -> Any:
        return await asyncio.shield(self.let_in(caller, 0, lambda: self._look(caller, name)))

    async def _look(self, caller: Caller, name: str) -> Any:
        """The flight of a collection, by a request that was let in."""

        def look(docs: Collection) -> tuple[CollectionConfig, int]:
            return docs.config, docs.count()

        asked = self.call(caller, ops.COUNT, name, b"", PROTO, PROTO)
        config, count = await self.gateway.run(asked, look)
        ticket = {"operation": "scroll", "collection": name, "request": {"with_vectors": True}}
        return flight.FlightInfo(
            tables.points_schema(config, with_vectors=True, json=False),
            flight.FlightDescriptor.for_path(name),
            [flight.FlightEndpoint(msgspec.json.encode(ticket), [])],
            count,
            -1,
        )

    async def _run(
        self,
        caller: Caller,
        operation: Operation,
        command: Command,
        size: int,
        work: Callable[[Collection], Any],
    ) -> Any:
        task = self.run(caller, operation, collection_name(command), size, work)
        return await asyncio.shield(task)


def _described(descriptor: memoryview, operation: Operation) -> tuple[Command, Codec]:
    """The command of a descriptor; one that is a path names a collection."""
    if not len(descriptor):
        raise InvalidArgumentError("the first message has no descriptor")
    given = _decoded(flight.FlightDescriptor.deserialize, bytes(descriptor))
    if given.descriptor_type == flight.DescriptorType.PATH:
        if len(given.path) != 1:
            raise InvalidArgumentError(
                f"a path has one part, the collection; this has {len(given.path)}"
            )
        try:
            name = given.path[0].decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidArgumentError("the path is not UTF-8") from None
        return Command(operation=operation.name, collection=name), MSGPACK
    command, codec = read_command(memoryview(given.command))
    if command.operation not in (None, operation.name):
        raise InvalidArgumentError(
            f"this call is {operation.name}, the command says {command.operation!r}"
        )
    return command, codec


def _decoded(decode: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return decode(raw)
    except (pa.ArrowException, ValueError) as fault:
        raise InvalidArgumentError(f"the message cannot be read: {fault}") from None


def _upsert(request: m.Upsert, batch: Any, docs: Collection) -> int:
    names = batch.schema.names
    for needed in (tables.ID, tables.VECTOR):
        if needed not in names:
            raise InvalidArgumentError(f"the columns are {names}; {needed!r} is missing")
    expires: Any = tables.expiry_values(batch)
    return docs.upsert(
        ids=tables.id_values(batch.column(tables.ID)),
        vectors=_stored(tables.vector_matrix(batch.column(tables.VECTOR), "vectors"), docs),
        payload=tables.payload_values(batch),
        mode=request.mode,
        if_version=request.if_version,
        expires_at=times(request.expires_at) if expires is None else expires,
    )


def _stored(matrix: Any, docs: Collection) -> Any:
    """Rows of a bit collection come as int8 or uint8; both are bits."""
    if docs.config.dtype is VectorType.BIT and matrix.dtype == np.int8:
        return matrix.view(np.uint8)
    return matrix


def _page(fields: m.Scroll, json: bool, docs: Collection) -> tuple[Any, bytes, str | None]:
    page = page_of(docs, fields)
    schema = tables.points_schema(docs.config, with_vectors=fields.with_vectors, json=json)
    batch = tables.points_batch(page, schema, docs.config)
    return schema, data_of(batch.serialize()), page.cursor


def _search_batch(
    request: m.SearchBatch, queries: Any, json: bool, docs: Collection
) -> tuple[bytes, bytes]:
    """The schema of the hits, and the hits."""
    found = found_by(docs, queries, request)
    schema = tables.hits_schema(
        docs.config,
        with_payload=request.with_payload,
        with_vectors=request.with_vectors,
        json=json,
    )
    return data_of(schema.serialize()), tables.hits_message(found, schema)


def _search_stored(
    request: m.SearchBatch, queries: Any, json: bool, docs: Collection
) -> tuple[bytes, bytes]:
    return _search_batch(request, _stored(queries, docs), json, docs)


def _found(answer: m.HitsOut, request: m.Search, config: CollectionConfig) -> HitsBatch:
    """The columns of one query's hits."""
    hits, n = answer.hits, len(answer.hits)
    vectors = None
    if request.with_vectors:
        rows = b"".join(hit.vector for hit in hits if isinstance(hit.vector, bytes))
        vectors = np.frombuffer(rows, config.dtype.numpy).reshape(1, n, config.columns)
    return HitsBatch(
        id_array([from_wire_id(hit.id) for hit in hits]).reshape(1, n),
        np.array([[hit.distance for hit in hits]], np.float32),
        [[bytes(hit.payload) for hit in hits]] if request.with_payload else None,
        vectors,
        recall_estimate=answer.recall_estimate,
    )
