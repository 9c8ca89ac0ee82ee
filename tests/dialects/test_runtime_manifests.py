"""ServingRuntime and ClusterServingRuntime, KServe's and our own."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from dialect_manifests import problems_of, warnings_of

from penstock import dialects
from penstock.domain.runtime_selection import select
from penstock.domain.service import EnvVar, Model, ModelFormat, Protocol, Storage
from penstock.domain.serving_runtime import ServingRuntime, SupportedFormat

KSERVE = "serving.kserve.io/v1alpha1"
OWN = "penstock.dev/v1alpha1"

MLSERVER = """
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata:
  name: kserve-mlserver
  creationTimestamp: "2023-11-14T22:13:20Z"
spec:
  annotations: {prometheus.kserve.io/port: "8080"}
  supportedModelFormats:
    - {name: sklearn, version: "1", autoSelect: true, priority: 2}
    - {name: mlflow, version: "1", autoSelect: true, priority: 1}
    - {name: theirs, version: "1", autoSelect: true}
  protocolVersions: [v2]
  containers:
    - name: kserve-container
      image: docker.io/seldonio/mlserver:1.5.0
      env:
        - {name: MLSERVER_MODEL_IMPLEMENTATION, value: "{{.Labels.modelClass}}"}
      securityContext: {privileged: false}
      resources: {requests: {cpu: "1", memory: 2Gi}, limits: {cpu: "1", memory: 2Gi}}
"""


def runtime(
    spec: dict[str, Any], *, kind: str = "ServingRuntime", api_version: str = KSERVE
) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "mine"}, "spec": spec}


def test_kserves_own_runtime_is_recognised_by_its_image() -> None:
    found = dialects.translate(yaml.safe_load(MLSERVER)).object
    assert isinstance(found, ServingRuntime)
    assert (found.name, found.namespace) == ("kserve-mlserver", "")
    assert found.formats[0] == SupportedFormat("sklearn", "1", True, 2)
    assert found.formats[2].priority is None
    assert found.protocols == (Protocol.V2,)
    assert found.frameworks == {"sklearn": "sklearn", "mlflow": "mlflow"}
    assert found.created == 1_700_000_000
    assert found.annotations == {"prometheus.kserve.io/port": "8080"}
    assert found.pod["containers"][0]["image"] == "docker.io/seldonio/mlserver:1.5.0"
    # The server's own environment says nothing to the framework here.
    assert found.env == ()
    model = Model(ModelFormat("sklearn"), Storage("x"), protocol=Protocol.V2)
    assert select(model, [found]).runtime.name == "kserve-mlserver"


def test_a_runtime_with_an_unknown_image_is_a_container() -> None:
    found = dialects.translate(
        runtime(
            {
                "supportedModelFormats": [{"name": "sklearn", "autoSelect": True}],
                "containers": [
                    {
                        "name": "kserve-container",
                        "image": "me/server",
                        "env": [{"name": "A", "value": "b"}],
                    }
                ],
            }
        )
    ).object
    assert found.namespace == "default"
    assert found.frameworks == {}
    assert found.env == (EnvVar("A", "b"),)


def test_our_own_runtime_names_its_framework() -> None:
    found = dialects.translate(
        runtime(
            {
                "supportedModelFormats": [{"name": "iris", "autoSelect": True, "priority": 3}],
                "framework": "sklearn",
                "options": {"method": "predict_proba"},
            },
            api_version=OWN,
        )
    ).object
    assert found.frameworks == {"iris": "sklearn"}
    assert found.options == {"method": "predict_proba"}
    selection = select(Model(ModelFormat("iris"), Storage("x")), [found])
    assert (selection.runtime, selection.framework) == (found, "sklearn")


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (runtime({}), "spec.containers: is required"),
        (runtime({}, api_version=OWN), "spec.containers: is required or framework"),
        (runtime({"containers": [{"image": "x"}]}), "spec.containers[0].name: is required"),
        (
            runtime({"framework": "scikit"}, api_version=OWN),
            "spec.framework: must be one of catboost, custom, explainer, huggingface, lightgbm, mlflow, "
            "mlserver_python, onnx, seldon_python, sklearn, tensorflow, torch, transformer, "
            "triton_ensemble, triton_python, xgboost",
        ),
        (runtime({"framework": "sklearn"}), "spec.framework: unknown field"),
        (
            runtime({"containers": [{"name": "c"}], "protocolVersions": ["v3"]}),
            "spec.protocolVersions[0]: must be 'v1', 'v2', 'grpc-v1' or 'grpc-v2'",
        ),
        (
            runtime({"containers": [{"name": "c"}], "supportedModelFormats": [{"name": "a", "priority": 0}]}),
            "spec.supportedModelFormats[0].priority: must be 1 or more",
        ),
        (
            runtime({"containers": [{"name": "c"}], "supportedModelFormats": [{"version": "1"}]}),
            "spec.supportedModelFormats[0].name: is required",
        ),
        (
            runtime(
                {
                    "containers": [{"name": "c"}],
                    "supportedModelFormats": [
                        {"name": "a", "version": "1", "autoSelect": True, "priority": 1},
                        {"name": "a", "version": "2", "autoSelect": True, "priority": 2},
                    ],
                }
            ),
            "spec.supportedModelFormats[1].priority: must be the same in every entry of a",
        ),
        (
            runtime({"containers": [{"name": "c"}], "workerSpec": {}}),
            "spec.workerSpec.containers: is required",
        ),
        (
            runtime({"containers": [{"name": "c"}], "disbled": True}),
            "spec.disbled: unknown field, did you mean disabled?",
        ),
        (
            {**runtime({"containers": [{"name": "c"}]}, kind="ClusterServingRuntime"),
             "metadata": {"name": "x", "namespace": "y"}},
            "metadata.namespace: must be absent: the kind is cluster-scoped",
        ),
    ],
)  # fmt: skip
def test_problems(manifest: dict[str, Any], problem: str) -> None:
    assert problems_of(manifest) == [problem]


def test_what_is_for_modelmesh_has_no_effect() -> None:
    manifest = runtime(
        {
            "containers": [{"name": "c"}],
            "multiModel": True,
            "grpcEndpoint": "port:8085",
            "builtInAdapter": {"serverType": "mlserver"},
            "workerSpec": {"containers": [{"name": "w"}], "pipelineParallelSize": 2},
        }
    )
    assert [w.partition(":")[0] for w in warnings_of(manifest)] == [
        "spec.multiModel",
        "spec.grpcEndpoint",
        "spec.builtInAdapter",
        "spec.workerSpec",
    ]
    found = dialects.translate(manifest).object
    assert found.multi_model
    assert found.multi_node
