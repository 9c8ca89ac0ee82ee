"""Seldon V2's pipelines in a gateway: the documented scenarios, what is refused, addresses, errors."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import pytest
from graph_services import Answer, GraphFrontUnderTest
from seldon_v2_front import body, called, compiled, outputs, pipeline, put, serve, until
from seldon_v2_scenarios import MODELS, REFUSED, SCENARIOS, Scenario

from penstock import dialects
from penstock.domain.graph import Join, OnFailure
from penstock.domain.routes import STOPPED, Route
from penstock.domain.status import Condition, ServiceStatus, Truth
from penstock.errors import InvalidManifest


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_scenario(front: GraphFrontUnderTest, scenario: Scenario) -> None:
    """Each documented pipeline answers what the table says, and asks each model as often as it says."""
    members = {
        c["name"]
        for m in scenario.manifests()
        if m["kind"] == "Experiment"
        for c in (*m["spec"]["candidates"], m["spec"]["mirror"])
    }
    await serve(front, *(scenario.models() | (members & set(MODELS))))
    for manifest in scenario.manifests():
        put(front, manifest)
    path = f"/v2/models/{scenario.target()}/infer"
    answer = await front.client.post(path, json=body(scenario.request))
    assert answer.status_code == scenario.status, answer.text
    if isinstance(scenario.answer, str):
        said = answer.text if answer.status_code == 400 else answer.json()["error"]
        assert said.startswith(scenario.answer)
    else:
        assert outputs(answer) == scenario.answer
    if scenario.told is not None:
        assert answer.headers[scenario.told[0]] == scenario.told[1]

    def sure() -> tuple[str, ...]:
        return tuple(n for n in called(front) if n != scenario.maybe)

    await until(lambda: len(sure()) >= len(scenario.called), "every call")
    assert sure() == scenario.called


@pytest.mark.parametrize(("what", "spec", "field", "said"), REFUSED, ids=lambda v: str(v)[:40])
def test_refused(what: str, spec: str, field: str, said: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        compiled(spec)
    assert (field, said) in [(p.path, p.message) for p in caught.value.problems]


async def test_a_pipeline_has_seldons_addresses(front: GraphFrontUnderTest) -> None:
    await serve(front, "mul10")
    put(front, pipeline("{steps: [{name: mul10}], output: {steps: [mul10]}}", "ten"))
    request = body({"INPUT": [1.0]})
    for path, headers in (
        ("/v2/pipelines/ten/infer", {}),
        ("/v2/models/ten.pipeline/infer", {}),
        ("/v2/models/whatever/infer", {"seldon-model": "ten.pipeline"}),
        ("/v2/models/ten/infer", {}),
    ):
        answer = await front.client.post(path, json=request, headers=headers)
        assert answer.status_code == 200, (path, answer.text)
        assert outputs(answer) == {"OUTPUT": [10.0]}
    # A model is no pipeline.
    assert (await front.client.post("/v2/pipelines/mul10/infer", json=request)).status_code == 404
    assert (
        await front.client.post("/v2/models/mul10.pipeline/infer", json=request)
    ).status_code == 404


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v2/pipelines/ten/infer", {}),
        ("/v2/models/ten.pipeline/infer", {}),
        ("/v2/models/whatever/infer", {"seldon-model": "ten.pipeline"}),
    ],
)
async def test_a_stopped_pipeline_is_not_said_to_be_unknown(
    front: GraphFrontUnderTest, path: str, headers: dict[str, str]
) -> None:
    front.put(Route("default", "ten", message=STOPPED))
    answer = await front.client.post(path, json=body({"INPUT": [1.0]}), headers=headers)
    assert answer.status_code == 503
    assert STOPPED in answer.text


async def test_whether_a_pipeline_is_ready_is_said_in_seldons_numbers(
    front: GraphFrontUnderTest,
) -> None:
    put(front, pipeline("steps: [{name: mul10}]", "ten"))
    assert (await front.client.get("/v2/pipelines/ten/ready")).status_code == 424
    assert (await front.client.get("/v2/pipelines/other/ready")).status_code == 404
    await serve(front, "mul10")
    assert (await front.client.get("/v2/pipelines/ten/ready")).status_code == 200


async def test_a_batch_goes_full_or_after_its_window_and_each_request_has_its_rows(
    front: GraphFrontUnderTest,
) -> None:
    await serve(front, "mul10")
    put(front, pipeline("steps: [{name: mul10, batch: {size: 2, windowMs: 20}}]", "b"))
    requests = [{"INPUT": [float(n)]} for n in range(3)]
    answers = await asyncio.gather(
        *(front.client.post("/v2/models/b/infer", json=body(r)) for r in requests)
    )
    assert [outputs(a) for a in answers] == [{"OUTPUT": [n * 10.0]} for n in range(3)]
    assert len(front.services["mul10"].seen) == 2


async def test_a_step_beside_the_output_batches_what_several_requests_gave(
    front: GraphFrontUnderTest,
) -> None:
    """As Seldon's samples look for drift: no request waits for it, and the rows are looked at together."""
    await serve(front, "mul10", "add10")
    beside = "{name: add10, batch: {size: 3, windowMs: 60000}}"
    put(front, pipeline(f"{{steps: [{{name: mul10}}, {beside}], output: {{steps: [mul10]}}}}", "b"))
    for n in range(3):
        assert called(front) == ("mul10",) * n
        answer = await front.client.post("/v2/models/b/infer", json=body({"INPUT": [float(n)]}))
        assert outputs(answer) == {"OUTPUT": [n * 10.0]}
    await until(lambda: "add10" in called(front), "the three rows to be looked at")
    assert called(front) == ("add10", "mul10", "mul10", "mul10")


