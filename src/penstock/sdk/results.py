"""What a user's `predict` may return, as named arrays or as the body of a response."""

from __future__ import annotations

import collections.abc
from typing import Any, Final

import numpy as np

from penstock.errors import ModelError, Unsupported
from penstock.protocols import v1
from penstock.protocols.datatypes import datatype_of
from penstock.protocols.infer import InferResponse
from penstock.runtimes.base import Arrays, RawReply, TensorSpec

_TEXT: Final = "text/plain; charset=utf-8"


def is_stream(result: Any) -> bool:
    """Whether `result` is to be sent piece by piece: a generator or another iterator, sync or async."""
    return isinstance(result, collections.abc.AsyncIterator | collections.abc.Iterator)


def to_outputs(result: Any, specs: tuple[TensorSpec, ...] = ()) -> Arrays:
    """Named arrays from an array, dict, tuple, data frame, list or single value. Raises ModelError.

    What has no name of its own is named as `specs` (the model's declared outputs) has it, else
    `output-0`, `output-1`, ... Every array has a dtype that the protocols can carry.
    """
    outputs = _outputs(result, specs)
    for name, values in outputs.items():
        datatype_of(values, name)
    return outputs


def _outputs(result: Any, specs: tuple[TensorSpec, ...]) -> Arrays:
    if isinstance(result, InferResponse):
        return result.outputs
    if isinstance(result, collections.abc.Mapping):
        if not result:
            raise ModelError("the model answered an empty dict, outputs by name are expected")
        return {str(name): _array(value, str(name)) for name, value in result.items()}
    if _is_frame(result):
        return {str(c): _array(result[c].to_numpy(), str(c)) for c in result.columns}
    if isinstance(result, tuple):
        fields = getattr(result, "_fields", None)  # a named tuple names its own
        names = fields or [_name(specs, i) for i in range(len(result))]
        return {name: _array(value, name) for name, value in zip(names, result, strict=True)}
    if result is None:
        raise ModelError("the model answered None")
    name = _name(specs, 0)
    return {name: _array(result, name)}


def to_v1(result: Any) -> RawReply:
    """A V1 body. Raises ModelError."""
    raw = _raw(result)
    if raw is not None:
        return raw
    if isinstance(result, InferResponse):
        return RawReply(v1.encode_predictions(result.outputs))
    if result is None:
        raise ModelError("the model answered None")
    return RawReply(v1.encode_result(result))


def to_v2(result: Any, specs: tuple[TensorSpec, ...] = ()) -> InferResponse | RawReply:
    """A V2 answer. Raises ModelError."""
    if isinstance(result, InferResponse):
        return result
    raw = _raw(result)
    if raw is not None:
        return raw
    if is_stream(result):
        raise Unsupported(
            "the model streams its answer, which V2 over REST cannot carry.",
            hint="Ask with V1's :predict, or with gRPC's ModelStreamInfer.",
        )
    if isinstance(result, dict):
        if isinstance(result.get("outputs"), list) and "model_name" in result:
            return RawReply(v1.encode_result(result))
        if result.keys() == {"predictions"}:
            result = result["predictions"]
    return InferResponse(dict(to_outputs(result, specs)))


def to_response(item: Any, specs: tuple[TensorSpec, ...] = ()) -> InferResponse:
    """One item of a stream as a V2 answer: text and bytes are a BYTES tensor. Raises ModelError."""
    if isinstance(item, InferResponse):
        return item
    if isinstance(item, dict) and item.keys() == {"predictions"}:
        item = item["predictions"]
    return InferResponse(dict(to_outputs(item, specs)))


def _raw(result: Any) -> RawReply | None:
    if isinstance(result, RawReply):
        if not isinstance(result.body, bytes | bytearray | memoryview):
            raise ModelError("the body of the model's RawReply is no bytes")
        return RawReply(bytes(result.body), result.content_type)
    if isinstance(result, str):
        return RawReply(result.encode(), _TEXT)
    if isinstance(result, bytes | bytearray | memoryview):
        return RawReply(bytes(result), "application/octet-stream")
    return None


def _name(specs: tuple[TensorSpec, ...], i: int) -> str:
    return specs[i].name if i < len(specs) else f"output-{i}"


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def _array(value: Any, name: str) -> Any:
    """One output as an array; a single value gets the shape [1]."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # a tensor of PyTorch, perhaps on a device
        value = value.detach().cpu().numpy()
    if isinstance(value, str | bytes | dict):
        single = np.empty(1, dtype=object)
        single[0] = value
        return single
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        objects = np.empty(len(value), dtype=object)
        objects[:] = value
        return objects
    try:
        array = np.asarray(value)
    except ValueError:
        raise ModelError(f"output '{name}' is ragged: its rows have different lengths") from None
    if array.dtype == object and array.ndim == 0:
        raise ModelError(f"output '{name}' is a {type(value).__name__}, which no tensor can carry")
    return array.reshape(1) if array.ndim == 0 else array


def one_line(error: BaseException) -> str:
    """The type of `error` and the first line of its text, at most 300 characters."""
    lines = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return line if len(line) <= 300 else line[:299] + "…"
