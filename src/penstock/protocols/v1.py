"""V1, TensorFlow Serving's predict protocol as KServe speaks it: JSON bodies to arrays, rows back.

A request is `{"instances": [row, ...]}` or `{"inputs": columns}`; an answer is `{"predictions": ...}`.
V1 names no datatypes: where the model declares its inputs they decide, otherwise the JSON does (booleans,
integers, numbers with a fraction, text). The rules:

* Rows that are numbers, strings or lists become one array without a name (key None): the model's only
  input. Rows that are objects become one array per key, and every row has to have the same keys.
* `{"inputs": {...}}` has one array per key already, `{"inputs": [...]}` is one array.
* `{"b64": "..."}` in place of a value is binary data, as TensorFlow Serving has it.
* null is a missing value: NaN among numbers, None among text. A literal NaN or Infinity is no JSON and is
  refused; in an answer both become null.
* A row of mixed kinds (text beside numbers, as tables have) makes an object array.
* Other keys of the request are its parameters.
* One output answers its rows, several answer one object per row.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from penstock.errors import InvalidInput, ModelError
from penstock.protocols.datatypes import DATATYPES, Datatype, count_of
from penstock.protocols.errors import error_body
from penstock.protocols.json_faults import JSON_FAULTS, json_fault
from penstock.protocols.json_tensors import to_integers, typed_array

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array, TensorSpec

__all__ = [
    "Decoded",
    "decode_arrays",
    "decode_object",
    "decode_predict",
    "encode_chunk",
    "encode_predictions",
    "encode_result",
    "error_body",
    "from_b64",
    "is_json",
    "rows_of_json",
    "to_arrays",
]

JSON_HEADERS: Final = b"content-type: application/json\r\n"
_decode = msgspec.json.Decoder().decode
#: Types by which a client says nothing of the body.
_UNSAID: Final = ("application/octet-stream", "application/x-www-form-urlencoded")
_JSON_TYPE: Final = re.compile(
    r"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.ASCII | re.IGNORECASE
)


class Decoded(NamedTuple):
    """A V1 request as arrays. The name is None for an input that the request did not name."""

    inputs: dict[str | None, Array]
    parameters: dict[str, Any]
    #: False for `{"inputs": ...}`: the arrays need not have one row per instance.
    rows: bool

    def named(self, specs: Sequence[TensorSpec]) -> dict[str, Array]:
        """The inputs with the nameless one named after the model's only input.

        A model that declares nothing gets it as `input-0`. A model of several columns takes rows that are
        lists of as many values, in the order declared; InvalidInput when it declares several others.
        """
        nameless = self.inputs.get(None)
        if nameless is None:
            return self.inputs  # type: ignore[return-value]
        if len(specs) > 1:
            if nameless.ndim == 2 and all(s.shape in ((-1,), (-1, 1)) for s in specs):
                return _split(nameless, specs)
            known = ", ".join(f"'{s.name}'" for s in specs)
            raise InvalidInput(
                f"the model has {len(specs)} inputs: {known}.",
                hint='Give each row as an object, {"NAME": value, ...}.',
            )
        return {specs[0].name if specs else "input-0": nameless}


def _split(rows: Array, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Rows of a table as the columns that a model declares; an object column keeps its values' kinds."""
    if rows.shape[1] != len(specs):
        known = ", ".join(f"'{s.name}'" for s in specs)
        raise InvalidInput(
            f"a row has {rows.shape[1]} values, the model takes {len(specs)}: {known}"
        )
    return {s.name: rows[:, i].reshape(-1, *s.shape[1:]) for i, s in enumerate(specs)}


def is_json(content_type: str | bytes | None) -> bool:
    """Whether a V1 body of this content type is JSON.

    No type at all counts, as octets do (KServe), and as the type does that `curl -d` says of any body.
    """
    if not content_type:
        return True
    text = content_type.decode("latin-1") if isinstance(content_type, bytes) else content_type
    return bool(_JSON_TYPE.match(text)) or text.lower().startswith(_UNSAID)


