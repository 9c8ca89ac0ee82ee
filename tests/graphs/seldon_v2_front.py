"""Seldon V2's pipelines before a gateway under test: their models as services, and what is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import yaml
from graph_services import Answer, GraphFrontUnderTest
from seldon_v2_scenarios import MODELS, function

from penstock import dialects
from penstock.domain.experiment import Experiment
from penstock.domain.graph import Graph
from penstock.domain.routes import Route


def pipeline(spec: str, name: str = "p") -> dict[str, Any]:
    return {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": name, "namespace": "default"},
        "spec": yaml.safe_load(spec),
    }


def compiled(spec: str, name: str = "p") -> Graph:
    graph = dialects.translate(pipeline(spec, name)).object
    assert isinstance(graph, Graph)
    return graph


async def serve(front: GraphFrontUnderTest, *models: str) -> None:
    """Models of the scenarios as services."""

    def service(model: str) -> Any:
        run = function(model)

        def answer(arrays: Any) -> Any:
            takes = {n.rstrip("?") for n in MODELS[model][0]}
            needs = {n for n in MODELS[model][0] if not n.endswith("?")}
            if not needs <= set(arrays) <= takes:
                raise Answer(400, {"error": f"the inputs are {sorted(arrays)}"})
            try:
                return run(arrays)
            except ValueError as exc:
                raise Answer(500, {"error": str(exc)}) from None

        return answer

    await front.serve(**{m: service(m) for m in models})


def put(front: GraphFrontUnderTest, manifest: dict[str, Any]) -> None:
    made = dialects.translate(manifest).object
    if isinstance(made, Experiment):
        front.put(Route(made.namespace, made.name, experiment=made))
    else:
        front.graph(made)


def body(tensors: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name,
                "shape": [len(values)],
                "datatype": "INT32" if name == "CHOICE" else "FP32",
                "data": values,
            }
            for name, values in tensors.items()
        ]
    }


def outputs(answer: Any) -> dict[str, list[float]]:
    return {o["name"]: o["data"] for o in answer.json()["outputs"]}


def called(front: GraphFrontUnderTest) -> tuple[str, ...]:
    return tuple(sorted(n for n, s in front.services.items() for _ in s.seen))


async def until(look: Any, what: str) -> None:
    async with asyncio.timeout(20):
        while not look():
            await asyncio.sleep(0.001)
