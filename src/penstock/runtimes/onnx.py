"""ONNX models by ONNX Runtime: inputs and outputs as the graph declares them."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from penstock.errors import InvalidInput, LoadError, ModelError
from penstock.protocols.datatypes import bf16_to_float32, float32_to_bf16
from penstock.runtimes import accelerators
from penstock.runtimes import inputs as given
from penstock.runtimes.base import Array, Arrays, Framework, LoadOptions, Runtime, TensorSpec
from penstock.runtimes.loading import (
    first_line,
    known_options,
    model_file,
    opening,
    option,
    require,
)
from penstock.runtimes.objects import row_objects

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
#: Providers that need a device or an account; taken only when they are named, except CUDA's.
_PROCESSOR: Final = "CPUExecutionProvider"
_DEFAULT_PROVIDERS: Final = ("CUDAExecutionProvider", _PROCESSOR)
#: In a kernel's complaint, these are about the size of what it was given.
_SIZES: Final = ("broadcast", "dimension", "shape", "out of data bounds", "INVALID_ARGUMENT")


class OnnxRuntime(Runtime):
    """An `InferenceSession`. Batchable when the first axis of every input and output is open."""

    platform = "onnx_onnxv1"
    reentrant = True

    def __init__(self, session: Any) -> None:
        self._session = session
        self._run: Callable[..., list[Any]] = session.run
        self.inputs = tuple(_input_spec(i) for i in session.get_inputs())
        self.outputs = tuple(_output_spec(o) for o in session.get_outputs())
        self._names = [spec.name for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]
        self._tensors = all(o.type.startswith("tensor") for o in session.get_outputs())
        self._symbols = _shared_symbols(session.get_inputs())
        firsts = [(x.shape[0] if x.shape else 1) for x in session.get_inputs()]
        firsts += [
            (x.shape[0] if x.shape else 1)
            for x in session.get_outputs()
            if x.type.startswith("tensor")
        ]
        symbols = {f for f in firsts if isinstance(f, str)}
        self.batchable = not any(isinstance(f, int) for f in firsts) and len(symbols) <= 1
        self._example = given.zeros(self.inputs)
        if any(spec.datatype == "BF16" for spec in (*self.inputs, *self.outputs)):
            self._run = self._run_with_bfloats

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        arrays = given.by_name(inputs, self.inputs)
        if self._symbols:
            self._check_symbols(arrays)
        try:
            values = self._run(None, dict(zip(self._names, arrays, strict=True)))
        except Exception as e:
            raise self._blamed(e) from e
        if self._tensors:
            return dict(zip(self._output_names, values, strict=True))
        return {n: _array(v) for n, v in zip(self._output_names, values, strict=True)}

    def example(self) -> Arrays | None:
        return self._example

    def _run_with_bfloats(self, names: None, arrays: Mapping[str, Array]) -> list[Any]:
        """As the session's own `run`, which has no numpy type for BF16, with float32 in its place."""
        from onnxruntime import OrtValue

        feeds = {
            spec.name: OrtValue.ortvalue_from_numpy_with_onnx_type(
                float32_to_bf16(arrays[spec.name]), _BF16
            )
            if spec.datatype == "BF16"
            else OrtValue.ortvalue_from_numpy(arrays[spec.name])
            for spec in self.inputs
        }
        values = self._session.run_with_ort_values(self._output_names, feeds)
        return [_bfloats(v) if v.data_type() == "tensor(bfloat16)" else v.numpy() for v in values]

    def _check_symbols(self, arrays: Sequence[Array]) -> None:
        for symbol, places in self._symbols.items():
            sizes = {arrays[i].shape[axis] for i, axis in places}
            if len(sizes) > 1:
                parts = ", ".join(
                    f"{self._names[i]!r} has {arrays[i].shape[axis]}" for i, axis in places
                )
                raise InvalidInput(f"Inputs have to agree on the size of {symbol!r}: {parts}.")

    def _blamed(self, e: Exception) -> Exception:
        kind, text = type(e).__name__, first_line(e)
        open_axes = any(-1 in spec.shape for spec in self.inputs)
        if kind == "InvalidArgument" or (open_axes and any(word in str(e) for word in _SIZES)):
            return InvalidInput(f"The model refused the input: {text}")
        return ModelError(f"ONNX Runtime failed: {text}")


