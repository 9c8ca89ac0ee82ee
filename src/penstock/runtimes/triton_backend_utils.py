"""What Triton's Python models import as `triton_python_backend_utils`, for models that run here.

Written from the Python backend's documentation. Tensors are numpy arrays; DLPack works through numpy. What
needs a Triton server around it (calls of other models, loading them, shared memory of devices) raises
`TritonModelException` with a sentence, never does nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

__all__ = [
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "InferenceRequest",
    "InferenceResponse",
    "Logger",
    "MetricFamily",
    "ModelConfig",
    "PreferredMemory",
    "ResponseSender",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "deserialize_bytes_tensor",
    "get_input_config_by_name",
    "get_input_tensor_by_name",
    "get_model_dir",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
    "using_decoupled_model_transaction_policy",
]

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START: Final = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END: Final = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL: Final = 1
TRITONSERVER_REQUEST_RELEASE_ALL: Final = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE: Final = 2
TRITONSERVER_MEMORY_CPU: Final = 0
TRITONSERVER_MEMORY_GPU: Final = 1

_NUMPY: Final[Mapping[str, Any]] = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
    # Has no type of numpy's; travels as FP32.
    "TYPE_BF16": np.float32,
}
#: The C API's numbers of the types, which some helpers take.
_NUMBERS: Final = {
    name: number
    for number, name in enumerate(
        (
            "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8",
            "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64",
            "TYPE_STRING", "TYPE_BF16",
        ),
        start=1,
    )
}  # fmt: skip


class TritonModelException(Exception):
    """What a model raises to fail its whole batch with a message for the callers."""


class TritonError:
    """A response's error: a message, and a code that decides on the caller's status."""

    UNKNOWN: Final = 0
    INTERNAL: Final = 1
    NOT_FOUND: Final = 2
    INVALID_ARG: Final = 3
    UNAVAILABLE: Final = 4
    UNSUPPORTED: Final = 5
    ALREADY_EXISTS: Final = 6
    CANCELLED: Final = 7

    def __init__(self, message: str, code: int = 1) -> None:
        self._message = str(message)
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code

    def __str__(self) -> str:
        return self._message


class PreferredMemory:
    """Where outputs should be; there is one memory here."""

    def __init__(self, memory_type: int = TRITONSERVER_MEMORY_CPU, memory_id: int = 0) -> None:
        self.memory_type = memory_type
        self.memory_id = memory_id


class Tensor:
    """A named array."""

    def __init__(self, name: str, numpy_array: Any) -> None:
        if not isinstance(numpy_array, np.ndarray):
            raise TritonModelException("Tensor expects a numpy array for the second argument.")
        if numpy_array.dtype.kind in "SU":
            numpy_array = numpy_array.astype(object)
        if numpy_array.dtype != object and numpy_array.dtype not in _TYPES_BY_DTYPE:
            raise TritonModelException(
                f"The dtype {numpy_array.dtype} of the tensor {name} is not one of Triton's."
            )
        self._name = str(name)
        self._array = numpy_array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array

    def triton_dtype(self) -> int:
        return _NUMBERS[_type_of(self._array.dtype)]

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def is_cpu(self) -> bool:
        return True

    def to_dlpack(self, stream: Any = None) -> Any:
        return self._array.__dlpack__()

    def __dlpack__(self, stream: Any = None) -> Any:
        return self._array.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """A tensor over what another framework holds in this machine's memory."""
        if not hasattr(tensor, "__dlpack__"):
            raise TritonModelException("from_dlpack needs an object that has __dlpack__.")
        return Tensor(name, np.from_dlpack(tensor))

    def __repr__(self) -> str:
        return f"Tensor({self._name!r}, {self._array.dtype}, {list(self._array.shape)})"


