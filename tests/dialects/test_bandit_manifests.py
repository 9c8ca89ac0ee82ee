"""Manifests that ask for a bandit, and those that cannot have one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from penstock import dialects
from penstock.domain.bandit import Bandit, PolicyName
from penstock.domain.graph import Splitter
from penstock.domain.traffic import Rollout, Sticky, Traffic
from penstock.errors import InvalidManifest

NOTE = "penstock.dev/bandit"


def service(
    bandit: Any = None, *, version: str = "penstock.dev/v1alpha1", **spec: Any
) -> dict[str, Any]:
    traffic = {"traffic": {"bandit": bandit}} if bandit is not None else {}
    return {
        "apiVersion": version,
        "kind": "InferenceService",
        "metadata": {"name": "iris"},
        "spec": {
            "predictor": {"sklearn": {"storageUri": "models/iris"}},
            "canary": [
                {
                    "predictor": {"name": "v2", "sklearn": {"storageUri": "models/other"}},
                    "trafficPercent": 50,
                }
            ],
            **traffic,
            **spec,
        },
    }


def noted(manifest: dict[str, Any], text: str) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    changed["metadata"].setdefault("annotations", {})[NOTE] = text
    return changed


GRAPH = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "InferenceGraph",
    "metadata": {"name": "trial"},
    "spec": {
        "nodes": {
            "root": {
                "routerType": "Splitter",
                "steps": [
                    {"serviceName": "a", "weight": 70},
                    {"serviceName": "b", "weight": 30},
                ],
            }
        }
    },
}
PIPELINE = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "Pipeline",
    "metadata": {"name": "trial"},
    "spec": {
        "steps": [
            {
                "name": "which",
                "split": [{"step": "a", "weight": 70}, {"step": "b", "weight": 30}],
                "bandit": {"policy": "ucb1", "exploration": 0.5},
            },
            {"name": "a"},
            {"name": "b"},
        ]
    },
}


def meant(manifest: dict[str, Any]) -> Any:
    return dialects.translate(manifest).object


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("thompson", Bandit(PolicyName.THOMPSON)),
        (
            {"policy": "epsilon-greedy", "epsilon": 0.2},
            Bandit(PolicyName.EPSILON_GREEDY, epsilon=0.2),
        ),
        ({"policy": "epsilon-greedy", "decay": 5.0}, Bandit(PolicyName.EPSILON_GREEDY, decay=5)),
        (
            {
                "policy": "ucb1",
                "exploration": 0.3,
                "rewards": {"min": -1.0, "max": 5.0},
                "window": "2h",
            },
            Bandit(PolicyName.UCB1, exploration=0.3, least=-1, most=5, window_s=7200),
        ),
        ({"policy": "thompson-normal", "seed": 4}, Bandit(PolicyName.THOMPSON_NORMAL, seed=4)),
        (
            {"policy": "linucb", "context": {"features": 3, "header": "X-User"}},
            Bandit(PolicyName.LINUCB, features=3, header="x-user"),
        ),
        (
            {"policy": "linucb", "context": {"features": 3, "tensor": "x"}},
            Bandit(PolicyName.LINUCB, features=3, tensor="x"),
        ),
    ],
)
def test_a_policy_and_its_settings(given: Any, expected: Bandit) -> None:
    assert meant(service(given)).traffic.bandit == expected


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ("thomson", "spec.traffic.bandit.policy", "thompson"),
        ({"epsilon": 0.2}, "spec.traffic.bandit.policy", "required"),
        ({"policy": "ucb1", "epsilon": 0.2}, "spec.traffic.bandit", "epsilon-greedy alone"),
        ({"policy": "epsilon-greedy", "epsilon": 2.0}, "spec.traffic.bandit.epsilon", "1"),
        (
            {"policy": "epsilon-greedy", "epsilon": 0.1, "decay": 1.0},
            "spec.traffic.bandit",
            "one of",
        ),
        ({"policy": "thompson", "exploration": 1.0}, "spec.traffic.bandit", "ucb1 and linucb"),
        ({"policy": "linucb"}, "spec.traffic.bandit", "context"),
        (
            {"policy": "ucb1", "context": {"features": 1, "tensor": "x"}},
            "spec.traffic.bandit",
            "context",
        ),
        (
            {"policy": "linucb", "context": {"features": 33, "tensor": "x"}},
            "spec.traffic.bandit.context.features",
            "32",
        ),
        ({"policy": "linucb", "context": {"features": 3}}, "spec.traffic.bandit.context", "one of"),
        ({"policy": "ucb1", "rewards": {"min": 1.0}}, "spec.traffic.bandit", "more"),
        ({"policy": "ucb1", "window": "8d"}, "spec.traffic.bandit", "duration"),
        ({"policy": "ucb1", "window": "169h"}, "spec.traffic.bandit", "168h"),
        ({"policy": "ucb1", "arms": 3}, "spec.traffic.bandit.arms", ""),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(given: Any, where: str, said: str) -> None:
    with pytest.raises(InvalidManifest) as refused:
        meant(service(given))
    (problem,) = refused.value.problems
    assert problem.path == where
    assert said in problem.message


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"traffic": {"bandit": "ucb1", "sticky": {"header": "x-user"}}}, "x-user"),
        ({"rollout": {}}, "beside traffic.bandit, which makes arms of named predictors, it may"),
        (
            {"traffic": {"bandit": "ucb1"}, "rollout": {"steps": [50, 99]}},
            "must leave 1% for each of the 2 arms: 98 at most",
        ),
        (
            {
                "traffic": {"bandit": "ucb1"},
                "rollout": {},
                "canary": None,
                "predictor": {"canaryTrafficPercent": 5, "sklearn": {"storageUri": "models/iris"}},
            },
            "may not be given together with canaryTrafficPercent",
        ),
        (
            {"traffic": {"bandit": "ucb1", "shadow": {}}, "rollout": {}, "canary": None},
            "may not be given together with traffic.shadow",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(spec: dict[str, Any], said: str) -> None:
    manifest = service(**spec)
    if manifest["spec"]["canary"] is None:
        del manifest["spec"]["canary"]
    with pytest.raises(InvalidManifest, match=said):
        meant(manifest)


def test_a_rollout_goes_together_with_a_bandit_and_its_arms() -> None:
    for manifest in (service("ucb1", rollout={}), noted(service(rollout={}), "ucb1")):
        found = meant(manifest)
        assert found.traffic == Traffic(rollout=Rollout(), bandit=Bandit(PolicyName.UCB1))
        assert [c.percent for c in found.canaries] == [50]
    alone = service("ucb1", rollout={"steps": [99]})
    del alone["spec"]["canary"]
    assert meant(alone).traffic.rollout == Rollout((99,))


def test_a_bandit_goes_with_clients_that_keep_their_arm_and_with_a_transformer() -> None:
    transformer = {"python": {"class": "t.py:T", "storageUri": "models/t"}}
    found = meant(service(traffic={"bandit": "ucb1", "sticky": {}}, transformer=transformer))
    assert found.traffic.bandit == Bandit(PolicyName.UCB1)
    assert found.traffic.sticky == Sticky("")


@pytest.mark.parametrize("version", ["serving.kserve.io/v1beta1", "penstock.dev/v1alpha1"])
@pytest.mark.parametrize(
    "text", ["ucb1", '{"policy": "ucb1"}', "policy: ucb1\n"], ids=["name", "json", "yaml"]
)
def test_an_annotation_says_it_in_other_dialects(version: str, text: str) -> None:
    assert meant(noted(service(version=version), text)).traffic.bandit == Bandit(PolicyName.UCB1)


def test_an_annotation_makes_every_splitter_of_a_graph_learn() -> None:
    (flow,) = meant(noted(GRAPH, "thompson")).flows
    (splitter,) = [s.action for s in flow.steps if isinstance(s.action, Splitter)]
    assert splitter.bandit == Bandit(PolicyName.THOMPSON)
    assert splitter.weights == (70, 30)
    assert len(set(splitter.arms)) == 2
    assert meant(GRAPH).bandits() == {}


@pytest.mark.parametrize(
    "text", ["", "nobody", "[1]", "{", '{"policy": "ucb1", "epsilon": 1}', "x" * 5000]
)
def test_an_annotation_that_cannot_be_read_is_refused(text: str) -> None:
    for manifest in (service(version="serving.kserve.io/v1beta1"), GRAPH):
        with pytest.raises(InvalidManifest) as refused:
            meant(noted(manifest, text))
        assert refused.value.problems[0].path.startswith(f'metadata.annotations["{NOTE}"]')


def test_a_graph_without_a_splitter_cannot_learn() -> None:
    graph = copy.deepcopy(GRAPH)
    graph["spec"]["nodes"]["root"] = {"routerType": "Sequence", "steps": [{"serviceName": "a"}]}
    with pytest.raises(InvalidManifest, match="no splitter"):
        meant(noted(graph, "ucb1"))


def test_it_is_said_once() -> None:
    with pytest.raises(InvalidManifest, match="twice"):
        meant(noted(service("ucb1"), "ucb1"))


def test_a_pipelines_splits_learn() -> None:
    graph = meant(PIPELINE)
    assert graph.bandits() == {"pipeline.which": ("a", "b")}
    splitter = graph.flows[0].steps[0].action
    assert splitter.arms == ("a", "b")
    assert splitter.bandit == Bandit(PolicyName.UCB1, exploration=0.5)
    wrong = copy.deepcopy(PIPELINE)
    wrong["spec"]["steps"][1]["bandit"] = "ucb1"
    with pytest.raises(InvalidManifest) as refused:
        meant(wrong)
    assert refused.value.problems[0].path == "spec.steps[1].bandit"


def test_seldons_predictors_and_ab_tests_learn_by_the_annotation() -> None:
    def deployment(*predictors: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": "machinelearning.seldon.io/v1",
            "kind": "SeldonDeployment",
            "metadata": {"name": "trial"},
            "spec": {"predictors": list(predictors)},
        }

    def model(name: str) -> dict[str, Any]:
        return {"name": name, "implementation": "SKLEARN_SERVER", "modelUri": "models/iris"}

    two = deployment(
        {"name": "main", "traffic": 60, "graph": model("a")},
        {"name": "other", "traffic": 40, "graph": model("a")},
    )
    assert meant(noted(two, "thompson")).traffic.bandit == Bandit(PolicyName.THOMPSON)
    graph = {"name": "ab", "implementation": "RANDOM_ABTEST", "children": [model("a"), model("b")]}
    one = deployment({"name": "main", "graph": graph})
    (arms,) = meant(noted(one, "ucb1")).graph.bandits().values()
    assert len(set(arms)) == 2


def test_kfservings_canary_learns_by_the_annotation() -> None:
    manifest = {
        "apiVersion": "serving.kubeflow.org/v1alpha2",
        "kind": "InferenceService",
        "metadata": {"name": "trial"},
        "spec": {
            "default": {"predictor": {"sklearn": {"storageUri": "models/iris"}}},
            "canary": {"predictor": {"sklearn": {"storageUri": "models/other"}}},
            "canaryTrafficPercent": 20,
        },
    }
    assert meant(noted(manifest, "ucb1")).traffic.bandit == Bandit(PolicyName.UCB1)


@pytest.mark.parametrize("kind", ["Secret", "ServiceAccount"])
def test_other_kinds_cannot_learn(kind: str) -> None:
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}}
    with pytest.raises(InvalidManifest, match="no meaning"):
        meant(noted(manifest, "ucb1"))
