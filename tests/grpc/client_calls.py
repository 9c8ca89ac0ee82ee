"""Every call of the clients that users have, and what becomes of it here: data, and the page made from it.

`test_client_calls` drives each with the real package, at a model process and through a gateway, and holds
both the answers and docs/reference/clients.md to this table. `python tests/grpc/client_calls.py` prints it.
"""

from __future__ import annotations

import queue
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.protocols.shared_memory import OBJECTS

#: `await call("infer", ...)`: a call of the client, blocking or not.
Call = Callable[..., Awaitable[Any]]
VALUES = np.array([[1, 2], [3, 4]], np.float32)
BOTH, HTTP, GRPC = ("http", "grpc"), ("http",), ("grpc",)


@dataclass(frozen=True)
class Case:
    """One call, perhaps with certain arguments. `kind` is the client's module in `drive`."""

    name: str
    what: str
    drive: Callable[[Call, Any], Awaitable[None]]
    #: Of which clients: http, grpc. `blocking_only`: their asyncio clients have no such call.
    kinds: tuple[str, ...] = BOTH
    blocking_only: bool = False
    #: What the server says to it (a regular expression); empty: it is served.
    refused: str = ""
    #: The same through the gateway, where that differs.
    refused_by_gateway: str | None = None
    #: What the page says about it.
    note: str = ""


CASES: list[Case] = []


def case(name: str, what: str = "", **more: Any) -> Callable[[Any], Any]:
    def add(drive: Any) -> Any:
        CASES.append(Case(name, what, drive, **more))
        return drive

    return add


def get(answer: Any, name: str) -> Any:
    """A field of an answer: REST answers are dicts, gRPC's are messages."""
    return answer[name] if isinstance(answer, dict) else getattr(answer, name)


def tensor(kind: Any, values: np.ndarray = VALUES) -> Any:
    made = kind.InferInput("x", list(values.shape), "FP32")
    made.set_data_from_numpy(values)
    return made


@case("is_server_live")
async def _(call: Call, kind: Any) -> None:
    assert await call("is_server_live") is True


@case("is_server_ready")
async def _(call: Call, kind: Any) -> None:
    assert await call("is_server_ready") is True


@case("is_model_ready", "with and without a version")
async def _(call: Call, kind: Any) -> None:
    assert await call("is_model_ready", "m") is True
    assert await call("is_model_ready", "m", "1") is True


@case("get_server_metadata")
async def _(call: Call, kind: Any) -> None:
    found = await call("get_server_metadata")
    assert get(found, "name") == "penstock"
    for name in ("model_configuration", "logging", "trace", "system_shared_memory"):
        assert name in get(found, "extensions")


@case("get_model_metadata")
async def _(call: Call, kind: Any) -> None:
    found = await call("get_model_metadata", "m")
    assert get(found, "platform") == "test_doubling"
    assert get(get(found, "inputs")[0], "name") == "x"


@case("get_model_config")
async def _(call: Call, kind: Any) -> None:
    found = await call("get_model_config", "m", "1")
    config = found if isinstance(found, dict) else found.config
    assert get(config, "max_batch_size") == 32
    assert list(get(get(config, "input")[0], "dims")) == [2]
    kinds = get(get(config, "output")[0], "data_type")
    assert kinds in ("TYPE_FP32", 11)


@case("get_model_repository_index")
async def _(call: Call, kind: Any) -> None:
    found = await call("get_model_repository_index")
    entries = found if isinstance(found, list) else found.models
    assert ("m", "READY") in [(get(e, "name"), get(e, "state")) for e in entries]


@case("load_model")
async def _(call: Call, kind: Any) -> None:
    await call("load_model", "m")


@case(
    "load_model",
    "with config or files",
    refused="The load parameter 'config' is not supported",
    note="a model is loaded as its manifest says",
)
async def _(call: Call, kind: Any) -> None:
    await call("load_model", "m", config="{}")


