"""A model process and a gateway inside the test, with their gRPC ports, and what real clients send."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from penstock.domain.process import ProcessSpec, ServedModel
from penstock.domain.routes import Address, Replica, Route, Snapshot, Sticky, Target, Wake
from penstock.gateway.gateway import Gateway
from penstock.gateway.grpc.front import GrpcFront
from penstock.http.h2.server import Http2Server
from penstock.http.limits import Limits as HttpLimits
from penstock.http.server import HttpServer
from penstock.observe.metrics import Registry
from penstock.protocols.grpc.wire import refusal
from penstock.runtimes.base import Arrays, Framework, Runtime, TensorSpec
from penstock.server.application import Application
from penstock.server.repository import Limits, Repository
from penstock.server.statistics import Metrics

METHOD = "/inference.GRPCInferenceService/"


class Doubling(Runtime):
    """Answers twice its only input as `y`."""

    platform = "test_doubling"
    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs = (TensorSpec("y", "FP32", (-1, 2)),)

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        (x,) = inputs.values()
        return {"y": x * 2}

    def example(self) -> Arrays | None:
        return {"x": np.ones((1, 2), np.float32)}


class Same(Runtime):
    """Answers its inputs, with the names in upper case."""

    platform = "test_same"
    batchable = False

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        return {name.upper(): values for name, values in inputs.items()}


class Slow(Doubling):
    """Never answers by itself: each call waits for `gate`."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.cancelled = 0

    async def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:  # type: ignore[override]
        self.entered.set()
        await self.gate.wait()
        return {"y": inputs["x"] * 2}

    def example(self) -> Arrays | None:
        return None


class Failing(Doubling):
    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        raise ValueError("secret of the model")

    def example(self) -> Arrays | None:
        return None


@asynccontextmanager
async def model_process(
    tmp_path: Path, models: Mapping[str, Callable[[], Any]], name: str = "p", **spec: Any
) -> AsyncIterator[tuple[Application, str, int]]:
    """The application, the path of its Unix socket, and its gRPC port."""
    file = tmp_path / "model.bin"
    file.write_text("x")
    path = f"{tmp_path}/{name}.sock"
    told = ProcessSpec(
        listen=f"unix:{path}",
        models=tuple(ServedModel(name=n, framework=n, path=str(file)) for n in models),
        **spec,
    )
    metrics = Metrics(Registry(), namespace="default", service="s", revision="r1")

    def find(framework: str) -> Framework:
        return Framework(
            name=framework, extra="test", preload=(), load=lambda p, o: models[framework]()
        )

    repository = Repository(
        told.models,
        metrics=metrics,
        hung=lambda message: None,
        find=find,
        limits=Limits(timeout_s=told.timeout_s, max_queue=told.max_queue),
    )
    app = Application(told, repository, metrics)
    limits = HttpLimits(max_body=told.max_body_bytes)
    server = HttpServer(app, limits=limits)
    calls = Http2Server(app.streamed, limits=limits, streaming=True, http1=False, refusal=refusal)
    await server.listen(Address(path=path))
    port = (await calls.listen(Address(host="127.0.0.1", port=0))).port
    try:
        await repository.load_all()
        yield app, path, port
    finally:
        server.close()
        calls.close()
        async with asyncio.timeout(30):
            await repository.close()


class Front:
    def __init__(
        self,
        gateway: Gateway,
        front: GrpcFront,
        server: Http2Server,
        port: int,
        wakes: list[Wake],
    ) -> None:
        self.gateway, self.front, self.server = gateway, front, server
        self.port, self.wakes = port, wakes

    def weighted(self, name: str, sticky: Sticky | None = None, **paths: str) -> None:
        """Describe one service with a revision for each path, of equal shares."""
        targets = tuple(
            Target(revision, 50, (Replica(p, f"unix:{p}"),)) for revision, p in paths.items()
        )
        route = Route("default", name, targets, sticky=sticky)
        self.gateway.apply(Snapshot(self.gateway.table.sequence + 1, (route,)))

    def route(
        self, name: str, *paths: str, namespace: str = "default", models: Any = (), **more: Any
    ) -> None:
        """Describe one service, alone."""
        replicas = tuple(Replica(p, f"unix:{p}") for p in paths)
        route = Route(
            namespace, name, (Target(f"{name}-1", 100, replicas),), models=tuple(models), **more
        )
        self.gateway.apply(Snapshot(self.gateway.table.sequence + 1, (route,)))


@asynccontextmanager
async def gateway(tls: ssl.SSLContext | None = None, **limits: Any) -> AsyncIterator[Front]:
    """A gateway's gRPC port."""
    loop = asyncio.get_running_loop()
    wakes: list[Wake] = []
    made = Gateway(loop, wake=wakes.append)
    found = HttpLimits(**limits)
    front = GrpcFront(made, time=loop.time, most=found.max_body)
    server = Http2Server(
        front.handle, limits=found, streaming=True, ssl=tls, http1=False, refusal=refusal
    )
    port = (await server.listen(Address(host="127.0.0.1", port=0))).port
    try:
        yield Front(made, front, server, port, wakes)
    finally:
        server.close()
        made.close()


def request(
    model: str = "m", data: Any = ((1, 2),), name: str = "x", **fields: Any
) -> service_pb2.ModelInferRequest:
    """One raw FP32 tensor."""
    values = np.array(data, np.float32)
    return service_pb2.ModelInferRequest(
        model_name=model,
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name=name, datatype="FP32", shape=values.shape
            )
        ],
        raw_input_contents=[values.tobytes()],
        **fields,
    )


def floats(answer: service_pb2.ModelInferResponse) -> list[float]:
    found: list[float] = np.frombuffer(answer.raw_output_contents[0], np.float32).tolist()
    return found


def framed(message: Any) -> bytes:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return b"\0" + struct.pack(">I", len(data)) + data
