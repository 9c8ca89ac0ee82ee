"""KFServing's manifests of 2019 to 2021 become the same services as KServe's of today."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import isvc, problems_of, valid, warnings_of, with_field

from penstock import dialects
from penstock.dialects.support import Effect, Row
from penstock.domain.service import Role
from penstock.domain.status import (
    CanaryStatus,
    ComponentStatus,
    RevisionTraffic,
    ServiceStatus,
    Truth,
)
from penstock.errors import InvalidManifest

ALPHA1 = "serving.kubeflow.org/v1alpha1"
ALPHA2 = "serving.kubeflow.org/v1alpha2"
EARLY_KINDS = ("KFService", "KFServing", "KFSERVICE", "InferenceService")


def alpha1(default: Any, kind: str = "KFService", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": ALPHA1,
        "kind": kind,
        "metadata": {"name": "iris"},
        "spec": {"default": default, **spec},
    }


def alpha2(predictor: Any, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": ALPHA2,
        "kind": "InferenceService",
        "metadata": {"name": "iris"},
        "spec": {"default": {"predictor": predictor}, **spec},
    }


def service(manifest: dict[str, Any]) -> Any:
    return dialects.translate(manifest).object


@pytest.mark.parametrize("kind", EARLY_KINDS)
@pytest.mark.parametrize("field", ["modelUri", "storageUri"])
def test_v1alpha1_is_the_service_that_v1beta1_says(kind: str, field: str) -> None:
    old = alpha1(
        {"sklearn": {field: "gs://b/iris"}, "minReplicas": 2, "serviceAccountName": "sa"}, kind
    )
    new = isvc(
        {
            "sklearn": {"storageUri": "gs://b/iris"},
            "minReplicas": 2,
            "serviceAccountName": "sa",
        }
    )
    assert service(old) == service(new)


def test_v1alpha2_is_the_service_that_v1beta1_says() -> None:
    old = alpha2(
        {
            "pytorch": {"storageUri": "s3://b/net", "modelClassName": "Net"},
            "parallelism": 3,
            "minReplicas": 0,
            "maxReplicas": 4,
            "batcher": {"maxBatchSize": 8, "maxLatency": 50},
        }
    )
    new = isvc(
        {
            "pytorch": {"storageUri": "s3://b/net", "modelClassName": "Net"},
            "containerConcurrency": 3,
            "minReplicas": 0,
            "maxReplicas": 4,
            "batcher": {"maxBatchSize": 8, "maxLatency": 50},
        }
    )
    assert service(old) == service(new)


def test_the_models_name_and_account_of_a_block_count() -> None:
    found = service(
        alpha1({"sklearn": {"modelUri": "x", "modelName": "flowers", "serviceAccount": "sa"}})
    )
    assert found.predictor.model.served_name == "flowers"
    assert found.predictor.service_account == "sa"


def test_a_custom_container_is_understood() -> None:
    container = {"image": "me/mine:1", "env": [{"name": "A", "value": "b"}]}
    found = service(alpha2({"custom": {"container": container}}))
    assert found.predictor.container.image == "me/mine:1"
    assert found.predictor.env[0].value == "b"


#: (manifest, path of the problem, a word of its message)
WRONG: list[tuple[dict[str, Any], str, str]] = [
    (alpha1({}), "spec.default", "exactly one of"),
    (alpha1({"sklearn": {}}), "spec.default.sklearn.storageUri", "is required"),
    (alpha1({"sklearn": {"modelUri": "oci://x"}}), "spec.default.sklearn.modelUri", "container images"),
    (
        alpha1({"sklearn": {"modelUri": "x", "storageUri": "y"}}),
        "spec.default.sklearn.modelUri",
        "together",
    ),
    (alpha1({"sklearn": {"modelUrl": "x"}}), "spec.default.sklearn.modelUrl", "modelUri"),
    (
        alpha1({"sklearn": {"modelUri": "x", "resources": {"limits": {"cpu": "lots"}}}}),
        "spec.default.sklearn.resources.limits.cpu",
        "",
    ),
    (
        alpha1({"sklearn": {"modelUri": "x", "resources": {"limits": {"gpu": 1.5}}}}),
        "spec.default.sklearn.resources.limits.gpu",
        "whole number of devices",
    ),
    (
        alpha1({"sklearn": {"modelUri": "x"}, "custom": {"container": {"image": "a"}}}),
        "spec.default.custom",
        "together",
    ),
    (
        alpha1({"serviceAccount": "a", "sklearn": {"modelUri": "x", "serviceAccount": "b"}}),
        "spec.default.sklearn.serviceAccount",
        "beside it",
    ),
    (alpha2({"sklearn": {"storageUri": "x"}, "xgboost": {"storageUri": "x"}}), "spec.default.predictor", ""),
    (
        alpha2({"sklearn": {"storageUri": "x"}, "minReplicas": 3, "maxReplicas": 2}),
        "spec.default.predictor.maxReplicas",
        "minReplicas",
    ),
    (alpha2({"custom": {"container": {}}}), "spec.default.predictor.custom.container.image", "required"),
    (
        alpha2({"sklearn": {"storageUri": "x"}}, canaryTrafficPercent=10),
        "spec.canaryTrafficPercent",
        "no spec.canary",
    ),
    (
        alpha2(
            {"sklearn": {"storageUri": "x"}}, canary={"predictor": {"sklearn": {"storageUri": "oci://y"}}}
        ),
        "spec.canary.predictor.sklearn.storageUri",
        "container images",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("manifest", "path", "word"), WRONG)
def test_problems_are_told_where_the_user_wrote_them(
    manifest: dict[str, Any], path: str, word: str
) -> None:
    told = [p.partition(": ") for p in problems_of(manifest)]
    assert [m for p, _, m in told if p == path and word in m], told
    assert not any(p.startswith("spec.predictor") for p, _, _ in told)


def test_a_canary_is_a_predictor_of_its_own() -> None:
    manifest = alpha2(
        {"sklearn": {"storageUri": "x"}, "minReplicas": 1},
        canary={"predictor": {"xgboost": {"modelUri": "y"}, "minReplicas": 2}},
        canaryTrafficPercent=20,
    )
    service = dialects.translate(manifest).object
    (canary,) = service.canaries
    assert (canary.component.name, canary.percent) == ("canary", 20)
    assert canary.component.model.format.name == "xgboost"
    assert canary.component.model.storage.uri == "y"
    assert service.predictor.model.format.name == "sklearn"
    assert service.predictor.name is None
    older = alpha1({"sklearn": {"storageUri": "x"}}, canary={"sklearn": {"storageUri": "y"}})
    (canary,) = dialects.translate(older).object.canaries
    # KFServing's default: a canary without a share is only there to be called.
    assert canary.percent == 0


def test_problems_of_default_and_canary_are_told_together() -> None:
    manifest = alpha2({"sklearn": {}}, canary={"predictor": {"xgboost": {}}})
    told = [p.partition(": ")[0] for p in problems_of(manifest)]
    assert "spec.default.predictor.sklearn.storageUri" in told
    assert "spec.canary.predictor.xgboost.storageUri" in told


def test_the_status_tells_the_canarys_share() -> None:
    status = ServiceStatus(
        components={
            Role.PREDICTOR: ComponentStatus(
                latest_ready_revision="iris-00001",
                ready_replicas=1,
                traffic=(
                    RevisionTraffic("iris-00001", 80),
                    RevisionTraffic("iris-canary-00001", 20),
                ),
            )
        },
        canaries=(CanaryStatus("canary", Truth.TRUE, "", "", 20, revision="iris-canary-00001"),),
    )
    said = dialects.find(ALPHA2, "InferenceService").render_status(alpha2({}), status)
    assert (said["traffic"], said["canaryTraffic"]) == (80, 20)
    assert said["canary"] == {"predictor": {"name": "iris-canary-00001"}}
    older = dialects.find(ALPHA1, "KFService").render_status(alpha1({}), status)
    assert older["canary"] == {"name": "iris-canary-00001", "traffic": 20}


def test_an_unused_canary_share_is_no_problem() -> None:
    assert problems_of(alpha2({"sklearn": {"storageUri": "x"}}, canaryTrafficPercent=0)) == []


def test_warnings_have_the_old_paths_once() -> None:
    said = warnings_of(alpha2({"sklearn": {"storageUri": "x", "runtimeVersion": "0.20"}}))
    assert [w.partition(": ")[0] for w in said] == ["spec.default.predictor.sklearn.runtimeVersion"]


def test_the_status_has_what_old_clients_read() -> None:
    status = ServiceStatus(
        components={
            Role.PREDICTOR: ComponentStatus(latest_ready_revision="iris-00001", ready_replicas=2)
        }
    )
    old = dialects.find(ALPHA2, "InferenceService").render_status(alpha2({}), status)
    assert old["traffic"] == 100
    assert old["default"] == {"predictor": {"name": "iris-00001", "replicas": 2}}
    older = dialects.find(ALPHA1, "KFService").render_status(alpha1({}), status)
    assert older["default"] == {"name": "iris-00001", "replicas": 2, "traffic": 100}
    none_yet = dialects.find(ALPHA2, "InferenceService").render_status(alpha2({}), ServiceStatus())
    assert "traffic" not in none_yet


def row_cases() -> list[Any]:
    return [
        pytest.param(version, kind, row, field, id=f"{version}:{field}")
        for version, kind in ((ALPHA1, "KFService"), (ALPHA2, "InferenceService"))
        for row in dialects.find(version, kind).table.rows
        for field in row.paths()
    ]


@pytest.mark.parametrize(("version", "kind", "row", "field"), row_cases())
def test_each_row_is_told(version: str, kind: str, row: Row, field: str) -> None:
    at = 2 if version == ALPHA1 else 3
    parts = field.split(".")
    block = parts[at] if len(parts) > at + 1 and parts[at] != "batcher" else "sklearn"
    around = parts[2] if parts[2:] and parts[2] in ("transformer", "explainer") else ""
    if parts[1] not in ("default", "canary") or around:
        block = "sklearn"
    component = {block: {"storageUri": "x"}}
    start = alpha1(component) if version == ALPHA1 else alpha2(component)
    if parts[1] == "canary":
        start["spec"]["canary"] = start["spec"]["default"]
    if parts[1] == "canary":
        around = ""
    if around == "explainer" and ((len(parts) > 4 and parts[3] == "alibi") or len(parts) == 4):
        start["spec"]["default"][around] = {"alibi": {"type": "AnchorText"}}
    elif around:
        container = {"name": "kserve-container", "image": "x"}
        start["spec"]["default"][around] = {"custom": {"container": container}}
    dialects.translate(start)
    dialect = dialects.find(version, kind)
    manifest, path = with_field(start, dialect.model, field)
    if row.effect is Effect.REFUSED:
        with pytest.raises(InvalidManifest) as caught:
            dialect.translate(manifest)
        assert (path, row.message) in {(p.path, p.message) for p in caught.value.problems}
    else:
        assert f"{path}: {row.message}" in warnings_of(manifest)


def test_each_known_field_of_a_component_is_read_or_told() -> None:
    from penstock.dialects.kserve.kfserving import Component

    plain = service(alpha1({"sklearn": {"storageUri": "x"}}))
    for name, info in Component.model_fields.items():
        field = info.alias or name
        component = {"sklearn": {"storageUri": "x"}, field: valid(info.annotation)}
        if field in ("sklearn", "tensorrt"):
            continue
        problems = problems_of(alpha1(component))
        assert problems or service(alpha1(component)) != plain, field