async def test_weights_and_a_route_that_clients_send_back(front: GraphFrontUnderTest) -> None:
    await serve(front, "mul10", "add10")
    put(front, pipeline("steps: [{name: mul10}]", "times"))
    put(front, pipeline("steps: [{name: add10}]", "plus"))
    spec = (
        "{resourceType: pipeline, candidates: [{name: times, weight: 3}, {name: plus, weight: 1}]}"
    )
    put(front, {**pipeline(spec, "trial"), "kind": "Experiment"})
    request = body({"INPUT": [1.0]})

    async def ask(**headers: str) -> list[float]:
        answer = await front.client.post(
            "/v2/models/x/infer",
            json=request,
            headers={"seldon-model": "trial.experiment", **headers},
        )
        return outputs(answer)["OUTPUT"]

    assert sorted([await ask() for _ in range(8)]) == [[10.0]] * 6 + [[11.0]] * 2
    sticky = {"x-seldon-route": ":plus.pipeline:"}
    assert [await ask(**sticky) for _ in range(4)] == [[11.0]] * 4


async def test_a_pipeline_runs_once_for_a_request_whoever_listens_to_whom(
    front: GraphFrontUnderTest,
) -> None:
    """Two pipelines that listen to each other end."""
    await serve(front, "mul10", "add10")
    rename = "tensorMap: {OTHER.outputs.OUTPUT: INPUT}"
    for name, other, model in (("one", "two", "mul10"), ("two", "one", "add10")):
        spec = f"input: {{externalInputs: [{other}.outputs], {rename}}}\nsteps: [{{name: {model}}}]"
        put(front, pipeline(spec.replace("OTHER", other), name))
    answer = await front.client.post("/v2/models/one/infer", json=body({"INPUT": [1.0]}))
    assert outputs(answer) == {"OUTPUT": [10.0]}
    runs = "penstock_graph_external_runs"
    await until(lambda: front.samples(runs), "the other one")
    assert front.samples(runs) == {("default", "two", "ok"): 1}
    assert called(front) == ("add10", "mul10")


