"""Graphs that run beside other graphs' requests: order, windows, bounds, and the end with the gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from graph_services import GraphFrontUnderTest
from seldon_v2_front import body, compiled, outputs, pipeline, put, serve, until

from penstock.domain.routes import STOPPED, Route
from penstock.gateway.graphs import external

RUNS = "penstock_graph_external_runs"


def given(front: GraphFrontUnderTest, service: str) -> list[str]:
    """Names of the tensors of each request that a service got."""
    names: list[str] = []
    inner = front.services[service].function

    def remembering(arrays: Any) -> Any:
        names.append("+".join(sorted(arrays)))
        return inner(arrays)

    front.services[service].function = remembering
    return names


async def ask(front: GraphFrontUnderTest, name: str, **tensors: list[float]) -> Any:
    answer = await front.client.post(f"/v2/models/{name}/infer", json=body(tensors))
    assert answer.status_code == 200, answer.text
    return answer


async def test_an_outer_join_waits_for_one_that_goes_on_itself(front: GraphFrontUnderTest) -> None:
    """When a request is over, joins go on in the order in which they need each other."""
    await serve(front, "conditional", "mul10")
    await front.serve(last=lambda arrays: arrays)
    seen = given(front, "last")
    put(front, pipeline("steps: [{name: conditional}]", "base"))
    first = """
        input:
          joinType: outer
          externalInputs: [base.step.conditional.outputs.OUTPUT0, base.inputs.nothing]
          tensorMap: {base.step.conditional.outputs.OUTPUT0: INPUT}
        steps: [{name: mul10}]
    """
    second = """
        input:
          joinType: outer
          externalInputs: [first.outputs, base.inputs.INPUT1, base.outputs.OUTPUT1]
        steps: [{name: last}]
    """
    put(front, pipeline(second, "second"))
    put(front, pipeline(first, "first"))
    await ask(front, "base", CHOICE=[0], INPUT0=[1.0], INPUT1=[2.0])
    wanted = {("default", n, "ok"): 1 for n in ("first", "second")}
    await until(lambda: front.samples(RUNS) == wanted, "both")
    assert seen == ["INPUT1+OUTPUT"]


async def test_a_stopped_graph_answers_nobody_and_is_not_run_beside_others(
    front: GraphFrontUnderTest,
) -> None:
    await serve(front, "mul10")
    await front.serve(watch=lambda arrays: arrays)
    put(front, pipeline("steps: [{name: mul10}]", "base"))
    listening = "{input: {externalInputs: [base.outputs]}, steps: [{name: watch}]}"
    put(front, pipeline(listening, "beside"))
    await ask(front, "base", INPUT=[1.0])
    ran = {("default", "beside", "ok"): 1}
    await until(lambda: front.samples(RUNS) == ran, "the graph beside")
    front.put(Route("default", "beside", message=STOPPED))
    assert not front.samples(RUNS)
    seen = given(front, "watch")
    await ask(front, "base", INPUT=[1.0])
    answer = await front.client.post("/v2/models/beside/infer", json=body({"INPUT": [1.0]}))
    assert answer.status_code == 503
    assert "it is stopped (annotation serving.kserve.io/stop)" in answer.json()["error"]
    assert not seen
    put(front, pipeline(listening, "beside"))
    await ask(front, "base", INPUT=[1.0])
    await until(lambda: len(seen) == 1, "the graph beside")


async def test_a_window_ends_an_outer_join(front: GraphFrontUnderTest) -> None:
    """It goes on with what there is, while the request is still under way."""
    await serve(front, "mul10", "add10")
    await front.serve(watch=lambda arrays: arrays)
    seen = given(front, "watch")
    put(
        front, pipeline("{steps: [{name: mul10}, {name: add10}], output: {steps: [add10]}}", "base")
    )
    spec = """
        input:
          joinType: JOIN
          joinWindowMs: 10
          externalInputs: [base.step.mul10.outputs, base.step.add10.outputs]
        steps: [{name: watch}]
    """
    put(front, pipeline(spec.replace("JOIN", "outer"), "some"))
    put(front, pipeline(spec.replace("JOIN", "inner"), "both"))
    front.services["add10"].held = []
    asking = asyncio.create_task(ask(front, "base", INPUT=[1.0]))
    wanted = {("default", "some", "ok"): 1, ("default", "both", "incomplete"): 1}
    await until(lambda: front.samples(RUNS) == wanted, "the windows")
    assert not asking.done()
    front.services["add10"].release()
    assert outputs(await asking) == {"OUTPUT": [11.0]}
    assert seen == ["OUTPUT"]


async def listening(front: GraphFrontUnderTest, **changes: Any) -> None:
    await serve(front, "mul10", "add10")
    put(front, pipeline("steps: [{name: mul10}]", "base"))
    spec = """
        input: {externalInputs: [base.inputs.INPUT]}
        steps: [{name: add10}]
    """
    front.graph(msgspec.structs.replace(compiled(spec, "beside"), **changes))


async def test_a_run_that_takes_too_long_is_ended(front: GraphFrontUnderTest) -> None:
    await listening(front, timeout_s=0.02)
    add10 = front.services["add10"]
    add10.held = []
    assert outputs(await ask(front, "base", INPUT=[1.0])) == {"OUTPUT": [10.0]}
    await until(lambda: front.samples(RUNS) == {("default", "beside", "timeout"): 1}, "the end")
    await add10.hung_up.wait()


async def test_more_than_a_gateway_bears_are_dropped(
    front: GraphFrontUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "MOST_AT_ONCE", 1)
    await listening(front)
    add10 = front.services["add10"]
    add10.held = []
    for _ in range(3):
        await ask(front, "base", INPUT=[1.0])
    dropped = {("default", "beside", "dropped"): 2}
    await until(lambda: front.samples(RUNS) == dropped, "what is dropped")
    add10.release()
    await until(lambda: ("default", "beside", "ok") in front.samples(RUNS), "the one that ran")


async def test_a_client_that_hangs_up_ends_its_own_request_only(front: GraphFrontUnderTest) -> None:
    await listening(front)
    mul10, add10 = front.services["mul10"], front.services["add10"]
    mul10.held, add10.held = [], []
    asking = asyncio.create_task(ask(front, "base", INPUT=[1.0]))
    await add10.arrived.wait()
    await mul10.arrived.wait()
    asking.cancel()
    await mul10.hung_up.wait()
    assert not add10.hung_up.is_set()
    add10.release()
    await until(lambda: front.samples(RUNS) == {("default", "beside", "ok"): 1}, "its end")


async def test_runs_end_with_the_gateway(front: GraphFrontUnderTest) -> None:
    await listening(front)
    add10 = front.services["add10"]
    add10.held = []
    await ask(front, "base", INPUT=[1.0])
    await add10.arrived.wait()
    front.gateway.close()
    await add10.hung_up.wait()
