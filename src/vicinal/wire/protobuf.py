"""Messages as protobuf: descriptors made from `wire/schema.py` when they are first needed, and the codec over them.

No code is generated, so any protobuf runtime that is installed will do. Payloads travel as they are stored, and are
never decoded on the way; so do vectors. A request with a field that its message does not have is refused.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from vicinal.model.errors import InvalidArgumentError
from vicinal.model.payload import decode_payload
from vicinal.wire import messages as m
from vicinal.wire.codec import Codec, codec_by_look
from vicinal.wire.operations import OPERATIONS, Operation
from vicinal.wire.schema import (
    COLLECTION,
    PACKAGE,
    SERVICE,
    Field,
    messages,
    methods,
    request_name,
)
from vicinal.wire.varint import read_varint

T = TypeVar("T")
Write = Callable[[Any, Any], None]
"""(value, message): put the value into the message's field."""
Read = Callable[[Any], Any]
"""message: the field's value."""

PROTO_TYPE = "application/grpc+proto"
FAULT_KEY = "vicinal-fault-bin"
"""The trailer with the Fault of a call that failed."""

_REFUSAL = "request body is no protobuf message"

_D = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _D.TYPE_STRING,
    "int64": _D.TYPE_INT64,
    "sint64": _D.TYPE_SINT64,
    "bool": _D.TYPE_BOOL,
    "double": _D.TYPE_DOUBLE,
    "bytes": _D.TYPE_BYTES,
}
FILE = "vicinal/v1/vicinal.proto"


def file_descriptor() -> descriptor_pb2.FileDescriptorProto:
    """The whole file: what protoc makes of `proto/vicinal/v1/vicinal.proto`."""
    file = descriptor_pb2.FileDescriptorProto(name=FILE, package=PACKAGE, syntax="proto3")
    for message in messages().values():
        proto = file.message_type.add(name=message.name)
        groups: dict[str, int] = {}
        for field in message.fields:
            if field.group is not None and field.group not in groups:
                groups[field.group] = len(groups)
                proto.oneof_decl.add(name=field.group)
        for field in message.fields:
            _describe(proto, field, groups)
        for name, number in message.reserved:
            proto.reserved_name.append(name)
            proto.reserved_range.add(start=number, end=number + 1)
    service = file.service.add(name=SERVICE)
    for method in methods():
        service.method.add(
            name=method.name,
            input_type=f".{PACKAGE}.{method.request}",
            output_type=f".{PACKAGE}.{method.answer}",
            client_streaming=method.stream_in or None,
            server_streaming=method.stream_out or None,
        )
    return file


def _describe(proto: descriptor_pb2.DescriptorProto, field: Field, groups: dict[str, int]) -> None:
    made = proto.field.add(name=field.name, number=field.number, label=_D.LABEL_OPTIONAL)
    if field.label in ("repeated", "map"):
        made.label = _D.LABEL_REPEATED
    if field.label == "map":
        entry = "".join(w.capitalize() for w in field.name.split("_")) + "Entry"
        nested = proto.nested_type.add(name=entry)
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, label=_D.LABEL_OPTIONAL, type=_D.TYPE_STRING)
        _set_type(nested.field.add(name="value", number=2, label=_D.LABEL_OPTIONAL), field.type)
        made.type, made.type_name = _D.TYPE_MESSAGE, f".{PACKAGE}.{proto.name}.{entry}"
        return
    _set_type(made, field.type)
    if field.group is not None:
        made.oneof_index = groups[field.group]
    elif field.label == "optional" and field.type in _TYPES:
        made.proto3_optional = True
        made.oneof_index = len(proto.oneof_decl)
        proto.oneof_decl.add(name=f"_{field.name}")


def _set_type(made: descriptor_pb2.FieldDescriptorProto, type_: str) -> None:
    if type_ in _TYPES:
        made.type = _TYPES[type_]
    else:
        made.type, made.type_name = _D.TYPE_MESSAGE, f".{PACKAGE}.{type_}"


@lru_cache(maxsize=1)
def _classes() -> dict[str, Any]:
    """The message classes by name; the descriptors go into the default pool, where reflection finds them."""
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file_descriptor().SerializeToString())
    found = pool.FindFileByName(FILE).message_types_by_name
    return {name: message_factory.GetMessageClass(found[name]) for name in messages()}


def message_class(name: str) -> Any:
    """The class of a message, for programs that speak the service without this library's client."""
    return _classes()[name]