@case(
    "unload_model",
    refused_by_gateway="keeps at least one replica by its manifest",
    note="through the gateway only where the manifest has minReplicas: 0",
)
async def _(call: Call, kind: Any) -> None:
    await call("unload_model", "same")
    await call("load_model", "same")


@case("get_inference_statistics", "of one model and of all")
async def _(call: Call, kind: Any) -> None:
    for names in (("m",), ("m", "1"), ()):
        found = await call("get_inference_statistics", *names)
        assert get(get(found, "model_stats")[0], "name") in ("m", "same")


@case("get_trace_settings", "of the server and of a model")
async def _(call: Call, kind: Any) -> None:
    for names in ((), ("m",)):
        found = await call("get_trace_settings", *names)
        settings = found if isinstance(found, dict) else found.settings
        level = settings["trace_level"]
        assert list(getattr(level, "value", level)) == ["OFF"]


@case("update_trace_settings", "to off, or back to the default")
async def _(call: Call, kind: Any) -> None:
    await call("update_trace_settings", settings={"trace_level": ["OFF"], "trace_rate": None})
    await call("update_trace_settings", "m", settings={"trace_level": None})


@case(
    "update_trace_settings",
    "to anything else",
    refused="trace_level cannot be changed: requests are not traced here",
)
async def _(call: Call, kind: Any) -> None:
    await call("update_trace_settings", "m", settings={"trace_level": ["TIMESTAMPS"]})


@case("get_log_settings")
async def _(call: Call, kind: Any) -> None:
    found = await call("get_log_settings")
    settings = found if isinstance(found, dict) else found.settings
    assert {"log_file", "log_info", "log_warning", "log_error", "log_verbose_level"} <= set(
        settings
    )


@case(
    "update_log_settings",
    "log_info, log_warning, log_error, log_verbose_level",
    refused_by_gateway="log_verbose_level cannot be changed here",
    note="the platform's processes have the level of `penstock serve --log-level`",
)
async def _(call: Call, kind: Any) -> None:
    found = await call("update_log_settings", settings={"log_verbose_level": 1})
    settings = found if isinstance(found, dict) else found.settings
    level = settings["log_verbose_level"]
    assert getattr(level, "uint32_param", level) == 1
    await call("update_log_settings", settings={"log_verbose_level": 0})


@case("update_log_settings", "log_file, log_format", refused="log_file cannot be changed")
async def _(call: Call, kind: Any) -> None:
    await call("update_log_settings", settings={"log_file": "/tmp/x"})


@case("get_system_shared_memory_status")
async def _(call: Call, kind: Any) -> None:
    await call("get_system_shared_memory_status")


@case(
    "register_system_shared_memory",
    note="only with --allow-shared-memory; inputs and outputs may be in it then",
)
async def _(call: Call, kind: Any) -> None:
    key = f"penstock-test-{uuid.uuid4().hex[:12]}"
    (OBJECTS / key).write_bytes(bytes(16))
    try:
        await call("register_system_shared_memory", key, f"/{key}", 16)
        await call("unregister_system_shared_memory", key)
    finally:
        (OBJECTS / key).unlink()


@case("unregister_system_shared_memory")
async def _(call: Call, kind: Any) -> None:
    await call("unregister_system_shared_memory")
    await call("unregister_system_shared_memory", "r")


@case("get_cuda_shared_memory_status", note="there are never any regions")
async def _(call: Call, kind: Any) -> None:
    await call("get_cuda_shared_memory_status")


@case("register_cuda_shared_memory", refused="CUDA shared memory is not supported")
async def _(call: Call, kind: Any) -> None:
    await call("register_cuda_shared_memory", "c", b"x" * 64, 0, 16)


@case("unregister_cuda_shared_memory", note="there is nothing to do")
async def _(call: Call, kind: Any) -> None:
    await call("unregister_cuda_shared_memory")


