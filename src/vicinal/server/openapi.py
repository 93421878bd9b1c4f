"""The OpenAPI document, made from the table of operations and their messages; nothing in it is written by hand
twice."""

from __future__ import annotations

from typing import Any

import msgspec

from vicinal.model.version import VERSION
from vicinal.wire.messages import JSON_TYPE, MSGPACK_TYPE, Empty, Failed
from vicinal.wire.operations import OPERATIONS, Operation

REF = "#/components/schemas/{name}"
ABOUT = """\
Bodies are JSON or MessagePack, by Content-Type and Accept. Ids keep their type: strings, numbers, and UUIDs as
{"uuid": "..."}. A vector is a list of numbers, or its little-endian bytes (base64 in JSON)."""
TAGS = {True: "points", False: "database"}


def openapi() -> dict[str, Any]:
    """The document as plain values."""
    types = [Failed, *(t for o in OPERATIONS for t in (o.request, o.answer))]
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=REF)
    refs = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(path_of(operation), {})[operation.method.lower()] = _entry(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Vicinal",
            "version": VERSION,
            "description": ABOUT,
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def openapi_json() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(openapi())


def path_of(operation: Operation) -> str:
    """The path template of an operation."""
    head = "/v1/collections/{collection}" if operation.on_collection else "/v1"
    return "/".join([head, *operation.path])


def _entry(operation: Operation, refs: dict[Any, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Needs a key with the role {operation.role.name.lower()}.",
        "tags": [TAGS[operation.on_collection]],
        "responses": {
            "200": {"description": "Done", "content": _content(refs[operation.answer])},
            "default": {"description": "An error", "content": _content(refs[Failed])},
        },
    }
    if operation.on_collection:
        entry["parameters"] = [
            {
                "name": "collection",
                "in": "path",
                "required": True,
                "description": "The collection's name, percent-encoded",
                "schema": {"type": "string", "minLength": 1, "maxLength": 128},
            }
        ]
    if operation.request is not Empty:
        entry["requestBody"] = {"required": True, "content": _content(refs[operation.request])}
    return entry


def _content(schema: Any) -> dict[str, Any]:
    return {JSON_TYPE: {"schema": schema}, MSGPACK_TYPE: {"schema": schema}}