async def test_external_joins_end_with_the_request(front: GraphFrontUnderTest) -> None:
    """What never comes is not waited for: an inner join is dropped, an outer one goes on."""
    await serve(front, "conditional", "mul10", "add10")
    put(front, pipeline("steps: [{name: conditional}]", "base"))
    for name, join, model in (("both", "inner", "mul10"), ("some", "outer", "add10")):
        spec = f"""
            input:
              joinType: {join}
              externalInputs: [base.step.conditional.outputs.OUTPUT0, base.inputs.nothing]
              tensorMap: {{base.step.conditional.outputs.OUTPUT0: INPUT}}
            steps: [{{name: {model}}}]
        """
        put(front, pipeline(spec, name))
    request = body({"CHOICE": [0], "INPUT0": [1.0], "INPUT1": [2.0]})
    assert (await front.client.post("/v2/models/base/infer", json=request)).status_code == 200
    runs = "penstock_graph_external_runs"
    wanted = {("default", "both", "incomplete"): 1, ("default", "some", "ok"): 1}
    await until(lambda: front.samples(runs) == wanted, "both ends")
    assert called(front) == ("add10", "conditional")
    # A pipeline that is gone listens no more.
    front.remove("some")
    front.remove("both")
    assert (await front.client.post("/v2/models/base/infer", json=request)).status_code == 200
    assert called(front) == ("add10", "conditional", "conditional")
    assert not front.samples(runs)


async def test_a_run_beside_a_request_has_its_own_end(front: GraphFrontUnderTest) -> None:
    """The client has its answer while the other pipeline runs; a failure there is counted, and nobody's."""
    await serve(front, "mul10", "outlier-error")
    put(front, pipeline("steps: [{name: mul10}]", "base"))
    spec = """
        input: {externalInputs: [base.outputs], tensorMap: {base.outputs.OUTPUT: INPUT}}
        steps: [{name: outlier-error}]
    """
    put(front, pipeline(spec, "watch"))
    watched = front.services["outlier-error"]
    watched.held = []
    answer = await front.client.post("/v2/models/base/infer", json=body({"INPUT": [50.0]}))
    assert outputs(answer) == {"OUTPUT": [500.0]}
    await watched.arrived.wait()
    watched.release()
    runs = "penstock_graph_external_runs"
    await until(lambda: front.samples(runs), "the end")
    assert front.samples(runs) == {("default", "watch", "failed"): 1}


# -- steps that go wrong --------------------------------------------------------------------------


async def ask(front: GraphFrontUnderTest, name: str, **tensors: list[float]) -> Any:
    return await front.client.post(f"/v2/models/{name}/infer", json=body(tensors))


async def test_a_step_that_is_gone(front: GraphFrontUnderTest) -> None:
    put(front, pipeline("steps: [{name: gone}]"))
    answer = await ask(front, "p", INPUT=[1.0])
    assert answer.status_code == 503
    assert "default/gone does not exist" in answer.json()["error"]
    assert answer.json()["step"] == "pipeline.gone"


async def test_a_step_that_is_slow(front: GraphFrontUnderTest) -> None:
    await serve(front, "mul10")
    front.services["mul10"].held = []
    put(front, pipeline("steps: [{name: mul10}]"))
    answer = await front.client.post(
        "/v2/models/p/infer",
        json=body({"INPUT": [1.0]}),
        headers={"x-request-timeout-ms": "200"},
    )
    assert answer.status_code == 504
    assert "Under way: pipeline.mul10" in answer.json()["error"]


async def test_a_step_that_is_given_what_it_does_not_take(front: GraphFrontUnderTest) -> None:
    await serve(front, "mul10")
    put(front, pipeline("steps: [{name: mul10}]"))
    answer = await ask(front, "p", OTHER=[1.0])
    assert (answer.status_code, answer.text) == (400, "mul10 : the inputs are ['OTHER']")
    assert answer.headers["content-type"].startswith("text/plain")


