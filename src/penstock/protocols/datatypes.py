"""V2's datatypes and numpy's, and what may become what.

A value that a datatype cannot hold is refused, never wrapped, clipped or truncated. BF16 is float32 in the
model and rounds to nearest, ties to even, in both directions. `json_tensors` and `binary_tensors` are the
two ways in which the elements themselves travel.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from penstock.errors import InvalidInput, ModelError

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

_encode = msgspec.json.Encoder().encode


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

#: V2's names of numpy's dtypes.
DTYPE_NAMES: Final[dict[np.dtype[Any], str]] = {
    d.dtype: d.name for d in DATATYPES.values() if d.name not in ("BF16", "BYTES")
}

#: numpy has no more dimensions than this.
MAX_RANK: Final = 64


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
    name = DTYPE_NAMES.get(values.dtype)
    if name is not None:
        return name
    kind = values.dtype.kind
    if kind in "OUS":
        return "BYTES"
    if values.dtype.name == "bfloat16":
        return "BF16"
    if kind in "iufb":  # another byte order
        name = DTYPE_NAMES.get(values.dtype.newbyteorder("="))
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


def fit(tensor: str, name: str, values: Array) -> Array:
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


def elements(tensor: str, values: Array) -> list[bytes | str]:
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