@case("infer", "raw and JSON tensors, chosen outputs, ids, parameters, timeouts")
async def _(call: Call, kind: Any) -> None:
    chosen = [kind.InferRequestedOutput("y")]
    more = {"outputs": chosen, "request_id": "7", "timeout": 1000000, "parameters": {"p": 1}}
    answer = await call("infer", "m", [tensor(kind)], **more)
    np.testing.assert_array_equal(answer.as_numpy("y"), VALUES * 2)
    assert get(answer.get_response(), "id") == "7"


@case("infer", "JSON tensors both ways", kinds=HTTP)
async def _(call: Call, kind: Any) -> None:
    made = kind.InferInput("x", [2, 2], "FP32")
    made.set_data_from_numpy(VALUES, binary_data=False)
    chosen = [kind.InferRequestedOutput("y", binary_data=False)]
    answer = await call("infer", "m", [made], outputs=chosen)
    np.testing.assert_array_equal(answer.as_numpy("y"), VALUES * 2)


@case("infer", "compressed messages (gzip, deflate)", kinds=GRPC)
async def _(call: Call, kind: Any) -> None:
    for algorithm in ("gzip", "deflate"):
        answer = await call("infer", "m", [tensor(kind)], compression_algorithm=algorithm)
        np.testing.assert_array_equal(answer.as_numpy("y"), VALUES * 2)


@case(
    "infer",
    "compressed request bodies and answers (gzip, deflate)",
    kinds=HTTP,
    note="large tensors are fastest as they are",
)
async def _(call: Call, kind: Any) -> None:
    for algorithm in ("gzip", "deflate"):
        more = {
            "request_compression_algorithm": algorithm,
            "response_compression_algorithm": algorithm,
        }
        values = np.tile(VALUES, (50, 1))  # small answers are not compressed
        made = kind.InferInput("x", list(values.shape), "FP32")
        made.set_data_from_numpy(values)
        answer = await call("infer", "m", [made], **more)
        np.testing.assert_array_equal(answer.as_numpy("y"), values * 2)


@case("infer", "class_count", note="classes have no labels: `VALUE:INDEX`")
async def _(call: Call, kind: Any) -> None:
    chosen = [kind.InferRequestedOutput("y", class_count=1)]
    answer = await call("infer", "m", [tensor(kind)], outputs=chosen)
    assert answer.as_numpy("y").tolist() == [[b"4.000000:1"], [b"8.000000:1"]]


@case(
    "infer",
    "sequence_id, sequence_start, sequence_end",
    note="passed to the model as parameters; there is no sequence batcher",
)
async def _(call: Call, kind: Any) -> None:
    answer = await call("infer", "m", [tensor(kind)], sequence_id=3, sequence_start=True)
    assert answer.as_numpy("y") is not None


@case("async_infer", kinds=BOTH, blocking_only=True)
async def _(call: Call, kind: Any) -> None:
    if kind.__name__.endswith("http"):
        pending = await call("async_infer", "m", [tensor(kind)])
        answer = await call(lambda: pending.get_result())
    else:
        found: queue.Queue[Any] = queue.Queue()
        done = lambda result, error: found.put((result, error))  # noqa: E731
        await call("async_infer", "m", [tensor(kind)], done)
        answer, error = await call(lambda: found.get(timeout=20))
        assert error is None
    np.testing.assert_array_equal(answer.as_numpy("y"), VALUES * 2)


@case("start_stream, async_stream_infer, stop_stream", kinds=GRPC, blocking_only=True)
async def _(call: Call, kind: Any) -> None:
    found: queue.Queue[Any] = queue.Queue()
    await call("start_stream", lambda result, error: found.put((result, error)))
    for _ in range(3):
        await call("async_stream_infer", "m", [tensor(kind)])
    for _ in range(3):
        result, error = await call(lambda: found.get(timeout=20))
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), VALUES * 2)
    await call("stop_stream")


