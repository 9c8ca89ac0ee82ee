"""Transformers and explainers through the whole platform, by their manifests."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from platform_harness import Platform, until
from tritonclient.grpc import InferenceServerClient, InferInput

TRANSFORMER = """
import penstock

NAMES = ("setosa", "versicolor", "virginica")

class Named(penstock.Transformer):
    def preprocess(self, payload, headers=None):
        return {"instances": [[r["sl"], r["sw"], r["pl"], r["pw"]] for r in payload["instances"]]}

    def postprocess(self, result, headers=None):
        return {"predictions": [NAMES[p] for p in result["predictions"]]}
"""
FLOWER = {"sl": 5.1, "sw": 3.5, "pl": 1.4, "pw": 0.2}


@pytest.fixture(scope="module")
def flowers(platform: Platform, folder: Path) -> Platform:
    """The service `flowers`: a transformer in its own process, and anchors."""
    from sklearn.datasets import load_iris

    data = load_iris()
    code = folder / "models" / "code"
    code.mkdir()
    (code / "model.py").write_text(TRANSFORMER)
    (folder / "models" / "other" / "transformer.py").write_text(TRANSFORMER)
    inner = folder / "models" / "other" / "explainer"
    inner.mkdir()
    np.savetxt(inner / "train.csv", data.data, delimiter=",", comments="",
               header=",".join(data.feature_names))  # fmt: skip
    (inner / "explainer.json").write_text(json.dumps({"class_names": list(data.target_names)}))
    apply(
        platform,
        "flowers",
        transformer={"python": {"storageUri": "models/code"}},
        explainer={"alibi": {"type": "AnchorTabular", "config": {"threshold": "0.9"}}},
    )
    return platform


def apply(platform: Platform, name: str, **components: Any) -> None:
    manifest = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"sklearn": {"storageUri": "models/other"}}, **components},
    }
    platform.run("apply", "-f", "-", "--wait", stdin=json.dumps(manifest))


def ask(platform: Platform, path: str, body: Any, status: int = 200) -> Any:
    answer = httpx.post(platform.http + path, json=body, timeout=20)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_request_goes_through_the_transformer(flowers: Platform) -> None:
    found = ask(flowers, "/v1/models/flowers:predict", {"instances": [FLOWER]})
    assert found == {"predictions": ["setosa"]}


def test_the_predictor_has_an_address_of_its_own(flowers: Platform) -> None:
    body = {"instances": [list(FLOWER.values())]}
    at = "/serving/default/flowers/components/predictor/v1/models/flowers:predict"
    assert ask(flowers, at, body) == {"predictions": [0]}


def test_explain_and_what_explains(flowers: Platform) -> None:
    body = {"instances": [list(FLOWER.values())]}
    data = ask(flowers, "/v1/models/flowers:explain", body)["data"]
    assert data["prediction_name"] == "setosa"
    assert data["anchor"]
    assert data["precision"] >= 0.9
    about = httpx.get(flowers.http + "/v1/models/flowers:explain").json()
    assert about["explainer"] == "AnchorTabular"
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": list(FLOWER.values())}
    (output,) = ask(flowers, "/v2/models/flowers/explain", {"inputs": [tensor]})["outputs"]
    assert json.loads(output["data"][0])["data"]["anchor"] == data["anchor"]


def test_explain_over_grpc(flowers: Platform) -> None:
    """V2's gRPC has no call for it: the component is named in the metadata, and asked by infer."""
    tensor = InferInput("x", [1, 4], "FP64")
    tensor.set_data_from_numpy(np.array([list(FLOWER.values())]))
    with InferenceServerClient(flowers.grpc) as client:
        answer = client.infer("flowers", [tensor], headers={"x-penstock-component": "explainer"})
    document = json.loads(answer.as_numpy("explanation")[0, 0])
    assert document["data"]["prediction_name"] == "setosa"


def test_each_component_is_seen(flowers: Platform) -> None:
    status = flowers.service("flowers")["status"]
    assert {"predictor", "transformer", "explainer"} <= status["components"].keys()
    ready = {c["type"]: c["status"] for c in status["conditions"]}
    for name in ("PredictorReady", "TransformerReady", "ExplainerReady", "Ready"):
        assert ready[name] == "True"


def test_bad_input_keeps_its_kind_through_the_components(flowers: Platform) -> None:
    wrong = ask(flowers, "/v1/models/flowers:predict", {"instances": [{**FLOWER, "sl": "x"}]}, 400)
    assert "error" in wrong
    assert (
        "4 numbers"
        in ask(flowers, "/v1/models/flowers:explain", {"instances": [[1]]}, 400)["error"]
    )
    found = ask(flowers, "/v1/models/flowers:predict", {"instances": [FLOWER]})
    assert found == {"predictions": ["setosa"]}


