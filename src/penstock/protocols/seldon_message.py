"""SeldonMessages as values: what a unit of a Seldon V1 graph is given and answers.

On the wire a message is JSON, or, between two processes of this platform, a V2 body with binary tensors
whose parameter `seldon` holds what is not a tensor (names, kind, meta), so that arrays are never written as
text on their way through a graph. `seldon` decodes messages for models that take arrays; here a message stays
what it is, because a user's class sees text, bytes and JSON as such.

`meta` goes through: tags are put together, metrics follow each other, the rest is the request's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from penstock.errors import InvalidInput, ModelError
from penstock.protocols import tftensor, v2
from penstock.protocols.infer import InferRequest, InferResponse
from penstock.protocols.json_faults import JSON_FAULTS
from penstock.protocols.seldon import (
    ARRAY_KINDS,
    KINDS,
    decode_object,
    finite,
    kind_of,
    meta_of,
    names_of,
    rows_of,
    tensor_of,
    tensor_values,
)
from penstock.protocols.text_arrays import array_of, array_of_numbers
from penstock.protocols.v1 import encode_result, rows_of_json

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array

#: V2's parameter that holds what of a message is no tensor, as JSON.
PARAMETER: Final = "seldon"
#: Messages that one aggregate may be given.
MOST_MESSAGES: Final = 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class SeldonMessage:
    """One message. `value` is an array, text, bytes or JSON, as `kind` says."""

    __slots__ = ("kind", "meta", "names", "value")

    def __init__(
        self,
        value: Any,
        kind: str,
        names: Sequence[str] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        #: `ndarray`, `tensor` and `tftensor` (an array), `strData`, `binData`, `jsonData`.
        self.kind = kind
        self.value = value
        self.names = names
        self.meta: Mapping[str, Any] = meta or {}

    def document(self) -> dict[str, Any]:
        """The message as JSON's values. Arrays become lists."""
        return self._document(_values)

    def _document(self, values: Callable[[Array], list[Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if self.kind in ARRAY_KINDS:
            array: Array = self.value
            data: dict[str, Any] = {"names": list(self.names)}
            if self.kind == "tftensor":
                data["tftensor"] = tftensor.encode(array)
            elif self.kind == "tensor" and array.dtype.kind != "b":
                data["tensor"] = {"shape": list(array.shape), "values": values(array)}
            else:
                data["ndarray"] = rows_of_json(array)
            out["data"] = data
        elif self.kind == "binData":
            out["binData"] = base64.b64encode(self.value).decode("ascii")
        elif self.kind:
            out[self.kind] = self.value
        out["meta"] = dict(self.meta)
        return out

    def encoded(self) -> bytes:
        """The message as JSON. ModelError for what JSON cannot say."""
        try:
            return encode_result(self._document(tensor_values))
        except (TypeError, ValueError) as exc:
            raise ModelError(f"the answer cannot be written as JSON: {exc}") from exc


def _values(array: Array) -> list[Any]:
    """The values of `data.tensor` as they are; `tensor_values` spells those that are no numbers."""
    values: list[Any] = array.ravel().tolist()
    return values


# -- JSON -----------------------------------------------------------------------------------------------


def message_of(document: Any, puid: str = "") -> SeldonMessage:
    """The message in decoded JSON; `puid` names it where it does not. Raises InvalidInput."""
    if type(document) is not dict:
        raise InvalidInput("a SeldonMessage is a JSON object")
    given = [k for k in KINDS if document.get(k) is not None]
    if len(given) != 1:
        said = f", not {' and '.join(given)}" if given else ""
        raise InvalidInput(f"the request must have one of {', '.join(KINDS)}{said}")
    meta = meta_of(document)
    if puid and not meta.get("puid"):
        meta = {**meta, "puid": puid}
    what = given[0]
    value = document[what]
    if what == "data":
        kind = kind_of(value)
        names = names_of(value)
        held = value[kind]
        if kind == "tftensor":
            return SeldonMessage(tftensor.decode(held), kind, names, meta)
        if kind == "tensor":
            shape, flat = tensor_of(held)
            try:
                return SeldonMessage(array_of_numbers(flat).reshape(shape), kind, names, meta)
            except (ValueError, OverflowError) as exc:
                raise InvalidInput(f"'data.tensor' is no array: {exc}") from None
        try:
            array = array_of(rows_of(held, kind))
        except (ValueError, OverflowError):
            raise InvalidInput("'data' is ragged: rows have different lengths") from None
        return SeldonMessage(array, kind, names, meta)
    if what == "customData":
        raise InvalidInput("'customData' is not supported; send data, strData, binData or jsonData")
    if what == "jsonData":
        return SeldonMessage(value, what, (), meta)
    if type(value) is not str:
        raise InvalidInput(f"'{what}' is no text")
    if what == "binData":
        try:
            return SeldonMessage(base64.b64decode(value, validate=True), what, (), meta)
        except (binascii.Error, ValueError):
            raise InvalidInput("'binData' is no base64") from None
    return SeldonMessage(value, what, (), meta)


def messages_of(document: Any) -> list[SeldonMessage]:
    """The messages of a SeldonMessageList. Raises InvalidInput."""
    members = document.get("seldonMessages") if type(document) is dict else None
    if type(members) is not list or not members:
        raise InvalidInput("'seldonMessages' is a list of one SeldonMessage or more")
    if len(members) > MOST_MESSAGES:
        raise InvalidInput(f"{len(members)} messages; {MOST_MESSAGES} at most can be aggregated")
    return [message_of(m) for m in members]


class Feedback:
    """A reward, and what it is for."""

    __slots__ = ("document", "request", "response", "reward", "truth")

    def __init__(
        self,
        document: Mapping[str, Any],
        request: SeldonMessage | None,
        response: SeldonMessage | None,
        truth: SeldonMessage | None,
        reward: float,
    ) -> None:
        self.document = document
        self.request = request
        self.response = response
        self.truth = truth
        self.reward = reward

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the answer said of itself: its routing, most of all."""
        return self.response.meta if self.response is not None else {}


def feedback_of(document: Any) -> Feedback:
    """The Feedback in decoded JSON. Raises InvalidInput."""
    if type(document) is not dict:
        raise InvalidInput("a Feedback is a JSON object")
    reward = finite(document.get("reward"))
    parts: list[SeldonMessage | None] = []
    for name in ("request", "response", "truth"):
        given = document.get(name)
        if given is None:
            parts.append(None)
        elif type(given) is not dict:
            raise InvalidInput(f"'{name}' is no SeldonMessage")
        elif any(given.get(k) is not None for k in KINDS):
            try:
                parts.append(message_of(given))
            except InvalidInput as exc:
                raise InvalidInput(f"'{name}': {exc.message}") from None
        else:
            parts.append(SeldonMessage(None, "", (), meta_of(given)))
    return Feedback(document, parts[0], parts[1], parts[2], reward)


# -- binary ---------------------------------------------------------------------------------------------


def about(message: SeldonMessage) -> str:
    """What of a message with an array is not the array, as the parameter has it."""
    known: dict[str, Any] = {"kind": message.kind}
    if message.names:
        known["names"] = list(message.names)
    if message.meta:
        known["meta"] = dict(message.meta)
    return _encode(known).decode()


def from_tensors(
    arrays: Mapping[str, Array], parameters: Mapping[str, Any]
) -> list[tuple[str, SeldonMessage]]:
    """(tensor's name, message) of each tensor. Raises InvalidInput."""
    text = parameters.get(PARAMETER)
    known: Any = {}
    if text is not None:
        try:
            known = _decode(text)
        except (*JSON_FAULTS, TypeError):
            raise InvalidInput("the parameter 'seldon' is no JSON") from None
    each = known if type(known) is list else [known] * len(arrays)
    if len(each) != len(arrays) or any(type(k) is not dict for k in each):
        raise InvalidInput("the parameter 'seldon' does not fit the tensors")
    found = []
    for (name, array), own in zip(arrays.items(), each, strict=True):
        names = own.get("names") or ()
        if type(names) not in (list, tuple) or any(type(n) is not str for n in names):
            raise InvalidInput("'names' in the parameter 'seldon' is no list of strings")
        kind = own.get("kind")
        if kind not in ARRAY_KINDS:
            kind = "tensor" if array.dtype.kind in "biuf" else "ndarray"
        found.append((name, SeldonMessage(_text(array), kind, names, meta_of(own))))
    return found


def _text(array: Array) -> Array:
    """A BYTES tensor as the array of text that JSON would have given."""
    if array.dtype != object:
        return array
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in array.ravel()]
    return array_of(texts).reshape(array.shape)


def binary_answer(message: SeldonMessage, name: str) -> InferResponse | None:
    """The message as a V2 response of one tensor; None where it is no array that a tensor can hold."""
    if message.kind not in ARRAY_KINDS or message.value.dtype.kind not in "biufU":
        return None
    array: Array = message.value
    if array.dtype.kind == "U":
        array = array.astype(object)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return InferResponse({name: array}, parameters={PARAMETER: about(message)})


def encode_binary(response: InferResponse) -> tuple[bytes, Sequence[Buffer]]:
    """Header lines and body of a V2 response with binary tensors."""
    return v2.encode_infer(response, InferRequest({}, binary_output=True))


# -- meta -----------------------------------------------------------------------------------------------


def merged(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several messages say of themselves, as one: tags of all, metrics of all, the first one's puid."""
    out: dict[str, Any] = {}
    for meta in metas:
        for key, value in meta.items():
            if key == "metrics":
                out[key] = [*out.get(key, ()), *value]
            elif type(value) is dict:
                out[key] = {**out.get(key, {}), **value}
            else:
                out.setdefault(key, value)
    return out


__all__ = [
    "ARRAY_KINDS",
    "PARAMETER",
    "Feedback",
    "SeldonMessage",
    "about",
    "binary_answer",
    "decode_object",
    "encode_binary",
    "feedback_of",
    "from_tensors",
    "merged",
    "message_of",
    "messages_of",
]
