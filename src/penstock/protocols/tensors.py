"""Tensors on the wire: V2's datatypes as numpy arrays, from and to JSON and raw bytes.

The rules that every V2 encoding shares are here, once:

* Data are row-major. JSON data may be flat or nested; the number of elements has to match the shape, the
  nesting need not (as Triton has it), but it may not be ragged.
* A value that the datatype cannot hold is refused, never wrapped, clipped or truncated. Integers take
  `3.0` and refuse `3.5`; BOOL takes `true` and `false` only. JSON has no NaN and no Infinity: on the way
  in they (and null) are refused, on the way out they become null, so they survive only in binary.
* FP32 and FP16 leave as the shortest decimal of the equal double: reading it back as that datatype gives
  the same bits. BF16 is float32 in the model and rounds to nearest, ties to even, in both directions.
* Binary data become views of the received buffer, without a copy, except where an element would not be
  aligned: then the bytes are moved a few places inside the buffer when it is writable, and copied when
  it is not (compiled code behind the model may fault on such a pointer).
"""

from __future__ import annotations

import difflib
import math
import re
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np

from penstock.errors import InvalidInput, ModelError

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

Buffer: TypeAlias = bytes | bytearray | memoryview


class Datatype(msgspec.Struct, frozen=True):
    """One of V2's datatypes."""

    name: str
    #: The arrays models see.
    dtype: np.dtype[Any]
    #: Bytes of one element in a binary tensor; 0 for BYTES, whose elements carry their length.
    size: int
    #: What JSON holds for it.
    json: type
    #: `array.array` code that checks the range on the way from Python values, "" for BYTES.
    code: str


def _datatype(name: str, dtype: Any, size: int, json: type, code: str) -> tuple[str, Datatype]:
    return name, Datatype(name, np.dtype(dtype), size, json, code)


DATATYPES: Final[dict[str, Datatype]] = dict(
    (
        _datatype("BOOL", np.bool_, 1, bool, "b"),
        _datatype("UINT8", np.uint8, 1, int, "B"),
        _datatype("UINT16", np.uint16, 2, int, "H"),
        _datatype("UINT32", np.uint32, 4, int, "I"),
        _datatype("UINT64", np.uint64, 8, int, "Q"),
        _datatype("INT8", np.int8, 1, int, "b"),
        _datatype("INT16", np.int16, 2, int, "h"),
        _datatype("INT32", np.int32, 4, int, "i"),
        _datatype("INT64", np.int64, 8, int, "q"),
        _datatype("FP16", np.float16, 2, float, "d"),
        _datatype("FP32", np.float32, 4, float, "f"),
        _datatype("FP64", np.float64, 8, float, "d"),
        _datatype("BF16", np.float32, 2, float, "f"),
        _datatype("BYTES", np.object_, 0, str, ""),
    )
)

_BY_DTYPE: Final[dict[np.dtype[Any], str]] = {
    d.dtype: d.name for d in DATATYPES.values() if d.name not in ("BF16", "BYTES")
}

#: numpy has no more dimensions than this.
MAX_RANK: Final = 64
_MAX_JSON_DEPTH: Final = 32
#: Up to here Python is faster at looking for an infinity than numpy is.
_FEW: Final = 64
#: A shape of no more elements than this, and not of none, cannot be too large for numpy.
_SOME: Final = 2**40

_OPENING = re.compile(rb"[\[ \t\r\n]*")
_NOT_JSON = re.compile(rb"(?:NaN|Infinity|nan|inf)\b")
_PLACE = re.compile(r"\(byte (\d+)\)")
_TYPED_DATA: dict[tuple[type, int], Callable[[Any], Any]] = {}
_encode = msgspec.json.Encoder().encode


def datatype(name: str, tensor: str) -> Datatype:
    """The `Datatype` called `name`; InvalidInput, with the nearest name, when there is none."""
    try:
        return DATATYPES[name]
    except KeyError:
        near = difflib.get_close_matches(name[:16].upper(), DATATYPES, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(DATATYPES)}."
        raise InvalidInput(f"input '{tensor}' has an unknown datatype.", hint=hint) from None


def datatype_of(values: Array, tensor: str = "") -> str:
    """V2's name for the dtype of an array that a model made; ModelError when there is none."""
    name = _BY_DTYPE.get(values.dtype)
    if name is not None:
        return name
    kind = values.dtype.kind
    if kind in "OUS":
        return "BYTES"
    if values.dtype.name == "bfloat16":
        return "BF16"
    if kind in "iufb":  # another byte order
        name = _BY_DTYPE.get(values.dtype.newbyteorder("="))
        if name is not None:
            return name
    raise ModelError(f"output '{tensor}' has dtype {values.dtype}, which no V2 datatype can carry")


