"""Everything that is wrong with a manifest is told at once, by path, with what was probably meant."""

# ruff: noqa: E501 - a row of a table reads better in one line

from __future__ import annotations

import copy
from typing import Any

import pytest
from dialect_manifests import KSERVE, OWN, isvc, problems_of
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import dialects
from penstock.errors import InvalidManifest

GOOD = {"sklearn": {"storageUri": "models/iris"}}


def changed(**predictor: Any) -> dict[str, Any]:
    return isvc({**copy.deepcopy(GOOD), **predictor})


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        # Typos
        (isvc({"sklern": {}}), "spec.predictor.sklern: unknown field, did you mean sklearn?"),
        (isvc({"SKLearn": {}}), "spec.predictor.SKLearn: unknown field, did you mean sklearn?"),
        (isvc({"xgbost": {}}), "spec.predictor.xgbost: unknown field, did you mean xgboost?"),
        (changed(minReplica=1), "spec.predictor.minReplica: unknown field, did you mean minReplicas?"),
        (changed(min_replicas=1), "spec.predictor.min_replicas: unknown field, did you mean minReplicas?"),
        (changed(zzz=1), "spec.predictor.zzz: unknown field"),
        (
            isvc({"keras": {"storageUri": "x"}}),
            "spec.predictor.keras: unknown field; there are sklearn, xgboost, tensorflow, pytorch, triton, "
            "onnx, huggingface, pmml, lightgbm, paddle, model",
        ),
        (
            isvc({"sklearn": {"storageURI": "x"}}),
            "spec.predictor.sklearn.storageURI: unknown field, did you mean storageUri?",
        ),
        (
            isvc({"sklearn": {"storage_uri": "x"}}),
            "spec.predictor.sklearn.storage_uri: unknown field, did you mean storageUri?",
        ),
        (
            isvc({"model": {"modelFormat": {"nam": "x"}}}),
            "spec.predictor.model.modelFormat.nam: unknown field, did you mean name?",
        ),
        (
            changed(batcher={"maxBatchsize": 3}),
            "spec.predictor.batcher.maxBatchsize: unknown field, did you mean maxBatchSize?",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "env": [{"nmae": "A"}]}}),
            "spec.predictor.sklearn.env[0].nmae: unknown field, did you mean name?",
        ),
        (
            {**isvc(GOOD), "spce": {}},
            "spce: unknown field, did you mean spec?",
        ),
        (
            isvc(GOOD, lables={}),
            "metadata.lables: unknown field, did you mean labels?",
        ),
        # Right names in the wrong place
        (
            changed(storageUri="x"),
            "spec.predictor.storageUri: unknown field; storageUri belongs at "
            "spec.predictor.sklearn.storageUri or spec.predictor.xgboost.storageUri",
        ),
        (
            {**isvc(GOOD), "spec": {"sklearn": {"storageUri": "x"}}},
            "spec.sklearn: unknown field; sklearn belongs at spec.predictor.sklearn",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "minReplicas": 1}}),
            "spec.predictor.sklearn.minReplicas: unknown field; minReplicas belongs at "
            "spec.predictor.minReplicas",
        ),
        (
            {**isvc(GOOD), "spec": {"predictor": GOOD, "nodeName": "kube-01"}},
            "spec.nodeName: unknown field; nodeName belongs at spec.predictor.nodeName or spec.transformer.nodeName",
        ),
        # Types
        (changed(minReplicas="1"), "spec.predictor.minReplicas: must be a whole number, not a string"),
        (changed(minReplicas=1.0), "spec.predictor.minReplicas: must be a whole number, not a number with a fraction"),
        (changed(minReplicas=True), "spec.predictor.minReplicas: must be a whole number, not true or false"),
        (changed(minReplicas=-1), "spec.predictor.minReplicas: must be 0 or more"),
        (changed(canaryTrafficPercent=101), "spec.predictor.canaryTrafficPercent: must be 100 or less"),
        (changed(scaleMetric="qps"), "spec.predictor.scaleMetric: must be 'cpu', 'memory', 'concurrency' or 'rps'"),
        (changed(sklearn="models/iris"), "spec.predictor.sklearn: must be a map, not a string"),
        (changed(sklearn=[]), "spec.predictor.sklearn: must be a map, not a list"),
        (changed(tolerations={}), "spec.predictor.tolerations: must be a list, not a map"),
        (changed(hostNetwork="yes"), "spec.predictor.hostNetwork: must be true or false, not a string"),
        (
            isvc({"model": {"modelFormat": {"name": "sklearn", "version": 1}, "storageUri": "x"}}),
            "spec.predictor.model.modelFormat.version: must be a string, not a whole number; "
            "write it in quotes",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "env": [{"name": "A", "value": 1}]}}),
            "spec.predictor.sklearn.env[0].value: must be a string, not a whole number; write it in quotes",
        ),
        (
            isvc(GOOD, labels={"a": True}),
            "metadata.labels.a: must be a string, not true or false; write it in quotes",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "protocolVersion": "v3"}}),
            "spec.predictor.sklearn.protocolVersion: must be 'v1', 'v2', 'grpc-v1' or 'grpc-v2'",
        ),
        ({**isvc(GOOD), "spec": None}, "spec: must be a map, not null"),
        ({**isvc(GOOD), "spec": {}}, "spec.predictor: is required"),
        (isvc({"model": {"storageUri": "x"}}), "spec.predictor.model.modelFormat: is required"),
        (
            isvc({"model": {"storageUri": "x", "modelFormat": {"name": ""}}}),
            "spec.predictor.model.modelFormat.name: must not be empty",
        ),
        # Names
        (isvc(GOOD, name="Iris"), "metadata.name: 'Iris' cannot name a service: lower-case letters, digits and '-', beginning with a letter and ending with a letter or digit"),
        (isvc(GOOD, name="x" * 64), "metadata.name: 64 characters; at most 63 are allowed"),
        (isvc(GOOD, name=""), "metadata.name: is required"),
        (isvc(GOOD, namespace="a.b"), "metadata.namespace: 'a.b' is no DNS label: lower-case letters, digits and '-', beginning and ending with a letter or digit"),
        (isvc(GOOD, labels={"a b": "c"}), "metadata.labels[\"a b\"]: 'a b' is no key: 1 to 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, perhaps after 'prefix.example.com/'"),
        (isvc(GOOD, annotations={"big": "x" * 300_000}), "metadata.annotations: 300003 bytes in all; at most 262144 fit"),
        (changed(name="V2"), "spec.predictor.name: 'V2' cannot name a service: lower-case letters, digits and '-', beginning with a letter and ending with a letter or digit"),
        (changed(labels={"a": "b c"}), "spec.predictor.labels.a: 'b c' is no label value: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"),
        # What belongs together
        (isvc({}), "spec.predictor: must have exactly one of sklearn, xgboost, tensorflow, pytorch, triton, onnx, huggingface, pmml, lightgbm, paddle, model and containers"),
        (
            changed(onnx={"storageUri": "x"}),
            "spec.predictor: must have exactly one of sklearn, xgboost, tensorflow, pytorch, triton, onnx, "
            "huggingface, pmml, lightgbm, paddle, model and containers, not sklearn and onnx",
        ),
        (
            changed(containers=[{"name": "c", "image": "i"}]),
            "spec.predictor.containers: containers beside a model are not supported; a service has a model "
            "or containers",
        ),
        (isvc({"containers": [{"name": "c"}]}), "spec.predictor.containers[0].image: is required"),
        (
            isvc({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 0}]}]}),
            "spec.predictor.containers[0].ports[0].containerPort: must be a port number",
        ),
        (isvc({"onnx": {}}), "spec.predictor.onnx.storageUri: is required: where are the model's files?"),
        (isvc({"sklearn": {"storageUri": " "}}), "spec.predictor.sklearn.storageUri: must not be empty"),
        (
            isvc({"sklearn": {"storageUri": "oci://x/y"}}),
            "spec.predictor.sklearn.storageUri: models in container images are not supported",
        ),
        (
            isvc({"sklearn": {"storageUri": "https://x/y.git"}}),
            "spec.predictor.sklearn.storageUri: git repositories are not supported; use an archive's address",
        ),
        (
            changed(storageUris=[{"uri": "y"}]),
            "spec.predictor.storageUris: may not be given together with storageUri",
        ),
        (
            isvc({"sklearn": {}, "storageUris": [{"uri": "a"}, {"uri": "b"}]}),
            "spec.predictor.storageUris: only one is supported yet; put the files into one folder",
        ),
        (
            isvc({"sklearn": {}, "storageUris": [{"uri": "a", "mountPath": "/x"}]}),
            "spec.predictor.storageUris[0].mountPath: only /mnt/models is supported yet",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "storage": {"path": "y"}}}),
            "spec.predictor.sklearn.storage.path: may not be given together with storageUri",
        ),
        (
            isvc({"sklearn": {"storage": {"key": "k"}}}),
            "spec.predictor.sklearn.storage.path: is required without a storageUri",
        ),
        (changed(minReplicas=3, maxReplicas=2), "spec.predictor.maxReplicas: must not be less than minReplicas (3)"),
        (
            changed(scaleMetric="cpu", scaleTarget=200),
            "spec.predictor.scaleTarget: must be 1 to 100 percent for cpu",
        ),
        (
            isvc(GOOD, annotations={"serving.kserve.io/autoscalerClass": "hpaa"}),
            "metadata.annotations[\"serving.kserve.io/autoscalerClass\"]: must be one of hpa, keda, external, "
            "none, did you mean hpa?",
        ),
        # Environment
        (
            isvc({"sklearn": {"storageUri": "x", "env": [{"name": "1A", "value": "x"}]}}),
            "spec.predictor.sklearn.env[0].name: '1A' cannot name an environment variable: letters, digits, "
            "'_', '-' and '.'",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "env": [{"name": "PYTHONPATH", "value": "/x"}]}}),
            "spec.predictor.sklearn.env[0].name: PYTHONPATH is read before a model process exists, so it "
            "cannot be set here",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "env": [{"name": "A", "valueFrom": {}}]}}),
            "spec.predictor.sklearn.env[0].valueFrom: must name exactly one source, such as secretKeyRef",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "env": [{"name": "A", "value": "b", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}}),
            "spec.predictor.sklearn.env[0].valueFrom: may not be given together with value",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "k"}}}]}}),
            "spec.predictor.sklearn.env[0].valueFrom.secretKeyRef.name: is required",
        ),
        # Resources
        (
            isvc({"sklearn": {"storageUri": "x", "resources": {"limits": {"memory": "1 Gi"}}}}),
            "spec.predictor.sklearn.resources.limits.memory: '1 Gi' is no quantity; a quantity is a number "
            "with a suffix, such as 500m, 2, 1.5Gi or 1e9",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "resources": {"limits": {"cpu": "-1"}}}}),
            "spec.predictor.sklearn.resources.limits.cpu: -1 is negative",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "resources": {"limits": {"cpu": "0"}}}}),
            "spec.predictor.sklearn.resources.limits.cpu: must be more than 0",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "resources": {"limits": {"memroy": "1Gi"}}}}),
            "spec.predictor.sklearn.resources.limits.memroy: unknown resource; cpu and memory are supported",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}}),
            "spec.predictor.sklearn.resources.requests.memory: must not be more than the limit",
        ),
        (
            isvc({"sklearn": {"storageUri": "x", "resources": {"limits": {"nvidia.com/gpu": "1.5"}}}}),
            "spec.predictor.sklearn.resources.limits[\"nvidia.com/gpu\"]: 1.5 is neither a whole number of devices "
            "nor a fraction of one, in thousandths",
        ),
        # The manifest itself
        (None, "a manifest is a map with apiVersion, kind and metadata"),
        ([], "a manifest is a map with apiVersion, kind and metadata"),
        ({"apiVersion": 1, "kind": "InferenceService"}, "apiVersion: must be a string"),
        (
            {"apiVersion": OWN, "kind": "InferenceServce"},
            "kind: penstock.dev/v1alpha1 has no kind 'InferenceServce'; did you mean InferenceService?",
        ),
        (
            {"apiVersion": "v1", "kind": "Pod"},
            "kind: v1 has no kind 'Pod'; known are Secret, ServiceAccount, Namespace, ResourceQuota",
        ),
        (
            {"apiVersion": "serving.kserve.io/v1beta2", "kind": "InferenceService"},
            "apiVersion: unknown version 'serving.kserve.io/v1beta2'; InferenceService is known as "
            "penstock.dev/v1alpha1 and serving.kserve.io/v1beta1 and serving.kubeflow.org/v1beta1 and serving.kubeflow.org/v1alpha2 and serving.kubeflow.org/v1alpha1",
        ),
        (
            {"apiVersion": "penstock.dev/v1alpha2", "kind": "Widget"},
            "apiVersion: unknown version 'penstock.dev/v1alpha2'; did you mean penstock.dev/v1alpha1?",
        ),
        ({"apiVersion": KSERVE, "kind": "InferenceService", "spec": {"predictor": GOOD}}, "metadata: is required"),
    ],
)  # fmt: skip
def test_a_problem_and_only_it(manifest: Any, problem: str) -> None:
    found = problems_of(manifest)
    assert problem in found
    # A mistake in one place is not told as several.
    rest = [p for p in found if p != problem]
    assert not [p for p in rest if p.split(":")[0] == problem.split(":")[0]], found


