"""Seldon Core V2's Models are services, its Servers are runtimes that a Model may be pinned to."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import OWN, isvc, problems_of, warnings_of

from penstock import dialects
from penstock.domain.runtime_selection import RuntimeNotSelected, select
from penstock.domain.service import Role
from penstock.domain.status import ComponentStatus, Condition, ServiceStatus, Truth

V2 = "mlops.seldon.io/v1alpha1"


def model(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": V2,
        "kind": "Model",
        "metadata": {"name": "iris"},
        "spec": {"storageUri": "gs://b/iris", "requirements": ["sklearn"], **spec},
    }


def server(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": V2,
        "kind": "Server",
        "metadata": {"name": "mine"},
        "spec": {"serverConfig": "mlserver", **spec},
    }


def service(**spec: Any) -> Any:
    return dialects.translate(model(**spec)).object


def test_a_model_is_a_service_of_one_fixed_replica() -> None:
    same = isvc(
        {
            "minReplicas": 1,
            "maxReplicas": 1,
            "model": {
                "modelFormat": {"name": "sklearn"},
                "storageUri": "gs://b/iris",
                "protocolVersion": "v2",
            },
        },
        api_version=OWN,
    )
    assert service() == dialects.translate(same).object
    assert select(service().predictor.model).framework == "sklearn"


@pytest.mark.parametrize(
    "requirement",
    ["sklearn", "xgboost", "lightgbm", "mlflow", "huggingface", "onnx", "pytorch", "tensorflow"],
)
def test_every_format_finds_a_runtime(requirement: str) -> None:
    assert select(service(requirements=["mlserver", requirement]).predictor.model).framework


def test_the_type_of_a_model_counts_as_a_requirement() -> None:
    found = service(requirements=None, modelType="xgboost")
    assert found.predictor.model.format.name == "xgboost"


@pytest.mark.parametrize("server", ["mlserver", "triton"])
def test_a_server_alone_means_that_the_folder_says_the_format(server: str) -> None:
    """As in Seldon's example of cyclic pipelines."""
    for requirements in ([server], [server, "python"]):
        assert service(requirements=requirements).predictor.model.format.name == server


def test_parameters_come_to_mlservers_runtimes() -> None:
    """As in Seldon's example of a query by pandas."""
    query = {"name": "query", "value": "choice == 1"}
    found = service(requirements=["mlserver", "python"], parameters=[query]).predictor.model
    assert dict(found.options) == {"extra": {"query": "choice == 1"}}


def test_memory_version_secret_and_server() -> None:
    found = service(memory="100Ki", artifactVersion=3, secretName="minio", server="mine")
    assert found.predictor.resources.memory_request_bytes == 100 * 1024
    assert found.predictor.model.storage.uri == "gs://b/iris/3"
    assert found.predictor.model.storage.secret == "minio"
    assert found.predictor.model.runtime == "mine"


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        ({"replicas": 3}, 3, 3),
        ({"minReplicas": 2}, 2, 2),
        ({"replicas": 3, "minReplicas": 1}, 1, 3),
        ({"minReplicas": 2, "maxReplicas": 5}, 2, 5),
        ({"minReplicas": 0, "maxReplicas": 5}, 1, 5),
    ],
)
def test_replicas_move_only_between_given_bounds(spec: Any, low: int, high: int) -> None:
    scaling = service(**spec).predictor.scaling
    assert (scaling.min_replicas, scaling.max_replicas) == (low, high)


def test_no_replicas_means_stopped() -> None:
    assert service(replicas=0).stopped
    assert not service().stopped


def test_an_explainer_names_the_model_it_asks() -> None:
    found = service(
        requirements=["alibi-explain"],
        explainer={"type": "anchor_tabular", "modelRef": "income"},
        parameters=[{"name": "threshold", "value": "0.9"}],
    ).predictor.model
    assert found is not None
    assert found.format.name == "explainer"
    assert dict(found.options) == {
        "type": "AnchorTabular", "config": {"threshold": 0.9}, "predictor": "income",
    }  # fmt: skip


def test_an_explainer_may_ask_a_pipeline() -> None:
    found = service(
        requirements=["alibi-explain"], explainer={"type": "anchor_tabular", "pipelineRef": "p"}
    ).predictor.model
    assert found is not None
    assert found.options["predictor"] == "p"


