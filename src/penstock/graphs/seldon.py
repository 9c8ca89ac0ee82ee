"""Values of Seldon V1's graphs: messages whose arrays stay arrays, with names and meta beside them.

A message with an array of numbers or text is a `Tensors` of one tensor, whose parameter `seldon` has the
rest; so it goes from unit to unit in binary. One with text, bytes or JSON is a `Body`. What V1 and V2 clients
send to such a graph is made the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from penstock.errors import InvalidInput
from penstock.graphs.values import Body, Several, Tensors, Value
from penstock.protocols.infer import InferRequest
from penstock.protocols.seldon_message import (
    ARRAY_KINDS,
    PARAMETER,
    SeldonMessage,
    about,
    from_tensors,
    merged,
    message_of,
)
from penstock.protocols.v2_client import encode_request

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array

#: The tensor of a message; models name their own.
TENSOR: Final = "data"

_decode = msgspec.json.Decoder().decode


def is_seldon(value: Value) -> bool:
    """Whether it is a message with an array."""
    return isinstance(value, Tensors) and PARAMETER in value.parameters


def value_of(message: SeldonMessage) -> Value:
    """A message as a value of a graph."""
    if message.kind in ARRAY_KINDS and message.value.dtype.kind in "biufU":
        array: Array = message.value
        if array.dtype.kind == "U":
            array = array.astype(object)
        return Tensors({TENSOR: array}, parameters={PARAMETER: about(message)})
    return Body(message.encoded())


def of_tensors(value: Tensors, meta: Mapping[str, Any]) -> Tensors:
    """Tensors of a V2 or V1 client as a message; several stay several."""
    bare = SeldonMessage(None, "ndarray", (), meta)
    return Tensors(value.arrays, value.datatypes, value.id, {PARAMETER: about(bare)})


def message(value: Value) -> SeldonMessage:
    """A value as a message. InvalidInput when it is none."""
    if isinstance(value, Tensors):
        if len(value.arrays) != 1:
            known = _known(value)
            columns = {n: a.tolist() for n, a in value.arrays.items()}
            return SeldonMessage(columns, "jsonData", (), known.get("meta") or {})
        return from_tensors(value.arrays, value.parameters)[0][1]
    if isinstance(value, Several):
        raise InvalidInput("a list of messages is no message; a combiner makes one of it")
    return message_of(value.document)


def _known(value: Tensors) -> Any:
    return _decode(value.parameters.get(PARAMETER, "{}"))


def encode_several(values: Sequence[Value]) -> tuple[bytes, Buffer] | None:
    """Header lines and body of several messages with one array each; None where one has none."""
    arrays: dict[str, Array] = {}
    known: list[Any] = []
    for i, value in enumerate(values):
        if not isinstance(value, Tensors) or len(value.arrays) != 1:
            return None
        (array,) = value.arrays.values()
        arrays[str(i)] = array
        known.append(_known(value))
    parameters = {PARAMETER: msgspec.json.encode(known).decode()}
    length, pieces = encode_request(InferRequest(arrays, parameters=parameters, binary_output=True))
    return (
        b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"
        % (length or 0),
        b"".join(pieces),
    )


def average(values: Sequence[Value]) -> Tensors:
    """The element-wise mean of messages with arrays of one shape. InvalidInput."""
    given = [message(v) for v in values]
    shapes = []
    for m in given:
        if m.kind not in ARRAY_KINDS or m.value.dtype.kind not in "biuf":
            raise InvalidInput("a message without numbers has no average")
        shapes.append(list(m.value.shape))
    if any(s != shapes[0] for s in shapes):
        said = ", ".join(map(str, shapes))
        raise InvalidInput(f"the messages to average have different shapes: {said}")
    mean = np.mean(np.stack([m.value for m in given]), axis=0, dtype=np.float64)
    first = given[0]
    out = SeldonMessage(np.asarray(mean), first.kind, first.names, merged([m.meta for m in given]))
    return Tensors({TENSOR: out.value}, parameters={PARAMETER: about(out)})


def simple_model(value: Value) -> Value:
    """What Seldon's SIMPLE_MODEL answers to anything: one row of three classes."""
    given = message(value)
    kind = given.kind if given.kind in ARRAY_KINDS else "tensor"
    row = np.array([[0.1, 0.9, 0.5]])
    return value_of(SeldonMessage(row, kind, ("class0", "class1", "class2"), given.meta))
