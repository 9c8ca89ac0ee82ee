"""SeldonDeployments of several nodes: the graph and the services that they mean; what is refused where."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import problems_of, warnings_of

from penstock import dialects
from penstock.domain.assembly import Assembly
from penstock.domain.bandit import PolicyName
from penstock.domain.graph import Combine, Gate, Router, Splitter, Verb
from penstock.domain.graph_check import check
from penstock.domain.service import Service
from penstock.domain.status import Condition, ServiceStatus, Truth

SK = {"implementation": "SKLEARN_SERVER", "modelUri": "gs://b/iris"}
SIMPLE = {"implementation": "SIMPLE_MODEL"}


def parameter(name: str, value: str, type_: str = "STRING") -> dict[str, str]:
    return {"name": name, "value": value, "type": type_}


def unit(name: str, type_: str | None = None, *children: Any, **more: Any) -> dict[str, Any]:
    """A node that is a class of the user's own."""
    made: dict[str, Any] = {"name": name, "modelUri": "units", **more}
    if type_ is not None:
        made["type"] = type_
    if children:
        made["children"] = list(children)
    return made


def builtin(implementation: str, *children: Any, **more: Any) -> dict[str, Any]:
    """A node of Seldon's own, r, in front of others."""
    return {"name": "r", "implementation": implementation, "children": list(children), **more}


def leaf(name: str) -> dict[str, Any]:
    return {"name": name, **SK}


def sdep(graph: Any, *more: dict[str, Any], spec: Any = None, **predictor: Any) -> dict[str, Any]:
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "dep", "namespace": "team", "uid": "u"},
        "spec": {
            "predictors": [{"name": "main", "graph": graph, **predictor}, *more],
            **(spec or {}),
        },
    }


def assembly(manifest: dict[str, Any]) -> Assembly:
    found = dialects.translate(manifest).object
    assert isinstance(found, Assembly)
    assert check(found.graph) == []
    return found


def parts(manifest: dict[str, Any]) -> dict[str, Service]:
    """The services that the nodes become, by name."""
    made = [dialects.translate(p).object for p in assembly(manifest).parts]
    return {s.name: s for s in made}


def test_an_explainer_is_a_service_that_asks_the_graph() -> None:
    manifest = sdep(
        unit("t", "TRANSFORMER", leaf("m")),
        explainer={
            "type": "AnchorTabular",
            "modelUri": "gs://b/explainer",
            "config": {"threshold": "0.9"},
            "replicas": 2,
        },
    )
    found = assembly(manifest)
    assert found.graph.explainers == (("main", "dep-main-explainer"),)
    assert ("team", "dep-main-explainer") not in found.graph.services()
    service = parts(manifest)["dep-main-explainer"]
    model = service.predictor.model
    assert model is not None
    assert (model.format.name, model.storage.uri) == ("explainer", "gs://b/explainer")
    assert model.options == {
        "type": "AnchorTabular",
        "config": {"threshold": 0.9},
        "predictor": "dep",
    }
    assert model.served_name == "dep"
    scaling = service.predictor.scaling
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 2)
    assert not service.stopped


def test_an_explainer_without_files_has_those_of_the_first_node_with_some() -> None:
    router = builtin("SIMPLE_ROUTER", leaf("a"), unit("b"))
    service = parts(sdep(router, explainer={"type": "anchor_text"}))["dep-main-explainer"]
    assert service.predictor.model is not None
    assert service.predictor.model.storage.uri == SK["modelUri"]


def test_each_of_several_predictors_may_have_an_explainer_that_asks_only_it() -> None:
    explained = {"type": "AnchorText", "modelUri": "x"}
    manifest = sdep(
        unit("t", "TRANSFORMER", leaf("m")),
        {"name": "other", "graph": leaf("m"), "traffic": 20, "explainer": explained},
        {"name": "copy", "graph": leaf("m"), "shadow": True, "explainer": explained},
        traffic=80,
        explainer=explained,
    )
    graph = assembly(manifest).graph
    assert [flow for flow, _ in graph.explainers] == ["main", "other", "copy"]
    made = parts(manifest)
    asked = [made[name].predictor.model.options["predictor"] for _, name in graph.explainers]
    assert asked == ["dep@main", "dep@other", "dep@copy"]
    assert graph.explainer() == "dep-main-explainer"
    assert graph.explainer("other") == "dep-other-explainer"
    assert graph.explainer("none") == ""


