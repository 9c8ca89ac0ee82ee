"""Which services a graph cannot do without: what a request would see while they are gone."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from graph_world import GraphWorld, service, world

from penstock import dialects
from penstock.backends.base import Phase
from penstock.domain.graph import Graph
from penstock.domain.graph_reliance import answers_without
from penstock.store.base import Key, Kind

__all__ = ["world"]


def kserve(nodes: str) -> Graph:
    spec = {"nodes": yaml.safe_load(nodes)}
    return graph("serving.kserve.io/v1alpha1", "InferenceGraph", spec)


def pipeline(spec: str) -> Graph:
    return graph("penstock.dev/v1alpha1", "Pipeline", yaml.safe_load(spec))


def graph(api_version: str, kind: str, spec: Any) -> Graph:
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "g"}, "spec": spec}
    found = dialects.translate(manifest).object
    assert isinstance(found, Graph)
    return found


def without(graph: Graph, *names: str) -> bool:
    return answers_without(graph, {("default", n) for n in names})


def test_nothing_gone_hinders_nothing() -> None:
    assert without(kserve("{root: {routerType: Sequence, steps: [{serviceName: a}]}}"))
    assert without(kserve("{root: {routerType: Sequence, steps: [{serviceName: a}]}}"), "other")


@pytest.mark.parametrize(
    ("second", "answers"),
    [
        # The last step of a Sequence has the word, soft or not.
        ("{serviceName: b}", False),
        ("{serviceName: b, dependency: Hard}", False),
        ("{serviceName: b}, {serviceName: c, data: $request}", True),
        ("{serviceName: b, dependency: Hard}, {serviceName: c, data: $request}", False),
        # What comes after would be given the error.
        ("{serviceName: b}, {serviceName: c, data: $response}", False),
        # The condition looks at b's answer: without it the sequence ends there, with b's error.
        ("{serviceName: b}, {serviceName: c, data: $request, condition: predictions}", False),
        # The error is the answer of those whose condition does not hold.
        ("{serviceName: c, data: $request, condition: x}", True),
    ],
)
def test_a_sequence(second: str, answers: bool) -> None:
    sequence = kserve(f"{{root: {{routerType: Sequence, steps: [{{serviceName: a}}, {second}]}}}}")
    assert without(sequence, "b") is answers


def test_the_answer_of_a_step_whose_next_may_be_left_out_is_needed() -> None:
    steps = "{serviceName: a}, {serviceName: b, data: $request, condition: predictions}"
    sequence = kserve(f"{{root: {{routerType: Sequence, steps: [{steps}]}}}}")
    assert not without(sequence, "a")


@pytest.mark.parametrize("kind", ["Switch", "Splitter"])
@pytest.mark.parametrize("dependency", ["Soft", "Hard"])
def test_every_branch_is_needed(kind: str, dependency: str) -> None:
    more = [{"condition": "a"}, {"condition": "b"}] if kind == "Switch" else [{"weight": 50}] * 2
    steps = [
        {"serviceName": n, "dependency": dependency, **m} for n, m in zip("ab", more, strict=True)
    ]
    one = kserve(yaml.safe_dump({"root": {"routerType": kind, "steps": steps}}))
    assert not without(one, "a")
    assert not without(one, "b")


def test_an_ensemble_answers_while_one_of_its_soft_steps_does() -> None:
    ensemble = kserve(
        "{root: {routerType: Ensemble, steps: [{serviceName: a}, {serviceName: b},"
        " {serviceName: c, dependency: Hard}]}}"
    )
    assert without(ensemble, "a")
    assert without(ensemble, "a", "b")
    assert not without(ensemble, "c")
    soft = kserve("{root: {routerType: Ensemble, steps: [{serviceName: a}, {serviceName: b}]}}")
    assert not without(soft, "a", "b")


def test_a_node_is_what_its_steps_are_and_one_that_nobody_reaches_is_not_needed() -> None:
    nested = kserve(
        "{root: {routerType: Sequence, steps: [{nodeName: inner}, {serviceName: b, data: $request}]},"
        " inner: {routerType: Sequence, steps: [{serviceName: a, dependency: Hard}]},"
        " alone: {routerType: Sequence, steps: [{serviceName: c, dependency: Hard}]}}"
    )
    assert without(nested, "a")
    assert without(nested, "c")
    assert not without(nested, "b")
    hard = kserve(
        "{root: {routerType: Sequence, steps: [{nodeName: inner, dependency: Hard},"
        " {serviceName: b, data: $request}]},"
        " inner: {routerType: Sequence, steps: [{serviceName: a, dependency: Hard}]}}"
    )
    assert not without(hard, "a")


def test_a_pipelines_joins() -> None:
    steps = "{name: a, onFailure: skip}, {name: b}"
    joined = pipeline(f"{{steps: [{steps}], output: {{from: [a, b], combine: object}}}}")
    assert not without(joined, "a")
    outer = pipeline(f"{{steps: [{steps}], output: {{from: [a, b], join: outer}}}}")
    assert without(outer, "a")
    assert not without(outer, "b")
    first = pipeline(f"{{steps: [{steps}], output: {{from: [a, b], join: any}}}}")
    assert without(first, "a")
    after = pipeline(
        "{steps: [{name: a, onFailure: skip}, {name: b, inputs: [a]}, {name: c}],"
        " output: {from: [b, c], join: outer}}"
    )
    assert without(after, "a")


def test_a_step_beside_the_output_is_needed_unless_its_failure_is_borne() -> None:
    beside = "{steps: [{name: a, onFailure: %s}, {name: b}], output: {from: [b]}}"
    assert not without(pipeline(beside % "fail"), "a")
    assert without(pipeline(beside % "skip"), "a")


@pytest.mark.parametrize(
    "step", ["pipeline: b", "pipeline: b, namespace: default", "router: {model: b, steps: [c]}"]
)
def test_graphs_and_routers_are_needed_as_services_are(step: str) -> None:
    of = pipeline(f"{{steps: [{{name: a, {step}}}, {{name: c}}], output: {{from: [a]}}}}")
    assert not without(of, "b")
    assert without(of, "a")


def test_conditions_that_exclude_each_other_are_branches() -> None:
    """Whoever is sent to a gets nothing."""
    either = pipeline(
        "{steps: [{name: a, when: x, onFailure: skip}, {name: b, when: {path: x, negate: true}}],"
        " output: {from: [a, b], join: any}}"
    )
    assert not without(either, "a")


def test_steps_that_feed_each_other() -> None:
    cycle = pipeline(
        "{maxRevisits: 3, steps: [{name: a, inputs: [request, c.again], join: any},"
        " {name: b, onFailure: skip}, {name: c, inputs: [a]}], output: {from: [c.done]}}"
    )
    assert without(cycle, "b")
    assert not without(cycle, "c")


def test_more_ways_than_can_be_looked_at_need_everything() -> None:
    steps = ", ".join(f"{{name: s{i}, when: x{i}, onFailure: skip}}" for i in range(20))
    many = pipeline(f"{{steps: [{steps}, {{name: b}}], output: {{from: [b]}}}}")
    assert not without(many, "s1")
    assert without(many, "other")


async def test_a_graph_is_ready_while_a_services_revision_before_serves(world: GraphWorld) -> None:
    """What a service was asked for last may fail: the graph's requests do not see that."""
    pipeline_kind = {"apiVersion": "penstock.dev/v1alpha1", "kind": "Pipeline"}
    spec = {"steps": [{"name": "a"}]}
    manifest = {
        **pipeline_kind,
        "metadata": {"name": "chain", "namespace": "default"},
        "spec": spec,
    }
    await world.apply(service("a"))
    await world.apply(manifest)
    assert (await world.ready())["status"] == "True"
    behaves = Phase.STARTING
    world.backend.behave = lambda replica_id, process: behaves
    changed = service("a")
    changed["spec"]["predictor"]["sklearn"]["storageUri"] = "models/other"
    await world.apply(changed)
    condition = await world.ready()
    assert (condition["status"], condition.get("message", "")) == ("True", "")
    behaves = Phase.FAILED
    changed["spec"]["predictor"]["sklearn"]["storageUri"] = "models/third"
    await world.apply(changed)
    condition = await world.ready()
    assert (condition["status"], condition["reason"]) == ("True", "ServicesNotUpToDate")
    assert condition["message"].startswith("a is not as it was asked for: a-00003 is not ready: ")
    await world.delete(changed)
    await world.apply(changed)
    assert (await world.ready())["status"] == "False"