def decode_predict(body: Buffer) -> dict[str, Any]:
    """The JSON object in `body`, for a model that takes the payload as it is. Raises InvalidInput."""
    return decode_object(body, "a JSON object with 'instances' or 'inputs' is expected")


def decode_object(body: Buffer, expected: str) -> dict[str, Any]:
    """The JSON object in `body`; InvalidInput, with what is `expected`, where it is none."""
    try:
        payload = _decode(body)
    except JSON_FAULTS as e:
        raise json_fault(e, body) from None
    if type(payload) is not dict:
        raise InvalidInput(f"{expected}, the body is {_kind(payload)}")
    return payload


def decode_arrays(body: Buffer, specs: Sequence[TensorSpec] = ()) -> Decoded:
    """The request in `body` as arrays; `specs` are the model's declared inputs. Raises InvalidInput."""
    return to_arrays(decode_predict(body), specs)


def to_arrays(payload: Mapping[str, Any], specs: Sequence[TensorSpec] = ()) -> Decoded:
    """The arrays of a V1 payload; `specs` are the model's declared inputs. Raises InvalidInput."""
    if "instances" in payload:
        if "inputs" in payload:
            raise InvalidInput("the request has both 'instances' and 'inputs'; one is expected")
        value = payload["instances"]
        if type(value) is not list:
            raise InvalidInput(f"'instances' is {_kind(value)}; a list of rows is expected")
        if not value:
            raise InvalidInput("'instances' is empty; one row at least is expected")
        if type(value[0]) is dict and not _is_b64(value[0]):
            inputs = _columns(value, specs)
        else:
            inputs = {None: _rows(value, "'instances'", _spec(specs, None))}
        rows = True
    elif "inputs" in payload:
        value = payload["inputs"]
        rows = False
        if type(value) is dict and not _is_b64(value):
            if not value:
                raise InvalidInput("'inputs' is empty; one input at least is expected")
            inputs = {
                name: _stack(v, f"input '{name}'", _spec(specs, name)) for name, v in value.items()
            }
        elif type(value) is list or _takes_scalar(specs):
            inputs = {None: _stack(value, "'inputs'", _spec(specs, None))}
        else:
            raise InvalidInput(f"'inputs' is {_kind(value)}; a list or an object is expected")
    else:
        raise no_input(payload)
    if len(payload) == 1:
        return Decoded(inputs, {}, rows)
    parameters = {k: v for k, v in payload.items() if k not in ("instances", "inputs")}
    return Decoded(inputs, parameters, rows)


def no_input(payload: Mapping[str, Any]) -> InvalidInput:
    """What is wrong with a request that brings none."""
    message = "the request has neither 'instances' nor 'inputs'"
    if "predictions" in payload:
        message += (
            ", but 'predictions': a graph's step that takes another's predictions as its instances has"
            " predictionsAsInstances: true (in an InferenceGraph mapPredictionsToInstances: true)"
        )
    return InvalidInput(message)


def _takes_scalar(specs: Sequence[TensorSpec]) -> bool:
    return len(specs) == 1 and specs[0].shape == ()


def _spec(specs: Sequence[TensorSpec], name: str | None) -> TensorSpec | None:
    """The declaration of the input `name`; for None, of the model's only one."""
    if name is None:
        spec = specs[0] if len(specs) == 1 else None
    else:
        spec = next((s for s in specs if s.name == name), None)
    return spec if spec is not None and spec.strict else None


