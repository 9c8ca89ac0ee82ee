"""Every call of the real clients does what the table says, and the page is the table."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import client_calls
import numpy as np
import pytest
from benchmarks import peers
from client_calls import CASES, KSERVE, LOCAL, VALUES, Case, clients_of
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_peers import Doubling, Same, model_process
from triton_peers import WAYS, serving
from tritonclient.utils import InferenceServerException

import grpc
from penstock.protocols.grpc.schema import message
from penstock.runtimes.base import Arrays

MODELS = {"m": Doubling, "same": Same}
CLIENTS = ("http", "http.aio", "grpc", "grpc.aio")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "clients.md"


def _module(client: str) -> Any:
    return importlib.import_module(f"tritonclient.{client}")


@asynccontextmanager
async def caller(client: str, port: int) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Calls of a client that is made, used and closed where it may be: the blocking ones in one thread."""
    kind = _module(client)
    if client.endswith("aio"):
        made = kind.InferenceServerClient(f"127.0.0.1:{port}")

        async def call(name: str, *args: Any, **more: Any) -> Any:
            found = getattr(made, name)(*args, **more)
            return await found if asyncio.iscoroutine(found) else found

        try:
            yield call
        finally:
            await made.close()
        return
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        made = await loop.run_in_executor(
            thread, lambda: kind.InferenceServerClient(f"127.0.0.1:{port}")
        )

        async def blocking(name: Any, *args: Any, **more: Any) -> Any:
            act = name if callable(name) else getattr(made, name)
            return await loop.run_in_executor(thread, lambda: act(*args, **more))

        try:
            yield blocking
        finally:
            await loop.run_in_executor(thread, made.close)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_each_call_does_what_the_table_says(client: str, way: str, tmp_path: Path) -> None:
    wanted = [entry for entry in CASES if client in clients_of(entry)]
    assert len(wanted) > 25
    async with (
        serving(way, tmp_path, MODELS) as ports,
        caller(client, ports.http if client.startswith("http") else ports.grpc) as call,
    ):
        for entry in wanted:
            await _one(entry, client, way, call)


async def _one(entry: Case, client: str, way: str, call: Any) -> None:
    refused = entry.refused
    if way == "gateway" and entry.refused_by_gateway is not None:
        refused = entry.refused_by_gateway
    kind = _module(client.removesuffix(".aio"))
    if not refused:
        await entry.drive(call, kind)
        return
    with pytest.raises(InferenceServerException, match=refused) as error:
        await entry.drive(call, kind)
    # In the protocol's own shape: a status of its own, never a fault of the server's.
    assert error.value.status() not in (None, "500", "StatusCode.INTERNAL", "StatusCode.UNKNOWN")


@pytest.mark.parametrize("client", CLIENTS)
def test_the_table_has_every_call_of_a_client(client: str) -> None:
    kind = _module(client).InferenceServerClient
    have = {name for name in dir(kind) if not name.startswith("_")} - LOCAL
    listed = {n.strip() for c in CASES if client in clients_of(c) for n in c.name.split(",")}
    assert have == listed


def test_the_page_is_the_table() -> None:
    if PAGE.read_text() != client_calls.page():
        pytest.fail(
            "stale: .venv/bin/python tests/grpc/client_calls.py > docs/reference/clients.md"
        )


class Explained(Doubling):
    """Doubling with V1's predict; explaining is not its business."""

    batchable = False

    def predict(self, inputs: Arrays, parameters: Any) -> Arrays:
        return {"y": next(iter(inputs.values())) * 2}


@pytest.mark.timeout(600)  # the first run installs the package
@pytest.mark.parametrize("way", WAYS)
async def test_kserves_clients(way: str, tmp_path: Path) -> None:
    """In an environment of their own: their requirements and ours do not fit together."""
    binary = await asyncio.to_thread(peers.environment, "kserve")
    script = Path(__file__).with_name("kserve_client.py")
    async with serving(way, tmp_path, {"m": Explained}) as ports:
        argv = [str(binary / "python"), str(script), str(ports.http), str(ports.grpc), "m"]
        done = await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, timeout=100, check=False
        )
    assert done.returncode == 0, done.stderr
    found = {(client, call): outcome for client, call, outcome in json.loads(done.stdout)}
    assert tuple(found) == KSERVE
    doubled = (VALUES * 2).tolist()
    for (client, call), outcome in found.items():
        if call == "infer":
            expected = {"predictions": doubled} if "v1" in client else doubled
            assert outcome == expected, client
        elif call == "explain":
            assert "501" in str(outcome)
            assert "has no explain" in str(outcome)
        else:
            assert outcome is True, (client, call)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_a_caller_that_knows_nothing_but_reflection(version: str, tmp_path: Path) -> None:
    """As grpcurl and grpc_cli work: list, describe, make the message from its description, call."""
    package = f"grpc.reflection.{version}"
    asked, answered = (
        message(n, package) for n in ("ServerReflectionRequest", "ServerReflectionResponse")
    )
    async with (
        model_process(tmp_path, MODELS) as (_, _, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        reflect = channel.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )(timeout=20)

        async def ask(**what: Any) -> Any:
            await reflect.write(asked(**what))
            return await reflect.read()

        listed = await ask(list_services="")
        names = [s.name for s in listed.list_services_response.service]
        assert f"{package}.ServerReflection" in names
        pool = descriptor_pool.DescriptorPool()
        described = await ask(file_containing_symbol="inference.GRPCInferenceService")
        for data in described.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        by_name = await ask(file_by_filename="inference/grpc_service.proto")
        assert by_name.file_descriptor_response == described.file_descriptor_response
        nothing = await ask(file_containing_symbol="no.Such")
        assert nothing.error_response.error_code == 5
        extension = await ask(all_extension_numbers_of_type="inference.ModelInferRequest")
        assert extension.error_response.error_code == 12
        await reflect.done_writing()

        service = pool.FindServiceByName("inference.GRPCInferenceService")
        method = service.methods_by_name["ModelInfer"]
        make = message_factory.GetMessageClass
        request = make(method.input_type)(model_name="m")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[2, 2])
        tensor.contents.fp32_contents.extend(VALUES.ravel().tolist())
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=make(method.output_type).FromString,
        )
        answer = await call(request, timeout=20)
        found = np.array(answer.outputs[0].contents.fp32_contents).reshape(2, 2)
        np.testing.assert_array_equal(found, VALUES * 2)
