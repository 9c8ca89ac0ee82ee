"""SeldonDeployments of one model are services; what is wrong with one is told by its path."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import OWN, isvc, problems_of, warnings_of

from penstock import dialects
from penstock.domain.service import Protocol, Role
from penstock.domain.status import (
    ComponentStatus,
    Condition,
    Failure,
    FailureReason,
    ServiceStatus,
    Transition,
    Truth,
)

V1 = "machinelearning.seldon.io/v1"


def sdep(
    graph: dict[str, Any] | None = None, *, version: str = V1, spec: Any = None, **predictor: Any
) -> dict[str, Any]:
    """A SeldonDeployment of one predictor; `graph` over a scikit-learn server."""
    node = {"name": "classifier", "implementation": "SKLEARN_SERVER", "modelUri": "gs://b/iris"}
    return {
        "apiVersion": version,
        "kind": "SeldonDeployment",
        "metadata": {"name": "iris"},
        "spec": {
            "predictors": [{"name": "default", "graph": {**node, **(graph or {})}, **predictor}],
            **(spec or {}),
        },
    }


def service(manifest: dict[str, Any]) -> Any:
    return dialects.translate(manifest).object


def parameter(name: str, value: str, type_: str = "STRING") -> dict[str, str]:
    return {"name": name, "value": value, "type": type_}


@pytest.mark.parametrize("version", ["v1", "v1alpha2", "v1alpha3"])
def test_a_scikit_learn_server_answers_probabilities_as_seldons_does(version: str) -> None:
    found = service(sdep(version=f"machinelearning.seldon.io/{version}"))
    same = isvc(
        {
            "minReplicas": 1,
            "maxReplicas": 1,
            "sklearn": {
                "storageUri": "gs://b/iris",
                "options": {"method": "predict_proba"},
                "env": [{"name": "PREDICTIVE_UNIT_ID", "value": "classifier"}],
            },
        },
        api_version=OWN,
    )
    assert found == service(same)


def test_parameters_are_options_of_the_runtime() -> None:
    found = service(sdep({"parameters": [parameter("method", "predict")]}))
    assert found.predictor.model.options == {"method": "predict"}


@pytest.mark.parametrize(
    ("implementation", "format_"),
    [
        ("SKLEARN_SERVER", "sklearn"),
        ("XGBOOST_SERVER", "xgboost"),
        ("MLFLOW_SERVER", "mlflow"),
        ("TENSORFLOW_SERVER", "tensorflow"),
        ("HUGGINGFACE_SERVER", "huggingface"),
    ],
)
def test_each_server_is_a_format(implementation: str, format_: str) -> None:
    found = service(sdep({"implementation": implementation}))
    assert found.predictor.model.format.name == format_


def test_with_protocol_v2_the_nodes_name_is_the_models_and_it_predicts() -> None:
    for protocol in ("v2", "kfserving"):
        model = service(sdep(spec={"protocol": protocol})).predictor.model
        assert (model.served_name, model.protocol, model.options) == ("classifier", Protocol.V2, {})
    assert service(sdep()).predictor.model.served_name is None


def test_a_hugging_face_model_is_named_by_a_parameter() -> None:
    graph = {
        "implementation": "HUGGINGFACE_SERVER",
        "modelUri": None,
        "parameters": [
            parameter("task", "text-classification"),
            parameter("pretrained_model", "org/model"),
            parameter("batch_size", "4", "INT"),
        ],
    }
    model = service(sdep(graph)).predictor.model
    assert model.storage.uri == "hf://org/model"
    assert model.options == {"task": "text-classification", "batchSize": 4}


@pytest.mark.parametrize(
    ("manifest", "replicas"),
    [
        (sdep(replicas=3), 3),
        (sdep(spec={"replicas": 4}), 4),
        (sdep(replicas=3, spec={"replicas": 4}), 3),
        (sdep(replicas=3, componentSpecs=[{"replicas": 2, "spec": {}}]), 2),
    ],
)
def test_replicas_are_fixed_and_the_inner_number_wins(manifest: Any, replicas: int) -> None:
    scaling = service(manifest).predictor.scaling
    assert (scaling.min_replicas, scaling.max_replicas) == (replicas, replicas)


def test_no_replicas_means_stopped() -> None:
    assert service(sdep(replicas=0)).stopped
    assert not service(sdep(replicas=1)).stopped


def test_the_nodes_container_gives_environment_and_resources() -> None:
    container = {
        "name": "classifier",
        "env": [{"name": "A", "value": "b"}],
        "resources": {"limits": {"memory": "1Gi"}},
    }
    component = service(sdep(componentSpecs=[{"spec": {"containers": [container]}}])).predictor
    assert component.env[0].value == "b"
    assert component.resources.memory_limit_bytes == 2**30


def test_credentials_are_a_secret_or_an_account() -> None:
    found = service(sdep({"envSecretRefName": "s3", "serviceAccountName": "sa"}))
    assert found.predictor.model.storage.secret == "s3"
    assert found.predictor.service_account == "sa"


_AT = "spec.predictors[0]"
#: (manifest, path of the problem, a word of its message)
WRONG: list[tuple[dict[str, Any], str, str]] = [
    (sdep({"modelUri": None}), f"{_AT}.graph.modelUri", "is required"),
    (sdep({"modelUri": "oci://x"}), f"{_AT}.graph.modelUri", "container images"),
    (sdep({"implementation": "SKLEARN_SERVR"}), f"{_AT}.graph.implementation", "SKLEARN_SERVER"),
    (sdep({"implementation": "RANDOM_ABTEST"}), f"{_AT}.graph.children", "has two children, not 0"),
    (sdep({"implementation": None, "modelUri": None}), f"{_AT}.graph.modelUri", "Python class"),
    (sdep({"children": [{"name": "b"}]}), f"{_AT}.graph.children[0].modelUri", "is required"),
    (sdep({"type": "ROUTER"}), f"{_AT}.graph.type", "MODEL"),
    (sdep({"parameters": [parameter("methd", "predict")]}), f"{_AT}.graph.parameters[0].name", "method"),
    (
        sdep(
            {
                "implementation": "HUGGINGFACE_SERVER",
                "parameters": [parameter("batch_size", "many", "INT")],
            }
        ),
        f"{_AT}.graph.parameters[0].value",
        "is no INT",
    ),
    (sdep(traffic=50), f"{_AT}.traffic", "is 50, not 100"),
    (sdep(shadow=True), f"{_AT}.shadow", "somebody has to answer"),
    (sdep(spec={"serverType": "kafka"}), "spec.serverType", "Kafka"),
    (sdep(grph={}), f"{_AT}.grph", "did you mean graph?"),
    (
        sdep(componentSpecs=[{"spec": {"containers": [{"name": "classifier", "image": "mine:1"}]}}]),
        f"{_AT}.componentSpecs[0].spec.containers[0].image",
        "container",
    ),
    (
        sdep(componentSpecs=[{"spec": {"containers": [{"name": "other"}]}}]),
        f"{_AT}.componentSpecs[0].spec.containers[0]",
        "of no node",
    ),
    (
        sdep(componentSpecs=[{"spec": {"volumes": [{"name": "v"}]}}]),
        f"{_AT}.componentSpecs[0].spec.volumes",
        "container",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("manifest", "path", "word"), WRONG)
def test_problems_are_told_where_the_user_wrote_them(
    manifest: dict[str, Any], path: str, word: str
) -> None:
    told = [p.partition(": ") for p in problems_of(manifest)]
    assert [m for p, _, m in told if p == path and word in m], told
    assert not any(p.startswith("spec.predictor.") for p, _, _ in told)


def several(*predictors: dict[str, Any]) -> dict[str, Any]:
    """A deployment of predictors that differ from the first one by what is given."""
    manifest = sdep()
    (first,) = manifest["spec"]["predictors"]
    manifest["spec"]["predictors"] = [
        {**first, **more, "graph": {**first["graph"], **more.get("graph", {})}}
        for more in predictors
    ]
    return manifest


def test_several_predictors_share_the_requests() -> None:
    found = service(
        several(
            {"name": "main", "traffic": 70},
            {"name": "b", "traffic": 30, "graph": {"modelUri": "b"}},
            {"name": "copy", "shadow": True, "traffic": 10},
        )
    )
    assert found.predictor.name is None
    assert [(c.component.name, c.percent) for c in found.canaries] == [("b", 30), ("copy", 0)]
    assert found.canaries[0].component.model.storage.uri == "b"
    assert (found.traffic.shadow.percent, found.traffic.shadow.to) == (10, "copy")
    # The first that answers is the service's own, wherever it stands.
    found = service(several({"name": "copy", "shadow": True}, {"name": "main", "traffic": 100}))
    assert [c.component.name for c in found.canaries] == ["copy"]
    assert found.traffic.shadow.percent == 100


@pytest.mark.parametrize(
    ("predictors", "place", "word"),
    [
        (
            [{"name": "a", "traffic": 50}, {"name": "b", "traffic": 40}],
            "[1].traffic",
            "is 90, not 100",
        ),
        ([{"name": "a", "traffic": 50}, {"name": "a", "traffic": 50}], "[1].name", "of another"),
        ([{"name": "a"}, {"name": "latest", "traffic": 100}], "[1].name", "another meaning"),
        (
            [{"name": "a"}, {"name": "b", "shadow": True}, {"name": "c", "shadow": True}],
            "[2].shadow",
            "one shadow already",
        ),
        (
            [{"name": "a", "traffic": 50}, {"name": "b", "traffic": 50, "replicas": 3}],
            "[1].replicas",
            "must not be more",
        ),
        (
            [
                {"name": "a", "traffic": 50},
                {"name": "b", "traffic": 50, "graph": {"modelUri": None}},
            ],
            "[1].graph.modelUri",
            "is required",
        ),
    ],
)
def test_problems_of_several_predictors(
    predictors: list[dict[str, Any]], place: str, word: str
) -> None:
    told = [p.partition(": ") for p in problems_of(several(*predictors))]
    assert [m for p, _, m in told if p == f"spec.predictors{place}" and word in m], told


def test_nodes_of_several_predictors_have_names_of_their_own() -> None:
    """As in Seldon's notebook of shadows. Where the path has the name, it has to be the same."""
    named = [
        {"name": "default", "graph": {"name": "iris-default"}},
        {"name": "shadow", "graph": {"name": "iris-shadow"}, "shadow": True},
    ]
    manifest = several(*named)
    found = service(manifest)
    parts = (found.predictor, found.canaries[0].component)
    units = [v.value for c in parts for v in c.env if v.name == "PREDICTIVE_UNIT_ID"]
    assert units == ["iris-default", "iris-shadow"]
    manifest["spec"]["protocol"] = "v2"
    (told,) = problems_of(manifest)
    assert told.startswith("spec.predictors[1].graph.name: must be iris-default: the same requests")


