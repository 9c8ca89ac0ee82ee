"""KServe's InferenceGraph: its documented scenarios run, its mistakes are refused with the field's path."""

from __future__ import annotations

from typing import Any

import pytest
from graph_services import Answer, GraphFrontUnderTest
from graph_stand_in import Running, StandIn
from kserve_scenarios import (
    REFUSED,
    SCENARIOS,
    Fails,
    Scenario,
    manifest,
    node,
    service,
)

from penstock import dialects
from penstock.domain.graph import Call, CallUrl, Graph
from penstock.errors import InvalidManifest
from penstock.gateway.graphs.answers import failure_answer
from penstock.graphs.execution import Execution
from penstock.graphs.values import Body, Failure, json_of


def compiled(nodes: dict[str, Any], **spec: Any) -> Graph:
    graph = dialects.translate(manifest(nodes, **spec)).object
    assert isinstance(graph, Graph)
    return graph


def answering(scenario: Scenario) -> StandIn:
    def serve(function: Any) -> Any:
        def answer(value: Any) -> Any:
            try:
                return Body.of(function(json_of(value)))
            except Fails as fault:
                body = Body.of(fault.document)
                body.status = fault.status
                return Failure(fault.status, "it failed", body=body)

        return answer

    return StandIn(**{n: serve(f) for n, f in scenario.services.items()})


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_scenario(scenario: Scenario) -> None:
    caller = answering(scenario)
    graph = compiled(scenario.nodes)
    run = Running(graph, scenario.request, caller, chance=lambda: scenario.chance)
    result = await run.end()
    if result.value is not None:
        status = result.value.status if isinstance(result.value, Body) else 200
        document = json_of(result.value)
    else:
        status, _, body = failure_answer(graph.key, graph.answers, result)
        document = Body(body).document
    assert (status, document) == (scenario.status, scenario.answer)
    assert tuple(caller.called) == scenario.called


#: An address outside is asked by test_graph_gateway.
WITHIN = [
    scenario
    for scenario in SCENARIOS
    if not any("serviceUrl" in s for n in scenario.nodes.values() for s in n["steps"])
]