class InferenceRequest:
    """One request. Those that a model makes itself are for calls of other models, which are not served."""

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: Any = None,
        parameters: Mapping[str, Any] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._requested = set(requested_output_names)
        self._model_name = model_name
        self._model_version = model_version
        self._flags = flags
        self._timeout = timeout
        self._preferred_memory = preferred_memory or PreferredMemory()
        self._parameters = dict(parameters or {})
        self._cancelled = cancelled
        self._sender: ResponseSender | None = None

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def requested_output_names(self) -> set[str]:
        return self._requested

    def model_name(self) -> str:
        return self._model_name

    def model_version(self) -> int:
        return self._model_version

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = flags

    def timeout(self) -> int:
        """Microseconds; 0 is none."""
        return self._timeout

    def preferred_memory(self) -> PreferredMemory:
        return self._preferred_memory

    def parameters(self) -> str:
        """The request's own parameters, as JSON text."""
        return json.dumps(self._parameters)

    def trace(self) -> None:
        return None

    def is_cancelled(self) -> bool:
        """True once nobody waits for the answer any more."""
        return self._cancelled is not None and self._cancelled()

    def attach(self, sender: ResponseSender) -> None:
        """For the runtime: this request is a decoupled model's."""
        self._sender = sender

    def get_response_sender(self) -> ResponseSender:
        if self._sender is None:
            raise TritonModelException(
                "get_response_sender needs model_transaction_policy { decoupled: true }."
            )
        return self._sender

    def set_release_flags(self, flags: int) -> None:
        if flags == TRITONSERVER_REQUEST_RELEASE_RESCHEDULE:
            raise TritonModelException("Requests cannot be put back into the queue here.")

    def exec(self, decoupled: bool = False) -> Any:
        raise TritonModelException(_NO_CALLS.format(self._model_name))

    async def async_exec(self, decoupled: bool = False) -> Any:
        raise TritonModelException(_NO_CALLS.format(self._model_name))


_NO_CALLS: Final = "Calling another model from a model ({}) is not supported; make a graph of them."


class InferenceResponse:
    """One answer: tensors, or an error."""

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._tensors = list(output_tensors)
        for tensor in self._tensors:
            if not isinstance(tensor, Tensor):
                raise TritonModelException("output_tensors is a list of Tensor.")
        self._error = TritonError(error) if isinstance(error, str) else error
        self._parameters = dict(parameters or {})

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError:
        if self._error is None:
            raise TritonModelException("The response has no error.")
        return self._error

    def parameters(self) -> str:
        return json.dumps(self._parameters)

    def parameters_dict(self) -> dict[str, Any]:
        """For the runtime."""
        return self._parameters