def test_one_problem_is_told_of_an_image_of_each_predictor() -> None:
    pod = {"spec": {"containers": [{"name": "classifier", "image": "mine:1"}]}}
    unit = {"implementation": None, "modelUri": None}
    manifest = several(
        {"name": "a", "traffic": 50, "graph": unit, "componentSpecs": [pod]},
        {"name": "b", "traffic": 50, "graph": unit, "componentSpecs": [pod]},
    )
    told = [p.partition(": ") for p in problems_of(manifest)]
    at = "spec.predictors[{}].componentSpecs[0].spec.containers[0].image"
    assert [p for p, _, _ in told] == [at.format(0), at.format(1)]
    assert all("put the folder of the unit's Python class into modelUri" in m for _, _, m in told)


def test_tritons_server_runs_a_repository() -> None:
    found = service(sdep({"implementation": "TRITON_SERVER"}, spec={"protocol": "v2"}))
    assert found.predictor.model.format.name == "triton"


def test_what_has_no_effect_is_said() -> None:
    manifest = sdep(
        {"endpoint": {"type": "REST"}},
        svcOrchSpec={"replicas": 2},
        spec={"annotations": {"seldon.io/rest-timeout": "1000"}},
    )
    said = [w.partition(": ")[0] for w in warnings_of(manifest)]
    assert f"{_AT}.graph.endpoint" in said
    assert f"{_AT}.svcOrchSpec" in said
    assert 'spec.annotations["seldon.io/rest-timeout"]' in said


