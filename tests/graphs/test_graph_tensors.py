"""Steps that cannot work with the models that they name: what is found, what is not, and when it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.control.control_fakes import FakeBackend, FakeClock, FakeFiles, drain_ready

from penstock import dialects
from penstock.api.kinds import by_path
from penstock.api.objects import Objects
from penstock.api.wire import ApiError
from penstock.api.write_options import WriteOptions
from penstock.backends.base import Phase, ReplicaStatus
from penstock.control.plane import ControlPlane
from penstock.control.settings import ControlSettings
from penstock.domain.graph import Tensor
from penstock.domain.graph_tensors import Declared, mismatches
from penstock.domain.process import ProcessSpec
from penstock.domain.routes import Address
from penstock.http.server import Exchange, HttpServer, Limits
from penstock.store.base import Key, Kind
from penstock.store.sqlite import SqliteStore


def tensors(**given: str) -> tuple[Tensor, ...]:
    """`X="FP32[-1,3]"`, `X="FP32"` for any shape."""
    found = []
    for name, text in given.items():
        datatype, _, shape = text.partition("[")
        sizes = tuple(int(n) for n in shape.rstrip("]").split(",")) if shape else None
        found.append(Tensor(name, datatype, sizes))
    return tuple(found)


ONNX = "onnx_onnxv1"
VECTOR = Declared(ONNX, tensors(x="FP32[-1,4]"), tensors(y="FP32[-1,3]", z="INT64[-1]"))
TEXT = Declared(ONNX, tensors(text="BYTES[-1]"), tensors(label="INT64[-1]"))
THREE = Declared(ONNX, tensors(y="FP64[-1,3]"), tensors(y="FP32[-1,3]"))
WHOLE = Declared(ONNX, tensors(y="FP32[-1,3]", z="INT32[-1]"), tensors(out="FP32"))
TRITON = Declared("python", tensors(y="FP32[-1,3]", option="BOOL[1]"), tensors(out="FP32"))
FOREST = Declared("sklearn_joblib", tensors(input="FP64[-1,4]"), tensors(label="INT64[-1]"))
KNOWN = {
    ("default", n): d
    for n, d in {
        "vector": VECTOR,
        "text": TEXT,
        "three": THREE,
        "whole": WHOLE,
        "triton": TRITON,
        "forest": FOREST,
    }.items()
}


def manifest(spec: str, dialect: str = "seldon", name: str = "p") -> dict[str, Any]:
    version = "mlops.seldon.io/v1alpha1" if dialect == "seldon" else "penstock.dev/v1alpha1"
    return {
        "apiVersion": version,
        "kind": "Pipeline",
        "metadata": {"name": name, "namespace": "default"},
        "spec": yaml.safe_load(spec),
    }


def found(spec: str, dialect: str = "seldon") -> list[str]:
    translation = dialects.translate(manifest(spec, dialect))
    assert translation.locate is not None
    problems = mismatches(translation.object, KNOWN)
    at = [".".join(str(x) for x in translation.locate(p)) for p in problems]
    return [f"{a}: {p.message}" for a, p in zip(at, problems, strict=True)]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            "{name: whole, inputs: [vector.outputs.nothing, vector.outputs.z]}",
            "spec.steps.1.inputs.0: 'vector' answers no tensor 'nothing'; it answers y, z",
        ),
        (
            "{name: three, inputs: [vector.outputs.z]}",
            "spec.steps.1.inputs.0: there is no input 'z'; 'three' takes y",
        ),
        (
            "{name: text, inputs: [vector.outputs.y], tensorMap: {vector.outputs.y: text}}",
            "spec.steps.1.inputs.0: 'y' is FP32, the input 'text' takes BYTES",
        ),
        (
            "{name: vector2, inputs: [vector.outputs.y], triggers: [vector.outputs.nothing]}",
            "spec.steps.1.triggers.0: 'vector' answers no tensor 'nothing'; it answers y, z",
        ),
        (
            "{name: whole, inputs: [vector.outputs.y]}",
            "spec.steps.1.inputs.0: 'whole' also needs z",
        ),
        (
            "{name: three, inputs: [vector]}",
            "spec.steps.1.inputs.0: there is no input 'z'; 'three' takes y",
        ),
        (
            "{name: three, inputs: [vector], tensorMap: {vector.outputs.q: y}}",
            "spec.steps.1.inputs.0: 'vector' answers no tensor 'q'; it answers y, z",
        ),
    ],
)
def test_what_fails_for_every_request_is_found(steps: str, said: str) -> None:
    assert said in found(f"steps: [{{name: vector}}, {steps}]")


def test_shapes_and_outputs_are_looked_at() -> None:
    spec = """
        steps:
        - {name: three}
        - {name: vector, inputs: [three.outputs.y], tensorMap: {three.outputs.y: x}}
        output: {steps: [vector.outputs.w]}
    """
    assert found(spec) == [
        "spec.steps.1.inputs.0: 'y' has shape [-1, 3], the input 'x' takes [-1, 4]",
        "spec.output.steps.0: 'vector' answers no tensor 'w'; it answers y, z",
    ]


def test_penstocks_pipelines_are_looked_at_the_same() -> None:
    spec = "steps: [{name: vector}, {name: text, inputs: [{from: vector.y, as: text}]}]"
    assert found(spec, "penstock") == [
        "spec.steps.1.inputs.0: 'y' is FP32, the input 'text' takes BYTES"
    ]


@pytest.mark.parametrize(
    "steps",
    [
        # Numbers become wider ones, whole numbers floats.
        "{name: three, inputs: [vector.outputs.y]}",
        "{name: whole, inputs: [vector]}",
        # One of another model's, that nobody knows.
        "{name: whole, inputs: [vector.outputs.y, other.outputs.z]}, {name: other}",
        # A matrix of any name.
        "{name: forest, inputs: [vector.outputs.y]}",
        # An input that may be left out: the metadata does not tell which may.
        "{name: triton, inputs: [vector.outputs.y]}",
        # One of two that may be absent.
        "{name: whole, inputs: [vector.outputs.y, three.outputs.y], inputsJoinType: outer}, {name: three}",
        # The names of V1's nameless rows.
        "{name: three, inputs: [vector.outputs.output-0]}",
    ],
)
def test_what_may_work_is_left_alone(steps: str) -> None:
    assert found(f"steps: [{{name: vector}}, {steps}]") == []


def test_a_graph_that_hands_on_json_is_left_alone() -> None:
    steps = [{"serviceName": "vector"}, {"serviceName": "text", "data": "$response"}]
    graph = dialects.translate(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "InferenceGraph",
            "metadata": {"name": "g"},
            "spec": {"nodes": {"root": {"routerType": "Sequence", "steps": steps}}},
        }
    ).object
    assert mismatches(graph, KNOWN) == []


# -- in the control plane -------------------------------------------------------------------------


class OnSockets(FakeBackend):
    """Replicas of some services are where a test listens."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: dict[str, str] = {}

    async def start(self, replica_id: str, framework: str, spec: ProcessSpec) -> ReplicaStatus:
        status = await super().start(replica_id, framework, spec)
        address = self.addresses.get(spec.service, status.address)
        status = self.replicas[replica_id] = replace(status, address=address)
        return status


