"""SeldonMessages in HTML forms: `json=...`, and a message's members as fields and files.

Seldon's wrapper takes both at every call. A file is `binData`, or `strData` where the field says so; other
fields hold JSON, or are text under `strData`.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import msgspec

from penstock.errors import InvalidInput
from penstock.protocols.json_faults import JSON_FAULTS
from penstock.protocols.seldon import decode_object

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer

#: Fields of one form.
_MOST_FIELDS: Final = 64
_TEXT: Final = ("strData", "binData")
_PARTS: Final = b"multipart/form-data"
_ENCODED: Final = b"application/x-www-form-urlencoded"


def is_form(content_type: bytes | None) -> bool:
    """Whether a body of this type may be a form."""
    return content_type is not None and content_type.lower().startswith((_PARTS, _ENCODED))


def may_be_in_query(path: str, query: str) -> bool:
    """Whether a query may hold the message, as Seldon's wrapper takes it; `/api/...` is its executor's."""
    return "json=" in query and not path.startswith("/api/")


def field(text: str) -> bytes:
    """The message in `text`, a query or a form that has it as `json=...`; empty: none. InvalidInput."""
    try:
        fields = parse_qs(text, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise InvalidInput("the form cannot be read") from None
    return fields["json"][0].encode() if fields.get("json") else b""


def decode_body(body: Buffer, content_type: bytes | None) -> dict[str, Any]:
    """The JSON object in a body, whatever way it came. Raises InvalidInput."""
    kind = b"" if content_type is None else content_type.lower()
    if kind.startswith(_PARTS):
        return _multipart(body, content_type or b"")
    # Tools call any body a form that is given no type; JSON's begins with a brace.
    if kind.startswith(_ENCODED) and bytes(body[:1]).isalpha():
        try:
            text = bytes(body).decode("ascii")
        except UnicodeDecodeError:
            raise InvalidInput("the form cannot be read") from None
        return decode_object(field(text))
    return decode_object(body)


def _multipart(body: Buffer, content_type: bytes) -> dict[str, Any]:
    # Rare, and a large package to have in every model process.
    from email.parser import BytesParser
    from email.policy import HTTP

    head = b"content-type: %b\r\n\r\n" % content_type
    message = BytesParser(policy=HTTP).parsebytes(head + bytes(body))
    if not message.is_multipart():
        raise InvalidInput("the form cannot be read: it has no parts")
    document: dict[str, Any] = {}
    for count, part in enumerate(message.iter_parts()):
        if count >= _MOST_FIELDS:
            raise InvalidInput(f"the form has more than {_MOST_FIELDS} fields")
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str) or name in document:
            raise InvalidInput("each field of the form needs a name of its own")
        payload = part.get_payload(decode=True)
        data = payload if isinstance(payload, bytes) else b""
        is_file = part.get_filename() is not None
        try:
            if name == "binData" and is_file:
                document[name] = base64.b64encode(data).decode("ascii")
            elif name in _TEXT:
                document[name] = data.decode()
            elif name == "json":
                return decode_object(data)
            else:
                document[name] = msgspec.json.decode(data)
        except (UnicodeDecodeError, *JSON_FAULTS):
            raise InvalidInput(f"the form's field '{name[:100]}' is no JSON, nor text") from None
    return document