def test_all_problems_are_told_at_once() -> None:
    manifest = isvc(
        {
            "sklern": {},
            "minReplicas": "1",
            "logger": {"mode": "all"},
            "batcher": {"maxBatchSize": 0, "maxLatncy": 1},
        },
        labels={"a": 1},
    )
    assert sorted(problems_of(manifest)) == [
        "metadata.labels.a: must be a string, not a whole number; write it in quotes",
        "spec.predictor.batcher.maxBatchSize: must be 1 or more",
        "spec.predictor.batcher.maxLatncy: unknown field, did you mean maxLatency?",
        "spec.predictor.logger: logging of payloads is not supported yet",
        "spec.predictor.minReplicas: must be a whole number, not a string",
        "spec.predictor.sklern: unknown field, did you mean sklearn?",
    ]


def test_values_and_support_are_told_together() -> None:
    manifest = isvc(
        {
            "onnx": {"resources": {"limits": {"cpu": "x"}}, "args": ["--bogus"]},
            "logger": {},
            "minReplicas": 3,
            "maxReplicas": 1,
        },
        name="-",
    )
    found = problems_of(manifest)
    assert len(found) == 6, found


def test_the_message_names_the_object_and_every_problem() -> None:
    with pytest.raises(InvalidManifest) as caught:
        dialects.translate(isvc({"sklern": {}}, namespace="prod"))
    error = caught.value
    assert error.status == 422
    assert str(error).startswith("InferenceService prod/iris: spec.predictor.sklern: unknown field")
    assert error.problems[0].path == "spec.predictor.sklern"


