"""Values as requests to services, and what services answer as values.

Tensors go as V2 with binary tensors and come back so; nothing is written as text between two steps. A body
goes as it is, to V2's path when it is V2's and to V1's otherwise, so that a custom predictor gets what the
client sent. The few conversions that a `Wire` asks for are made by `values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

import msgspec

from penstock.domain.graph import Call, CallUrl, Verb, Wire
from penstock.errors import InvalidInput, ModelError, PenstockError
from penstock.graphs.seldon import encode_several, is_seldon, message
from penstock.graphs.values import (
    JSON,
    Body,
    Failure,
    Several,
    Tensors,
    Value,
    is_v2,
    json_of,
    of_response,
    said_of,
    tensors_of,
)
from penstock.protocols import v1
from penstock.protocols.infer import InferRequest
from penstock.protocols.v2 import parse_header_length
from penstock.protocols.v2_client import decode_response, encode_request

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer

#: Most characters of a service's error that are repeated in ours.
_MESSAGE: Final = 500

_encode = msgspec.json.Encoder().encode


class Encoded:
    """A request: where to, header lines of its own, and its body."""

    __slots__ = ("_shared", "body", "headers", "path", "tensors")

    def __init__(
        self,
        path: str,
        headers: bytes,
        body: Buffer,
        tensors: bool,
        shared: _Rendered | None = None,
    ) -> None:
        #: Kept alive for other steps that are given the same value.
        self._shared = shared
        self.path = path
        self.headers = headers
        self.body = body
        #: The answer is wanted as tensors.
        self.tensors = tensors


def encode(action: Call | CallUrl, value: Value) -> Encoded:
    """The request for a value. InvalidInput when the value cannot be said in the wire's way."""
    verb = action.verb if isinstance(action, Call) else Verb.PREDICT
    wire = action.wire
    if wire is Wire.SELDON or verb not in (Verb.PREDICT, Verb.EXPLAIN):
        return _seldon(action, verb, value)
    if isinstance(value, Several):
        raise InvalidInput("a list of values can be sent to an aggregate only")
    if isinstance(value, Body):
        two = is_v2(value) if wire is Wire.AUTO else wire is Wire.V2
        if (two and wire is Wire.V2 and not is_v2(value)) or (wire is Wire.V1 and is_v2(value)):
            value = tensors_of(value)
        else:
            return Encoded(
                _path(action, verb, two),
                b"content-type: %b\r\n" % value.content_type,
                value.data,
                False,
            )
    if wire is Wire.V1:
        return Encoded(_path(action, verb, False), v1.JSON_HEADERS, _instances(value), False)
    rendered = _rendered(value)
    return Encoded(_path(action, verb, True), rendered.headers, rendered.body, True, rendered)


class _Rendered:
    """A V2 request with binary tensors, but for its path."""

    __slots__ = ("__weakref__", "body", "headers")

    def __init__(self, headers: bytes, body: bytes) -> None:
        self.headers = headers
        self.body = body


def _rendered(value: Tensors) -> _Rendered:
    """Steps side by side that are given one value share what it is sent as, while one of them needs it."""
    reference = value.rendered
    known: _Rendered | None = reference() if reference is not None else None
    if known is not None:
        return known
    length, pieces = encode_request(
        InferRequest(
            dict(value.arrays),
            dict(value.datatypes),
            id=value.id,
            parameters=dict(value.parameters),
            input_parameters=said_of(value),
            binary_output=True,
        )
    )
    headers = (
        b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
        % (length or 0)
    )
    made = _Rendered(headers, b"".join(pieces))
    value.rendered = ref(made)
    return made


def _path(action: Call | CallUrl, verb: Verb, two: bool) -> str:
    if isinstance(action, CallUrl):
        return ""
    if action.path:
        return action.path
    model = action.model or action.service
    if two:
        return f"/v2/models/{model}/{'explain' if verb is Verb.EXPLAIN else 'infer'}"
    return f"/v1/models/{model}:{verb.value}"


