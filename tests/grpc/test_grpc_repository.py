"""The repository and statistics extensions through the gateway's gRPC port, with Triton's client."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from grpc_peers import Doubling, gateway, model_process, request
from tritonclient.grpc import service_pb2, service_pb2_grpc

import grpc
from penstock.domain.routes import Sleep


def stub(channel: grpc.aio.Channel):
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


LOAD = service_pb2.RepositoryModelLoadRequest(model_name="m")
UNLOAD = service_pb2.RepositoryModelUnloadRequest(model_name="m")


async def test_a_load_wakes_a_service_and_an_unload_puts_it_to_sleep(tmp_path: Path) -> None:
    async with (
        model_process(tmp_path, {"m": Doubling}) as (_, path, _),
        gateway() as front,
        grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel,
    ):
        front.route("m", may_sleep=True)
        call = stub(channel).RepositoryModelLoad(LOAD, timeout=10)
        async with asyncio.timeout(30):
            while not front.wakes:
                await asyncio.sleep(0.001)
        front.route("m", path, may_sleep=True)
        await call
        front.wakes.clear()
        call = stub(channel).RepositoryModelUnload(UNLOAD, timeout=10)
        async with asyncio.timeout(30):
            while not front.wakes:
                await asyncio.sleep(0.001)
        assert front.wakes == [Sleep("default/m")]
        front.route("m", may_sleep=True)
        await call
        assert not front.gateway.active


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        (service_pb2.RepositoryModelLoadRequest(model_name="no"), "NOT_FOUND", "does not exist"),
        (service_pb2.RepositoryModelUnloadRequest(model_name="no"), "NOT_FOUND", "does not exist"),
        (UNLOAD, "ABORTED", "keeps at least one replica"),
        (
            service_pb2.RepositoryModelLoadRequest(
                model_name="m",
                parameters={"config": service_pb2.ModelRepositoryParameter(string_param="{}")},
            ),
            "UNIMPLEMENTED",
            "'config'",
        ),
    ],
)
async def test_a_change_that_is_not_made_says_why(
    tmp_path: Path, message: object, code: str, said: str
) -> None:
    async with (
        model_process(tmp_path, {"m": Doubling}) as (_, path, _),
        gateway() as front,
        grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel,
    ):
        front.route("m", path)
        kind = type(message).__name__.removesuffix("Request")
        with pytest.raises(grpc.aio.AioRpcError, match=said) as refused:
            await getattr(stub(channel), kind)(message, timeout=10)
        assert refused.value.code().name == code


async def test_a_load_is_bounded_by_its_deadline() -> None:
    async with (
        gateway() as front,
        grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel,
    ):
        front.route("m")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub(channel).RepositoryModelLoad(LOAD, timeout=0.1)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_statistics_of_all_services_and_of_all_replicas(tmp_path: Path) -> None:
    async with (
        model_process(tmp_path, {"m": Doubling}, "one") as (_, one, _),
        model_process(tmp_path, {"m": Doubling}, "two") as (_, two, _),
        gateway() as front,
        grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel,
    ):
        front.weighted("m", a=one, b=two)
        for _ in range(6):
            await stub(channel).ModelInfer(request(), timeout=10)
        for asked in ("", "m"):
            found = await stub(channel).ModelStatistics(
                service_pb2.ModelStatisticsRequest(name=asked), timeout=10
            )
            (stats,) = found.model_stats
            assert (stats.name, stats.version) == ("m", "1")
            assert stats.inference_stats.success.count == 6
            assert sum(b.compute_infer.count for b in stats.batch_stats) == 6
        front.route("m", one)
        (alone,) = (
            await stub(channel).ModelStatistics(
                service_pb2.ModelStatisticsRequest(name="m"), timeout=10
            )
        ).model_stats
        assert alone.inference_stats.success.count == 3