class World:
    """A control plane whose replicas say on real sockets what they take."""

    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.backend = OnSockets()
        self.plane = ControlPlane(
            store,
            self.backend,
            FakeFiles(),
            settings=ControlSettings(cores=4),
            clock=FakeClock(),
        )
        self.servers: list[HttpServer] = []
        self.asked: list[str] = []

    async def serve(self, name: str, declared: Declared | None) -> None:
        """A ready service whose model says that."""

        def handle(exchange: Exchange) -> None:
            self.asked.append(exchange.head.path)
            if declared is None:
                exchange.send(404, b"", b"{}")
                return
            document = {
                "name": name,
                "platform": declared.platform,
                "inputs": [_said(t) for t in declared.inputs],
                "outputs": [_said(t) for t in declared.outputs],
            }
            exchange.send(200, b"content-type: application/json\r\n", json.dumps(document).encode())

        server = HttpServer(handle, limits=Limits(), streaming=False)
        path = str(self.folder / f"{name}.sock")
        await server.listen(Address(path=path))
        self.servers.append(server)
        self.backend.addresses[name] = f"unix:{path}"
        await self.store.create(
            {
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"predictor": {"sklearn": {"storageUri": f"models/{name}"}}},
            }
        )
        async with asyncio.timeout(20):
            while all(
                r.phase is not Phase.READY for r in self.plane.replicas.of(("default", name))
            ):
                await self.settle()

    async def settle(self) -> None:
        await asyncio.sleep(0.005)  # the store's threads take their time
        await drain_ready(50)
        await self.plane.loop.settled()

    async def apply(self, spec: str) -> Any:
        resource = by_path()["mlops.seldon.io", "v1alpha1", "pipelines"]
        return await Objects(self.plane).create(
            resource, "default", manifest(spec), WriteOptions("test")
        )

    async def ready(self) -> tuple[str, str, str]:
        key = Key(Kind("mlops.seldon.io", "Pipeline"), "default", "p")
        conditions = ((await self.store.get(key)).get("status") or {}).get("conditions", ())
        ready = next((c for c in conditions if c["type"] == "Ready"), {"status": ""})
        return ready["status"], ready.get("reason", ""), ready.get("message", "")

    async def until(self, holds: Callable[[tuple[str, str, str]], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds(await self.ready()):
                await self.settle()


def _said(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape or [-1]}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = await SqliteStore.open(tmp_path / "store.db")
    made = World(store, tmp_path)
    await made.plane.start()
    yield made
    await made.plane.close()
    for server in made.servers:
        server.close()
    await store.close()


WRONG = """
    steps:
    - {name: vector}
    - {name: text, inputs: [vector.outputs.y], tensorMap: {vector.outputs.y: text}}
"""
SAID = "'y' is FP32, the input 'text' takes BYTES"


async def test_what_cannot_work_with_the_models_that_run_is_refused(world: World) -> None:
    await world.serve("vector", VECTOR)
    await world.serve("text", TEXT)
    with pytest.raises(ApiError, match=r"spec.steps\[1\].inputs\[0\]") as caught:
        await world.apply(WRONG)
    assert caught.value.status == 422
    assert SAID in str(caught.value)
    # Each was asked once, however often a graph is applied.
    with pytest.raises(ApiError):
        await world.apply(WRONG)
    assert sorted(world.asked) == ["/v2/models/text", "/v2/models/vector"]


async def test_it_is_told_when_the_models_come_later(world: World) -> None:
    await world.apply(WRONG)
    await world.until(lambda r: r[:2] == ("False", "ServiceMissing"))
    await world.serve("vector", VECTOR)
    await world.serve("text", TEXT)
    await world.until(lambda r: r[1] == "TensorMismatch")
    assert await world.ready() == ("False", "TensorMismatch", f"text: {SAID}")


async def test_models_that_say_nothing_are_believed(world: World) -> None:
    await world.serve("vector", VECTOR)
    await world.serve("text", None)
    await world.apply(WRONG)
    await world.until(lambda r: r[0] == "True" and len(world.asked) == 2)