def _instances(value: Tensors) -> bytes:
    """A V1 request of tensors: rows of the only one, objects of several with one number of rows."""
    arrays = value.arrays
    rows = {a.shape[0] if a.ndim else -1 for a in arrays.values()}
    if len(rows) == 1 and -1 not in rows:
        predictions = msgspec.json.decode(v1.encode_predictions(arrays))["predictions"]
        return v1.encode_result({"instances": predictions})
    return v1.encode_result({"inputs": {n: v1.rows_of_json(a) for n, a in arrays.items()}})


def _seldon(action: Call | CallUrl, verb: Verb, value: Value) -> Encoded:
    path = ""
    if isinstance(action, Call):
        path = action.path or (
            "/api/v1.0/predictions" if verb is Verb.PREDICT else f"/{verb.value}"
        )
    if is_seldon(value):
        assert isinstance(value, Tensors)  # noqa: S101 - what `is_seldon` says
        rendered = _rendered(value)
        return Encoded(path, rendered.headers, rendered.body, False, rendered)
    if isinstance(value, Several):
        binary = encode_several(value.values) if any(map(is_seldon, value.values)) else None
        if binary is not None:
            return Encoded(path, *binary, False)
        body = b'{"seldonMessages":[' + b",".join(_message(v) for v in value.values) + b"]}"
        return Encoded(path, v1.JSON_HEADERS, body, False)
    return Encoded(path, v1.JSON_HEADERS, _message(value), False)


def _message(value: Value) -> bytes:
    """A SeldonMessage; one tensor as `data.ndarray`, several as V2's JSON under `jsonData`."""
    if isinstance(value, Body):
        return bytes(value.data)
    if is_seldon(value):
        return message(value).encoded()
    if isinstance(value, Tensors) and len(value.arrays) == 1:
        (array,) = value.arrays.values()
        return v1.encode_result({"data": {"names": [], "ndarray": v1.rows_of_json(array)}})
    return _encode({"jsonData": json_of(value)})


def outcome(
    request: Encoded,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: Buffer,
    who: str,
    memo: dict[Any, Any] | None = None,
) -> Value | Failure:
    """What an answer means: a value for 2xx, a failure otherwise or when it does not hold together.

    `memo` belongs to the headers: what they say is remembered there.
    """
    said = memo.get(_SAID) if memo is not None else None
    if said is None:
        said = _read(headers)
        if memo is not None:
            memo[_SAID] = said
    content_type, length, retry = said
    if not 200 <= status < 300:
        failed = Body(body, content_type, status)
        return Failure(
            status,
            f"{who}: {message_in(failed, status)}",
            body=failed,
            retry_after_s=float(retry) if retry is not None and retry.isdigit() else None,
        )
    if length is None and not request.tensors:
        return Body(body, content_type, status)
    try:
        response = decode_response(body, parse_header_length(length, len(body)))
    except PenstockError as exc:
        fault = exc if isinstance(exc, ModelError) else ModelError(exc.message)
        return Failure(502, f"{who}: {fault.message}", reason=fault.reason)
    return of_response(response)


_SAID: Final = "graph-answer"


def _read(headers: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes | None, bytes | None]:
    """Content type, the JSON's length, and when to come again."""
    content_type = JSON
    length: bytes | None = None
    retry: bytes | None = None
    for name, content in headers:
        if name == b"content-type":
            content_type = content
        elif name == b"inference-header-content-length":
            length = content
        elif name == b"retry-after":
            retry = content
    return content_type, length, retry


def message_in(body: Body, status: int) -> str:
    """The sentence in an error's body."""
    try:
        document: Any = body.document
    except InvalidInput:
        return f"answered {status}"
    if isinstance(document, dict):
        status_of = document.get("status")  # Seldon's
        if isinstance(status_of, dict) and isinstance(status_of.get("info"), str):
            return str(status_of["info"])[:_MESSAGE]
        for key in ("error", "detail", "message", "reason"):
            text = document.get(key)
            if isinstance(text, dict):
                text = text.get("message")
            if isinstance(text, str) and text:
                return text[:_MESSAGE]
    return f"answered {status}"