@pytest.mark.parametrize(
    ("ready", "transition", "state"),
    [
        (Truth.TRUE, Transition.UP_TO_DATE, "Available"),
        (Truth.FALSE, Transition.IN_PROGRESS, "Creating"),
        (Truth.FALSE, Transition.BLOCKED, "Failed"),
        (Truth.FALSE, Transition.INVALID, "Failed"),
    ],
)
def test_the_status_has_seldons_state(ready: Truth, transition: Transition, state: str) -> None:
    failure = Failure(FailureReason.MODEL_LOAD_FAILED, "no such file")
    status = ServiceStatus(
        conditions=(Condition("Ready", ready),),
        components={Role.PREDICTOR: ComponentStatus(replicas=2, ready_replicas=1)},
        transition=transition,
        failure=failure if state == "Failed" else None,
        address="http://127.0.0.1:8080/serving/default/iris",
    )
    rendered = dialects.find(V1, "SeldonDeployment").render_status(sdep(), status)
    assert rendered["state"] == state
    assert rendered["replicas"] == 2
    assert rendered["address"] == {"url": "http://127.0.0.1:8080/serving/default/iris"}
    assert rendered["deploymentStatus"] == {"iris-default": {"replicas": 2, "availableReplicas": 1}}
    assert rendered.get("description") == ("no such file" if state == "Failed" else None)