def _columns(rows: list[Any], specs: Sequence[TensorSpec]) -> dict[str | None, Array]:
    """Rows that are objects, as one array per key; every row has the keys of the first."""
    first = rows[0]
    if not first:
        raise InvalidInput("row 0 of 'instances' is an empty object")
    keys = first.keys()
    for i, row in enumerate(rows):
        if type(row) is not dict:
            raise InvalidInput(f"row {i} of 'instances' is {_kind(row)}, row 0 is an object")
        if row.keys() != keys:
            missing = sorted(keys - row.keys())
            extra = sorted(row.keys() - keys)
            found = [f"'{k}' is missing" for k in missing] + [
                f"'{k}' is not in row 0" for k in extra
            ]
            raise InvalidInput(
                f"row {i} of 'instances' has other keys than row 0: {', '.join(found)}"
            )
    return {k: _rows([r[k] for r in rows], f"input '{k}'", _spec(specs, k)) for k in first}


def _rows(values: list[Any], what: str, spec: TensorSpec | None) -> Array:
    """One value a row. Where the model takes rows of one value, these need no list around them."""
    array = _stack(values, what, spec)
    if array.ndim == 1 and spec is not None and spec.shape == (-1, 1):
        return array.reshape(-1, 1)
    return array


def _stack(value: Any, what: str, spec: TensorSpec | None) -> Array:
    """JSON data, nested to any depth, as one array."""
    shape: list[int] = []
    flat: list[Any] = value if type(value) is list else [value]
    if type(value) is list:
        shape.append(len(value))
    kinds = set(map(type, flat))
    while list in kinds:
        if len(kinds) > 1:
            raise InvalidInput(f"{what} is ragged: lists and single values are mixed")
        width = len(flat[0])
        if len(flat) > 1 and set(map(len, flat)) != {width}:
            raise InvalidInput(f"{what} is ragged: rows have different lengths")
        shape.append(width)
        flat = flat[0] if len(flat) == 1 else list(chain.from_iterable(flat))
        kinds = set(map(type, flat))
    if dict in kinds:
        flat = [from_b64(v, what) for v in flat]
        kinds = set(map(type, flat))
    count_of(shape, what)
    kind = DATATYPES.get(spec.datatype) if spec is not None else None
    if kind is not None:
        return _declared(flat, kinds, kind, what, shape)
    return _inferred(flat, kinds, what).reshape(shape)


_INTS: Final = {int}
_FLOATS: Final = ({float}, {int, float})
_MISSING: Final = type(None)


def _inferred(flat: list[Any], kinds: set[type], what: str) -> Array:
    """Values of the kinds that JSON has, with the dtype that holds them all."""
    try:
        if kinds in _FLOATS:
            return np.frombuffer(array("d", flat), np.float64)
        if kinds == _INTS:
            return np.frombuffer(array("q", flat), np.int64)
        if not kinds:
            return np.empty(0, np.float64)
        if kinds <= {int, float, _MISSING} and kinds != {_MISSING}:
            return np.array([np.nan if v is None else v for v in flat], np.float64)
    except OverflowError:
        raise InvalidInput(f"{what} has a number that is too large for 64 bits") from None
    if kinds == {bool}:
        return np.array(flat, np.bool_)
    return _objects(flat)


def _declared(
    flat: list[Any], kinds: set[type], kind: Datatype, what: str, shape: list[int]
) -> Array:
    """Values of the kinds that JSON has as what the model declares; InvalidInput where they differ."""
    if kind.json is str:
        if not kinds <= {str, bytes, _MISSING}:
            raise InvalidInput(f"{what} has {_names(kinds - {str, bytes})}, the model takes text")
        return _objects(flat).reshape(shape)
    if kind.json is float and kinds <= {int, float, _MISSING}:
        if _MISSING in kinds:
            missing = np.array([v is None for v in flat]).reshape(shape)
            values = typed_array(what, kind, [0.0 if v is None else v for v in flat], shape)
            values[missing] = np.nan
            return values
        return typed_array(what, kind, flat, shape)
    if kind.json is int and kinds <= {int, float}:
        if float in kinds:
            to_integers(flat, what, f"the model takes {kind.name}")
        return typed_array(what, kind, flat, shape)
    if kind.json is bool and kinds <= {bool}:
        return typed_array(what, kind, flat, shape)
    raise InvalidInput(f"{what} has {_names(kinds)}, the model takes {kind.name}")


