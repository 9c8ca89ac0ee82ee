"""What a request's arrays must be before a framework sees them.

Frameworks raise whatever they raise on odd input, some of them end the process. So each runtime asks here
for what it needs (this name, this rank, this width, this dtype) and the caller is told what was expected
and what came, as `InvalidInput`. Conversions that lose nothing are made, for JSON numbers arrive as INT64
or FP64 whatever the model was trained on; the others are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput
from penstock.protocols.datatypes import DATATYPES
from penstock.runtimes.base import Array, Arrays, TensorSpec

#: numpy's dtypes by V2's datatypes. BF16 travels as float32.
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {n: d.dtype for n, d in DATATYPES.items()}
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}

_TEXT_KINDS: Final = "OSU"


def datatype_of(dtype: Any) -> str:
    """V2's name of a numpy dtype; text, bytes and objects are BYTES."""
    dtype = np.dtype(dtype)
    if dtype.kind in _TEXT_KINDS:
        return "BYTES"
    name = _NAMES.get(dtype.newbyteorder("="))
    if name is None:
        raise TypeError(f"no tensor datatype stands for numpy's {dtype}")
    return name


def listed(names: Iterable[str], limit: int = 10) -> str:
    """`'a', 'b' and 3 more`, for messages."""
    all_names = list(names)
    text = ", ".join(repr(n) for n in all_names[:limit])
    more = len(all_names) - limit
    return f"{text} and {more} more" if more > 0 else text


def shown(name: str) -> str:
    """How a message starts that is about one input; V1 sends one without a name."""
    return f"Input {name!r}" if name else "The input"


def only(inputs: Arrays) -> tuple[str, Array]:
    """The one input of a model that takes one matrix, whatever the request called it."""
    if len(inputs) != 1:
        if not inputs:
            raise InvalidInput("The request has no input; the model takes one.")
        raise InvalidInput(
            f"The model takes one input, the request has {len(inputs)}: {listed(inputs)}."
        )
    return next(iter(inputs.items()))


def by_name(inputs: Arrays, specs: Sequence[TensorSpec], *, binary: bool = False) -> list[Array]:
    """The request's arrays in the order of `specs`, each of its dtype and shape.

    A single input without a name (V1 rows) stands for the only one the model has. With `binary`, BYTES are
    handed on as they came and need not be UTF-8.
    """
    if len(inputs) == 1 and len(specs) == 1:
        name, array = next(iter(inputs.items()))
        if not name or name == specs[0].name:
            return [conform(array, specs[0], binary=binary)]
    wanted = [s.name for s in specs]
    unknown = [n for n in inputs if n not in wanted]
    missing = [n for n in wanted if n not in inputs]
    if unknown or missing:
        raise InvalidInput(names_differ("inputs", wanted, unknown, missing))
    return [conform(inputs[s.name], s, binary=binary) for s in specs]


def conform(array: Array, spec: TensorSpec, *, binary: bool = False) -> Array:
    """`array` with the dtype of `spec`, after a look at its shape."""
    shape = array.shape
    want = spec.shape
    if len(shape) != len(want) or any(w not in (-1, h) for w, h in zip(want, shape, strict=True)):
        raise InvalidInput(
            f"{shown(spec.name)} has shape {list(shape)}; the model expects {list(want)}."
        )
    if spec.datatype == "BYTES":
        return text(spec.name, array, binary=binary)
    return cast(spec.name, array, DTYPES[spec.datatype])