@pytest.mark.parametrize(
    "manifest",
    [
        sdep(unit("t", "TRANSFORMER", leaf("m")), replicas=0, explainer={"type": "AnchorText"}),
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            explainer={"type": "AnchorText", "replicas": 0},
        ),
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            spec={"replicas": 0},
            explainer={"type": "AnchorText"},
        ),
    ],
)
def test_an_explainer_without_replicas_is_stopped(manifest: dict[str, Any]) -> None:
    assert parts(manifest)["dep-main-explainer"].stopped


def test_an_explainer_has_its_resources_and_the_models_credentials() -> None:
    model = {**leaf("m"), "serviceAccountName": "reader", "envSecretRefName": "bucket"}
    container = {
        "name": "e",
        "resources": {"limits": {"cpu": "2"}},
        "env": [{"name": "A", "value": "b"}],
    }
    graph = unit("t", "TRANSFORMER", model)
    one = {**leaf("m"), "serviceAccountName": "reader", "envSecretRefName": "bucket"}
    explained = {"type": "AnchorText", "containerSpec": container}
    of_graph = parts(sdep(graph, explainer=explained))["dep-main-explainer"].predictor
    alone = dialects.translate(sdep(one, explainer=explained)).object
    assert isinstance(alone, Service)
    for component in (of_graph, alone.explainer):
        assert component is not None
        assert component.model is not None
        assert component.resources.cpu_limit == 2
        assert [(e.name, e.value) for e in component.env if e.name == "A"] == [("A", "b")]
    assert of_graph.model is not None
    assert of_graph.model.storage.service_account == "reader"
    assert of_graph.model.storage.secret == "bucket"
    more = sdep(graph, explainer={"type": "AnchorText", "resources": {"limits": {"cpu": "3"}}})
    assert parts(more)["dep-main-explainer"].predictor.resources.cpu_limit == 3


def test_an_explainer_without_a_type_is_none() -> None:
    assert assembly(sdep(unit("t", "TRANSFORMER", leaf("m")), explainer={})).graph.explainers == ()


def test_each_node_with_a_process_is_a_service() -> None:
    children = [leaf("a"), unit("b"), {"name": "c", **SIMPLE}]
    mean = {"name": "mean", "implementation": "AVERAGE_COMBINER", "children": children}
    graph = unit("in", "TRANSFORMER", mean)
    found = parts(sdep(graph, replicas=2))
    assert set(found) == {"dep-main-in", "dep-main-a", "dep-main-b"}
    for service in found.values():
        assert service.namespace == "team"
        assert service.predictor.scaling.min_replicas == 2
        assert service.labels["seldon-deployment-id"] == "dep"
    assert found["dep-main-a"].predictor.model.format.name == "sklearn"
    assert found["dep-main-b"].predictor.model.format.name == "seldon"


def test_a_class_gets_its_parameters_and_its_place() -> None:
    given = [parameter("by", "2.5", "FLOAT"), parameter("n", "3", "INT"), parameter("loud", "true", "BOOL"),
             parameter("MODEL_NAME", "Mine")]  # fmt: skip
    graph = unit("in", "TRANSFORMER", leaf("m"), parameters=given)
    model = parts(sdep(graph))["dep-main-in"].predictor.model
    assert model.options == {
        "class": "Mine",
        "parameters": {"by": 2.5, "n": 3, "loud": True},
        "unit": "in",
        "methods": ["transform-input"],
    }


def test_the_containers_environment_names_the_class_too() -> None:
    container = {
        "name": "in",
        "env": [{"name": "MODEL_NAME", "value": "Mine"}, {"name": "A", "value": "b"}],
        "resources": {"limits": {"memory": "1Gi"}},
    }
    specs = [{"spec": {"containers": [container, {"name": "m"}]}, "replicas": 3}]
    found = parts(sdep(unit("in", "TRANSFORMER", leaf("m")), componentSpecs=specs))
    component = found["dep-main-in"].predictor
    assert component.model.options["class"] == "Mine"
    assert component.resources.memory_limit_bytes == 2**30
    assert component.scaling.min_replicas == 3
    env = {e.name: e.value for e in component.env}
    assert env == {
        "A": "b",
        "PREDICTIVE_UNIT_ID": "in",
        "PREDICTOR_ID": "main",
        "SELDON_DEPLOYMENT_ID": "dep",
    }
    assert found["dep-main-m"].predictor.resources.memory_limit_bytes is None


