"""Seldon Core V1's protocol: SeldonMessages in JSON to arrays, and rows back.

A request holds one of `data.ndarray`, `data.tensor`, `data.tftensor`, `strData`, `binData` and `jsonData`;
the answer has the same kind of `data`. `meta.puid` names the request and comes back, as do `meta.tags`.
Errors are a `status` object. Seldon's wrapper answers what a client did wrong with 500 or drops it; here it
is always 400.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import sys
from collections.abc import Sequence
from math import inf, isfinite, nan, prod
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock.errors import InvalidInput, ModelError, PenstockError
from penstock.protocols import tftensor
from penstock.protocols.json_faults import JSON_FAULTS, json_fault
from penstock.protocols.v1 import encode_result, rows_of_json, to_arrays

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array, TensorSpec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

#: Members of a SeldonMessage that hold the payload.
KINDS: Final = ("data", "strData", "binData", "jsonData", "customData")
#: How a message's `data` holds its array.
ARRAY_KINDS: Final = ("ndarray", "tensor", "tftensor")
#: Characters of a puid that a caller may send; it comes back in a header.
MAX_PUID: Final = 256


class Message(msgspec.Struct, frozen=True):
    """A request as arrays, and what of it the answer repeats."""

    inputs: dict[str, Array]
    #: `tensor`, `ndarray` or `tftensor`: how the answer holds its numbers; empty where there was none.
    kind: str
    puid: str
    tags: dict[str, Any] = {}


def decode_object(body: Buffer) -> dict[str, Any]:
    """The JSON object in `body`. Raises InvalidInput."""
    try:
        message = _decode(body)
    except JSON_FAULTS as e:
        raise json_fault(e, body) from None
    if type(message) is not dict:
        raise InvalidInput("the body is no SeldonMessage: a JSON object is expected")
    return message


def decode_message(
    body: Buffer | dict[str, Any], specs: Sequence[TensorSpec] = (), puid: str | None = None
) -> Message:
    """The SeldonMessage in `body`, which may be decoded; `puid` is the header's. Raises InvalidInput."""
    message = body if isinstance(body, dict) else decode_object(body)
    given = [k for k in KINDS if message.get(k) is not None]
    if len(given) != 1:
        said = f", not {' and '.join(given)}" if given else ""
        raise InvalidInput(f"the request must have one of {', '.join(KINDS)}{said}")
    meta = meta_of(message)
    own = checked_puid(meta.get("puid") or puid or new_puid())
    tags = meta.get("tags") or {}
    what = given[0]
    value = message[what]
    kind = ""
    if what == "data":
        kind = kind_of(value)
        rows, names = rows_of(value[kind], kind), names_of(value)
    else:
        rows, names = _single(what, value), ()
        if type(rows) is dict:
            return Message(to_arrays(rows, specs).named(specs), kind, own, tags)
    if names and len(specs) > 1 and {s.name for s in specs} == set(names):
        rows = _by_name(rows, names)
    return Message(to_arrays({"instances": rows}, specs).named(specs), kind, own, tags)


def new_puid() -> str:
    """A name for a request that has none."""
    return secrets.token_hex(13)


def checked_puid(puid: Any) -> str:
    """A puid that may go into a header. InvalidInput."""
    if type(puid) is str and len(puid) <= MAX_PUID and puid.isprintable() and puid.isascii():
        return puid
    raise InvalidInput(f"'meta.puid' must be text of at most {MAX_PUID} plain characters")


def meta_of(message: dict[str, Any]) -> dict[str, Any]:
    """`meta` of a message, its parts of the right kind. InvalidInput."""
    meta = message.get("meta")
    if meta is None:
        return {}
    if type(meta) is not dict:
        raise InvalidInput("'meta' is no object")
    for key, kind, said in _META:
        if type(meta.get(key)) not in (kind, type(None)):
            raise InvalidInput(f"'meta.{key}' is no {said}")
    if meta.get("puid"):
        checked_puid(meta["puid"])
    return {k: v for k, v in meta.items() if v is not None}


_META: Final = (
    ("tags", dict, "object"),
    ("routing", dict, "object"),
    ("requestPath", dict, "object"),
    ("metrics", list, "list"),
)


def tensor_of(value: Any) -> tuple[list[int], list[Any]]:
    """Shape and values of `data.tensor`, which fit together. InvalidInput."""
    if type(value) is not dict or set(value) - {"shape", "values"}:
        raise InvalidInput("'data.tensor' must be an object of 'shape' and 'values'")
    shape, values = value.get("shape"), value.get("values")
    if type(values) is not list:
        raise InvalidInput(_NO_VALUES)
    kinds = set(map(type, values))
    if str in kinds:
        values = [_NO_NUMBERS.get(v, v) if type(v) is str else v for v in values]
        kinds = set(map(type, values))
    if not kinds <= _NUMBERS:
        raise InvalidInput(_NO_VALUES)
    if shape is None:
        shape = [len(values)]
    if type(shape) is not list or any(type(n) is not int or n < 0 for n in shape) or not shape:
        raise InvalidInput("'data.tensor.shape' is no list of sizes")
    if prod(shape) != len(values):
        raise InvalidInput(
            f"'data.tensor' has {len(values)} values, its shape {shape} is of {prod(shape)}"
        )
    return shape, values