def cast(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """`array` as `dtype` where no value changes more than rounding to a narrower float does.

    Integers become floats, wide integers narrow ones when every value fits; floats never become integers
    and numbers never become booleans. Otherwise InvalidInput.
    """
    have = array.dtype
    if have == dtype:
        return array
    pair = have.kind + dtype.kind
    if pair in _NUMERIC_CASTS:
        if dtype.kind in "iu" and array.size and not np.can_cast(have, dtype):
            limits = np.iinfo(dtype)
            low, high = int(array.min()), int(array.max())
            if low < limits.min or high > limits.max:
                raise InvalidInput(
                    f"{shown(name)} has values from {low} to {high}, which "
                    f"{datatype_of(dtype)} cannot hold."
                )
        elif (
            dtype.kind == "f"
            and (pair == "ff" or dtype == np.float16)
            and (dtype.itemsize < have.itemsize)
        ):
            with np.errstate(over="ignore"):
                narrow = array.astype(dtype)
            if (over := np.isinf(narrow)).any() and not np.isinf(array[over]).all():
                raise InvalidInput(
                    f"{shown(name)} has values out of the range of {datatype_of(dtype)}."
                )
            return narrow
        return array.astype(dtype)
    raise InvalidInput(
        f"{shown(name)} has datatype {_named(have)}; the model expects {datatype_of(dtype)}."
    )


_NUMERIC_CASTS: Final = frozenset({"ii", "iu", "ui", "uu", "if", "uf", "ff", "bf", "bi", "bu"})


def _named(dtype: np.dtype[Any]) -> str:
    return "BYTES (text)" if dtype.kind in _TEXT_KINDS else datatype_of(dtype)


def text(name: str, array: Array, *, binary: bool = False) -> Array:
    """Object array of `str` from text of any kind (`bytes` are read as UTF-8), same shape.

    With `binary`, an object array of `bytes` and `str` as it is.
    """
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype.kind not in "OS":
        raise InvalidInput(
            f"{shown(name)} has datatype {_named(array.dtype)}; the model expects text (BYTES)."
        )
    out = np.empty(array.shape, dtype=object)
    flat = out.reshape(-1)
    for i, value in enumerate(array.reshape(-1)):
        if isinstance(value, bytes):
            if binary:
                flat[i] = value
                continue
            try:
                flat[i] = value.decode()
            except UnicodeDecodeError:
                raise InvalidInput(
                    f"{shown(name)} has bytes at position {i} that are no UTF-8 text."
                ) from None
        elif isinstance(value, str):
            flat[i] = value
        else:
            raise InvalidInput(f"{shown(name)} has a value at position {i} that is no text.")
    return out


def decoded(name: str, array: Array) -> Array:
    """As `text`, but values of an object array that are no text (numbers, None) stay what they are."""
    if array.dtype.kind not in "OS":
        return array.astype(object) if array.dtype.kind == "U" else array
    out = np.empty(array.shape, dtype=object)
    flat = out.reshape(-1)
    for i, value in enumerate(array.reshape(-1)):
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise InvalidInput(
                    f"{shown(name)} has bytes at position {i} that are no UTF-8 text."
                ) from None
        flat[i] = value
    return out


def numeric(name: str, array: Array) -> Array:
    """`array` when its dtype is a number or a boolean; numbers in an object array are unpacked."""
    if array.dtype.kind in "fiub":
        return array
    if array.dtype.kind == "O":
        # Rows that mix integers, floats and null arrive as objects; text among them is refused.
        if any(isinstance(v, (str, bytes)) for v in array.reshape(-1)):
            raise InvalidInput(f"{shown(name)} has text; the model expects numbers.")
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            raise InvalidInput(f"{shown(name)} has values that are no numbers.") from None
    raise InvalidInput(
        f"{shown(name)} has datatype {_named(array.dtype)}; the model expects numbers."
    )


def width(name: str, array: Array, features: int | None) -> Array:
    """`array` when it is a matrix of at least one row and of `features` columns (None: any)."""
    shape = array.shape
    if len(shape) != 2:
        raise InvalidInput(
            f"{shown(name)} has shape {list(shape)}; the model expects rows of "
            f"{'features' if features is None else features}: [-1, {features or -1}]."
        )
    if features is not None and shape[1] != features:
        raise InvalidInput(f"Expected {features} features, got {shape[1]}.")
    if shape[0] == 0:
        raise InvalidInput("The request has no rows; at least one is needed.")
    return array


def columns(inputs: Arrays, names: Sequence[str]) -> dict[str, Array]:
    """Named inputs as one column each, in the order of `names`, all 1-D and of one length."""
    unknown = [n for n in inputs if n not in names]
    missing = [n for n in names if n not in inputs]
    if unknown or missing:
        raise InvalidInput(names_differ("columns", names, unknown, missing))
    out: dict[str, Array] = {}
    rows: int | None = None
    for name in names:
        array = inputs[name]
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        elif array.ndim != 1:
            raise InvalidInput(
                f"Column {name!r} has shape {list(array.shape)}; [-1] or [-1, 1] is expected."
            )
        if rows is None:
            rows = array.shape[0]
        elif array.shape[0] != rows:
            raise InvalidInput(
                f"Column {name!r} has {array.shape[0]} rows, column {names[0]!r} has {rows}."
            )
        out[name] = array
    if rows == 0:
        raise InvalidInput("The request has no rows; at least one is needed.")
    return out


def matrix(inputs: Arrays, features: int | None, names: Sequence[str] = ()) -> Array:
    """One numeric matrix from one input of any name, or from one input per name in `names`."""
    if len(inputs) == 1:
        name, array = next(iter(inputs.items()))
        if name not in names or (array.ndim == 2 and array.shape[1] != 1):
            return width(name, numeric(name, array), features)
    if not names:
        name, array = only(inputs)
        return width(name, numeric(name, array), features)
    parts = columns(inputs, names)
    return np.stack([numeric(n, a) for n, a in parts.items()], axis=1)


def names_differ(
    what: str, wanted: Sequence[str], unknown: Sequence[str], missing: Sequence[str]
) -> str:
    """The sentences for inputs whose names are not the model's."""
    parts = []
    if missing:
        parts.append(f"Missing {what}: {listed(missing)}.")
    if unknown:
        parts.append(f"Unknown {what}: {listed(unknown)}.")
    parts.append(f"The model's {what} are {listed(wanted, 50)}.")
    return " ".join(parts)


def zeros(specs: Sequence[TensorSpec]) -> dict[str, Array] | None:
    """One row of zeros or empty text per input; None when more than the first axis is left open."""
    out: dict[str, Array] = {}
    for spec in specs:
        if -1 in spec.shape[1:]:
            return None
        shape = tuple(1 if n == -1 else n for n in spec.shape)
        fill = "" if spec.datatype == "BYTES" else 0
        out[spec.name] = np.full(shape, fill, dtype=DTYPES[spec.datatype])
    return out or None