def test_a_predictor_that_dies_under_its_transformer_comes_back(flowers: Platform) -> None:
    """The request waits for the predictor or is answered 502 to 504; one after it is answered."""
    (replica,) = [
        r for r in flowers.replicas()
        if r["spec"]["revision"] == "flowers-00001" and r["status"].get("pid")
    ]  # fmt: skip
    import os

    os.kill(replica["status"]["pid"], signal.SIGKILL)

    def answered() -> bool:
        answer = httpx.post(
            flowers.http + "/v1/models/flowers:predict", json={"instances": [FLOWER]}, timeout=20
        )
        assert answer.status_code in (200, 502, 503, 504), answer.text
        return answer.status_code == 200

    until(answered, "an answer")


def test_a_collocated_transformer_needs_no_second_process(flowers: Platform) -> None:
    apply(
        flowers, "beside", transformer={"python": {"class": "transformer.py"}, "collocated": True}
    )
    found = ask(flowers, "/v1/models/beside:predict", {"instances": [FLOWER]})
    assert found == {"predictions": ["setosa"]}
    names = [r["spec"]["revision"] for r in flowers.replicas()]
    assert names.count("beside-00001") == 1
    assert not any("beside-transformer" in n for n in names)
    assert ask(flowers, "/v1/models/beside:explain", {"instances": [FLOWER]}, 501)["error"]


def test_a_service_without_an_explainer_says_so(flowers: Platform) -> None:
    apply(flowers, "plain")
    body = {"instances": [list(FLOWER.values())]}
    for path in ("/v1/models/plain:explain", "/v2/models/plain/explain"):
        assert "explain" in ask(flowers, path, body, 501)["error"]


def test_an_explainer_that_cannot_load_is_told(flowers: Platform) -> None:
    """models/iris has no training data: the explainer fails with the reason, the predictor serves."""
    manifest = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "unexplained"},
        "spec": {
            "predictor": {"sklearn": {"storageUri": "models/iris"}},
            "explainer": {"anchors": {"type": "AnchorTabular"}},
        },
    }
    flowers.run("apply", "-f", "-", stdin=json.dumps(manifest))

    def told() -> bool:
        conditions = flowers.service("unexplained").get("status", {}).get("conditions", [])
        return any(
            c["type"] == "ExplainerReady"
            and c["status"] == "False"
            and "no training data" in c.get("message", "")
            for c in conditions
        )

    until(told, "the explainer's failure")
    body = {"instances": [list(FLOWER.values())]}
    assert ask(flowers, "/v1/models/unexplained:predict", body) == {"predictions": [0]}


def test_components_that_sleep_wake_each_other(flowers: Platform) -> None:
    """A request wakes the transformer, and that the predictor; so does an explanation. None is refused."""
    manifest = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "sleepy"},
        "spec": {
            "predictor": {"minReplicas": 0, "sklearn": {"storageUri": "models/other"}},
            "transformer": {"minReplicas": 0, "python": {"storageUri": "models/code"}},
            "explainer": {"minReplicas": 0, "counterfactuals": {}},
        },
    }
    flowers.run("apply", "-f", "-", "--wait", stdin=json.dumps(manifest))

    def asleep() -> bool:
        httpx.post(flowers.http + "/v2/repository/models/sleepy/unload", json={}, timeout=20)
        phases = {
            r["status"].get("phase")
            for r in flowers.replicas()
            if r["spec"]["revision"].startswith("sleepy")
        }
        return phases <= {"Stopped"}

    until(asleep, "all to sleep")
    found = ask(flowers, "/v1/models/sleepy:predict", {"instances": [FLOWER]})
    assert found == {"predictions": ["setosa"]}
    until(asleep, "all to sleep again")
    data = ask(flowers, "/v1/models/sleepy:explain", {"instances": [list(FLOWER.values())]})["data"]
    assert data["found"]


def test_seldons_explainer_stands_by_itself_and_asks_another_model(flowers: Platform) -> None:
    manifest = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "flowers-explainer"},
        "spec": {
            "storageUri": "models/other",
            "explainer": {"type": "anchor_tabular", "modelRef": "plain"},
        },
    }
    apply(flowers, "plain")
    flowers.run("apply", "-f", "-", "--wait", stdin=json.dumps(manifest))
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": list(FLOWER.values())}
    answer = ask(flowers, "/v2/models/flowers-explainer/infer", {"inputs": [tensor]})
    found = json.loads(answer["outputs"][0]["data"][0])
    assert found["data"]["prediction_name"] == "setosa"
    # The model it asks is gone: that is what it says.
    flowers.run("delete", "isvc", "plain", "--wait")
    assert (
        "plain"
        in ask(flowers, "/v2/models/flowers-explainer/infer", {"inputs": [tensor]}, 404)["error"]
    )


