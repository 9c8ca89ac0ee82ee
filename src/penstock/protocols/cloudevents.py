"""CloudEvents 1.0 over HTTP: a prediction's request and answer as events, in binary and structured mode.

In binary mode the attributes are `ce-` header fields and the body is the data; in structured mode the body
is one JSON object with both. The answer comes in the request's mode. Its `type` and `source` are KServe's,
`io.kserve.inference.response` and `io.kserve.inference.MODEL`, or what `CE_TYPE` and `CE_SOURCE` say in the
model's environment; with `CE_MERGE=true` the request's other attributes come back with it. The `id` and
`time` are always new.

Formats: CloudEvents 1.0.2, its JSON format, and its HTTP protocol binding (attribute values in header fields
are percent-encoded).
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

import msgspec

from penstock.errors import InvalidInput
from penstock.protocols.json_faults import JSON_FAULTS, json_fault

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
RESPONSE_TYPE: Final = "io.kserve.inference.response"
#: Without these an event is none.
REQUIRED: Final = ("specversion", "id", "source", "type")
#: Attributes that the answer never takes from the request.
_OWN: Final = frozenset({"id", "time", "type", "source", "datacontenttype", "dataschema"})
_VERSIONS: Final = ("1.0", "0.3")
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]{1,64}")
_MAX_VALUE: Final = 4096
#: What a header value keeps as it is: printable ASCII but space, the quote and percent.
_SAFE: Final = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"

_encode = msgspec.json.Encoder().encode
_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder(str | bool | int | None).decode


@dataclass(frozen=True, slots=True)
class Event:
    """A request that came as an event: its attributes, and its data as a body of `content_type`."""

    attributes: Mapping[str, str]
    data: Buffer
    content_type: str
    structured: bool


@dataclass(frozen=True, slots=True)
class Answers:
    """How a model's answers are described."""

    type: str = RESPONSE_TYPE
    #: Empty: made of the model's name.
    source: str = ""
    #: The request's other attributes come back.
    merge: bool = False
    #: For tests: makes (id, time).
    stamp: Any = field(
        default=lambda: (str(uuid.uuid4()), datetime.datetime.now(datetime.UTC).isoformat())
    )

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Answers:
        """From `CE_TYPE`, `CE_SOURCE` and `CE_MERGE`."""
        return cls(
            environ.get("CE_TYPE", "") or RESPONSE_TYPE,
            environ.get("CE_SOURCE", ""),
            environ.get("CE_MERGE", "").strip().lower() == "true",
        )


def is_event(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request with these header fields (names in lower case) is an event."""
    for name, value in headers:
        if name == b"ce-specversion":
            return True
        if name == b"content-type" and value[:23].lower() == b"application/cloudevents":
            return True
    return False


def decode_event(headers: Sequence[tuple[bytes, bytes]], body: Buffer) -> Event:
    """The event in a request. InvalidInput for one that lacks an attribute or is malformed."""
    content_type = next((v.decode("latin-1") for n, v in headers if n == b"content-type"), "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == BATCH:
        raise InvalidInput(
            "A batch of CloudEvents is not served.", hint="Send one event a request."
        )
    if kind == STRUCTURED:
        return _structured(body)
    if kind.startswith("application/cloudevents"):
        raise InvalidInput(
            f"The event format {kind[:80]} is not served.", hint=f"Send {STRUCTURED}."
        )
    attributes: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(b"ce-"):
            key = name[3:].decode("latin-1")
            if key in attributes:
                raise InvalidInput(f"The CloudEvent's attribute {key[:80]} is there twice.")
            attributes[_named(key)] = _valued(key, unquote(value.decode("latin-1")))
    _check(attributes)
    return Event(attributes, body, content_type, structured=False)


def _structured(body: Buffer) -> Event:
    try:
        fields = _decode_attributes(body)
    except JSON_FAULTS as e:
        if type(e) is msgspec.ValidationError:
            raise InvalidInput("A CloudEvent is a JSON object.") from None
        raise json_fault(e, body) from None
    data: Buffer = b""
    attributes: dict[str, str] = {}
    for key, raw in fields.items():
        if key in ("data", "data_base64"):
            continue
        try:
            value = _decode_value(raw)
        except msgspec.MsgspecError:
            raise InvalidInput(
                f"The CloudEvent's attribute {key[:80]} is neither text, a number nor a boolean."
            ) from None
        if value is None:
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        attributes[_named(key)] = _valued(key, text)
    if "data" in fields and "data_base64" in fields:
        raise InvalidInput("The CloudEvent has both 'data' and 'data_base64'; one is expected.")
    _check(attributes)
    content_type = attributes.get("datacontenttype", "application/json")
    if "data" in fields:
        data = bytes(fields["data"])
        if data[:1] == b'"' and "json" not in content_type.lower():
            data = str(
                msgspec.json.decode(data)
            ).encode()  # text of another type stands as a string
    elif "data_base64" in fields:
        try:
            data = base64.b64decode(
                msgspec.json.decode(fields["data_base64"], type=str), validate=True
            )
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            raise InvalidInput("The CloudEvent's 'data_base64' is no base64 text.") from None
    return Event(attributes, data, content_type, structured=True)


def _named(key: str) -> str:
    if not _ATTRIBUTE.fullmatch(key):
        raise InvalidInput(
            f"The CloudEvent has an attribute named {key[:80]!r}; "
            "names are lower-case letters and digits."
        )
    return key


def _valued(key: str, value: str) -> str:
    if len(value) > _MAX_VALUE:
        raise InvalidInput(
            f"The CloudEvent's attribute {key[:80]} has over {_MAX_VALUE} characters."
        )
    if any(c < " " or c == "\x7f" for c in value):
        raise InvalidInput(f"The CloudEvent's attribute {key[:80]} has control characters.")
    return value


def _check(attributes: Mapping[str, str]) -> None:
    missing = [name for name in REQUIRED if not attributes.get(name)]
    if missing:
        raise InvalidInput(f"The CloudEvent lacks {', '.join(missing)}.")
    version = attributes["specversion"]
    if version not in _VERSIONS:
        raise InvalidInput(
            f"CloudEvents {version[:20]} is not served.", hint=f"Send {' or '.join(_VERSIONS)}."
        )


def answer_attributes(event: Event, model: str, answers: Answers) -> dict[str, str]:
    """The attributes of the answer to `event`."""
    kept = {k: v for k, v in event.attributes.items() if k not in _OWN} if answers.merge else {}
    identity, time = answers.stamp()
    return {
        **kept,
        "specversion": "1.0",
        "id": identity,
        "source": answers.source or f"io.kserve.inference.{model}",
        "type": answers.type,
        "time": time,
    }


def encode_headers(attributes: Mapping[str, str]) -> bytes:
    """Binary mode: rendered header lines."""
    return b"".join(
        b"ce-%b: %b\r\n" % (name.encode(), quote(value, safe=_SAFE).encode())
        for name, value in attributes.items()
    )


def encode_structured(attributes: Mapping[str, str], content_type: str, data: bytes) -> bytes:
    """Structured mode: one JSON object; data of a JSON type stands in it as it is."""
    document: dict[str, Any] = dict(attributes)
    document["datacontenttype"] = content_type
    if "json" in content_type.lower():
        document["data"] = msgspec.Raw(data)
    else:
        document["data_base64"] = base64.b64encode(data).decode()
    return _encode(document)