def _objects(flat: list[Any]) -> Array:
    values = np.empty(len(flat), dtype=object)
    values[:] = flat
    return values


def _is_b64(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and type(value.get("b64")) is str


def from_b64(value: Any, what: str) -> Any:
    """A value, or the bytes of `{"b64": ...}`; InvalidInput, about `what`, for another object."""
    if type(value) is not dict:
        return value
    if not _is_b64(value):
        raise InvalidInput(f"{what} has an object where a value is expected")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{what} has a 'b64' value that is no base64") from None


_KINDS: Final[dict[type, str]] = {
    list: "a list",
    dict: "an object",
    str: "a string",
    bytes: "binary data",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _names(kinds: set[type]) -> str:
    return " and ".join(sorted({_KINDS.get(k, k.__name__) for k in kinds})) or "nothing"


# ------------------------------------------------------------------------------------------- response


def _fallback(value: Any) -> Any:
    """What msgspec does not know: numpy values, data frames, and their kin."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind == "V" and value.dtype.names is None:
            return value.astype(np.float32).tolist()  # bfloat16 and its like
        if value.dtype.kind == "M":
            value = value.astype("M8[us]")  # finer ones become bare integers
        return value.tolist()
    if isinstance(value, datetime.datetime):  # a subclass, as pandas has it
        return value.isoformat()
    records = getattr(value, "to_dict", None)
    if records is not None:
        return records(orient="records") if hasattr(value, "columns") else records()
    if isinstance(value, complex):
        raise TypeError("complex numbers cannot be sent as JSON")
    for name in ("tolist", "__array__"):
        if hasattr(value, name):
            return np.asarray(value).tolist()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def _plain(value: Any) -> Any:
    """Bytes inside a result: text where they are UTF-8, else TensorFlow Serving's `{"b64": ...}`."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


_encode = msgspec.json.Encoder(enc_hook=_fallback).encode


def rows_of_json(values: Array) -> Any:
    """An array's rows as JSON has them."""
    rows = values.tolist()
    return _plain(rows) if values.dtype.kind in "OS" else rows


def encode_predictions(outputs: Mapping[str, Array]) -> bytes:
    """`{"predictions": ...}` of a model's outputs.

    One output: its rows (a single value when it is 0-d). Several with one number of rows: a list of
    objects, one per row. Several whose numbers of rows differ: one object of lists. Raises ModelError.
    """
    if len(outputs) == 1:
        (values,) = outputs.values()
        return encode_result({"predictions": rows_of_json(values)})
    rows = {a.shape[0] if a.ndim else -1 for a in outputs.values()}
    columns = {name: rows_of_json(a) for name, a in outputs.items()}
    if len(rows) == 1 and -1 not in rows:
        names = tuple(columns)
        by_row = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return encode_result({"predictions": by_row})
    return encode_result({"predictions": columns})


def encode_result(result: Any) -> bytes:
    """The JSON body for what a user's model returned.

    An object is the body itself; anything else (list, array, data frame, number) becomes its
    `predictions`. ModelError when something in it has no JSON.
    """
    if not isinstance(result, dict):
        result = {"predictions": result}
    try:
        return _encode(result)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as e:
        raise ModelError(f"the model's answer cannot be sent as JSON: {e}") from e


def encode_chunk(chunk: Any) -> bytes:
    """One piece of a stream: bytes and text as they are, anything else as a line of JSON."""
    if isinstance(chunk, bytes | bytearray | memoryview):
        return bytes(chunk)
    if isinstance(chunk, str):
        return chunk.encode()
    try:
        return _encode(chunk) + b"\n"
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as e:
        raise ModelError(f"a piece of the model's answer cannot be sent as JSON: {e}") from e