def count_of(shape: Sequence[int], what: str) -> int:
    """Elements in `shape`; InvalidInput, about `what`, when numpy could not hold it."""
    if len(shape) > MAX_RANK:
        raise InvalidInput(
            f"{what} has {len(shape)} dimensions; {MAX_RANK} is the most there can be"
        )
    count = math.prod(shape)
    # A zero among the dimensions makes the product zero whatever the others are; numpy counts bytes, of
    # which an element has eight at most, in 63 bits, and leaves the zeros out too.
    if count > 2**59 or (count == 0 and math.prod(d for d in shape if d) > 2**59):
        raise InvalidInput(f"{what} has shape {list(shape)}, which is too large")
    return count


# ---------------------------------------------------------------------------------------------- JSON


def json_fault(error: Exception, body: Buffer) -> InvalidInput:
    """What is wrong with a JSON text that msgspec refused. Never quotes the caller's data."""
    if isinstance(error, RecursionError):
        return InvalidInput("the JSON is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("the body is no UTF-8 text")
    if isinstance(error, msgspec.ValidationError):
        return InvalidInput(f"the request does not fit the protocol: {error}")
    place = _PLACE.search(str(error))
    at = int(place[1]) if place else 0
    if place and _NOT_JSON.search(bytes(body[max(0, at - 2) : at + 12])):
        return InvalidInput(
            "the body is no JSON: JSON has no NaN and no Infinity.",
            hint="Send such values in a binary tensor.",
        )
    return InvalidInput(f"the body is no JSON: {error}")


#: All that msgspec raises for a text that is not what it should be.
JSON_FAULTS: Final = (msgspec.MsgspecError, ValueError, RecursionError)


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
    for i, v in enumerate(flat):
        if type(v) is float:
            if not v.is_integer():
                raise InvalidInput(
                    f"input '{tensor}': element {i} has a fraction, {kind.name} takes integers"
                )
            flat[i] = int(v)
    return flat


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
            return _encode([_as_str(v) for v in _elements(tensor, values)])
        except UnicodeError:
            raise InvalidInput(
                f"output '{tensor}' holds bytes that are no UTF-8 text, which JSON cannot carry.",
                hint="Ask for it with the parameter binary_data: true.",
            ) from None
    if _BY_DTYPE.get(values.dtype) != name:
        values = _fit(tensor, name, values)
        if name == "BF16":
            values = bf16_to_float32(float32_to_bf16(values))
    return _encode(values.tolist() if values.ndim == 1 else values.ravel().tolist())


# -------------------------------------------------------------------------------------------- binary


def from_binary(tensor: str, name: str, shape: Sequence[int], data: memoryview) -> Array:
    """The raw bytes of a tensor as an array of `shape`; a view of `data` wherever that is possible.

    Raises InvalidInput when the number of bytes is not what shape and datatype say.
    """
    kind = DATATYPES.get(name) or datatype(name, tensor)
    count = count_of(shape, f"input '{tensor}'")
    if not kind.size:
        return _split_bytes(tensor, shape, count, data)
    if data.nbytes != count * kind.size:
        raise InvalidInput(
            f"input '{tensor}' has shape {list(shape)} and datatype {name}, that is"
            f" {count * kind.size} bytes, but its binary data has {data.nbytes}"
        )
    if name == "BF16":
        return bf16_to_float32(np.frombuffer(data, "<u2")).reshape(shape)
    result: Array = np.frombuffer(data, kind.dtype.newbyteorder("<"))
    if name == "BOOL":
        if count and np.frombuffer(data, np.uint8).max() > 1:
            raise InvalidInput(f"input '{tensor}' has a BOOL element that is neither 0 nor 1")
    elif not result.flags.aligned:
        result = result.copy()
    return result.reshape(shape)


def _split_bytes(tensor: str, shape: Sequence[int], count: int, data: memoryview) -> Array:
    """BYTES: each element is its length, 4 bytes little endian, and that many bytes."""
    size = data.nbytes
    if count * 4 > size:  # before anything of `count` elements is made
        raise InvalidInput(
            f"input '{tensor}' has shape {list(shape)}, that is {count} BYTES elements of at least 4"
            f" bytes, but its binary data has {size}"
        )
    elements: list[bytes] = []
    at = 0
    length_at = _LENGTH.unpack_from
    while at < size:
        if size - at < 4:
            raise InvalidInput(
                f"input '{tensor}': BYTES element {len(elements)} is cut off in its length:"
                f" 4 bytes are expected, {size - at} are left"
            )
        (length,) = length_at(data, at)
        at += 4
        if length > size - at:
            raise InvalidInput(
                f"input '{tensor}': BYTES element {len(elements)} has length {length}, but"
                f" {size - at} bytes are left"
            )
        elements.append(bytes(data[at : at + length]))
        at += length
    if len(elements) != count:
        raise InvalidInput(
            f"input '{tensor}' has shape {list(shape)}, that is {count} elements, but its binary data"
            f" has {len(elements)}"
        )
    result = np.empty(count, dtype=object)
    result[:] = elements
    return result.reshape(shape)


_LENGTH = struct.Struct("<I")


def to_binary(tensor: str, name: str, values: Array) -> memoryview | bytes:
    """The elements' raw bytes, little endian, row-major; a view of `values` where it lies like that.

    ModelError when the array cannot be `name`.
    """
    if name == "BYTES":
        parts: list[bytes] = []
        for v in _elements(tensor, values):
            try:
                raw = v.encode() if isinstance(v, str) else v
            except UnicodeEncodeError:
                raise ModelError(f"output '{tensor}' has a string that is no Unicode") from None
            parts.append(_LENGTH.pack(len(raw)))
            parts.append(raw)
        return b"".join(parts)
    values = _fit(tensor, name, values)
    if name == "BF16":
        values = float32_to_bf16(values)
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return values.reshape(-1).view(np.uint8).data  # reshape copies what is strided


def _fit(tensor: str, name: str, values: Array) -> Array:
    """`values` with the dtype of `name`; ModelError where that could change a value."""
    kind = DATATYPES.get(name)
    if kind is None:
        raise ModelError(f"output '{tensor}' is declared with an unknown datatype, {name}")
    if values.dtype == kind.dtype:
        return values
    if name == "BF16" and values.dtype.name == "bfloat16":
        return values.astype(np.float32)
    if values.dtype.kind in "iufb" and np.can_cast(values.dtype, kind.dtype, "same_kind"):
        with np.errstate(over="ignore"):
            cast = values.astype(kind.dtype)
        if kind.json is float or np.array_equal(cast, values):
            return cast
    raise ModelError(
        f"output '{tensor}' is declared {name}, but the model made {values.dtype} values that it"
        " cannot hold"
    )


def _elements(tensor: str, values: Array) -> list[bytes | str]:
    """Elements of a BYTES output, each `bytes` or `str`; any other object becomes its JSON."""
    flat: list[Any] = values.ravel().tolist()
    for i, v in enumerate(flat):
        if not isinstance(v, bytes | str):
            try:
                flat[i] = bytes(v) if isinstance(v, bytearray | memoryview) else _encode(v)
            except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
                raise ModelError(
                    f"output '{tensor}' is an array of objects, element {i} is a {type(v).__name__};"
                    " text, bytes, or what JSON can carry is expected"
                ) from None
    return flat


def _as_str(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def float32_to_bf16(values: Array) -> Array:
    """float32 to the 16 bits of bfloat16, to nearest, ties to even; NaN stays (quiet) NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    nan = np.isnan(values)
    if nan.any():
        rounded = np.where(nan, (bits >> 16) | 0x40, rounded)
    return rounded.astype("<u2").reshape(np.shape(values))


def bf16_to_float32(bits: Array) -> Array:
    """The 16 bits of bfloat16 as float32: exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def realign(body: memoryview, spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Moves parts of a writable `body` a few bytes down where their elements are not aligned.

    `spans` are (offset, bytes, element size), in order and without overlap; the new (offset, bytes) of
    each come back. Up to seven bytes before a part are overwritten, but never those of another part: a
    part without room stays where it is, as does everything in a read-only body.
    """
    address = np.frombuffer(body, np.uint8).__array_interface__["data"][0] if body.nbytes else 0
    placed: list[tuple[int, int]] = []
    free = 0
    for offset, size, element in spans:
        end = offset + size
        shift = (address + offset) % element if element > 1 else 0
        if shift and offset - shift >= free and not body.readonly:
            body[offset - shift : end - shift] = body[offset:end]
            offset -= shift
        free = end
        placed.append((offset, size))
    return placed
