"""What is told to clients of gRPC that ask: what a graph's steps did, whether all that answers is ready."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_peers import Doubling, Front, floats, gateway, model_process, request
from tritonclient.grpc import service_pb2, service_pb2_grpc

import grpc
from penstock.domain.graph import Call, Combine, Flow, Graph, Inputs, OnFailure, Source, Step
from penstock.domain.routes import Put, Replica, Route, Snapshot, Target

TRACE = ("x-penstock-trace", "1")


def chain(front: Front, *services: str) -> None:
    """A graph `g` of steps in a row."""
    steps = tuple(
        Step(f"s{i}", Call(name), Inputs((Source(f"s{i - 1}"),)) if i else Inputs())
        for i, name in enumerate(services)
    )
    flow = Flow("root", steps, Inputs((Source(steps[-1].name),)))
    graph = Graph("default", "g", (flow,))
    front.gateway.apply(
        Put(front.gateway.table.sequence + 1, Route("default", "g", timeout_s=20, graph=graph))
    )


def steps_of(text: str) -> list[tuple[str, str]]:
    document = json.loads(text)
    assert document["graph"] == "default/g"
    return [(s["step"], s["outcome"]) for s in document["steps"]]


OK_TWICE = [("root.s0", "ok"), ("root.s1", "ok")]


async def test_a_call_that_asks_gets_the_trace_as_a_parameter_and_as_a_trailer(
    tmp_path: Path,
) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        chain(front, "m", "m")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            call = stub.ModelInfer(request("g"), metadata=(TRACE,), timeout=20)
            answer = await call
            assert floats(answer) == [4, 8]
            assert steps_of(answer.parameters["penstock_trace"].string_param) == OK_TWICE
            trailers = dict(await call.trailing_metadata())
            assert steps_of(str(trailers["x-penstock-trace"])) == OK_TWICE
            for metadata in ((), (("x-penstock-trace", "0"),)):
                call = stub.ModelInfer(request("g"), metadata=metadata, timeout=20)
                assert "penstock_trace" not in (await call).parameters
                assert "x-penstock-trace" not in dict(await call.trailing_metadata())


async def test_a_call_that_failed_has_it_as_a_trailer(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        chain(front, "m", "gone")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="gone does not exist") as failed:
                await stub.ModelInfer(request("g"), metadata=(TRACE,), timeout=20)
        trailers = dict(failed.value.trailing_metadata())
        assert steps_of(str(trailers["x-penstock-trace"])) == [
            ("root.s0", "ok"), ("root.s1", "failed"),
        ]  # fmt: skip


def _ask(port: int) -> tuple[Any, Any]:
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2]], np.float32))
    got: list[Any] = []
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        alone = client.infer("g", [tensor], headers=dict([TRACE]))
        client.start_stream(
            lambda result, error: got.append(error or result), headers=dict([TRACE])
        )
        client.async_stream_infer("g", [tensor])
        client.stop_stream()
    return alone.get_response(), got[0].get_response()


async def test_tritons_client_sees_it_in_calls_and_in_streams(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        chain(front, "m", "m")
        for answer in await asyncio.to_thread(_ask, front.port):
            assert steps_of(answer.parameters["penstock_trace"].string_param) == OK_TWICE


async def test_a_call_that_asks_is_told_what_passed_each_step(tmp_path: Path) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        chain(front, "m", "m")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            asked = (("x-penstock-inspect", "1"),)
            answer = await stub.ModelInfer(request("g"), metadata=asked, timeout=20)
            assert floats(answer) == [4, 8]
            told = json.loads(answer.parameters["penstock_inspect"].string_param)
            assert told["request"]["tensors"][0]["data"] == [1, 2]
            passed = [
                [s[side]["tensors"][0]["data"] for side in ("given", "gave")] for s in told["steps"]
            ]
            assert passed == [[[1, 2], [2, 4]], [[2, 4], [4, 8]]]
            plain = await stub.ModelInfer(request("g"), timeout=20)
            assert "penstock_inspect" not in plain.parameters


async def test_a_transformer_is_not_ready_before_a_predictor_that_cannot_answer(
    tmp_path: Path,
) -> None:
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        there = (Target("m-1", 100, (Replica("r", f"unix:{path}"),)),)
        before = Route("default", "m", there, component="transformer")
        broken = Route("default", "m", entry="transformer", message="the pickle is broken")
        asleep = Route("default", "m", entry="transformer")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            asked = service_pb2.ModelReadyRequest(name="m")
            front.gateway.apply(Snapshot(front.gateway.table.sequence + 1, (before, broken)))
            with pytest.raises(grpc.aio.AioRpcError, match="the pickle is broken"):
                await stub.ModelReady(asked, timeout=20)
            front.gateway.apply(Put(front.gateway.table.sequence + 1, asleep))
            assert (await stub.ModelReady(asked, timeout=20)).ready


@pytest.mark.parametrize(
    ("joined", "code", "said"),
    [
        (
            Inputs((Source("s0"), Source("s1")), combine=Combine.OBJECT),
            "UNIMPLEMENTED",
            "no tensors",
        ),
        (
            Inputs((Source("s1"),)),
            "UNAVAILABLE",
            "The last step failed: The service default/gone does not exist",
        ),
    ],
)
async def test_an_answer_without_tensors_is_not_the_callers_mistake(
    tmp_path: Path, joined: Inputs, code: str, said: str
) -> None:
    """A document of several answers, or a soft step's error: told apart, and told why."""
    async with model_process(tmp_path, {"m": Doubling}) as (_, path, _), gateway() as front:
        front.route("m", path)
        steps = (Step("s0", Call("m")), Step("s1", Call("gone"), on_failure=OnFailure.ANSWER))
        graph = Graph("default", "g", (Flow("root", steps, joined),))
        front.gateway.apply(
            Put(front.gateway.table.sequence + 1, Route("default", "g", timeout_s=20, graph=graph))
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match=said) as failed:
                await stub.ModelInfer(request("g"), timeout=20)
    assert failed.value.code().name == code