#: (manifest, path of the problem, a word of its message)
WRONG: list[tuple[dict[str, Any], str, str]] = [
    (model(requirements=["skleran"]), "spec.requirements[0]", "did you mean sklearn?"),
    (model(requirements=["sklearn", "big"]), "spec.requirements[1]", "no server has"),
    (model(requirements=["sklearn", "xgboost"]), "spec.requirements[1]", "sklearn already"),
    (model(requirements=["alibi-detect"]), "spec.requirements[0]", "not supported"),
    (model(requirements=[]), "spec.requirements", "must name a format"),
    (model(storageUri="oci://x"), "spec.storageUri", "container images"),
    (model(storagUri="x"), "spec.storagUri", "did you mean storageUri?"),
    (model(memory="lots"), "spec.memory", ""),
    (model(minReplicas=3, maxReplicas=2), "spec.maxReplicas", "minReplicas"),
    (model(logger={"percent": 100}), "spec.logger", "not supported yet"),
    (model(explainer={"type": "anchor_tabular"}), "spec.explainer.modelRef", "is required"),
    (
        model(explainer={"type": "anchor_table", "modelRef": "m"}),
        "spec.explainer.type",
        "there is no explainer",
    ),
    (
        model(explainer={"type": "tree_shap", "modelRef": "m"}),
        "spec.explainer.type",
        "looks into the model",
    ),
    (
        model(explainer={"type": "anchor_text", "modelRef": "m", "pipelineRef": "p"}),
        "spec.explainer.pipelineRef",
        "modelRef says already",
    ),
    (
        model(
            explainer={"type": "anchor_text", "modelRef": "m"},
            parameters=[{"name": "treshold", "value": "0.9"}],
        ),
        "spec.parameters[0]",
        "did you mean threshold?",
    ),
    (model(parameters=[{"name": "a", "value": "b"}]), "spec.parameters[0].name", "is not read"),
    (server(serverConfig="own"), "spec.capabilities", "is required"),
    ({**model(), "kind": "SeldonConfig"}, "kind", "Seldon's own components"),
    ({**model(), "kind": "Modle"}, "kind", "did you mean Model?"),
]


@pytest.mark.parametrize(("manifest", "path", "word"), WRONG)
def test_problems_are_told_where_the_user_wrote_them(
    manifest: dict[str, Any], path: str, word: str
) -> None:
    told = [p.partition(": ") for p in problems_of(manifest)]
    assert [m for p, _, m in told if p == path and word in m], told
    assert not any(p.startswith("spec.predictor") for p, _, _ in told)


def test_a_pinned_model_needs_a_server_that_can() -> None:
    mlserver = dialects.translate(server()).object
    triton = dialects.translate(server(serverConfig="triton")).object
    pinned = service(server="mine").predictor.model
    assert select(pinned, [mlserver]).framework == "sklearn"
    with pytest.raises(RuntimeNotSelected):
        select(pinned, [triton])
    with pytest.raises(RuntimeNotSelected):
        select(pinned, [])


def test_a_server_is_never_selected_by_itself() -> None:
    mine = dialects.translate(server()).object
    assert select(service().predictor.model, [mine]).runtime.name != "mine"


def test_capabilities_take_the_place_of_the_shipped_ones_and_extra_ones_add() -> None:
    def formats(**spec: Any) -> set[str]:
        return {f.name for f in dialects.translate(server(**spec)).object.formats}

    assert formats() == {"huggingface", "lightgbm", "mlflow", "sklearn", "xgboost"}
    assert formats(capabilities=["onnx"], extraCapabilities=["sklearn"]) == {"onnx"}
    assert formats(extraCapabilities=["onnx"]) == {*formats(), "onnx"}
    assert [w for w in warnings_of(server(replicas=2)) if w.startswith("spec.replicas: ")]


def test_the_status_has_seldons_fields() -> None:
    status = ServiceStatus(
        conditions=(Condition("Ready", Truth.TRUE),),
        components={Role.PREDICTOR: ComponentStatus(replicas=2, ready_replicas=1)},
    )
    rendered = dialects.find(V2, "Model").render_status(model(), status)
    assert (rendered["replicas"], rendered["availableReplicas"]) == (2, 1)
    assert {"type": "ModelReady", "status": "True"} in rendered["conditions"]