async def _asked(kind: Any) -> Any:
    for name in ("m", "nope", "m"):
        yield {"model_name": name, "inputs": [tensor(kind)]}


@case("stream_infer", kinds=GRPC)
async def _(call: Call, kind: Any) -> None:
    found = [pair async for pair in await call("stream_infer", _asked(kind))]
    assert [error is None for _, error in found] == [True, False, True]


@case("generate_request_body, parse_response_body", kinds=HTTP, note="made by the client alone")
async def _(call: Call, kind: Any) -> None:
    body, length = kind.InferenceServerClient.generate_request_body([tensor(kind)])
    assert 0 < length < len(body)


#: Calls that reach no server.
LOCAL = frozenset({"close", "plugin", "register_plugin", "unregister_plugin"})
#: KServe's clients and their calls; driven by `kserve_client.py`.
KSERVE: tuple[tuple[str, str], ...] = (
    ("InferenceRESTClient (v1)", "infer"),
    ("InferenceRESTClient (v1)", "explain"),
    ("InferenceRESTClient (v1)", "is_server_live"),
    ("InferenceRESTClient (v1)", "is_model_ready"),
    ("InferenceRESTClient (v2)", "infer"),
    ("InferenceRESTClient (v2)", "is_server_ready"),
    ("InferenceRESTClient (v2)", "is_server_live"),
    ("InferenceRESTClient (v2)", "is_model_ready"),
    ("InferenceGRPCClient", "infer"),
    ("InferenceGRPCClient", "is_server_ready"),
    ("InferenceGRPCClient", "is_server_live"),
    ("InferenceGRPCClient", "is_model_ready"),
)


def clients_of(entry: Case) -> list[str]:
    """The client modules that have a call."""
    found = []
    for kind in entry.kinds:
        if entry.name != "stream_infer":
            found.append(kind)
        if not entry.blocking_only:
            found.append(f"{kind}.aio")
    return found


def page() -> str:
    """docs/reference/clients.md"""
    out = [
        "# Clients",
        "<!-- made from tests/grpc/client_calls.py, whose tests drive every line; do not edit -->",
        "",
        "Calls of the clients that users have, each driven by the tests with the real package: against a",
        "model process (`penstock run`) and through a gateway (`penstock serve`). *Refused* means an error",
        "in the protocol's own shape that says so.",
        "",
        "## tritonclient",
        "",
        "| call | clients | model process | gateway | |",
        "|---|---|---|---|---|",
    ]
    for entry in CASES:
        direct = _fate(entry.refused)
        through = entry.refused_by_gateway
        gateway = direct if through is None else _fate(through)
        names = " ".join(f"`{name.strip()}`" for name in entry.name.split(","))
        called = f"{names} {entry.what}".strip()
        clients = ", ".join(clients_of(entry))
        out.append(f"| {called} | {clients} | {direct} | {gateway} | {entry.note} |")
    out += ["", "## kserve", "", "| client | call | |", "|---|---|---|"]
    unexplained = "driven; refused with 501 where the service has no explainer"
    out += [
        f"| `{client}` | `{call}` | {unexplained if call == 'explain' else 'driven'} |"
        for client, call in KSERVE
    ]
    out += [
        "",
        "## Others",
        "",
        "| client | |",
        "|---|---|",
        "| grpcio's health client (`Check`, `List`, `Watch`) | driven |",
        "| grpcio-reflection's `ProtoReflectionDescriptorDatabase` (v1alpha) | driven |",
        "| reflection v1 and v1alpha by their messages | driven |",
        "| a generic caller that knows methods and messages by reflection alone, as grpcurl and grpc_cli do "
        "| driven |",
    ]
    return "\n".join(out) + "\n"


def _fate(refused: str) -> str:
    return f"refused: {refused}" if refused else "driven"


if __name__ == "__main__":
    print(page(), end="")