def load(path: Path, options: LoadOptions) -> Runtime:
    """A session over the one `.onnx` file at `path`. Options: `file`, `providers` (a list of names)."""
    known_options(options, ("file", "providers"))
    file = model_file(path, (".onnx", ".ort"), options)
    require(framework)
    import onnxruntime

    named = option(options, "providers", list)
    providers = _providers(named, onnxruntime.get_available_providers())
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = max(1, options.threads)
    settings.inter_op_num_threads = 1
    # A waiting pool that spins takes a core from the replica beside it.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = (
        4  # errors are raised; logging them too fills the log with bad requests
    )
    with opening(file, "an ONNX model", _load_fault):
        session = onnxruntime.InferenceSession(
            os.fspath(file), settings, providers=accelerators.onnx_providers(providers, options)
        )
        # It goes on on the processor when a provider fails.
        if options.devices and named is None and session.get_providers()[0] == _PROCESSOR:
            raise accelerators.unusable(options, f"ONNX Runtime {onnxruntime.__version__}")
        return OnnxRuntime(session)


#: What ONNX Runtime says before it comes to the point: its code, the path, and its own source's line.
_PREAMBLE: Final = re.compile(
    r"\A\[ONNXRuntimeError\] : \d+ : \w+ : (?:Load model from .*? failed:)?\s*"
    r"(?:/\S+\.(?:cc|h):\d+ .*?\)(?: const)? )?",
    re.DOTALL,
)
_NEWER_OPSET: Final = re.compile(r"Opset (\d+) is under development.*?is till opset (\d+)")


def _load_fault(e: BaseException) -> str:
    """What ONNX Runtime says of a file, without where in its source it says so."""
    said = " ".join(_PREAMBLE.sub("", str(e)).split()).rstrip(".")
    newer = _NEWER_OPSET.search(said)
    if newer:
        return (
            f"it is of opset {newer[1]}, and ONNX Runtime here takes {newer[2]} at most. "
            "Convert it with a lower target_opset"
        )
    if "Protobuf parsing failed" in said:
        return "it is no ONNX file, or is cut short"
    return said or first_line(e)


def _providers(wanted: list[str] | None, available: Sequence[str]) -> list[str]:
    if wanted is None:
        return [p for p in _DEFAULT_PROVIDERS if p in available]
    missing = [p for p in wanted if p not in available]
    if missing:
        raise LoadError(
            f"ONNX Runtime has no provider {given.listed(missing)} here.",
            hint=f"There are {given.listed(available)}.",
        )
    return list(wanted)


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else -1 for n in node.shape)


def _input_spec(node: Any) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise LoadError(f"Input {node.name!r} has type {node.type}, which no request can carry.")
    return TensorSpec(node.name, datatype, _shape(node))


def _output_spec(node: Any) -> TensorSpec:
    if node.type.startswith("tensor"):
        return TensorSpec(node.name, _DATATYPES.get(node.type, "FP32"), _shape(node))
    # Maps and sequences (a classifier's ZipMap) are answered as one JSON object per row.
    return TensorSpec(node.name, "BYTES", (-1,))


def _shared_symbols(nodes: Sequence[Any]) -> dict[str, list[tuple[int, int]]]:
    """Where each named size occurs, for the names that occur more than once."""
    places: dict[str, list[tuple[int, int]]] = {}
    for i, node in enumerate(nodes):
        for axis, size in enumerate(node.shape):
            if isinstance(size, str):
                places.setdefault(size, []).append((i, axis))
    return {name: where for name, where in places.items() if len(where) > 1}


def _array(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    return row_objects(value if isinstance(value, list) else [value])


#: ONNX's number of bfloat16.
_BF16: Final = 16


def _bfloats(value: Any) -> Array:
    """A BF16 tensor as float32."""
    shape = value.shape()
    size = math.prod(shape)
    if not size:
        return np.empty(shape, np.float32)
    # ONNX Runtime offers its bytes to numpy by their address only.
    memory = (ctypes.c_uint16 * size).from_address(value.data_ptr())
    return bf16_to_float32(np.frombuffer(memory, np.uint16).reshape(shape))


#: A graph of one Relu over one column, as protobuf.
_RELU: Final = (
    b'\x08\x08:=\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x14\n\x01x\x12\x0f\n\r\x08\x01\x12\t\n\x03'
    b"\x12\x01n\n\x02\x08\x01b\x14\n\x01y\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01n\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


def warm() -> None:
    """Run a graph of one node: the operators' registry it fills is 10 MB, shared by all replicas."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(_RELU, settings, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros((1, 1), np.float32)})


framework = Framework(
    name="onnx",
    extra="onnx",
    preload=("onnxruntime",),
    load=load,
    formats=("onnx",),
    uses_devices=True,
    warm=warm,
    rehearse=warm,
    # ONNX Runtime 1.29 and later send usage events to Microsoft unless told not to, from a thread that
    # starts at import.
    env={"ORT_DISABLE_TELEMETRY": "1"},
)