def test_seldons_explainer_may_ask_a_pipeline(flowers: Platform) -> None:
    """Its questions go through all of the pipeline's steps."""
    apply(flowers, "unscaled")
    pipeline = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": "whole"},
        "spec": {"steps": [{"name": "unscaled"}], "output": {"steps": ["unscaled"]}},
    }
    explainer = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "whole-explainer"},
        "spec": {
            "storageUri": "models/other",
            "explainer": {"type": "anchor_tabular", "pipelineRef": "whole"},
        },
    }
    for manifest in (pipeline, explainer):
        flowers.run("apply", "-f", "-", "--wait", stdin=json.dumps(manifest))
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": list(FLOWER.values())}
    answer = ask(flowers, "/v2/models/whole-explainer/infer", {"inputs": [tensor]})
    found = json.loads(answer["outputs"][0]["data"][0])
    assert found["data"]["prediction_name"] == "setosa"

    def counted() -> bool:
        return 'graph="whole"' in httpx.get(f"{flowers.api}/metrics").text

    until(counted, "the pipeline's steps to be counted")


PAIR = """
import numpy as np
import penstock

class Pair(penstock.Model):
    batchable = True

    def predict(self, height: np.ndarray, width: np.ndarray) -> dict[str, np.ndarray]:
        return {"area": height * width}
"""
SIDES = """
import penstock

class Sides(penstock.Transformer):
    async def preprocess(self, payload, headers=None):
        if isinstance(payload, dict):
            rows = payload["instances"]
            return {"inputs": {"width": [r[1] for r in rows], "height": [r[0] for r in rows]}}
        (sides,) = payload.inputs.values()
        return penstock.InferRequest({"width": sides[:, 1], "height": sides[:, 0]})
"""


def test_a_collocated_predictor_with_named_inputs(flowers: Platform, folder: Path) -> None:
    """Names, not positions, say which input is which; by V1's columns and by V2's tensors."""
    code = folder / "models" / "sides"
    code.mkdir()
    (code / "pair.py").write_text(PAIR)
    (code / "sides.py").write_text(SIDES)
    apply(
        flowers,
        "sides",
        predictor={"python": {"storageUri": "models/sides", "class": "pair.py"}},
        transformer={"python": {"class": "sides.py"}, "collocated": True},
    )
    found = ask(flowers, "/v1/models/sides:predict", {"instances": [[2, 3], [4, 5]]})
    assert found == {"predictions": [6, 20]}
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [2, 3, 4, 5]}
    answer = ask(flowers, "/v2/models/sides/infer", {"inputs": [tensor]})
    assert answer["outputs"][0]["data"] == [6.0, 20.0]


SCALED = """
import penstock

class Scaled(penstock.Transformer):
    async def preprocess(self, request: penstock.InferRequest, headers=None):
        return penstock.InferRequest({"x": request.as_numpy() / 10})

    async def postprocess(self, response: penstock.InferResponse, headers=None):
        return {"class": response.outputs["predict"] + 100}
"""


@pytest.mark.parametrize("collocated", [False, True])
def test_tensors_over_grpc_and_v2(flowers: Platform, folder: Path, collocated: bool) -> None:
    """gRPC, V2's JSON and V2's binary tensors reach the transformer as arrays and go on as arrays."""
    import tritonclient.grpc as grpc_client
    import tritonclient.http as http_client

    code = folder / "models" / "scaled"
    code.mkdir(exist_ok=True)
    (code / "model.py").write_text(SCALED)
    (folder / "models" / "other" / "scaled.py").write_text(SCALED)
    name = "inner" if collocated else "outer"
    if collocated:
        block = {"python": {"class": "scaled.py"}, "collocated": True}
    else:
        block = {"python": {"storageUri": "models/scaled"}}
    apply(flowers, name, transformer=block)
    x = np.array([[51.0, 35.0, 14.0, 2.0], [67.0, 30.0, 52.0, 23.0]])
    for module, address in (
        (grpc_client, flowers.grpc),
        (http_client, flowers.http.removeprefix("http://")),
    ):
        with module.InferenceServerClient(address) as client:
            given = module.InferInput("x", [2, 4], "FP64")
            given.set_data_from_numpy(x)
            answer = client.infer(name, [given])
            assert answer.as_numpy("class").tolist() == [100, 102]
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": x.tolist()}
    (output,) = ask(flowers, f"/v2/models/{name}/infer", {"inputs": [tensor]})["outputs"]
    assert output == {"name": "class", "shape": [2], "datatype": "INT64", "data": [100, 102]}


def test_problems_of_a_manifest_are_told_at_apply(flowers: Platform) -> None:
    manifest = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: typo}
spec:
  predictor: {sklearn: {storageUri: models/iris}}
  explainer: {alibi: {type: AnchorTabluar}}
"""
    said = flowers.run("apply", "-f", "-", stdin=manifest, code=1)
    assert "spec.explainer.alibi.type" in said
    assert "did you mean AnchorTabular" in said