class ResponseSender:
    """How a decoupled model answers, from any thread."""

    def __init__(self, take: Callable[[Any, bool], None]) -> None:
        self._take = take

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        if response is None and flags != TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        if response is not None and not isinstance(response, InferenceResponse):
            raise TritonModelException("send takes an InferenceResponse.")
        self._take(response, flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return False


class ModelConfig:
    """The configuration that `auto_complete_config` completes. What is said already must not differ."""

    def __init__(self, config: Mapping[str, Any] | str) -> None:
        self._config: dict[str, Any] = (
            json.loads(config) if isinstance(config, str) else json.loads(json.dumps(config))
        )

    def as_dict(self) -> dict[str, Any]:
        return self._config

    def add_input(self, properties: Mapping[str, Any]) -> None:
        self._add("input", properties, ("name", "data_type", "dims", "optional"))

    def add_output(self, properties: Mapping[str, Any]) -> None:
        self._add("output", properties, ("name", "data_type", "dims"))

    def _add(self, side: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in given:
            if key not in known:
                raise ValueError(f"{side}: unknown property {key!r}; known are {', '.join(known)}")
        for key in ("name", "data_type", "dims"):
            if key not in given:
                raise ValueError(
                    f"{side} {given.get('name', '')!r} is missing the property {key!r}"
                )
        for tensor in self._config.setdefault(side, []):
            if tensor.get("name") != given["name"]:
                continue
            for key in ("data_type", "dims"):
                have = tensor.get(key)
                if have and list_or_same(have) != list_or_same(given[key]):
                    raise ValueError(
                        f"model configuration specifies a different {key} for {side} {given['name']!r}"
                    )
                tensor[key] = given[key]
            return
        self._config[side].append(dict(given))

    def set_max_batch_size(self, max_batch_size: int) -> None:
        if self._config.get("max_batch_size", 0) > max_batch_size:
            raise ValueError(
                "configuration specified max_batch_size "
                f"{self._config['max_batch_size']}, but in auto_complete_config it is {max_batch_size}"
            )
        self._config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        if "sequence_batching" in self._config:
            raise ValueError("configuration specifies sequence_batching already")
        self._config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, transaction_policy: Mapping[str, Any]) -> None:
        self._config["model_transaction_policy"] = dict(transaction_policy)


def list_or_same(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


class _Logger:
    """`pb_utils.Logger`: into the replica's log."""

    _log = logging.getLogger("triton_model")

    def log(self, message: str, level: int = 0) -> None:
        self._log.info("%s", message)

    def log_info(self, message: str) -> None:
        self._log.info("%s", message)

    def log_warn(self, message: str) -> None:
        self._log.warning("%s", message)

    def log_error(self, message: str) -> None:
        self._log.error("%s", message)

    def log_verbose(self, message: str) -> None:
        self._log.debug("%s", message)


Logger: Final = _Logger()


class MetricFamily:
    """Custom metrics of a model are not collected."""

    COUNTER: Final = 0
    GAUGE: Final = 1
    HISTOGRAM: Final = 2

    def __init__(self, name: str = "", description: str = "", kind: int = 0) -> None:
        raise TritonModelException(f"Metrics of a model's own ({name}) are not supported.")


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((t for t in request.inputs() if t.name() == name), None)


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    return next((t for t in response.output_tensors() if t.name() == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    return next((t for t in model_config.get("input", ()) if t["name"] == name), None)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    return next((t for t in model_config.get("output", ()) if t["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    return bool((model_config.get("model_transaction_policy") or {}).get("decoupled", False))


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """`TYPE_FP32` -> numpy.float32; None for a name that is none."""
    return _NUMPY.get(triton_type_string)


def triton_to_numpy_type(data_type: int) -> Any:
    """The C API's number of a type -> numpy's."""
    return next((_NUMPY[name] for name, n in _NUMBERS.items() if n == data_type), None)


def numpy_to_triton_type(data_type: Any) -> int:
    """numpy's type -> the C API's number."""
    return _NUMBERS[_type_of(np.dtype(data_type))]


_TYPES_BY_DTYPE: Final = {
    np.dtype(kind): name
    for name, kind in _NUMPY.items()
    if name not in ("TYPE_BF16", "TYPE_STRING")
}


def _type_of(dtype: Any) -> str:
    return "TYPE_STRING" if dtype.kind in "OSU" else _TYPES_BY_DTYPE[dtype]


def get_model_dir() -> str:
    """The folder of the model's version."""
    import inspect
    from pathlib import Path

    frame = inspect.stack()[1]
    return str(Path(frame.filename).resolve().parent)


def serialize_byte_tensor(input_tensor: Any) -> Any:
    """Text or bytes elements as Triton writes them: four bytes of length (little endian), then the bytes."""
    if input_tensor.size == 0:
        return np.empty([0], dtype=np.object_)
    parts: list[bytes] = []
    for element in input_tensor.ravel(order="C").tolist():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts.append(len(data).to_bytes(4, "little") + data)
    return np.array([b"".join(parts)], dtype=np.object_)


def deserialize_bytes_tensor(encoded_tensor: bytes) -> Any:
    """The reverse: a 1-D object array of bytes."""
    elements: list[bytes] = []
    at = 0
    while at < len(encoded_tensor):
        size = int.from_bytes(encoded_tensor[at : at + 4], "little")
        at += 4
        elements.append(encoded_tensor[at : at + size])
        at += size
    return np.array(elements, dtype=object)
