"""Tensors as JSON: arrays of numbers and strings, flat or nested, row-major.

* The number of elements has to match the shape, the nesting need not (as Triton has it), but it may not be
  ragged.
* Integers take `3.0` and refuse `3.5`; BOOL takes `true` and `false` only. JSON has no NaN and no Infinity:
  on the way in they (and null) are refused, on the way out they become null, so they survive only in binary.
* FP32 and FP16 leave as the shortest decimal of the equal double: reading it back as that datatype gives
  the same bits.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from penstock.errors import InvalidInput
from penstock.protocols.datatypes import (
    DATATYPES,
    DTYPE_NAMES,
    MAX_RANK,
    Datatype,
    bf16_to_float32,
    count_of,
    datatype,
    elements,
    fit,
    float32_to_bf16,
)
from penstock.protocols.json_faults import JSON_FAULTS, json_fault

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array

_MAX_JSON_DEPTH: Final = 32
#: Up to here Python is faster at looking for an infinity than numpy is.
_FEW: Final = 64
#: A shape of no more elements than this, and not of none, cannot be too large for numpy.
_SOME: Final = 2**40

_OPENING = re.compile(rb"[\[ \t\r\n]*")
_TYPED_DATA: dict[tuple[type, int], Callable[[Any], Any]] = {}
_encode = msgspec.json.Encoder().encode


def from_json(
    tensor: str,
    name: str,
    shape: Sequence[int],
    data: Buffer | msgspec.Raw,
    *,
    null_is_nan: bool = False,
) -> Array:
    """The JSON array `data`, flat or nested, as an array of `shape`. Raises InvalidInput.

    `tensor` is the input's name and `name` its datatype. The array owns its memory and is writable. With
    `null_is_nan` (for answers, see the module) a null among floating-point numbers is NaN.
    """
    kind = DATATYPES.get(name) or datatype(name, tensor)
    depth = _OPENING.match(data).group().count(b"[")  # type: ignore[union-attr]
    if depth == 0:
        raise InvalidInput(f"input '{tensor}': data is no array")
    if depth > _MAX_JSON_DEPTH:
        raise InvalidInput(f"input '{tensor}': data is nested more than {_MAX_JSON_DEPTH} deep")
    try:
        decode = _TYPED_DATA[kind.json, depth]
    except KeyError:
        decode = _typed_decoder(kind.json, depth)
    try:
        flat = decode(data)
    except JSON_FAULTS as e:
        if kind.json is int and isinstance(e, msgspec.ValidationError):
            flat = _integral(tensor, kind, data, depth, e)
        elif null_is_nan and kind.json is float and isinstance(e, msgspec.ValidationError):
            return _with_nan(tensor, kind, shape, data, depth, e)
        else:
            raise _data_fault(tensor, kind, e, data) from None
    else:
        if depth > 1:
            flat = flatten(flat, depth, tensor)
    # The rank comes first: a product of a million sizes would take its time.
    count = math.prod(shape) if len(shape) <= MAX_RANK else 0
    if count > _SOME or not count:
        count_of(shape, f"input '{tensor}'")
    if len(flat) != count:
        raise InvalidInput(
            f"input '{tensor}' has shape {list(shape)}, that is {count} elements, but its data has"
            f" {len(flat)}"
        )
    if not kind.code:
        return _bytes_array(tensor, flat).reshape(shape)
    array = _typed(kind, flat, shape)
    if array is None:
        raise InvalidInput(f"input '{tensor}' has a value that {kind.name} cannot hold")
    return array


def json_texts(
    tensor: str, data: Buffer | msgspec.Raw, *, numbers: bool = False
) -> list[bytes | float | None]:
    """The strings in a JSON array, flat or nested, in UTF-8; None for a null. Raises InvalidInput.

    With `numbers` it may have numbers and booleans too.
    """
    depth = _OPENING.match(data).group().count(b"[")  # type: ignore[union-attr]
    if not 0 < depth <= _MAX_JSON_DEPTH:
        raise InvalidInput(f"input '{tensor}': data is no array, or is nested too deeply")
    try:
        kind = str | float | int | bool | None if numbers else str | None
        flat = flatten(_typed_decoder(kind, depth)(data), depth, tensor)
        return [v.encode() if isinstance(v, str) else v for v in flat]
    except UnicodeEncodeError:
        raise InvalidInput(f"input '{tensor}' has a string that is no valid Unicode") from None
    except JSON_FAULTS as e:
        raise _data_fault(tensor, DATATYPES["BYTES"], e, data) from None


def _typed_decoder(element: Any, depth: int) -> Callable[[Any], Any]:
    wanted: Any = element
    for _ in range(depth):
        wanted = list[wanted]
    decode = msgspec.json.Decoder(wanted).decode
    _TYPED_DATA[element, depth] = decode
    return decode


def _integral(
    tensor: str, kind: Datatype, data: Buffer | msgspec.Raw, depth: int, first: Exception
) -> list[Any]:
    """Integers of which some are written as `3.0`, as one list."""
    try:
        values = _typed_decoder(int | float, depth)(data)
    except JSON_FAULTS:
        raise _data_fault(tensor, kind, first, data) from None
    flat = flatten(values, depth, tensor)
    to_integers(flat, f"input '{tensor}'", f"{kind.name} takes integers")
    return flat


def to_integers(flat: list[Any], what: str, wanted: str) -> None:
    """Make integers of the floats in `flat`, in place; InvalidInput for one with a fraction."""
    for i, v in enumerate(flat):
        if type(v) is float:
            if not v.is_integer():
                raise InvalidInput(f"{what}: element {i} has a fraction, {wanted}")
            flat[i] = int(v)


def _with_nan(
    tensor: str,
    kind: Datatype,
    shape: Sequence[int],
    data: Buffer | msgspec.Raw,
    depth: int,
    first: Exception,
) -> Array:
    """Floating-point numbers of which some are null."""
    try:
        values = _typed_decoder(float | None, depth)(data)
    except JSON_FAULTS:
        raise _data_fault(tensor, kind, first, data) from None
    flat = flatten(values, depth, tensor)
    numbers = _encode([0.0 if v is None else v for v in flat])
    array = from_json(tensor, kind.name, shape, numbers)
    array[np.array([v is None for v in flat], np.bool_).reshape(array.shape)] = np.nan
    return array


def _data_fault(
    tensor: str, kind: Datatype, error: Exception, data: Buffer | msgspec.Raw
) -> InvalidInput:
    if isinstance(error, msgspec.ValidationError):
        detail = str(error)
        if "got `null`" in detail and kind.json is float:
            return InvalidInput(
                f"input '{tensor}': data has a null, {kind.name} takes numbers.",
                hint="NaN can be sent in a binary tensor.",
            )
        if "got `array`" in detail or ("Expected `array`" in detail and "got" in detail):
            return InvalidInput(f"input '{tensor}': data is ragged, some rows are nested deeper")
        return InvalidInput(f"input '{tensor}' has datatype {kind.name}: {detail}")
    fault = json_fault(error, bytes(data))
    return InvalidInput(f"input '{tensor}': {fault.message}", hint=fault.hint)


def flatten(values: list[Any], depth: int, tensor: str) -> list[Any]:
    """Lists nested `depth` deep as one list; InvalidInput when they are ragged."""
    for _ in range(depth - 1):
        if len(values) == 1:
            values = values[0]
            continue
        if len(set(map(len, values))) > 1:
            raise InvalidInput(f"input '{tensor}': data is ragged, rows have different lengths")
        values = list(chain.from_iterable(values))
    return values


def typed_array(what: str, kind: Datatype, flat: list[Any], shape: Sequence[int]) -> Array:
    """Python numbers as a writable array of a numeric `kind`; InvalidInput when one is out of range.

    `flat` has as many elements as `shape`, all finite, and no floats where `kind` is an integer.
    """
    array = _typed(kind, flat, shape)
    if array is None:
        raise InvalidInput(f"{what} has a value that {kind.name} cannot hold")
    return array


def _typed(kind: Datatype, flat: list[Any], shape: Sequence[int]) -> Array | None:
    """`typed_array`, with None for a value that is out of range."""
    try:
        packed = array(kind.code, flat)
    except OverflowError:
        return None
    result: Array
    if kind.name == "FP32":
        # The numbers were finite before the cast, so an infinity is one that was out of range.
        if len(flat) <= _FEW:
            return np.ndarray(shape, np.float32, packed) if math.isfinite(sum(packed)) else None
        result = np.ndarray(shape, np.float32, packed)
    elif kind.name == "FP16":
        result = _half(np.ndarray(shape, np.float64, packed))
    elif kind.name == "BF16":
        result = bf16_to_float32(float32_to_bf16(np.ndarray(shape, np.float32, packed)))
    else:
        return np.ndarray(shape, kind.dtype, packed)
    return result if np.isfinite(result).all() else None


@np.errstate(over="ignore")
def _half(values: Array) -> Array:
    return values.astype(np.float16)


def _bytes_array(tensor: str, flat: list[str]) -> Array:
    result = np.empty(len(flat), dtype=object)
    try:
        result[:] = [v.encode() for v in flat]
    except UnicodeEncodeError:
        raise InvalidInput(f"input '{tensor}' has a string that is no valid Unicode") from None
    return result


def to_json(tensor: str, name: str, values: Array) -> bytes:
    """The elements as a flat JSON array. NaN and infinities become null.

    InvalidInput when BYTES are no UTF-8 text, ModelError when the array cannot be `name` at all.
    """
    if name == "BYTES":
        try:
            return _encode([_as_str(v) for v in elements(tensor, values)])
        except UnicodeError:
            raise InvalidInput(
                f"output '{tensor}' holds bytes that are no UTF-8 text, which JSON cannot carry.",
                hint="Ask for it with the parameter binary_data: true.",
            ) from None
    if DTYPE_NAMES.get(values.dtype) != name:
        values = fit(tensor, name, values)
        if name == "BF16":
            values = bf16_to_float32(float32_to_bf16(values))
    return _encode(values.tolist() if values.ndim == 1 else values.ravel().tolist())


def _as_str(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
