"""TensorFlow's TensorProto, which a SeldonMessage may hold as `tftensor`, as an array and back.

In JSON it is protobuf's: names in camel case (its own are taken, too), bytes as base64, 64-bit integers as
text. A tensor has its elements' bytes, or a list of values whose last one stands for all that are left out.
TensorFlow is not needed for it.
"""

from __future__ import annotations

import base64
import binascii
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.errors import InvalidInput
from penstock.protocols.text_arrays import check_texts

if TYPE_CHECKING:
    from penstock.runtimes.base import Array

#: Name, number, numpy's type, and the field that has values where there are no bytes.
DTYPES: Final[tuple[tuple[str, int, str, str], ...]] = (
    ("DT_FLOAT", 1, "<f4", "floatVal"),
    ("DT_DOUBLE", 2, "<f8", "doubleVal"),
    ("DT_INT32", 3, "<i4", "intVal"),
    ("DT_UINT8", 4, "|u1", "intVal"),
    ("DT_INT16", 5, "<i2", "intVal"),
    ("DT_INT8", 6, "|i1", "intVal"),
    ("DT_STRING", 7, "|O", "stringVal"),
    ("DT_INT64", 9, "<i8", "int64Val"),
    ("DT_BOOL", 10, "|b1", "boolVal"),
    ("DT_UINT16", 17, "<u2", "intVal"),
    ("DT_HALF", 19, "<f2", "halfVal"),
    ("DT_UINT32", 22, "<u4", "uint32Val"),
    ("DT_UINT64", 23, "<u8", "uint64Val"),
)
_BY_NAME: Final = {name: (dtype, values) for name, _, dtype, values in DTYPES}
_BY_NUMBER: Final = {number: name for name, number, _, _ in DTYPES}
_BY_DTYPE: Final = {dtype: name for name, _, dtype, _ in DTYPES}
_OWN_NAMES: Final = {
    "tensor_shape": "tensorShape", "tensor_content": "tensorContent", "version_number": "versionNumber",
    "unknown_rank": "unknownRank",
    **{f"{v.removesuffix('Val')}_val": v for _, _, _, v in DTYPES},
}  # fmt: skip
#: Elements that one value may stand for.
MOST_FILLED: Final = 1 << 20
_MOST_DIMENSIONS: Final = 32


def decode(document: Any) -> Array:
    """The array of a TensorProto in decoded JSON; text is `str`. Raises InvalidInput."""
    if type(document) is not dict:
        raise InvalidInput("'data.tftensor' is no object")
    found = {_OWN_NAMES.get(k, k): v for k, v in document.items()}
    name = found.get("dtype")
    if type(name) is int:
        name = _BY_NUMBER.get(name, name)
    if type(name) is not str or name not in _BY_NAME:
        raise InvalidInput(
            f"'data.tftensor.dtype' is {name!r}; there are {', '.join(_BY_NAME)}"
            if type(name) in (str, int)
            else "'data.tftensor.dtype' is missing"
        )
    dtype, field = _BY_NAME[name]
    shape = _shape(found.get("tensorShape"))
    content = found.get("tensorContent")
    if content:
        return _of_bytes(content, dtype, shape)
    return _of_values(found.get(field) or [], name, shape)


def _shape(given: Any) -> tuple[int, ...]:
    if given is None:
        return ()
    dims = given.get("dim") if type(given) is dict else None
    if dims is None and type(given) is dict and not given.get("unknownRank"):
        return ()
    if type(dims) is not list or len(dims) > _MOST_DIMENSIONS:
        raise InvalidInput("'data.tftensor.tensorShape' has no list 'dim'")
    sizes = []
    for dim in dims:
        size = dim.get("size", 0) if type(dim) is dict else None
        if type(size) is str and size.isascii() and size.isdigit() and len(size) < 16:
            size = int(size)
        if type(size) is not int or size < 0:
            raise InvalidInput("'data.tftensor.tensorShape' has a dimension without a size")
        sizes.append(size)
    return tuple(sizes)


def _of_bytes(content: Any, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "|O":
        raise InvalidInput("'data.tftensor' has text in tensorContent; it belongs into stringVal")
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InvalidInput("'data.tftensor.tensorContent' is no base64") from None
    wanted = prod(shape) * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise InvalidInput(
            f"'data.tftensor.tensorContent' has {len(data)} bytes, its shape {list(shape)} is of {wanted}"
        )
    # A copy, because classes may write to what they are given.
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _of_values(values: Any, name: str, shape: tuple[int, ...]) -> Array:
    dtype, field = _BY_NAME[name]
    size = prod(shape)
    if type(values) is not list or len(values) > size:
        raise InvalidInput(f"'data.tftensor.{field}' is no list of at most {size} values")
    if size > max(len(values), MOST_FILLED):
        raise InvalidInput(f"'data.tftensor.{field}' has {len(values)} values for {size} elements")
    try:
        if dtype == "|O":
            texts = [base64.b64decode(v, validate=True).decode() for v in values or [""]]
            check_texts(texts, size)
            array = np.array(texts)
        elif name == "DT_HALF":
            array = np.array(values or [0], dtype="<u2").view("<f2")
        else:
            # 64-bit integers, and what is no number of JSON's, are text.
            array = np.array([_number(v, dtype) for v in values] or [0], dtype=dtype)
    except (ValueError, TypeError, OverflowError):
        raise InvalidInput(f"'data.tftensor.{field}' has a value that is no {name}") from None
    if len(array) < size:
        filled = np.full(size, array[-1], dtype=array.dtype)
        filled[: len(array)] = array
        array = filled
    return array[:size].reshape(shape)


def _number(value: Any, dtype: str) -> Any:
    if type(value) is str:
        return float(value) if "f" in dtype else int(value)
    if type(value) not in (int, float, bool):
        raise TypeError
    if type(value) is float and "f" not in dtype and not value.is_integer():
        raise ValueError
    return value


def encode(array: Array) -> dict[str, Any]:
    """The TensorProto of an array as JSON's values. ValueError for a type that it cannot hold."""
    found: dict[str, Any] = {"tensorShape": {"dim": [{"size": str(n)} for n in array.shape]}}
    if array.dtype.kind in "OUS":
        flat = [v if isinstance(v, bytes) else str(v).encode() for v in array.ravel().tolist()]
        found["stringVal"] = [base64.b64encode(v).decode("ascii") for v in flat]
        return {"dtype": "DT_STRING", **found}
    little = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    name = _BY_DTYPE.get(np.dtype(little).str)
    if name is None:
        raise ValueError(f"a TensorProto cannot hold {array.dtype}")
    content = np.ascontiguousarray(array, dtype=little).tobytes()
    if content:
        found["tensorContent"] = base64.b64encode(content).decode("ascii")
    return {"dtype": name, **found}
