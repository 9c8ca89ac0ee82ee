"""Penstock's Pipeline: the short forms, what they mean, and what is refused with which path."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from graph_stand_in import Running, StandIn

from penstock import dialects
from penstock.domain.graph import (
    Batch,
    Call,
    Combine,
    Condition,
    Gate,
    Graph,
    HandOn,
    Inputs,
    Join,
    OnFailure,
    Router,
    RunGraph,
    Side,
    Source,
    Splitter,
    Switch,
    Wire,
)
from penstock.errors import InvalidManifest
from penstock.graphs.values import Body


def manifest(spec: str) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": yaml.safe_load(spec),
    }


def compiled(spec: str) -> Graph:
    graph = dialects.translate(manifest(spec)).object
    assert isinstance(graph, Graph)
    return graph


def test_the_shortest_pipeline() -> None:
    graph = compiled("steps: [{name: iris}]")
    (flow,) = graph.flows
    (step,) = flow.steps
    assert step.action == Call("iris")
    assert step.inputs == Inputs()
    assert flow.output == Inputs((Source("iris"),))
    assert graph.timeout_s == 60


def test_inputs_in_every_form() -> None:
    graph = compiled(
        """
        steps:
        - name: detect
        - name: classify
          inputs: [detect, detect.boxes, request, request.image,
                   {from: detect.boxes, as: x, side: inputs}]
          join: outer
          window: 250ms
          triggers: [detect]
          triggersJoin: any
        """
    )
    step = graph.flows[0].steps[1]
    assert step.inputs == Inputs(
        (
            Source("detect"),
            Source("detect", tensor="boxes"),
            Source(),
            Source(tensor="image"),
            Source("detect", Side.INPUTS, "boxes", "x"),
        ),
        Join.OUTER,
        0.25,
    )
    assert step.triggers == Inputs((Source("detect"),), Join.ANY)


def test_what_a_step_may_do() -> None:
    graph = compiled(
        """
        steps:
        - {name: a, model: iris, namespace: team, modelName: m, revision: previous, protocol: v1}
        - {name: b, pipeline: other, inputs: [a]}
        - {name: c, joinOnly: true, inputs: [a, b]}
        - {name: d, model: slow, inputs: [c], timeout: 2s, onFailure: skip, batch: {size: 8, window: 5ms}}
        """
    )
    a, b, c, d = graph.flows[0].steps
    assert a.action == Call("iris", "team", "m", "previous", wire=Wire.V1)
    assert b.action == RunGraph("other")
    assert c.action == HandOn()
    assert (d.timeout_s, d.on_failure, d.batch) == (2, OnFailure.SKIP, Batch(8, 0.005))
    assert graph.services() == (("team", "iris"), ("default", "slow"))
    assert graph.graphs() == (("default", "other"),)


def test_choices_name_their_branches() -> None:
    graph = compiled(
        """
        steps:
        - name: kind
          switch: [{when: inputs.0.name, step: a}, {step: b}]
        - name: share
          inputs: [kind]
          split: [{step: a, weight: 12.5}, {step: b, weight: 87.5}]
        - name: ask
          router: {model: r, steps: [a, b]}
        - {name: a}
        - {name: b}
        """
    )
    kind, share, ask, a, b = graph.flows[0].steps
    assert kind.action == Switch(("inputs.0.name", ""))
    assert share.action == Splitter((12.5, 87.5))
    assert ask.action == Router(Call("r"), 2)
    assert a.gates == (Gate("kind", 0), Gate("share", 0), Gate("ask", 0))
    assert b.gates == (Gate("kind", 1), Gate("share", 1), Gate("ask", 1))
    assert graph.flows[0].output == Inputs((Source("a"), Source("b")), Join.ANY)


def test_conditions_in_every_form() -> None:
    graph = compiled(
        """
        steps:
        - {name: a}
        - {name: b, inputs: [a], when: x.y}
        - {name: c, inputs: [a], when: {path: z, step: request, negate: true}}
        - {name: d, inputs: [a], when: [{path: p}, {path: q, step: b}]}
        output: [a, b, c, d]
        """
    )
    _, b, c, d = graph.flows[0].steps
    assert b.when == (Condition("x.y", "a"),)
    assert c.when == (Condition("z", "", negate=True),)
    assert d.when == (Condition("p", "a"), Condition("q", "b"))


def test_the_output_in_every_form() -> None:
    steps = "steps: [{name: a}, {name: b}]\n"
    assert compiled(steps + "output: a").flows[0].output == Inputs((Source("a"),))
    assert compiled(steps + "output: [a.x, b]").flows[0].output == Inputs(
        (Source("a", tensor="x"), Source("b"))
    )
    graph = compiled(
        steps + "output: {from: [a, {from: b, key: k}], join: outer, combine: object, window: 1s}"
    )
    assert graph.flows[0].output == Inputs(
        (Source("a"), Source("b", key="k")), Join.OUTER, 1.0, Combine.OBJECT
    )


def test_the_rest_of_the_spec() -> None:
    graph = compiled(
        """
        steps: [{name: a}]
        timeout: 1m30s
        headers: [Authorization, "^x-team-.*"]
        maxParallel: 3
        """
    )
    assert (graph.timeout_s, graph.max_parallel) == (90, 3)
    assert graph.propagate == ("^Authorization$", "^x-team-.*")


@pytest.mark.parametrize(
    ("spec", "field", "said"),
    [
        ("steps: []", "spec.steps", "must not be empty"),
        ("steps: [{name: a, modle: b}]", "spec.steps[0].modle", "unknown field, did you mean model?"),
        ("steps: [{name: a, inputs: [b]}]", "spec.steps[0].inputs[0]", "there is no step 'b'; there is a"),
        ("steps: [{name: a, triggers: [b]}]", "spec.steps[0].triggers[0]", "there is no step 'b'"),
        ("steps: [{name: a}, {name: a}]", "spec.steps[1].name", "there are two steps of the name a"),
        ("steps: [{name: a.b}]", "spec.steps[0].name", "'a.b' cannot name a step"),
        ("steps: [{name: request, model: a}]", "spec.steps[0].name", "cannot name a step"),
        ("steps: [{name: A}]", "spec.steps[0].name", "'A' cannot name a service"),
        ("steps: [{name: a, model: B}]", "spec.steps[0].model", "'B' cannot name a service"),
        (
            "steps: [{name: a, model: b, url: 'http://x/'}]",
            "spec.steps[0]",
            "does one thing, not model and url",
        ),
        ("steps: [{name: a, url: nowhere}]", "spec.steps[0].url", "is no address"),
        ("steps: [{name: a, pipeline: p}]", "spec.steps[0].pipeline", "a graph cannot run itself"),
        ("steps: [{name: a, timeout: soon}]", "spec.steps[0].timeout", "must be a duration"),
        ("steps: [{name: a, timeout: 0s}]", "spec.steps[0].timeout", "must be more than 0"),
        ("steps: [{name: a, when: 'x..y'}]", "spec.steps[0].when", "no condition: a key is expected"),
        ("steps: [{name: a, when: [{path: x}, {path: '#('}]}]", "spec.steps[0].when[1]", "no condition"),
        (
            "steps: [{name: s, switch: [{when: '(', step: a}]}, {name: a, inputs: [{from: s.}]}]",
            "spec.steps[1].inputs[0]",
            "STEP, STEP.TENSOR",
        ),
        (
            "steps: [{name: s, switch: [{when: '#(', step: a}]}, {name: a}]",
            "spec.steps[0].switch[0].when",
            "no condition",
        ),
        (
            "steps: [{name: s, split: [{step: a, weight: 30}]}, {name: a}]",
            "spec.steps[0].split",
            "weights add up to 30, not 100",
        ),
        (
            "steps: [{name: s, split: [{step: z, weight: 100}]}]",
            "spec.steps[0].split[0].step",
            "there is no step 'z'",
        ),
        (
            "steps: [{name: s, router: {model: r, steps: [s]}}]",
            "spec.steps[0].router.steps[0]",
            "cannot choose itself",
        ),
        (
            "steps: [{name: a, inputs: [b]}, {name: b, inputs: [a]}]\noutput: a",
            "spec.steps[0].inputs",
            "there is a cycle: a -> b -> a",
        ),
        ("steps: [{name: a}, {name: b}]", "spec.output", "is required: which of a, b is the answer?"),
        ("steps: [{name: a}]\noutput: [z]", "spec.output[0]", "there is no step 'z'"),
        ("steps: [{name: a}]\noutput: {from: [z]}", "spec.output.from[0]", "there is no step 'z'"),
        (
            "steps: [{name: a, inputs: [{from: request, as: x}]}]",
            "spec.steps[0].inputs[0]",
            "`as` names one tensor",
        ),
        ("steps: [{name: a, triggersJoin: any}]", "spec.steps[0].triggersJoin", "there are no triggers"),
        (
            "steps: [{name: a, joinOnly: true, batch: {size: 2}}]",
            "spec.steps[0].batch",
            "only a step that calls",
        ),
        (
            "steps: [{name: a, batch: {size: 2, window: 0s}}]",
            "spec.steps[0].batch.window",
            "must be more than 0",
        ),
        ("steps: [{name: a}]\nheaders: ['(']", "spec.headers[0]", "no regular expression"),
        ("steps: [{name: a}]\ntimeout: 0", "spec.timeout", "must be more than 0"),
        (
            "request: {tensors: [{name: x, datatype: FP32}]}\nsteps: [{name: a, inputs: [request.y]}]",
            "spec.steps[0].inputs[0]",
            "the request has no tensor 'y'; it has x",
        ),
        (
            "steps: [{name: a, gives: [{name: y, datatype: INT64}]}, "
            "{name: b, inputs: [{from: a.y, as: x}], takes: [{name: x, datatype: FP32}]}]",
            "spec.steps[1].inputs[0]",
            "'y' is INT64, the input 'x' takes FP32",
        ),
    ],
)  # fmt: skip
def test_refused(spec: str, field: str, said: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        compiled(spec)
    problems = [(p.path, p.message) for p in caught.value.problems]
    assert any(p == field and said in m for p, m in problems), problems


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            "steps: [{name: a}, {name: b, inputs: [A]}]",
            "spec.steps[1].inputs[0]: there is no step 'A'; there is a, b",
        ),
        (
            "steps: [{name: a}, {name: b, triggers: [c]}]",
            "spec.steps[1].triggers[0]: there is no step 'c'; there is a, b",
        ),
        ("steps: [{name: a}, {name: a}]", "spec.steps[1].name: there are two steps of the name a"),
        ("steps: [{name: a, inputs: [a]}]", "spec.steps[0].inputs: there is a cycle: a -> a"),
        (
            "steps: [{name: a, inputs: [b]}, {name: b, inputs: [a]}]",
            "spec.steps[0].inputs: there is a cycle: a -> b -> a",
        ),
        (
            "steps: [{name: a, inputs: [request, b], join: any}, {name: b, inputs: [a]}]\nmaxRevisits: 1",
            "spec.output: is required: every step is the input of another",
        ),
        (
            "steps: [{name: s, split: [{step: a, weight: -1}]}, {name: a}]",
            "spec.steps[0].split[0].weight: must be 0.0 or more",
        ),
        (
            "steps: [{name: s, split: [{step: a, weight: half}]}, {name: a}]",
            "spec.steps[0].split[0].weight: must be a number, not a string",
        ),
        (
            "steps: [{name: a, batch: {size: 2, window: [1]}}]",
            "spec.steps[0].batch.window: must be a string or a number, not a list",
        ),
        (
            "steps: [{name: a}]\ntimeout: true",
            "spec.timeout: must be a string or a number, not true or false",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_and_not_what_follows_from_it(spec: str, problem: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        compiled(spec)
    assert [str(p) for p in caught.value.problems] == [problem]


async def test_a_cycle_runs_when_it_may() -> None:
    graph = compiled(
        """
        steps:
        - {name: work, inputs: [request, again], join: any}
        - {name: check, inputs: [work], switch: [{when: done, step: end}, {step: again}]}
        - {name: end, inputs: [work], joinOnly: true}
        - {name: again, inputs: [work], joinOnly: true}
        output: end
        maxRevisits: 5
        """
    )

    def work(value: Any) -> Any:
        n = value.document["n"] + 1
        return Body.of({"n": n, "done": 1} if n == 3 else {"n": n})

    assert await Running(graph, {"n": 0}, StandIn(work=work)).json() == {"n": 3, "done": 1}