class ProtoCodec(Codec):
    """Protobuf; `PROTO` shows payloads as MessagePack, `PROTO_JSON` as JSON text. Requests may have either."""

    def __init__(self, name: str, *, json_payloads: bool) -> None:
        self.name, self.content_type = name, PROTO_TYPE
        self._json_payloads = json_payloads

    def encode(self, message: Any) -> bytes:
        """The bytes of an answer."""
        kind = cast("type[Any]", type(message))
        proto = _classes()[kind.__name__]()
        _form(kind.__name__, kind).write(message, proto)
        return cast("bytes", proto.SerializeToString())

    def decode(self, body: bytes | memoryview, kind: type[T]) -> T:
        """The request or answer in a body. Raises InvalidArgumentError where it is none."""
        if kind is m.Empty:
            return kind()
        name = _REQUEST_NAMES.get(cast("Any", kind), kind.__name__)
        proto = _parse(name, body)
        if name in _REQUESTS:
            _check_known(name, proto)
        return cast("T", _form(name, kind).read(proto))

    def load(self, raw: Any) -> Any:
        """The value of a payload in a request, MessagePack or JSON text."""
        if not isinstance(raw, msgspec.Raw):
            return raw
        return codec_by_look(memoryview(raw)).load(raw)

    def payload(self, raw: bytes) -> Any:
        """A stored payload as this codec shows it."""
        return msgspec.Raw(msgspec.json.encode(decode_payload(raw)) if self._json_payloads else raw)

    def vector(self, row: npt.NDArray[Any]) -> m.Vector:
        """A stored vector: its bytes."""
        return row.tobytes()


PROTO = ProtoCodec("proto", json_payloads=False)
PROTO_JSON = ProtoCodec("proto-json", json_payloads=True)


def encode_request(operation: Operation, collection: str | None, request: m.Request) -> bytes:
    """The bytes of a request."""
    name = request_name(operation)
    proto = _classes()[name]()
    if collection is not None:
        proto.collection = collection
    if operation.request is not m.Empty:
        _form(name, operation.request).write(request, proto)
    return cast("bytes", proto.SerializeToString())


def collection_of(body: bytes) -> str:
    """The collection that a request names, found without decoding the rest: field 1 is text and usually first.
    One that is left out is the empty name, as ever in protobuf. Raises InvalidArgumentError where it is no message.
    """
    at, end = 0, len(body)
    while at < end:
        tag, at = read_varint(body, at, 70, _REFUSAL)
        kind = tag & 7
        if kind == 0:
            _, at = read_varint(body, at, 70, _REFUSAL)
        elif kind == 2:
            length, at = read_varint(body, at, 70, _REFUSAL)
            if tag == 0x0A and at + length <= end:
                try:
                    return body[at : at + length].decode("utf-8")
                except UnicodeDecodeError:
                    raise InvalidArgumentError(f"{COLLECTION} is not UTF-8") from None
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise InvalidArgumentError(_REFUSAL)
    return ""


def check_empty(operation: Operation, body: bytes) -> None:
    """Raise InvalidArgumentError unless a body is the request of an operation whose request has nothing to decode."""
    name = request_name(operation)
    _check_known(name, _parse(name, body))


def _check_known(name: str, proto: Any) -> None:
    """Raise InvalidArgumentError where a message, or one within it, has a field that it does not know."""
    unknown = UnknownFieldSet(proto)
    if len(unknown):
        number = next(iter(unknown)).field_number
        raise InvalidArgumentError(f"{name} has no field {number}; this server is older")
    for field, inner, repeated in _messages_within(name):
        if repeated:
            for part in getattr(proto, field):
                _check_known(inner, part)
        elif proto.HasField(field):
            _check_known(inner, getattr(proto, field))


@lru_cache(maxsize=256)
def _messages_within(name: str) -> tuple[tuple[str, str, bool], ...]:
    """(field, its message, whether there are many) of the fields of a message that are messages. No request has a
    map."""
    return tuple(
        (field.name, field.type, field.label == "repeated")
        for field in messages()[name].fields
        if field.type not in _TYPES
    )


def _parse(name: str, body: bytes | memoryview) -> Any:
    proto = _classes()[name]()
    try:
        proto.ParseFromString(bytes(body))
    except DecodeError as fault:
        raise InvalidArgumentError(f"request body is no {name}: {fault}") from None
    return proto


_REQUEST_NAMES: dict[type[m.Request], str] = {
    o.request: request_name(o) for o in OPERATIONS if o.request is not m.Empty
}
_REQUESTS = frozenset(_REQUEST_NAMES.values())