_NO_VALUES: Final = "'data.tensor.values' is no list of numbers"
_NUMBERS: Final = frozenset((int, float))
#: What is no number, as protobuf's JSON has it.
_NO_NUMBERS: Final = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}


def tensor_values(array: Array) -> list[Any]:
    """The values of `data.tensor`; Seldon's clients read them as protobuf's JSON, which knows no null."""
    values: list[Any] = array.ravel().tolist()
    if array.dtype.kind != "f":
        return values
    few = len(values) <= _FEW
    if all(map(isfinite, values)) if few else isfinite(array.max()) and isfinite(array.min()):
        return values
    return [v if isfinite(v) else _SPELLED.get(v, "NaN") for v in values]


#: Up to so many values are looked at one by one quicker than by the array.
_FEW: Final = 50
_SPELLED: Final = {inf: "Infinity", -inf: "-Infinity"}


def names_of(data: dict[str, Any]) -> Sequence[str]:
    """`data.names`; empty where there are none. InvalidInput."""
    names = data.get("names") or ()
    if names and (type(names) is not list or any(type(n) is not str for n in names)):
        raise InvalidInput("'data.names' is no list of strings")
    return names


def kind_of(data: Any) -> str:
    """Which of `ARRAY_KINDS` the array of `data` is. InvalidInput unless there is one."""
    if type(data) is not dict:
        raise InvalidInput("'data' is no object")
    kinds = [k for k in ARRAY_KINDS if data.get(k) is not None]
    if len(kinds) != 1:
        raise InvalidInput(f"'data' must have one of {', '.join(ARRAY_KINDS)}")
    return kinds[0]


def rows_of(value: Any, kind: str) -> list[Any]:
    """The rows in `data`'s array of this kind. InvalidInput."""
    if kind == "tftensor":
        rows: Any = tftensor.decode(value).tolist()
        if type(rows) is not list:
            raise InvalidInput("'data.tftensor' has no dimension; rows are expected")
        return rows
    if kind == "ndarray":
        if type(value) is not list:
            raise InvalidInput("'data.ndarray' is no list")
        return value
    shape, values = tensor_of(value)
    for width in reversed(shape[1:]):
        if not width:
            raise InvalidInput("'data.tensor' is empty; one value at least is expected")
        values = [values[i : i + width] for i in range(0, len(values), width)]
    return values


def _single(what: str, value: Any) -> Any:
    """The payload of a message without `data`: rows, or a V1 object."""
    if what == "customData":
        raise InvalidInput("'customData' is not supported; send data, strData, binData or jsonData")
    if what == "strData":
        if type(value) is not str:
            raise InvalidInput("'strData' is no string")
        return [value]
    if what == "binData":
        if type(value) is not str:
            raise InvalidInput("'binData' is no base64 text")
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidInput("'binData' is no base64") from None
        return [{"b64": value}]
    if type(value) is dict and ("instances" in value or "inputs" in value):
        return value
    return value if type(value) is list else [value]


def _by_name(rows: list[Any], names: Sequence[str]) -> list[Any]:
    found = []
    for i, row in enumerate(rows):
        if type(row) is not list or len(row) != len(names):
            raise InvalidInput(f"row {i} has not the {len(names)} values of 'data.names'")
        found.append(dict(zip(names, row, strict=True)))
    return found


def encode_message(outputs: dict[str, Array], message: Message, model: str) -> bytes:
    """The SeldonMessage of a model's answer. Raises ModelError."""
    meta: dict[str, Any] = {"puid": message.puid, "requestPath": {model: "penstock"}}
    if message.tags:
        meta["tags"] = message.tags
    if len(outputs) > 1:
        columns = {name: rows_of_json(a) for name, a in outputs.items()}
        return encode_result({"jsonData": columns, "meta": meta})
    (values,) = outputs.values()
    names = [f"t:{i}" for i in range(values.shape[1])] if values.ndim == 2 else []
    data: dict[str, Any] = {"names": names}
    if message.kind == "tftensor":
        data["tftensor"] = _tftensor(values)
    elif values.dtype.kind in "fiu" and message.kind != "ndarray":
        data["tensor"] = {"shape": list(values.shape), "values": tensor_values(values)}
    else:
        data["ndarray"] = rows_of_json(values)
    return encode_result({"data": data, "meta": meta})


def _tftensor(values: Array) -> dict[str, Any]:
    try:
        return tftensor.encode(values)
    except ValueError as exc:
        raise ModelError(str(exc)) from exc


def reward_of(message: dict[str, Any]) -> float:
    """The reward of a Feedback message; 0 when it has none. Raises InvalidInput."""
    for name in ("request", "response", "truth"):
        if type(message.get(name)) not in (dict, type(None)):
            raise InvalidInput(f"'{name}' is no SeldonMessage")
    return finite(message.get("reward"))


def finite(reward: Any) -> float:
    """A reward as JSON has it; 0 for none. Raises InvalidInput."""
    if reward is None:
        return 0.0
    # A whole number of JSON's may have any number of digits.
    if type(reward) not in (int, float) or not abs(reward) <= sys.float_info.max:
        raise InvalidInput("'reward' is no number")
    return float(reward)


def seldon_error(error: PenstockError) -> bytes:
    """Seldon's `status` object for an error."""
    reason = "MICROSERVICE_BAD_DATA" if error.reason == InvalidInput.reason else error.reason
    status = {"code": error.status, "info": str(error), "reason": reason, "status": "FAILURE"}
    return _encode({"status": status})
