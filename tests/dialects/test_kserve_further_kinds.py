"""TrainedModel, LocalModelCache and ClusterStorageContainer: what they mean, and what is wrong with one."""

from __future__ import annotations

from typing import Any

import pytest
from dialect_manifests import isvc, problems_of, warnings_of

from penstock import dialects
from penstock.domain.local_model import LocalModel
from penstock.domain.service import Storage
from penstock.domain.status import ServiceStatus
from penstock.errors import InvalidManifest

ALPHA = "serving.kserve.io/v1alpha1"


def manifest(kind: str, spec: Any, name: str = "m", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": ALPHA,
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


def trained(**spec: Any) -> dict[str, Any]:
    model = {"storageUri": "gs://b/m", "framework": "sklearn", "memory": "256Mi"}
    return manifest("TrainedModel", {"inferenceService": "host", "model": model, **spec})


def test_a_trained_model_is_a_service_with_a_parent() -> None:
    service = dialects.translate(trained()).object
    assert (service.name, service.parent) == ("m", "host")
    assert service.predictor.model.format.name == "sklearn"
    assert service.predictor.resources.memory_request_bytes == 256 * 2**20
    status = ServiceStatus(url="http://x/serving/default/m")
    rendered = dialects.of(trained()).render_status(trained(), status)
    assert rendered["url"] == "http://x/serving/default/host/v1/models/m:predict"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"inferenceService": "Host"}, "spec.inferenceService"),
        ({"inferenceService": "m"}, "spec.inferenceService"),
        ({"model": {"storageUri": "x", "framework": "sklearn"}}, "spec.model.memory"),
        (
            {"model": {"storageUri": "oci://x", "framework": "sklearn", "memory": 1}},
            "spec.model.storageUri",
        ),
        (
            {"model": {"storageUri": "x", "framework": "sklearn", "memory": "much"}},
            "spec.model.memory",
        ),
    ],
)
def test_problems_of_a_trained_model(spec: dict[str, Any], path: str) -> None:
    told = [p.partition(": ")[0] for p in problems_of(trained(**spec))]
    assert path in told, told


def test_a_trained_model_keeps_its_parent_and_its_memory() -> None:
    dialect = dialects.of(trained())
    dialect.check_update(trained(), trained())
    with pytest.raises(InvalidManifest, match="cannot change from host"):
        dialect.check_update(trained(), trained(inferenceService="other"))


def test_a_predictor_without_a_model_is_for_trained_models() -> None:
    assert warnings_of(isvc({"sklearn": {}})) == [
        "spec.predictor.sklearn.storageUri: there is none, so the service has no model of its own; "
        "it is one that TrainedModels are added to"
    ]
    # What KServe has no server for several models for stays a mistake, and so it does in our own dialect.
    assert problems_of(isvc({"onnx": {}}))
    assert problems_of(isvc({"model": {"modelFormat": {"name": "sklearn"}}}))
    assert problems_of(isvc({"sklearn": {}}, api_version="penstock.dev/v1alpha1"))


def cache(**spec: Any) -> dict[str, Any]:
    return manifest("LocalModelCache", {"sourceModelUri": "gs://b/m", "modelSize": "1Gi", **spec})


def test_a_cached_model() -> None:
    found = dialects.translate(cache(storage={"key": "k"}, serviceAccountName="sa"))
    assert found.object == LocalModel(
        "", "m", Storage("gs://b/m", key="k", service_account="sa"), 2**30
    )
    assert warnings_of(cache(nodeGroups=["workers"])) == [
        "spec.nodeGroups: this machine is the only node"
    ]
    spec = {"sourceModelUri": "x", "modelSize": 10}
    named = manifest("LocalModelNamespaceCache", spec, namespace="team")
    assert dialects.translate(named).object.key == "team/m"
    assert problems_of(cache(modelSize="big"))
    dialect = dialects.of(cache())
    with pytest.raises(InvalidManifest, match="delete the cache"):
        dialect.check_update(cache(), cache(sourceModelUri="gs://b/other"))


@pytest.mark.parametrize(
    ("formats", "path"),
    [
        ([{"prefix": "gs://"}, {"regex": r"https://(.+?)\.blob\.core"}], None),
        ([{"prefix": "s3://mine/"}], None),
        ([{"prefix": "model-registry://"}], "spec.supportedUriFormats[0].prefix"),
        ([{"regex": "custom://.*"}], "spec.supportedUriFormats[0].regex"),
        ([{"regex": "gs://("}], "spec.supportedUriFormats[0].regex"),
        ([{}], "spec.supportedUriFormats[0]"),
    ],
)
def test_a_storage_container(formats: Any, path: str | None) -> None:
    made = manifest(
        "ClusterStorageContainer",
        {"container": {"image": "x"}, "supportedUriFormats": formats},
    )
    told = [p.partition(": ")[0] for p in problems_of(made)]
    assert told == ([path] if path else [])
    if path is None:
        assert warnings_of(made) == [
            "spec.container: models are fetched by the platform itself, without a container"
        ]