class _Form:
    """How the values of one Struct get into its message, and out of it."""

    def __init__(self, fields: Sequence[Field], struct: type[Any]) -> None:
        own = [f for f in fields if f.name in struct.__struct_fields__]
        self._struct = struct
        self._unset = {f.name: None for f in msgspec.structs.fields(struct) if f.required}
        self._writers = [(f.name, _writer(f)) for f in own]
        self._readers = [(f.name, _reader(f)) for f in own]

    def write(self, value: Any, proto: Any) -> None:
        """Fill the message; what is None or left out stays unset."""
        for name, write in self._writers:
            part = getattr(value, name)
            if part is not None and part is not msgspec.UNSET:
                write(part, proto)

    def read(self, proto: Any) -> Any:
        """Make the Struct; what is unset has the Struct's default, or is None."""
        found: dict[str, Any] = dict(self._unset)
        for name, read in self._readers:
            part = read(proto)
            if part is not msgspec.UNSET:
                found[name] = part
        return self._struct(**found)


@lru_cache(maxsize=256)
def _form(name: str, struct: Any) -> _Form:
    return _Form(messages()[name].fields, struct)


def _writer(field: Field) -> Write:
    name, of = field.name, field.of
    if field.kind in ("plain", "vector", "where", "enum"):

        def write(value: Any, proto: Any) -> None:
            try:
                setattr(proto, name, value)
            except (TypeError, ValueError) as fault:
                raise InvalidArgumentError(
                    f"{name} cannot be {type(value).__name__} {str(value)[:40]!r} in protobuf: {fault}"
                ) from None

        return write
    if field.kind == "structs":
        inner = _form(of.__name__, of)

        def write_all(values: Any, proto: Any) -> None:
            add = getattr(proto, name).add
            for value in values:
                inner.write(value, add())

        return write_all
    if field.kind == "struct":
        inner = _form(of.__name__, of)
        return lambda value, proto: inner.write(value, getattr(proto, name))
    if field.kind == "map_struct":
        inner = _form(of.__name__, of)

        def write_map(values: Any, proto: Any) -> None:
            target = getattr(proto, name)
            for key, value in values.items():
                inner.write(value, target[key])

        return write_map
    special = _WRITERS[field.kind]
    return lambda value, proto: special(value, proto, name)


def _reader(field: Field) -> Read:
    name, of = field.name, field.of
    if field.kind in ("plain", "vector", "where", "enum"):
        as_ = of if field.kind == "enum" else None

        def read(proto: Any) -> Any:
            return getattr(proto, name) if as_ is None else as_(getattr(proto, name))

        if field.label != "optional":
            return read
        return lambda proto: read(proto) if proto.HasField(name) else msgspec.UNSET
    if field.kind in ("structs", "struct", "map_struct"):
        inner = _form(of.__name__, of)
        if field.kind == "structs":
            return lambda proto: [inner.read(part) for part in getattr(proto, name)]
        if field.kind == "struct":
            return lambda proto: inner.read(getattr(proto, name))
        return lambda proto: {key: inner.read(v) for key, v in getattr(proto, name).items()}
    special = _READERS[field.kind]
    if (field.type not in _TYPES and field.label == "optional") or field.kind in _WITH_PRESENCE:
        return lambda proto: (
            special(getattr(proto, name)) if proto.HasField(name) else msgspec.UNSET
        )
    return lambda proto: special(getattr(proto, name))


_WITH_PRESENCE = frozenset({"payload", "datetime"})


def _put_id(id_: m.WireId, proto: Any) -> None:
    if isinstance(id_, m.UuidId):
        proto.uuid = id_.uuid.bytes
    elif isinstance(id_, str):
        proto.text = id_
    else:
        proto.number = id_


def _get_id(proto: Any) -> m.WireId:
    which = proto.WhichOneof("kind")
    if which is None:
        raise InvalidArgumentError("an id is not set; give number, text or uuid")
    if which != "uuid":
        return getattr(proto, which)
    try:
        return m.UuidId(uuid.UUID(bytes=proto.uuid))
    except ValueError:
        raise InvalidArgumentError(f"a uuid has {len(proto.uuid)} bytes; it has 16") from None


def _put_ids(ids: Sequence[m.WireId], proto: Any, name: str) -> None:
    target = getattr(proto, name)
    target.SetInParent()
    kinds = set(map(type, ids))
    if kinds == {int}:
        target.numbers.extend(ids)
    elif kinds == {str}:
        target.texts.extend(ids)
    else:
        for id_ in ids:
            _put_id(id_, target.mixed.add())


