"""The text of `proto/vicinal/v1/vicinal.proto`, for clients in other languages."""

from __future__ import annotations

from textwrap import wrap

from vicinal.wire.schema import PACKAGE, SERVICE, Field, Message, messages, methods

HEAD = """\
// The service of `vicinal serve --grpc-port`, and its messages.
//
// Made by tools/make_proto.py from the definitions that the server runs on (src/vicinal/wire); change those.
//
// A key goes into the metadata `authorization: Bearer vk_...`. An error has a gRPC status, and its Fault in the trailer
// `vicinal-fault-bin`. Payloads of answers are MessagePack, or JSON text with the metadata `vicinal-payload: json`.

syntax = "proto3";
"""


def proto_text() -> str:
    """The file's content."""
    parts = [HEAD, f"package {PACKAGE};\n", _service()]
    parts += [_message(message) for message in messages().values()]
    return "\n".join(parts)


def _service() -> str:
    lines = [f"service {SERVICE} {{"]
    taken = {method.name for method in methods()}  # inside the service these hide messages
    for method in methods():
        request = f"stream {method.request}" if method.stream_in else method.request
        answer = f".{PACKAGE}.{method.answer}" if method.answer in taken else method.answer
        answer = f"stream {answer}" if method.stream_out else answer
        lines += _comment(method.about, "  ")
        lines.append(f"  rpc {method.name}({request}) returns ({answer});")
    return "\n".join([*lines, "}", ""])


def _message(message: Message) -> str:
    lines = [*_comment(message.about, ""), f"message {message.name} {{"]
    group: str | None = None
    for field in message.fields:
        if field.group != group:
            lines.append("  }" if group else f"  oneof {field.group} {{")
            group = field.group
        lines.append(_field(field, "    " if group else "  "))
    if group:
        lines.append("  }")
    for name, number in message.reserved:
        lines += [f"  reserved {number};", f'  reserved "{name}";']
    return "\n".join([*lines, "}", ""])


def _field(field: Field, indent: str) -> str:
    if field.label == "map":
        kind = f"map<string, {field.type}>"
    elif field.label == "repeated" or (field.label == "optional" and field.type[0].islower()):
        kind = f"{field.label} {field.type}"
    else:
        kind = field.type
    note = f"  // {field.note}" if field.note else ""
    return f"{indent}{kind} {field.name} = {field.number};{note}"


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}// {line}" for line in wrap(text.replace("`", ""), 110)]
