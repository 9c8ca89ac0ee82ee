"""Manifests whose storageUri is another server's model repository, through the whole platform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from platform_harness import Platform, until

ADD = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x + 1)]))
        return answers
"""
CONFIG = """
backend: "python"
input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
SERVICE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: {name}}}
spec:
  predictor:
    {predictor}
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("p")
    for model in ("one", "two"):
        (folder / "repository" / model / "1").mkdir(parents=True)
        (folder / "repository" / model / "1" / "model.py").write_text(ADD)
        (folder / "repository" / model / "config.pbtxt").write_text(CONFIG)
    (folder / "bad" / "m" / "1").mkdir(parents=True)
    (folder / "bad" / "m" / "config.pbtxt").write_text('platform: "ensemble"')
    platform = Platform(folder)
    platform.start()
    yield platform
    platform.stop()


def infer(platform: Platform, path: str) -> httpx.Response:
    body: dict[str, Any] = {
        "inputs": [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [41]}]
    }
    return httpx.post(platform.http + path, json=body, timeout=30)


def test_a_repository_of_tritons_is_a_service(platform: Platform) -> None:
    manifest = SERVICE.format(name="trio", predictor="triton: {storageUri: repository}")
    (platform.folder / "trio.yaml").write_text(manifest)
    platform.run("apply", "-f", "trio.yaml")
    platform.run("wait", "isvc/trio", "--for=condition=Ready", "--timeout=60s")
    for path in ("/serving/default/trio/v2/models/one/infer", "/v2/models/two/infer"):
        answer = infer(platform, path)
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == [42]
    assert infer(platform, "/v2/models/three/infer").status_code == 404


def test_a_model_alone_answers_to_its_service(platform: Platform) -> None:
    predictor = "triton: {storageUri: repository/one}"
    (platform.folder / "solo.yaml").write_text(SERVICE.format(name="solo", predictor=predictor))
    platform.run("apply", "-f", "solo.yaml")
    platform.run("wait", "isvc/solo", "--for=condition=Ready", "--timeout=60s")
    assert infer(platform, "/v2/models/solo/infer").json()["outputs"][0]["data"] == [42]


def test_a_repository_that_cannot_be_served_says_why(platform: Platform) -> None:
    predictor = "triton: {storageUri: bad}"
    (platform.folder / "bad.yaml").write_text(SERVICE.format(name="bad", predictor=predictor))
    platform.run("apply", "-f", "bad.yaml")

    def said() -> str:
        found = platform.get(
            "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/bad"
        )
        return str(found.get("status", {}))

    until(
        lambda: "m/config.pbtxt: ensemble_scheduling: step: at least one is required" in said(),
        "the reason",
    )


HOST = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: host}
spec: {predictor: {sklearn: {}}}
---
apiVersion: serving.kserve.io/v1alpha1
kind: TrainedModel
metadata: {name: added}
spec:
  inferenceService: host
  model: {storageUri: repository/one, framework: triton, memory: 64Mi}
---
apiVersion: serving.kserve.io/v1alpha1
kind: LocalModelCache
metadata: {name: ahead}
spec: {sourceModelUri: repository/two, modelSize: 1Mi, nodeGroups: [all]}
"""


def test_a_trained_model_is_added_to_a_service_that_has_none(platform: Platform) -> None:
    (platform.folder / "host.yaml").write_text(HOST)
    said = platform.run("apply", "-f", "host.yaml")
    assert "it is one that TrainedModels are added to" in said
    for what in ("isvc/host", "trainedmodel/added", "localmodelcache/ahead"):
        platform.run("wait", what, "--for=condition=Ready", "--timeout=60s")
    for path in ("/serving/default/host/v2/models/added/infer", "/v2/models/added/infer"):
        assert infer(platform, path).json()["outputs"][0]["data"] == [42]
    assert infer(platform, "/serving/default/host/v2/models/other/infer").status_code == 404
    models = httpx.get(platform.http + "/serving/default/host/v1/models").json()
    assert models == {"models": []}
    found = platform.get("/apis/serving.kserve.io/v1alpha1/localmodelcaches/ahead")
    assert found["status"]["copies"] == {"available": 1, "total": 1, "failed": 0}
