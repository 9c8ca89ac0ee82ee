"""What passed each step of one request, written down in bounded size for whoever sent that request.

A value is looked at when it passes: a few elements of each tensor, the beginning of a body. What was written
is part of that request's answer and is kept nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.errors import PenstockError
from penstock.graphs.values import JSON, Body, Several, Tensors, Value
from penstock.protocols.datatypes import DTYPE_NAMES, datatype_of
from penstock.protocols.json_faults import JSON_FAULTS

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

#: Elements of a tensor that are written, and the most that a request may ask for.
FEW_ELEMENTS: Final = 64
MOST_ELEMENTS: Final = 10_000
#: Bytes that one request's values may come to, written; of those after that only the kind is told.
MOST_BYTES: Final = 1024 * 1024
#: Bytes of a body that are written for each element that may be, and characters of one text element.
_BODY_BYTES: Final = 64
_ELEMENT_CHARS: Final = 256
#: Members of a list, and tensors of a value.
_MOST_PARTS: Final = 64

_encode = msgspec.json.encode


class Inspector:
    """Writes down the values of one request."""

    def __init__(self, elements: int = FEW_ELEMENTS) -> None:
        self._elements = max(1, min(elements, MOST_ELEMENTS))
        self._room = MOST_BYTES

    def look(self, value: Value) -> msgspec.Raw:
        """JSON that tells a value: `tensors`, `json`, `text` or `members`, and what was left out."""
        if self._room <= 0:
            return msgspec.Raw(b'{"left_out":true}')
        text = _encode(self._told(value))
        self._room -= len(text)
        return msgspec.Raw(text)

    def _told(self, value: Value) -> dict[str, Any]:
        if isinstance(value, Tensors):
            arrays = list(value.arrays.items())
            told: dict[str, Any] = {
                "tensors": [
                    self._tensor(name, array, value.datatypes.get(name, ""))
                    for name, array in arrays[:_MOST_PARTS]
                ]
            }
            if len(arrays) > _MOST_PARTS:
                told["more"] = len(arrays) - _MOST_PARTS
            return told
        if isinstance(value, Several):
            members = list(zip(value.keys, value.values, strict=True))
            told = {"members": [{"key": key, **self._told(v)} for key, v in members[:_MOST_PARTS]]}
            if len(members) > _MOST_PARTS:
                told["more"] = len(members) - _MOST_PARTS
            return told
        return self._body(value)

    def _tensor(self, name: str, array: Array, datatype: str) -> dict[str, Any]:
        count = int(array.size)
        told: dict[str, Any] = {
            "name": name,
            "datatype": datatype or _datatype(array),
            "shape": list(array.shape),
            "data": [_plain(v) for v in array.flat[: self._elements].tolist()],
        }
        if count > self._elements:
            told["more"] = count - self._elements
        return told

    def _body(self, body: Body) -> dict[str, Any]:
        data = body.data
        told: dict[str, Any] = {"status": body.status} if body.status != 200 else {}
        most = max(4096, _BODY_BYTES * self._elements)
        kind = body.content_type.partition(b";")[0].strip().lower()
        if kind == JSON and len(data) <= most:
            try:
                return {**told, "json": msgspec.json.decode(data, type=msgspec.Raw)}
            except JSON_FAULTS:
                pass  # it is shown as the text that it is
        told["content_type"] = body.content_type.decode("latin-1")
        if kind == JSON or kind.startswith(b"text/"):
            told["text"] = bytes(data[:most]).decode("utf-8", "replace")
            if len(data) > most:
                told["more_bytes"] = len(data) - most
        else:
            told["bytes"] = len(data)
        return told


def _datatype(array: Array) -> str:
    known = DTYPE_NAMES.get(array.dtype)
    if known is not None:
        return known
    try:
        return datatype_of(array)
    except PenstockError:
        return str(array.dtype)


def _plain(element: Any) -> Any:
    """An element as JSON has it; NaN and infinities are null."""
    if isinstance(element, bytes):
        element = element[: _ELEMENT_CHARS + 1].decode("utf-8", "replace")
    if isinstance(element, str):
        return element if len(element) <= _ELEMENT_CHARS else element[:_ELEMENT_CHARS] + "…"
    return element if isinstance(element, bool | int | float) else str(element)[:_ELEMENT_CHARS]
