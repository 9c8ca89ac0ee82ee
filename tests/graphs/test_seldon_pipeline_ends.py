"""Whatever a pipeline's shape, whatever its models leave out or break: requests end, each step runs once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from graph_services import Answer, GraphFrontUnderTest
from graph_stand_in import Running, StandIn

from penstock import dialects
from penstock.domain.graph import Graph
from penstock.errors import InvalidManifest
from penstock.graphs.values import Failure, Tensors

TENSORS = ("A", "B", "C")
JOINS = ("inner", "outer", "any")


def manifest(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def reference(chance: random.Random, step: str) -> str:
    side = chance.choice((".outputs", ".outputs", ".inputs"))
    return chance.choice((step, step + side, f"{step}{side}.{chance.choice(TENSORS)}"))


def made(seed: int) -> Graph | None:
    """A pipeline of up to seven steps; None for one that is refused (a tensor of one name twice)."""
    chance = random.Random(seed)
    steps: list[dict[str, Any]] = []
    cyclic = chance.random() < 0.3
    names = [f"m{i}" for i in range(chance.randint(1, 7))]
    for i, name in enumerate(names):
        step: dict[str, Any] = {"name": name}
        before = names if cyclic else names[:i]
        if before and chance.random() < 0.8:
            some = chance.sample(before, min(len(before), chance.randint(1, 3)))
            step["inputs"] = list(dict.fromkeys(reference(chance, s) for s in some))
            if chance.random() < 0.3:
                step["inputs"].append("p.inputs")
            step["inputsJoinType"] = chance.choice(JOINS)
        if before and chance.random() < 0.3:
            step["triggers"] = [reference(chance, chance.choice(before))]
            step["triggersJoinType"] = chance.choice(JOINS)
        if chance.random() < 0.2:
            step["joinWindowMs"] = 1
        steps.append(step)
    spec: dict[str, Any] = {"steps": steps}
    if cyclic:
        spec.update(allowCycles=True, maxStepRevisits=chance.randint(0, 4))
    if chance.random() < 0.8:
        some = chance.sample(names, chance.randint(1, len(names)))
        spec["output"] = {"steps": some, "stepsJoin": chance.choice(JOINS)}
    try:
        graph = dialects.translate(manifest("p", spec)).object
    except InvalidManifest:
        return None
    assert isinstance(graph, Graph)
    return graph


def model(chance: random.Random) -> Any:
    """Answers some tensors, never the same ones for sure; sometimes it fails."""

    def answer(_: Any) -> Any:
        if chance.random() < 0.05:
            return Failure(500, "it broke")
        some = [t for t in TENSORS if chance.random() < 0.7]
        return Tensors({t: np.zeros(1, np.float32) for t in some or ["D"]})

    return answer


@pytest.mark.parametrize("block", range(8))
async def test_every_request_ends_and_no_step_runs_twice_without_a_cycle(block: int) -> None:
    ended = Counter[str]()
    for seed in range(block * 100, block * 100 + 100):
        graph = made(seed)
        if graph is None:
            continue
        flow = graph.flows[0]
        chance = random.Random(seed + 1)
        caller = StandIn(**{s.name: model(chance) for s in flow.steps})
        request = Tensors({t: np.zeros(1, np.float32) for t in TENSORS if chance.random() < 0.8})
        run = Running(graph, request, caller)
        result = await run.end()
        kind = "value" if result.value else "failure" if result.failure else "nothing"
        ended[kind] += 1
        assert result.failure is None or result.failure.reason != "InternalError", seed
        most = 1 + (flow.max_revisits or 0)
        counts = Counter(caller.called)
        assert all(n <= most for n in counts.values()), (seed, counts)
    assert ended["value"] > 20
    assert ended["nothing"]


async def test_pipelines_that_listen_to_each_other_end(front: GraphFrontUnderTest) -> None:
    """Each runs once at most for a request, whoever listens to whom, and whatever their models leave out."""
    chance = random.Random(1)

    def service() -> Any:
        def answer(_: Any) -> Any:
            if chance.random() < 0.1:
                raise Answer(500, {"error": "it broke"})
            some = [t for t in TENSORS if chance.random() < 0.7]
            return {t: np.zeros(1, np.float32) for t in some or ["D"]}

        return answer

    names = [f"p{i}" for i in range(6)]
    await front.serve(**{f"m{i}": service() for i in range(6)})
    for turn in range(40):
        for i, name in enumerate(names):
            others = chance.sample([n for n in names if n != name], chance.randint(1, 3))
            spec: dict[str, Any] = {"steps": [{"name": f"m{i}"}]}
            if i:
                sides = (".outputs", ".inputs", ".outputs.A", f".step.m{i - 1}.outputs")
                spec["input"] = {
                    "externalInputs": [n + chance.choice(sides) for n in others],
                    "joinType": chance.choice(JOINS),
                }
            try:
                front.graph(dialects.translate(manifest(name, spec)).object)
            except InvalidManifest:
                continue
        body = {"inputs": [{"name": "A", "shape": [1], "datatype": "FP32", "data": [turn]}]}
        answer = await front.client.post(
            "/v2/models/p0/infer", json=body, headers={"x-request-id": str(turn)}
        )
        assert answer.status_code in (200, 400)
        graphs = front.gateway._graphs
        assert graphs is not None
        assert graphs.externals is not None
        async with asyncio.timeout(20):
            while front.gateway.active or graphs.externals.running:
                await asyncio.sleep(0.001)
    # By the request that they belong to: a call that was given up may arrive during the next one.
    calls = Counter(
        (n, e.head.get(b"x-request-id")) for n, s in front.services.items() for e in s.seen
    )
    assert calls.keys() >= {("m0", b"%d" % turn) for turn in range(40)}
    assert set(calls.values()) == {1}, calls
    outcomes = {labels[2] for labels in front.samples("penstock_graph_external_runs")}
    assert {"ok", "incomplete", "failed"} <= outcomes
