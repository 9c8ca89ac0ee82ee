"""Triton's calls about the server itself: shared memory, logging, tracing; by REST and by gRPC.

Gateways and model processes answer them alike, from one `ServerCalls`. What is asked for and cannot be had
here is refused by its name; what is already so may be set again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from penstock.errors import InvalidInput, NotFound, Unsupported
from penstock.observe.log_settings import LogSettings
from penstock.protocols.grpc.schema import METHODS
from penstock.protocols.json_object import json_object
from penstock.protocols.shared_memory import SharedMemory

#: V2's names for these extensions; shared memory is one more where it is allowed.
EXTENSIONS: Final = ("logging", "trace")
SHARED_MEMORY: Final = "system_shared_memory"
#: gRPC methods of `ServerCalls.call`.
CALLS: Final = frozenset(
    {
        "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
        "TraceSetting", "LogSettings",
    }
)  # fmt: skip
#: Paths of `ServerCalls.page` (those of one model's trace settings are with the model's).
PATHS: Final = re.compile(
    r"/v2/(?:(system|cuda)sharedmemory(?:/region/([^/]+))?/(status|register|unregister)"
    r"|(logging)|(trace)/setting)"
)
#: Requests are not traced, and these are Triton's values of that.
_TRACE: Final[dict[str, list[str] | str]] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
_MAX_U64: Final = 2**64 - 1
_encode = msgspec.json.encode


def trace_settings(wanted: Mapping[str, Any]) -> dict[str, list[str] | str]:
    """The trace settings. None, or what is so already, may be set. Raises InvalidInput, Unsupported."""
    for name, value in wanted.items():
        if name not in _TRACE:
            raise InvalidInput(
                f"There is no trace setting {name!r}.", hint=f"There are {', '.join(_TRACE)}."
            )
        if value is None or value == [] or value == _TRACE[name] or [value] == _TRACE[name]:
            continue
        if isinstance(value, list) and value == [_TRACE[name]]:
            continue
        raise Unsupported(
            f"{name} cannot be changed: requests are not traced here.",
            hint="/metrics and the statistics have durations of each part of a request.",
        )
    return dict(_TRACE)


class ServerCalls:
    """The answers of one process."""

    def __init__(self, memory: SharedMemory, logs: LogSettings) -> None:
        self.memory = memory
        self.logs = logs

    @property
    def extensions(self) -> tuple[str, ...]:
        return (*EXTENSIONS, SHARED_MEMORY) if self.memory.allowed else EXTENSIONS

    # -- REST

    def methods(self, path: str) -> Sequence[str]:
        """The methods of a path; empty when it is none of these."""
        found = PATHS.fullmatch(path)
        if found is None:
            return ()
        _, region, verb, logging, trace = found.groups()
        if logging or trace:
            return ("GET", "HEAD", "POST")
        if verb == "register" and region is None:
            return ()
        return ("GET", "HEAD") if verb == "status" else ("POST",)

    def page(self, path: str, method: str, body: bytes | bytearray | memoryview | None) -> bytes:
        """The JSON answer of a path that has `method`. Raises PenstockError."""
        found = PATHS.fullmatch(path)
        if found is None:
            raise NotFound("There is nothing at this path.")
        kind, region, verb, logging, _ = found.groups()
        if kind is None:
            wanted = json_object(body) if method == "POST" else {}
            return _encode(self.logs.change(wanted) if logging else trace_settings(wanted))
        name = unquote(region or "")
        memory = self.memory
        if kind == "cuda":
            if verb == "status":
                return _encode(_no_cuda(name))
            if verb == "register":
                raise _cuda()
            return b""
        if verb == "status":
            return _encode(memory.status(name))
        if verb == "unregister":
            memory.unregister(name)
            return b""
        wanted = json_object(body)
        key = wanted.get("key")
        if not isinstance(key, str):
            raise InvalidInput("Shared memory register request has no 'key' field")
        offset, size = (_number(wanted, field) for field in ("offset", "byte_size"))
        memory.register(name, key, offset, size)
        return b""

    # -- gRPC

    def call(self, method: str, request: Any) -> Any:
        """The response message of one of `CALLS`. Raises PenstockError."""
        answer = METHODS[method][1]()
        _CALLS[method](self, request, answer)
        return answer

    def _system_status(self, request: Any, answer: Any) -> None:
        for region in self.memory.status(request.name):
            entry = answer.regions[region.name]
            entry.name, entry.key = region.name, region.key
            entry.offset, entry.byte_size = region.offset, region.byte_size

    def _system_register(self, request: Any, answer: Any) -> None:
        self.memory.register(request.name, request.key, request.offset, request.byte_size)

    def _system_unregister(self, request: Any, answer: Any) -> None:
        self.memory.unregister(request.name)

    def _cuda_status(self, request: Any, answer: Any) -> None:
        _no_cuda(request.name)

    def _cuda_register(self, request: Any, answer: Any) -> None:
        raise _cuda()

    def _nothing(self, request: Any, answer: Any) -> None:
        """Nothing is registered, so nothing is left to do."""

    def _trace(self, request: Any, answer: Any) -> None:
        wanted = {name: list(value.value) for name, value in request.settings.items()}
        for name, value in trace_settings(wanted).items():
            answer.settings[name].value.extend([value] if isinstance(value, str) else value)

    def _logs(self, request: Any, answer: Any) -> None:
        wanted = {}
        for name, value in request.settings.items():
            which = value.WhichOneof("parameter_choice")
            if which is None:
                raise InvalidInput(f"The log setting {name!r} has no value.")
            wanted[name] = getattr(value, which)
        for name, value in self.logs.change(wanted).items():
            entry = answer.settings[name]
            if isinstance(value, bool):
                entry.bool_param = value
            elif isinstance(value, int):
                entry.uint32_param = value
            else:
                entry.string_param = value


_CALLS: Final[dict[str, Callable[[ServerCalls, Any, Any], None]]] = {
    "SystemSharedMemoryStatus": ServerCalls._system_status,
    "SystemSharedMemoryRegister": ServerCalls._system_register,
    "SystemSharedMemoryUnregister": ServerCalls._system_unregister,
    "CudaSharedMemoryStatus": ServerCalls._cuda_status,
    "CudaSharedMemoryRegister": ServerCalls._cuda_register,
    "CudaSharedMemoryUnregister": ServerCalls._nothing,
    "TraceSetting": ServerCalls._trace,
    "LogSettings": ServerCalls._logs,
}


def _no_cuda(name: str) -> list[Any]:
    """The registered regions of CUDA memory: there are none."""
    if name:
        raise NotFound(f"Unable to find cuda shared memory region: '{name}'")
    return []


def _cuda() -> Unsupported:
    return Unsupported(
        "CUDA shared memory is not supported.",
        hint="Use system shared memory, or send tensors in the request.",
    )


def _number(wanted: Mapping[str, Any], field: str) -> int:
    value = wanted.get(field, 0 if field == "offset" else None)
    if value is None:
        raise InvalidInput(f"Shared memory register request has no '{field}' field")
    if type(value) is not int or not 0 <= value <= _MAX_U64:
        raise InvalidInput(f"'{field}' is a number of bytes, 0 or more.")
    return value