def test_steps_follow_the_tree() -> None:
    graph = unit(
        "out", "OUTPUT_TRANSFORMER", unit("router", "ROUTER", leaf("a"), unit("b", None, leaf("c")))
    )
    (flow,) = assembly(sdep(graph)).graph.flows
    steps = {s.name: s for s in flow.steps}
    assert list(steps) == ["router", "a", "b", "c", "router:children", "out"]
    assert isinstance(steps["router"].action, Router)
    assert steps["a"].gates == (Gate("router", 0),)
    assert steps["b"].gates == steps["c"].gates == (Gate("router", 1),)
    assert [s.step for s in steps["router:children"].inputs.sources] == ["a", "c", "router"]
    assert steps["out"].action.verb is Verb.TRANSFORM_OUTPUT
    assert assembly(sdep(graph)).graph.feedback == (
        ("main", "router"), ("main", "a"), ("main", "b"), ("main", "c"),
    )  # fmt: skip


def test_a_combiner_gets_a_list() -> None:
    (flow,) = assembly(sdep(unit("sum", "COMBINER", leaf("a"), leaf("b")))).graph.flows
    last = flow.steps[-1]
    assert last.action.verb is Verb.AGGREGATE
    assert last.inputs.combine is Combine.LIST
    assert [s.step for s in last.inputs.sources] == ["a", "b"]


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        ({"implementation": "SIMPLE_ROUTER"}, (100.0, 0.0)),
        ({"implementation": "RANDOM_ABTEST"}, (50.0, 50.0)),
        (
            {
                "implementation": "RANDOM_ABTEST",
                "parameters": [parameter("ratioA", "0.2", "FLOAT")],
            },
            (20.0, 80.0),
        ),
    ],
)
def test_built_in_routers_are_splitters(node: Any, weights: Any) -> None:
    graph = {"name": "r", **node, "children": [leaf("a"), leaf("b")]}
    (flow,) = assembly(sdep(graph)).graph.flows
    action = flow.steps[0].action
    assert isinstance(action, Splitter)
    assert action.weights == pytest.approx(weights)


MAB = [
    parameter("n_branches", "2", "INT"),
    parameter("epsilon", "0.3", "FLOAT"),
    parameter("verbose", "1", "BOOL"),
    parameter("branch_names", "rf:xgb"),
    parameter("seed", "7", "INT"),
]


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("seldonio/mab_epsilon_greedy:1.6.0-dev", PolicyName.EPSILON_GREEDY),
        ("docker.io/seldonio/mab_Thompson_sampling:0.7", PolicyName.THOMPSON),
    ],
)
def test_seldons_routers_that_learn_are_bandits(image: str, policy: PolicyName) -> None:
    """The image says what it does, and needs no process here."""
    given = [p for p in MAB if policy is PolicyName.EPSILON_GREEDY or p["name"] != "epsilon"]
    graph = {
        "name": "eg",
        "type": "ROUTER",
        "parameters": given,
        "children": [leaf("a"), leaf("b")],
    }
    containers = [{"name": "eg", "image": image}, {"name": "a"}]
    found = assembly(sdep(graph, componentSpecs=[{"spec": {"containers": containers}}]))
    action = found.graph.flows[0].steps[0].action
    assert isinstance(action, Splitter)
    assert action.arms == ("rf", "xgb")
    assert action.bandit is not None
    assert (action.bandit.policy, action.bandit.seed) == (policy, 7)
    if policy is PolicyName.EPSILON_GREEDY:
        assert action.bandit.epsilon == 0.3
    assert [p["metadata"]["name"] for p in found.parts] == ["dep-main-a", "dep-main-b"]


def test_methods_are_more_than_the_type() -> None:
    graph = unit(
        "both", None, leaf("m"), methods=["TRANSFORM_INPUT", "TRANSFORM_OUTPUT", "SEND_FEEDBACK"]
    )
    found = assembly(sdep(graph))
    assert [s.name for s in found.graph.flows[0].steps] == ["both", "m", "both:transform-output"]
    assert ("main", "both") in found.graph.feedback
    assert parts(sdep(graph))["dep-main-both"].predictor.model.options["methods"] == [
        "transform-input", "transform-output",
    ]  # fmt: skip