def _get_ids(proto: Any) -> list[m.WireId]:
    filled = [name for name in ("numbers", "texts", "mixed") if len(getattr(proto, name))]
    if len(filled) > 1:
        raise InvalidArgumentError(f"ids are given as {' and '.join(filled)}; fill one of them")
    if not filled:
        return []
    if filled[0] == "mixed":
        return [_get_id(part) for part in proto.mixed]
    return list(getattr(proto, filled[0]))


def _put_time(time: m.Time, proto: Any) -> None:
    if isinstance(time, str):
        proto.text = time
    else:
        proto.seconds = time


def _get_time(proto: Any) -> m.Time:
    which = proto.WhichOneof("kind")
    if which is None:
        raise InvalidArgumentError("a time is not set; give seconds or text")
    return getattr(proto, which)


def _put_times(times: m.Time | list[m.Time | None], proto: Any, name: str) -> None:
    target = getattr(proto, name)
    if not isinstance(times, list):
        _put_time(times, target.all)
        return
    target.each.SetInParent()
    for time in times:
        part = target.each.values.add()
        if time is not None:
            _put_time(time, part)


def _get_times(proto: Any) -> m.Time | list[m.Time | None]:
    if proto.WhichOneof("kind") == "each":
        return [None if t.WhichOneof("kind") is None else _get_time(t) for t in proto.each.values]
    return _get_time(proto.all)


def _put_versions(versions: m.IfVersion, proto: Any, name: str) -> None:
    target = getattr(proto, name)
    if isinstance(versions, list):
        target.each.SetInParent()
        target.each.values.extend(-1 if v is None else v for v in versions)
    else:
        target.all = versions


def _get_versions(proto: Any) -> m.IfVersion:
    if proto.WhichOneof("kind") == "each":
        return [None if version == -1 else version for version in proto.each.values]
    return proto.all


def _put_list(values: Any, proto: Any, name: str) -> None:
    target = getattr(proto, name)
    target.SetInParent()
    target.values.extend(values)


def _put_points(points: list[m.NewPoint], proto: Any, name: str) -> None:
    target = getattr(proto, name)
    target.SetInParent()
    form = _form("NewPoint", m.NewPoint)
    for point in points:
        form.write(point, target.values.add())


def _put_slots(points: list[m.PointOut | None], proto: Any, name: str) -> None:
    add, form = getattr(proto, name).add, _form("PointOut", m.PointOut)
    for point in points:
        part = add()
        if point is not None:
            form.write(point, part)


def _get_slots(slots: Any) -> list[m.PointOut | None]:
    form = _form("PointOut", m.PointOut)
    return [form.read(slot) if slot.HasField("id") else None for slot in slots]


def _put_jsons(values: Any, proto: Any, name: str) -> None:
    getattr(proto, name).extend(msgspec.json.encode(value).decode() for value in values)


_WRITERS: dict[str, Callable[[Any, Any, str], None]] = {
    "id": lambda id_, proto, name: _put_id(id_, getattr(proto, name)),
    "ids": _put_ids,
    "payload": lambda raw, proto, name: setattr(proto, name, bytes(raw)),
    "payloads": lambda raws, proto, name: _put_list(map(bytes, raws), proto, name),
    "if_version": _put_versions,
    "time": lambda time, proto, name: _put_time(time, getattr(proto, name)),
    "times": _put_times,
    "texts": _put_list,
    "points": _put_points,
    "slots": _put_slots,
    "datetime": lambda when, proto, name: setattr(proto, name, when.isoformat()),
    "json": lambda value, proto, name: setattr(proto, name, msgspec.json.encode(value).decode()),
    "jsons": _put_jsons,
    "plains": lambda values, proto, name: getattr(proto, name).extend(values),
    "map": lambda values, proto, name: getattr(proto, name).update(values),
}
_READERS: dict[str, Read] = {
    "id": _get_id,
    "ids": _get_ids,
    "payload": msgspec.Raw,
    "payloads": lambda proto: [msgspec.Raw(raw) for raw in proto.values],
    "if_version": _get_versions,
    "time": _get_time,
    "times": _get_times,
    "texts": lambda proto: list(proto.values),
    "points": lambda proto: [_form("NewPoint", m.NewPoint).read(p) for p in proto.values],
    "slots": _get_slots,
    "datetime": dt.datetime.fromisoformat,
    "json": msgspec.json.decode,
    "jsons": lambda values: [msgspec.json.decode(value) for value in values],
    "plains": list,
    "map": dict,
}
