"""What clients of Seldon V2 see of a pipeline besides tensors: ids, gRPC statuses, what is asked about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from graph_services import GraphFrontUnderTest
from seldon_v2_front import body, called, outputs, pipeline, put, serve, until
from tritonclient.grpc import service_pb2, service_pb2_grpc

import grpc
from penstock.domain.experiment import Candidate, Experiment
from penstock.domain.routes import Address, Route
from penstock.gateway.grpc.front import GrpcFront
from penstock.http.h2.server import Http2Server
from penstock.http.limits import Limits
from penstock.protocols.grpc.wire import refusal

ONE = {"INPUT": [1.0]}
TEN = "{steps: [{name: mul10}], output: {steps: [mul10]}}"


@pytest.fixture
async def stub(front: GraphFrontUnderTest) -> AsyncIterator[Any]:
    """A real client of the gateway's gRPC port."""
    limits = Limits()
    calls = GrpcFront(front.gateway, time=asyncio.get_running_loop().time, most=limits.max_body)
    server = Http2Server(calls.handle, limits=limits, streaming=True, http1=False, refusal=refusal)
    port = (await server.listen(Address(host="127.0.0.1", port=0))).port
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
    server.close()


def message(name: str, *values: float) -> Any:
    asked = service_pb2.ModelInferRequest(model_name=name)
    asked.inputs.add(name="INPUT", datatype="FP32", shape=[len(values)])
    asked.raw_input_contents.append(np.array(values, np.float32).tobytes())
    return asked


def tens(answer: Any) -> list[float]:
    found: list[float] = np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()
    return found


async def test_answers_and_steps_have_the_requests_id(front: GraphFrontUnderTest) -> None:
    """Seldon makes one where the client sends none."""
    await serve(front, "mul10", "outlier-error")
    put(front, pipeline(TEN, "ten"))
    put(front, pipeline("steps: [{name: outlier-error}]", "fails"))
    path = "/v2/pipelines/ten/infer"
    mine = {"x-request-id": "mine"}
    answer = await front.client.post(path, json=body(ONE), headers=mine)
    assert answer.headers.get_list("x-request-id") == ["mine"]
    made = [await front.client.post(path, json=body(ONE)) for _ in range(2)]
    ids = [a.headers["x-request-id"] for a in made]
    assert len(set(ids)) == 2
    assert all(len(i) == 24 for i in ids)
    seen = [e.head.get(b"x-request-id").decode() for e in front.services["mul10"].seen]
    assert seen == ["mine", *ids]
    failed = await front.client.post(
        "/v2/pipelines/fails/infer", json=body({"INPUT": [200.0]}), headers=mine
    )
    assert (failed.status_code, failed.headers["x-request-id"]) == (400, "mine")


