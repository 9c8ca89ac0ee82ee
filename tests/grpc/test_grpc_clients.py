"""The real clients, against a model process alone and through a gateway: one behaviour, two ways."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_peers import Doubling, Failing, Same, floats, gateway, model_process, request
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

import grpc

MODELS = {"m": Doubling, "same": Same, "bad": Failing}


@pytest.fixture(params=["process", "gateway"])
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[int]:
    """A port where models `m`, `same` and `bad` are served."""
    async with model_process(tmp_path, MODELS) as (_, path, own_port):
        if request.param == "process":
            yield own_port
            return
        async with gateway() as front:
            front.route("m", path, models=("same", "bad"))
            yield front.port


def tensor(values: np.ndarray, name: str = "x", kind: str = "FP32") -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), kind)
    made.set_data_from_numpy(values)
    return made


def _all_calls(port: int, through_gateway: bool) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert client.get_server_metadata().name == "penstock"
        about = client.get_model_metadata("m")
        assert (about.name, list(about.versions), about.platform) == ("m", ["1"], "test_doubling")
        assert [(t.name, t.datatype, list(t.shape)) for t in about.inputs] == [
            ("x", "FP32", [-1, 2])
        ]
        config = client.get_model_config("m").config
        assert (config.name, config.max_batch_size) == ("m", 32)
        assert [list(t.dims) for t in config.input] == [[2]]
        index = {m.name: m.state for m in client.get_model_repository_index().models}
        assert index["m"] == "READY"

        values = np.array([[1, 2], [3, 4]], np.float32)
        answer = client.infer("m", [tensor(values)], request_id="r7", client_timeout=10)
        np.testing.assert_array_equal(answer.as_numpy("y"), values * 2)
        found = answer.get_response()
        assert (found.id, found.model_name, found.model_version) == ("r7", "m", "1")
        chosen = client.infer("m", [tensor(values)], outputs=[triton.InferRequestedOutput("y")])
        assert chosen.as_numpy("y").shape == (2, 2)
        for algorithm in ("gzip", "deflate"):
            answer = client.infer("m", [tensor(values)], compression_algorithm=algorithm)
            np.testing.assert_array_equal(answer.as_numpy("y"), values * 2)
        # Larger than any window and any frame.
        large = np.random.default_rng(1).random((300_000, 2)).astype(np.float32)
        np.testing.assert_array_equal(client.infer("m", [tensor(large)]).as_numpy("y"), large * 2)
        text = np.array([[b"a", "é".encode()]], object)
        answer = client.infer("same", [tensor(text, "t", "BYTES")])
        np.testing.assert_array_equal(answer.as_numpy("T"), text)

        stats = client.get_inference_statistics("m").model_stats[0]
        assert stats.inference_stats.success.count >= 5
        assert stats.inference_count >= 300_000

        with pytest.raises(InferenceServerException, match="nope does not exist") as missing:
            client.infer("nope", [tensor(values)])
        assert missing.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(InferenceServerException) as failing:
            client.infer("bad", [tensor(values)])
        assert failing.value.status() == "StatusCode.INTERNAL"
        assert "Traceback" not in failing.value.message()
        wrong = tensor(np.ones((1, 2), np.float32), "nix")
        client.infer("m", [wrong])  # the doubler takes any name
        if not through_gateway:
            client.unload_model("m")
            assert not client.is_model_ready("m")
            with pytest.raises(InferenceServerException, match="not ready") as unready:
                client.infer("m", [tensor(values)])
            assert unready.value.status() == "StatusCode.UNAVAILABLE"
            client.load_model("m")
            assert client.is_model_ready("m")
        else:
            client.load_model("m")
            with pytest.raises(InferenceServerException, match="keeps at least one replica"):
                client.unload_model("m")


async def test_tritonclients_calls(port: int, request: pytest.FixtureRequest) -> None:
    through_gateway = "gateway" in request.node.name
    await asyncio.to_thread(_all_calls, port, through_gateway)


async def test_tritonclients_stream(port: int) -> None:
    """Answers come in order, one by one, before the client ends its stream; errors are answers."""

    def stream() -> list[Any]:
        found: queue.Queue[Any] = queue.Queue()
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            client.start_stream(lambda result, error: found.put((result, error)))
            got = []
            for i in range(5):
                name = "nope" if i == 3 else "m"
                values = np.full((1 if i else 200_000, 2), i, np.float32)
                client.async_stream_infer(name, [tensor(values)], request_id=str(i))
                if i == 0:
                    got.append(found.get(timeout=20))
            got += [found.get(timeout=20) for _ in range(4)]
            client.stop_stream()
        return got

    got = await asyncio.to_thread(stream)
    for i in (0, 1, 2, 4):
        result, error = got[i]
        assert error is None
        assert result.get_response().id == str(i)
        assert (result.as_numpy("y") == 2 * i).all()
    assert "nope does not exist" in str(got[3][1])


async def test_tritonclients_asyncio_client_and_many_calls_at_once(port: int) -> None:
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert await client.is_model_ready("m")
        answers = await asyncio.gather(
            *(client.infer("m", [tensor(np.full((1, 2), i, np.float32))]) for i in range(200))
        )
        assert [a.as_numpy("y")[0, 0] for a in answers] == [2.0 * i for i in range(200)]


async def test_health_and_reflection_with_grpcios_own_clients(port: int) -> None:
    def check() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "m", "inference.GRPCInferenceService"):
                asked = health_pb2.HealthCheckRequest(service=name)
                assert health.Check(asked, timeout=10).status == 1
            with pytest.raises(grpc.RpcError) as unknown:
                health.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=10)
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
            watch = health.Watch(health_pb2.HealthCheckRequest(service="nope"), timeout=10)
            assert next(iter(watch)).status == 3
            watch.cancel()
            assert "m" in health.List(health_pb2.HealthListRequest(), timeout=10).statuses

            database = ProtoReflectionDescriptorDatabase(channel)
            assert "inference.GRPCInferenceService" in database.get_services()
            pool = DescriptorPool(database)
            service = pool.FindServiceByName("inference.GRPCInferenceService")
            assert "ModelInfer" in service.methods_by_name
            kind = pool.FindMessageTypeByName("inference.ModelInferRequest")
            assert kind.fields_by_name["raw_input_contents"].number == 7
            assert pool.FindMethodByName("grpc.health.v1.Health.Check")
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("inference.Nope")

    await asyncio.to_thread(check)


async def test_grpcios_asyncio_stub_sends_and_reads_metadata(port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer(request("m"), metadata=(("x-mine", "1"),), timeout=10)
        assert floats(await call) == [2, 4]
        assert await call.code() is grpc.StatusCode.OK
        assert dict(await call.initial_metadata()).get("x-penstock-revision") in (None, "m-1")


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("/inference.GRPCInferenceService/Nope", grpc.StatusCode.UNIMPLEMENTED),
        ("/other.Service/Call", grpc.StatusCode.UNIMPLEMENTED),
        ("/inference.GRPCInferenceService/ModelForget", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
async def test_methods_that_are_not_there(port: int, method: str, code: grpc.StatusCode) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(method)(b"", timeout=10)
        assert refused.value.code() is code


async def test_bytes_that_are_no_request(port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for data in (b"", b"\xff\xff", request("").SerializeToString(), b"\x0a\x01m" + b"\xff"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                    data, timeout=10
                )
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, data
