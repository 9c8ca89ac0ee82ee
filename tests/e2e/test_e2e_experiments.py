"""Traffic between models in other dialects' words, through the whole platform: Seldon's and KFServing's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import httpx
import joblib
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from platform_harness import Platform, until
from sklearn.dummy import DummyClassifier

MODEL = """
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {{name: {name}}}
spec: {{storageUri: {name}, requirements: [sklearn]}}
"""
EXPERIMENT = """
apiVersion: mlops.seldon.io/v1alpha1
kind: Experiment
metadata: {name: trial}
spec:
  default: one
  candidates: [{name: one, weight: 70}, {name: two, weight: 30}]
  mirror: {name: three, percent: 100}
"""
DEPLOYMENT = """
apiVersion: machinelearning.seldon.io/v1
kind: SeldonDeployment
metadata: {name: split}
spec:
  protocol: v2
  predictors:
  - {name: main, traffic: 75, graph: {name: m, implementation: SKLEARN_SERVER, modelUri: one}}
  - {name: b, traffic: 25, graph: {name: m, implementation: SKLEARN_SERVER, modelUri: two}}
  - {name: copy, shadow: true, graph: {name: m, implementation: SKLEARN_SERVER, modelUri: three}}
"""
KFSERVICE = """
apiVersion: serving.kubeflow.org/v1alpha2
kind: InferenceService
metadata: {name: old}
spec:
  default: {predictor: {sklearn: {storageUri: one}}}
  canary: {predictor: {sklearn: {storageUri: two}}}
  canaryTrafficPercent: 20
"""
BODY = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("p")
    for value, name in enumerate(("one", "two", "three"), start=1):
        (folder / name).mkdir()
        model = DummyClassifier(strategy="constant", constant=value)
        joblib.dump(model.fit([[0.0], [1.0]], [value, value]), folder / name / "model.joblib")
    platform = Platform(folder)
    platform.start()
    yield platform
    platform.stop()


def ask(platform: Platform, path: str, n: int, **headers: str) -> Counter[int]:
    """What `n` requests are answered."""
    with httpx.Client(timeout=30) as client:
        answers = [client.post(platform.http + path, json=BODY, headers=headers) for _ in range(n)]
    assert {a.status_code for a in answers} == {200}, answers[0].text
    return Counter(a.json()["outputs"][0]["data"][0] for a in answers)


def counted(platform: Platform, metric: str, *labels: str) -> float:
    text = httpx.get(platform.api + "/metrics").text
    found = [line for line in text.splitlines() if re.match(rf"{metric}(_total)?\{{", line)]
    return sum(float(line.split()[-1]) for line in found if all(v in line for v in labels))


@pytest.fixture(scope="module")
def trial(platform: Platform) -> Platform:
    documents = [MODEL.format(name=n) for n in ("one", "two", "three")] + [EXPERIMENT]
    (platform.folder / "trial.yaml").write_text("---".join(documents))
    platform.run("apply", "-f", "trial.yaml")
    for model in ("one", "two", "three"):
        platform.run("wait", f"model/{model}", "--for=condition=Ready", "--timeout=60s")
    platform.run("wait", "experiment/trial", "--for=condition=Ready", "--timeout=60s")
    return platform


def test_an_experiment_divides_its_defaults_requests(trial: Platform) -> None:
    for path in (
        "/v2/models/one/infer",
        "/v2/models/trial/infer",
        "/seldon/default/trial/v2/models/one/infer",
    ):
        assert ask(trial, path, 50) == {1: 35, 2: 15}
    assert ask(trial, "/v2/models/one/infer", 20, **{"x-seldon-route": ":two_1:"}) == {2: 20}
    # The others are still who they are, and the mirror answered nobody.
    assert ask(trial, "/v2/models/two/infer", 5) == {2: 5}
    until(
        lambda: (
            counted(trial, "penstock_gateway_shadow_requests", 'service="trial"', '"200"') >= 170
        ),
        "copies",
    )


def test_an_experiment_over_grpc(trial: Platform) -> None:
    client = grpc_client.InferenceServerClient(trial.grpc)
    given = grpc_client.InferInput("x", [1, 1], "FP64")
    given.set_data_from_numpy(np.zeros((1, 1)))

    def answers(model: str, n: int, **headers: str) -> Counter[int]:
        found = [client.infer(model, [given], headers=headers) for _ in range(n)]
        return Counter(int(a.get_response().model_name == "two") for a in found)

    assert answers("one", 20) == {0: 14, 1: 6}
    assert answers("trial", 20, **{"seldon-model": "trial.experiment"}) == {0: 14, 1: 6}
    assert answers("one", 5, **{"x-seldon-route": ":two_1:"}) == {1: 5}
    assert client.is_model_ready("one")
    client.close()


def test_predictors_of_a_seldon_deployment_share_the_requests(platform: Platform) -> None:
    (platform.folder / "split.yaml").write_text(DEPLOYMENT)
    platform.run("apply", "-f", "split.yaml")
    platform.run("wait", "sdep/split", "--for=condition=Ready", "--timeout=60s")
    path = "/seldon/default/split/v2/models/m/infer"
    until(lambda: ask(platform, path, 20) == {1: 15, 2: 5}, "both predictors")
    until(
        lambda: (
            counted(platform, "penstock_gateway_shadow_requests", 'service="split"', '"200"') > 0
        ),
        "copies",
    )


def test_a_canary_of_kfserving_gets_its_share(platform: Platform) -> None:
    (platform.folder / "old.yaml").write_text(KFSERVICE)
    platform.run("apply", "-f", "old.yaml")
    until(
        lambda: ask(platform, "/serving/default/old/v2/models/old/infer", 20) == {1: 16, 2: 4},
        "the canary",
        timeout_s=30,
    )

    def shares() -> tuple[int | None, int | None]:
        path = "/apis/serving.kubeflow.org/v1alpha2/namespaces/default/inferenceservices/old"
        status = platform.get(path).get("status") or {}
        return status.get("traffic"), status.get("canaryTraffic")

    until(lambda: shares() == (80, 20), "the status")