def test_predictors_share_requests_and_a_shadow_stands_beside() -> None:
    graph = unit("m", None, leaf("n"))
    found = assembly(
        sdep(
            graph,
            {"name": "b", "graph": graph, "traffic": 30},
            {"name": "copy", "graph": graph, "shadow": True, "traffic": 10},
            traffic=70,
        )
    )
    front = found.graph.flows[0]
    steps = {s.name: s for s in front.steps}
    assert steps["traffic"].action == Splitter((70.0, 30.0))
    assert steps["copies"].action == Splitter((10.0, 90.0))
    assert {p["metadata"]["name"] for p in found.parts} == {
        f"dep-{p}-{n}" for p in ("main", "b", "copy") for n in ("m", "n")
    }


def test_a_long_or_odd_name_still_makes_a_service() -> None:
    found = parts(sdep(unit("My_Transformer", "TRANSFORMER", leaf("m" * 70))))
    first, second = found
    assert first.startswith("dep-main-my-transformer-")
    assert len(second) <= 63


def test_one_class_alone_is_a_service() -> None:
    found = dialects.translate(sdep(unit("m", "MODEL"))).object
    assert isinstance(found, Service)
    assert found.predictor.model.format.name == "seldon"
    assert found.predictor.model.options == {"unit": "m", "methods": ["predict"]}


def test_the_whole_requests_time_is_an_annotation() -> None:
    spec = {"annotations": {"seldon.io/rest-timeout": "1500"}}
    graph = unit("in", "TRANSFORMER", leaf("m"))
    assert assembly(sdep(graph, spec=spec)).graph.timeout_s == 1.5
    assert not any("rest-timeout" in w for w in warnings_of(sdep(graph, spec=spec)))


@pytest.mark.parametrize(
    ("ready", "state"),
    [(Truth.TRUE, "Available"), (Truth.FALSE, "Failed"), (Truth.UNKNOWN, "Creating")],
)
def test_the_status_has_seldons_state(ready: Truth, state: str) -> None:
    manifest = sdep(unit("in", "TRANSFORMER", leaf("m")))
    status = ServiceStatus(
        conditions=(Condition("Ready", ready, "", "dep-main-m is not ready"),), components={}
    )
    rendered = dialects.of(manifest).render_status(manifest, status)
    assert rendered["state"] == state
    assert rendered["description"] == "dep-main-m is not ready"


