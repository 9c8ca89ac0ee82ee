"""The Swagger document in protobuf: the only form that kubectl reads OpenAPI 2 in.

Field numbers are those of gnostic's OpenAPIv2.proto; only what `openapi.v2` says is written. Some forty
fields do not pay for generated classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import msgspec

from penstock.api import openapi

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def is_wanted(accept: str) -> bool:
    """True when the client's first choice is protobuf."""
    first = accept.partition(",")[0].partition(";")[0].strip()
    # The older spelling has an @, which is no media type by the grammar.
    return first in (MEDIA_TYPE, MEDIA_TYPE.replace(".v1.0", "@v1.0"))


@cache
def document() -> bytes:
    """`openapi.v2()` as a gnostic Document."""
    swagger = openapi.v2()
    info = _text(1, swagger["info"]["title"]) + _text(2, swagger["info"]["version"])
    paths = b"".join(
        _part(2, _named(path, _path_item(item))) for path, item in swagger["paths"].items()
    )
    definitions = b"".join(
        _part(1, _named(name, _schema(s))) for name, s in swagger["definitions"].items()
    )
    return _text(1, swagger["swagger"]) + _part(2, info) + _part(8, paths) + _part(9, definitions)


def _path_item(item: Mapping[str, Any]) -> bytes:
    return b"".join(_part(_METHODS[method], _operation(op)) for method, op in item.items())


def _operation(operation: Mapping[str, Any]) -> bytes:
    out = [_text(5, operation["operationId"])]
    out += [_text(7, kind) for kind in operation.get("consumes", ())]
    for p in operation["parameters"]:
        in_path = p["in"] == "path"
        said = _number(1, 1) if in_path else b""
        said += _text(2, p["in"]) + _text(4, p["name"]) + _text(5 if in_path else 6, p["type"])
        non_body = _part(4 if in_path else 3, said)
        out.append(_part(8, _part(1, _part(2, non_body))))
    out.append(_part(9, b""))
    out += _extensions(13, operation)
    return b"".join(out)


def _schema(schema: Mapping[str, Any]) -> bytes:
    out = [
        _text(number, schema[key])
        for number, key in ((1, "$ref"), (2, "format"), (4, "description"))
        if key in schema
    ]
    out += [_text(19, name) for name in schema.get("required", ())]
    out += [_part(20, _any(value)) for value in schema.get("enum", ())]
    if "additionalProperties" in schema:
        out.append(_part(21, _part(1, _schema(schema["additionalProperties"]))))
    if "type" in schema:
        out.append(_part(22, _text(1, schema["type"])))
    if "items" in schema:
        out.append(_part(23, _part(1, _schema(schema["items"]))))
    if "properties" in schema:
        listed = (_part(1, _named(k, _schema(v))) for k, v in schema["properties"].items())
        out.append(_part(25, b"".join(listed)))
    out += _extensions(31, schema)
    return b"".join(out)


def _extensions(field: int, of: Mapping[str, Any]) -> Iterable[bytes]:
    return [_part(field, _named(k, _any(v))) for k, v in of.items() if k.startswith("x-")]


def _named(name: str, value: bytes) -> bytes:
    return _text(1, name) + _part(2, value)


def _any(value: Any) -> bytes:
    return _text(2, msgspec.json.encode(value).decode())  # JSON is YAML


def _text(field: int, value: str) -> bytes:
    return _part(field, value.encode())


def _part(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