def test_no_value_is_shown_that_may_be_secret() -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "data": {"a": "hunter2!!", "b": ["hunter2"]},
        "stringData": {"c": 12345, "hunter": {"hunter2": 1}},
    }
    with pytest.raises(InvalidManifest) as caught:
        dialects.translate(manifest)
    assert "hunter2" not in str(caught.value)
    assert "12345" not in str(caught.value)
    manifest["data"] = {"a": "hunter2!!"}
    del manifest["stringData"]
    with pytest.raises(InvalidManifest, match="base64") as caught:
        dialects.translate(manifest)
    assert "hunter2" not in str(caught.value)


# --- anything at all

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = [
    ("metadata",), ("metadata", "name"), ("metadata", "labels"), ("metadata", "annotations"), ("spec",),
    ("spec", "predictor"), ("spec", "predictor", "sklearn"), ("spec", "predictor", "sklearn", "storageUri"),
    ("spec", "predictor", "sklearn", "env"), ("spec", "predictor", "sklearn", "resources"),
    ("spec", "predictor", "sklearn", "args"), ("spec", "predictor", "sklearn", "storage"),
    ("spec", "predictor", "batcher"), ("spec", "predictor", "containers"), ("spec", "predictor", "model"),
    ("spec", "predictor", "minReplicas"), ("spec", "predictor", "storageUris"), ("spec", "canary"),
    ("spec", "predictor", "annotations"),
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FIELDS), JSON, st.sampled_from([KSERVE, OWN]))
def test_anything_in_any_place_is_accepted_or_refused_in_order(
    field: tuple[str, ...], value: Any, api_version: str
) -> None:
    manifest = isvc(copy.deepcopy(GOOD), api_version=api_version)
    at: Any = manifest
    for part in field[:-1]:
        at = at.setdefault(part, {})
    at[field[-1]] = value
    assert "refused, and no problem is told" not in problems_of(manifest)


@settings(max_examples=200, deadline=None)
@given(JSON, st.sampled_from(["Secret", "ServiceAccount", "Namespace"]))
def test_anything_as_a_core_object(value: Any, kind: str) -> None:
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}}
    for extra in (value if isinstance(value, dict) else {"data": value}, {"metadata": value}):
        assert "refused, and no problem is told" not in problems_of({**manifest, **extra})