async def test_a_models_error_has_seldons_text_and_status_over_grpc(
    front: GraphFrontUnderTest, stub: Any
) -> None:
    await serve(front, "outlier-error", "mul10")
    put(front, pipeline("steps: [{name: outlier-error}]", "fails"))
    put(front, pipeline("steps: [{name: nowhere}]", "lacks"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message("fails", 200.0), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert caught.value.details() == "outlier-error : outlier"
    # What is not a model's error stays what it is.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message("lacks", 1.0), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_id_over_grpc(front: GraphFrontUnderTest, stub: Any) -> None:
    await serve(front, "mul10")
    put(front, pipeline(TEN, "ten"))
    call = stub.ModelInfer(message("ten", 1.0), metadata=(("x-request-id", "mine"),), timeout=20)
    assert tens(await call) == [10.0]
    assert dict(await call.initial_metadata())["x-request-id"] == "mine"


async def test_what_is_wrong_with_a_request_itself_is_no_steps_error(
    front: GraphFrontUnderTest,
) -> None:
    await serve(front, "mul10")
    put(front, pipeline(TEN, "ten"))
    answer = await front.client.post(
        "/v2/pipelines/ten/infer", content=b"x", headers={"content-encoding": "br"}
    )
    assert answer.status_code == 501
    assert "content-encoding" in answer.json()["error"]
    assert not front.services["mul10"].seen


async def test_who_asks_about_an_experiment_takes_no_turn(
    front: GraphFrontUnderTest, stub: Any
) -> None:
    await serve(front, "mul10", "add10")
    put(front, pipeline(TEN, "times"))
    put(front, pipeline("steps: [{name: add10}]", "plus"))
    trial = Experiment(
        "default",
        "trial",
        (Candidate("times", 1), Candidate("plus", 1)),
        default="plus",
        of_graphs=True,
    )
    front.put(Route("default", "trial", experiment=trial))
    found = []
    for _ in range(4):
        found.append(tens(await stub.ModelInfer(message("trial", 1.0), timeout=20)))
        described = await stub.ModelMetadata(
            service_pb2.ModelMetadataRequest(name="trial"), timeout=20
        )
        assert described.name == "plus"
        ready = await stub.ModelReady(service_pb2.ModelReadyRequest(name="trial"), timeout=20)
        assert ready.ready
        assert (await front.client.get("/v2/models/trial")).json()["name"] == "plus"
    assert sorted(found) == [[10.0], [10.0], [11.0], [11.0]]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/ten",
        "/v2/pipelines/ten",
        "/v2/models/ten/versions/1",
        "/v2/models/ten.pipeline",
    ],
)
async def test_a_pipelines_metadata(front: GraphFrontUnderTest, path: str) -> None:
    await serve(front, "mul10")
    put(front, pipeline(TEN, "ten"))
    assert (await front.client.get(path)).json()["platform"] == "penstock_graph"
    assert (await front.client.get(f"{path}/ready")).json() == {"name": "ten", "ready": True}


async def test_seldons_header_names_models_of_the_requests_namespace(
    front: GraphFrontUnderTest,
) -> None:
    await serve(front, "mul10")
    put(front, pipeline(TEN, "ten"))
    request = body(ONE)
    header = {"seldon-model": "ten.pipeline"}
    answer = await front.client.post("/v2/models/x/infer", json=request, headers=header)
    assert outputs(answer) == {"OUTPUT": [10.0]}
    there = {**header, "penstock-namespace": "other"}
    answer = await front.client.post("/v2/models/x/infer", json=request, headers=there)
    assert answer.status_code == 404
    assert "namespace other" in answer.json()["error"]
    manifest = pipeline("steps: [{name: nowhere}]", "ten")
    manifest["metadata"]["namespace"] = "other"
    put(front, manifest)
    answer = await front.client.post("/v2/models/x/infer", json=request, headers=there)
    assert "other/nowhere does not exist" in answer.json()["error"]


@pytest.mark.parametrize("kind", ["pipelines", "models"])
async def test_a_mirror_gets_each_request_of_a_stream_and_no_questions_about_the_model(
    front: GraphFrontUnderTest, stub: Any, kind: str
) -> None:
    await serve(front, "mul10", "add10")
    names = ("mul10", "add10")
    if kind == "pipelines":
        put(front, pipeline(TEN, "times"))
        put(front, pipeline("steps: [{name: add10}]", "plus"))
        names = ("times", "plus")
    trial = Experiment(
        "default",
        "trial",
        (Candidate(names[0], 1),),
        mirror=names[1],
        mirror_percent=100,
        of_graphs=kind == "pipelines",
    )
    front.put(Route("default", "trial", experiment=trial))
    if kind == "pipelines":

        async def requests() -> AsyncIterator[Any]:
            for value in (1.0, 2.0):
                yield message("trial", value)

        found = [tens(a.infer_response) async for a in stub.ModelStreamInfer(requests())]
        assert found == [[10.0], [20.0]]
        await until(lambda: called(front).count("add10") == 2, "two copies")
        ready = await stub.ModelReady(service_pb2.ModelReadyRequest(name="trial"), timeout=20)
        assert ready.ready
    else:
        with contextlib.suppress(
            grpc.aio.AioRpcError
        ):  # services here are functions, and know none
            await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="trial"), timeout=20)
    samples = front.gateway.snapshot()["penstock_gateway_shadow_requests"]["samples"]
    assert sum(count for _, count in samples) == (2 if kind == "pipelines" else 0)