_G = "spec.predictors[0].graph"
#: (manifest, path of the problem, words of its message)
WRONG: list[tuple[dict[str, Any], str, str]] = [
    (sdep(unit("r", "ROUTER")), f"{_G}.children", "a router needs children"),
    (sdep(unit("c", "COMBINER")), f"{_G}.children", "a combiner needs children"),
    (
        sdep(unit("m", "MODEL", leaf("a"), leaf("b"))),
        f"{_G}.children",
        "put a ROUTER or a COMBINER",
    ),
    (
        sdep(unit("t", "TRANSFORMER", leaf("a"), leaf("b"))),
        f"{_G}.children",
        "2 children, and nobody",
    ),
    (sdep(unit("t", "TRANSFORMR", leaf("a"))), f"{_G}.type", "ROUTER"),
    (sdep(unit("t", "TRANSFORMER", unit("a", "MODLE"))), f"{_G}.children[0].type", "MODEL"),
    (
        sdep(
            unit(
                "t",
                "TRANSFORMER",
                {"name": "a", "implementation": "SKLEARN_SERVR", "modelUri": "x"},
            )
        ),
        f"{_G}.children[0].implementation",
        "did you mean SKLEARN_SERVER?",
    ),
    (
        sdep(builtin("RANDOM_ABTST", leaf("a"), leaf("b"))),
        f"{_G}.implementation",
        "did you mean RANDOM_ABTEST?",
    ),
    (
        sdep(builtin("RANDOM_ABTEST", leaf("a"))),
        f"{_G}.children",
        "two children, not 1",
    ),
    (
        sdep(
            builtin(
                "RANDOM_ABTEST",
                leaf("a"),
                leaf("b"),
                parameters=[parameter("ratioA", "1.5", "FLOAT")],
            )
        ),
        f"{_G}.parameters",
        "between 0 and 1",
    ),
    (
        sdep(
            builtin(
                "RANDOM_ABTEST",
                leaf("a"),
                leaf("b"),
                parameters=[parameter("ratio", "0.5", "FLOAT")],
            )
        ),
        f"{_G}.parameters[0].name",
        "known are ratioA",
    ),
    (
        sdep(builtin("SIMPLE_ROUTER", leaf("a"), type="MODEL")),
        f"{_G}.type",
        "must be ROUTER",
    ),
    (
        sdep(unit("r", "ROUTER", leaf("a"), leaf("a"))),
        f"{_G}.children[1].name",
        "is the name of another",
    ),
    (sdep(unit("r", "ROUTER", leaf("r"))), f"{_G}.children[0].name", "is the name of another"),
    (sdep(unit("a.b", "TRANSFORMER", leaf("m"))), f"{_G}.name", "may not contain"),
    (
        sdep(unit("t", "TRANSFORMER", leaf("m"), parameters=[parameter("by", "much", "FLOAT")])),
        f"{_G}.parameters[0].value",
        "is no FLOAT",
    ),
    (
        sdep(
            unit(
                "t",
                "TRANSFORMER",
                leaf("m"),
                parameters=[parameter("by", "1"), parameter("by", "2")],
            )
        ),
        f"{_G}.parameters[1].name",
        "is the name of another",
    ),
    (sdep(unit("t", "TRANSFORMER", {"name": "m"})), f"{_G}.children[0].modelUri", "Python class"),
    (
        sdep(unit("t", "TRANSFORMER", {**leaf("m"), "modelUri": None})),
        f"{_G}.children[0].modelUri",
        "is required",
    ),
    (
        sdep(unit("t", "TRANSFORMER", {**leaf("m"), "childrn": []})),
        f"{_G}.children[0].childrn",
        "did you mean children?",
    ),
    (
        sdep(unit("t", "TRANSFORMER", {"implementation": "SIMPLE_MODEL"})),
        f"{_G}.children[0].name",
        "is required",
    ),
    (sdep(unit("t", "TRANSFORMER", 5)), f"{_G}.children[0]", "must be a map"),
    (
        sdep(unit("t", "TRANSFORMER", {"name": "m", **SIMPLE, "modelUri": "x"})),
        f"{_G}.children[0].modelUri",
        "has no files",
    ),
    (
        sdep(unit("t", None, leaf("m"), methods=["TRANSFORM_INPT"])),
        f"{_G}.methods[0]",
        "did you mean TRANSFORM_INPUT?",
    ),
    (
        sdep(unit("t", None, leaf("m"), methods=["SEND_FEEDBACK"])),
        f"{_G}.methods",
        "give it a type",
    ),
    (sdep(unit("t", "ROUTER", leaf("m"), methods=["AGGREGATE"])), f"{_G}.methods", "both choose"),
    (
        sdep({**leaf("s"), "methods": ["ROUTE"], "children": [leaf("a")]}),
        f"{_G}.methods",
        "no other methods",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", {**leaf("m"), "parameters": [parameter("metod", "predict")]})
        ),
        f"{_G}.children[0].parameters[0].name",
        "did you mean method?",
    ),
    (
        sdep(unit("t", "TRANSFORMER", {**leaf("m"), "logger": {"mode": "all"}})),
        f"{_G}.children[0].logger",
        "not supported yet",
    ),
    (
        sdep(unit("t", "TRANSFORMER", leaf("m")), explainer={"type": "TreeShap"}),
        "spec.predictors[0].explainer.type",
        "KernelShap asks it instead",
    ),
    (
        sdep(unit("t", "TRANSFORMER", leaf("m")), explainer={"type": "AnchorTable"}),
        "spec.predictors[0].explainer.type",
        "did you mean AnchorTabular?",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            explainer={"type": "KernelShap", "config": {"nsample": "9"}},
        ),
        "spec.predictors[0].explainer.config.nsample",
        "did you mean nsamples?",
    ),
    (
        sdep(unit("t", "TRANSFORMER", leaf("m")), explainer={"type": "ALE", "modelUri": "x.git"}),
        "spec.predictors[0].explainer.type",
        "ALE is not supported",
    ),
    (
        sdep(
            builtin("SIMPLE_ROUTER", {"name": "a", **SIMPLE}, {"name": "b", **SIMPLE}),
            explainer={"type": "AnchorText"},
        ),
        "spec.predictors[0].explainer.modelUri",
        "no node has files",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            explainer={"type": "AnchorText", "modelUri": "https://x/y.git"},
        ),
        "spec.predictors[0].explainer.modelUri",
        "git repositories",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            explainer={"type": "AnchorText", "containerSpec": {"image": "x"}},
        ),
        "spec.predictors[0].explainer.containerSpec.image",
        "only resources and env",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            explainer={
                "type": "AnchorText",
                "containerSpec": {"resources": {"limits": {"cpu": "x"}}},
            },
        ),
        "spec.predictors[0].explainer.containerSpec.resources.limits.cpu",
        "",
    ),
    (
        sdep(unit("explainer", "TRANSFORMER", leaf("m")), explainer={"type": "AnchorText"}),
        "spec.predictors[0].explainer",
        "give the node another name",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            componentSpecs=[{"spec": {"containers": [{"name": "t", "image": "mine:1"}]}}],
        ),
        "spec.predictors[0].componentSpecs[0].spec.containers[0].image",
        "leave the image out",
    ),
    (
        sdep(
            {"name": "t", "type": "TRANSFORMER", "children": [leaf("m")]},
            componentSpecs=[{"spec": {"containers": [{"name": "t", "image": "mine:1"}]}}],
        ),
        "spec.predictors[0].componentSpecs[0].spec.containers[0].image",
        "modelUri of its node",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            componentSpecs=[{"spec": {"containers": [{"name": "x"}]}}],
        ),
        "spec.predictors[0].componentSpecs[0].spec.containers[0]",
        "of no node",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            {"name": "b", "graph": leaf("m"), "traffic": 40},
            traffic=50,
        ),
        "spec.predictors[1].traffic",
        "is 90, not 100",
    ),
    (
        sdep(
            unit("t", "TRANSFORMER", leaf("m")),
            {"name": "main", "graph": leaf("m"), "traffic": 50},
            traffic=50,
        ),
        "spec.predictors[1].name",
        "is the name of another",
    ),
    (
        sdep(
            builtin("EPSILON_GREEDY", leaf("a"), parameters=[parameter("n_branches", "2", "INT")])
        ),
        f"{_G}.parameters",
        "n_branches is 2, the node has 1 children",
    ),
    (
        sdep(
            builtin(
                "EPSILON_GREEDY",
                leaf("a"),
                leaf("b"),
                parameters=[parameter("branch_names", "one")],
            )
        ),
        f"{_G}.parameters",
        "2 different names",
    ),
    (
        sdep(
            builtin(
                "THOMPSON_SAMPLING",
                leaf("a"),
                leaf("b"),
                parameters=[parameter("epsilon", "0.1", "FLOAT")],
            )
        ),
        f"{_G}.parameters[0].name",
        "unknown parameter of THOMPSON_SAMPLING",
    ),
    (
        sdep(unit("t", "TRANSFORMER", leaf("m")), shadow=True),
        "spec.predictors[0].shadow",
        "somebody has to answer",
    ),
    (
        sdep(
            unit("A", "TRANSFORMER", leaf("m")),
            {"name": "b", "graph": leaf("m"), "traffic": 100},
            traffic=50,
        ),
        "spec.predictors[1].traffic",
        "is 150",
    ),
]


@pytest.mark.parametrize(("manifest", "path", "words"), WRONG)
def test_problems_are_told_where_the_user_wrote_them(
    manifest: dict[str, Any], path: str, words: str
) -> None:
    told = [p.partition(": ") for p in problems_of(manifest)]
    assert [m for p, _, m in told if p == path and words in m], told
    assert not any(p.startswith("spec.predictor.") for p, _, _ in told)


def test_a_graph_may_not_be_bottomless() -> None:
    graph = leaf("n0")
    for i in range(1, 40):
        graph = unit(f"n{i}", "TRANSFORMER", graph)
    assert any("more than 32 deep" in p for p in problems_of(sdep(graph)))
    many = unit("r", "ROUTER", *(leaf(f"n{i}") for i in range(70)))
    assert any("71 nodes; at most 64" in p for p in problems_of(sdep(many)))