@pytest.mark.parametrize("scenario", WITHIN, ids=lambda s: s.name)
async def test_scenario_over_http(
    front: GraphFrontUnderTest, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same through a gateway, before services on sockets."""

    def service(function: Any) -> Any:
        def answer(document: Any) -> Any:
            try:
                return function(document)
            except Fails as fault:
                raise Answer(fault.status, fault.document) from None

        return answer

    defaults = Execution.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "chance", lambda: scenario.chance)
    await front.serve(**{n: service(f) for n, f in scenario.services.items()})
    front.graph(compiled(scenario.nodes))
    answer = await front.client.post("/v1/models/g:predict", json=scenario.request)
    assert (answer.status_code, answer.json()) == (scenario.status, scenario.answer)


@pytest.mark.parametrize(("what", "nodes", "field", "said"), REFUSED, ids=lambda v: str(v)[:40])
def test_refused(what: str, nodes: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        compiled(nodes)
    assert (field, said) in [(p.path, p.message) for p in caught.value.problems]


def test_limits_and_headers() -> None:
    nodes = {"root": node("Sequence", service("a"))}
    graph = compiled(nodes, timeout=7, routerTimeouts={"serviceClient": 3})
    assert graph.timeout_s == 7
    assert graph.flows[0].steps[0].timeout_s == 3
    assert graph.propagate == ("^authorization$",)
    assert graph.services() == (("default", "a"),)


def with_headers(text: str) -> dict[str, Any]:
    given = manifest({"root": node("Ensemble", service("a"), service("b"))})
    given["metadata"]["annotations"] = {"penstock.dev/headers": text}
    return given


async def test_headers_that_an_annotation_names_go_to_every_step(
    front: GraphFrontUnderTest,
) -> None:
    """In place of KServe's configuration of the whole cluster."""
    await front.serve(a=lambda d: d, b=lambda d: d)
    front.graph(dialects.translate(with_headers("Custom-Header, ^x-team-.*")).object)
    given = {"custom-header": "1", "x-team-a": "2", "authorization": "Bearer t", "other": "3"}
    answer = await front.client.post("/v1/models/g:predict", json={}, headers=given)
    assert answer.status_code == 200
    for name in ("a", "b"):
        head = front.services[name].seen[0].head
        found = {k: head.get(k.encode()) for k in given}
        assert found == {
            "custom-header": b"1", "x-team-a": b"2", "authorization": b"Bearer t", "other": None,
        }  # fmt: skip


@pytest.mark.parametrize(("text", "said"), [("(", "no regular expression"), (" ,", "names of")])
def test_headers_that_are_none_are_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        dialects.translate(with_headers(text))
    (problem,) = refused.value.problems
    assert problem.path == 'metadata.annotations["penstock.dev/headers"]'
    assert said in problem.message


def test_fields_about_pods_have_no_effect_and_say_so() -> None:
    nodes = {"root": node("Sequence", service("a"))}
    translation = dialects.translate(
        manifest(nodes, minReplicas=1, resources={"limits": {}}, routerTimeouts={"serverIdle": 9})
    )
    assert [w.path for w in translation.warnings] == [
        "spec.minReplicas",
        "spec.resources",
        "spec.routerTimeouts.serverIdle",
    ]


def test_nodes_that_nobody_runs_are_told() -> None:
    nodes = {"root": node("Sequence", service("a")), "lost": node("Sequence", service("b"))}
    (warning,) = dialects.translate(manifest(nodes)).warnings
    assert str(warning) == "spec.nodes.lost: is not reached from root"


def test_a_condition_of_a_splitter_is_told_and_not_looked_at() -> None:
    nodes = {"root": node("Splitter", service("a", weight=100, condition="x"))}
    translation = dialects.translate(manifest(nodes))
    (warning,) = translation.warnings
    assert warning.path == "spec.nodes.root.steps[0].condition"
    assert "a Splitter chooses by weights" in warning.message
    plain = {"root": node("Splitter", service("a", weight=100))}
    assert translation.object == dialects.translate(manifest(plain)).object


def test_a_condition_of_an_ensemble_is_refused() -> None:
    nodes = {"root": node("Ensemble", service("a", condition="x"), service("b"))}
    with pytest.raises(InvalidManifest, match="has a meaning in a Switch or Sequence"):
        compiled(nodes)


def test_fields_that_had_another_name_are_told() -> None:
    nodes = {"root": {"routerType": "Splitter", "steps": [{"service": "a", "weight": 100}]}}
    with pytest.raises(InvalidManifest, match="it became serviceName"):
        compiled(nodes)


def test_a_misspelt_field_is_told() -> None:
    nodes = {"root": node("Sequence", {"servicename": "a"})}
    with pytest.raises(InvalidManifest, match="did you mean serviceName"):
        compiled(nodes)


@pytest.mark.parametrize(
    ("url", "call"),
    [
        ("http://iris.other.svc.cluster.local", Call("iris", "other")),
        ("http://iris.other.svc:80/", Call("iris", "other")),
        (
            "http://iris.other.svc.cluster.local/v1/models/m:predict",
            Call("iris", "other", model="m"),
        ),
        ("http://iris.other.svc/v2/models/iris/infer", Call("iris", "other")),
        ("http://iris.other.svc/own/path", Call("iris", "other", path="/own/path")),
        ("http://iris.example.com/v1", CallUrl("http://iris.example.com/v1")),
        ("http://svc.cluster.local", CallUrl("http://svc.cluster.local")),
        ("http://a.b.svc.elsewhere", CallUrl("http://a.b.svc.elsewhere")),
        ("http://iris.other.svc/v1?x=1", CallUrl("http://iris.other.svc/v1?x=1")),
    ],
)
def test_a_clusters_address_of_a_service_is_the_service(url: str, call: Call | CallUrl) -> None:
    """Nobody else could be meant: there is no cluster whose names could be looked up."""
    graph = compiled({"root": {"routerType": "Sequence", "steps": [{"serviceUrl": url}]}})
    assert graph.flows[0].steps[0].action == call


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://a:99999/x", "http://a:port", "http://:80/", "http://a:0"]
)
def test_an_address_that_is_none_is_refused_with_its_place(url: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        compiled({"root": {"routerType": "Sequence", "steps": [{"serviceUrl": url}]}})
    assert [p.path for p in refused.value.problems] == ["spec.nodes.root.steps[0].serviceUrl"]


def test_a_step_without_a_name_takes_none_that_another_has() -> None:
    steps = [{"serviceName": "a"}, {"serviceName": "b", "name": "step-0"}, {"serviceName": "c"}]
    graph = compiled({"root": {"routerType": "Ensemble", "steps": steps}})
    assert [s.name for s in graph.flows[0].steps] == ["step-0~", "step-0", "step-2"]
    assert [s.key for s in graph.flows[0].output.sources] == ["0", "step-0", "2"]


def test_the_choosers_name_is_taken() -> None:
    steps = [{"serviceName": "a", "name": "~choice", "condition": "@this"}]
    with pytest.raises(InvalidManifest) as refused:
        compiled({"root": {"routerType": "Switch", "steps": steps}})
    (problem,) = refused.value.problems
    assert problem.path == "spec.nodes.root.steps[0].name"