async def test_ready_says_what_requests_are_answered_without(world: GraphWorld) -> None:
    soft = {"serviceName": "a", "dependency": "Soft"}
    steps = [soft, {"serviceName": "b", "data": "$request"}]
    manifest = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "InferenceGraph",
        "metadata": {"name": "chain", "namespace": "default"},
        "spec": {"nodes": {"root": {"routerType": "Sequence", "steps": steps}}},
    }
    kind = Kind("serving.kserve.io", "InferenceGraph")

    async def said() -> tuple[str, str, str]:
        obj = await world.store.get(Key(kind, "default", "chain"))
        (condition,) = obj["status"]["conditions"]
        return condition["status"], condition.get("reason", ""), condition.get("message", "")

    await world.apply(service("b"))
    await world.apply(manifest)
    told = "Requests are answered without: a does not exist"
    assert await said() == ("True", "AnswersWithout", told)
    await world.apply(service("a"))
    assert await said() == ("True", "", "")
    await world.delete(service("a"))
    assert await said() == ("True", "AnswersWithout", told)
    events = await world.store.events(about=Key(kind, "default", "chain"))
    assert ("Warning", "AnswersWithout", told) in [
        (e["type"], e["reason"], e["message"]) for e in events
    ]
    await world.delete(service("b"))
    assert (await said())[:2] == ("False", "ServiceMissing")