async def test_a_step_that_answers_in_another_protocol(front: GraphFrontUnderTest) -> None:
    def v1(_: Any) -> Any:
        raise Answer(200, {"predictions": [1]})

    await front.serve(mul10=v1)
    put(front, pipeline("steps: [{name: mul10}]"))
    answer = await ask(front, "p", INPUT=[1.0])
    assert answer.status_code == 400
    assert answer.text.startswith("mul10 : ")


async def test_rows_that_a_batch_loses_are_an_error_for_each(front: GraphFrontUnderTest) -> None:
    await front.serve(mul10=lambda t: {"OUTPUT": np.zeros(1, np.float32)})
    put(front, pipeline("steps: [{name: mul10, batch: {size: 2}}]"))
    answers = await asyncio.gather(ask(front, "p", INPUT=[1.0]), ask(front, "p", INPUT=[2.0]))
    assert {a.status_code for a in answers} == {400}
    assert "another number of rows" in answers[0].text


# -- what a manifest means ------------------------------------------------------------------------


def test_what_is_not_said_is_seldons_default() -> None:
    graph = compiled("steps: [{name: a}, {name: b, inputs: [a], joinWindowMs: 0}]")
    one, two = graph.flows[0].steps
    assert (one.inputs.sources, two.inputs.join, two.inputs.window_s) == ((), Join.INNER, None)
    assert [s.step for s in graph.flows[0].output.sources] == ["b"]
    assert graph.flows[0].max_revisits is None


def test_only_what_the_output_needs_may_fail_it() -> None:
    graph = compiled(
        "{steps: [{name: a}, {name: b, triggers: [a]}, {name: c}], output: {steps: [b]}}"
    )
    assert {s.name: s.on_failure for s in graph.flows[0].steps} == {
        "a": OnFailure.FAIL,
        "b": OnFailure.FAIL,
        "c": OnFailure.SKIP,
    }


def test_fields_without_effect_are_told() -> None:
    spec = "dataflow: {cleanTopicsOnDelete: true}\nmaxStepRevisits: 3\n"
    warnings = dialects.translate(
        pipeline(spec + "steps: [{name: a, batch: {size: 1, rolling: true}}]")
    ).warnings
    assert [w.path for w in warnings] == [
        "spec.dataflow",
        "spec.steps[0].batch.rolling",
        "spec.maxStepRevisits",
    ]


def test_headers_that_go_along() -> None:
    (pattern,) = compiled("steps: [{name: a}]").propagate
    names = ("x-tenant", "x-seldon-route", "x-penstock-revision", "authorization")
    assert [n for n in names if re.search(pattern, n)] == ["x-tenant"]


def test_the_status_has_seldons_conditions() -> None:
    manifest = pipeline("steps: [{name: a}]")
    status = ServiceStatus(conditions=(Condition("Ready", Truth.FALSE, "ServiceMissing", "why"),))
    rendered = dialects.of(manifest).render_status(manifest, status)
    assert {c["type"]: (c["status"], c.get("message")) for c in rendered["conditions"]} == {
        "Ready": ("False", "why"),
        "ModelsReady": ("False", "why"),
        "PipelineReady": ("True", None),
        "PipelineGwReady": ("True", None),
    }


def test_a_pipeline_that_answers_without_a_model_has_not_all_of_its_models() -> None:
    manifest = pipeline("steps: [{name: a}, {name: beside}]\noutput: {steps: [a]}")
    ready = Condition("Ready", Truth.TRUE, "AnswersWithout", "without beside")
    rendered = dialects.of(manifest).render_status(manifest, ServiceStatus(conditions=(ready,)))
    assert {c["type"]: (c["status"], c.get("message")) for c in rendered["conditions"]} == {
        "Ready": ("True", "without beside"),
        "ModelsReady": ("False", "without beside"),
        "PipelineReady": ("True", None),
        "PipelineGwReady": ("True", None),
    }
