"""Two single-model predictors with an explainer each, through the real processes."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from platform_harness import Platform, until

#: Of a row the weighted sum.
UNIT = """
import numpy as np


class Weighs:
    def __init__(self, weights="1 0"):
        self.weights = np.array([float(w) for w in weights.split()])

    def predict(self, X, names=None):
        return np.asarray(X, float) @ self.weights[:, None]
"""
MESSAGE = {"data": {"names": ["a", "b"], "ndarray": [[1.0, 5.0]]}}


def predictor(name: str, traffic: int, weights: str, *, explained: bool = True) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "traffic": traffic,
        "graph": {
            "name": "m",
            "type": "MODEL",
            "modelUri": "weighs",
            "parameters": [{"name": "weights", "value": weights, "type": "STRING"}],
        },
    }
    if explained:
        made["explainer"] = {"type": "KernelShap", "config": {"seed": "1"}}
    return made


#: The main one looks at the first column, the canary at the second.
BOTH: dict[str, Any] = {
    "apiVersion": "machinelearning.seldon.io/v1",
    "kind": "SeldonDeployment",
    "metadata": {"name": "ab"},
    "spec": {"predictors": [predictor("main", 50, "10 0"), predictor("canary", 50, "0 7")]},
}


@pytest.fixture(scope="module")
def tested(platform: Platform, folder: Path) -> Platform:
    (folder / "weighs").mkdir()
    (folder / "weighs" / "Weighs.py").write_text(UNIT)
    rows = np.array([[-1.0, 0.0], [1.0, 0.0], [-2.0, 3.0], [2.0, 3.0]])
    np.save(folder / "weighs" / "train.npy", rows)
    apply(platform, BOTH)
    return platform


def apply(platform: Platform, document: dict[str, Any]) -> None:
    platform.run("apply", "-f", "-", "--wait", "--timeout", "90s", stdin=json.dumps(document))


def shares(platform: Platform, address: str) -> list[float]:
    """What each column has to do with the answer, exactly as Shapley has it."""
    url = f"{platform.http}/seldon/default/{address}/api/v1.0/explain"
    answer = httpx.post(url, json=MESSAGE, timeout=60)
    assert answer.status_code == 200, answer.text
    (values,) = answer.json()["data"]["shap_values"]
    return [round(v, 6) + 0.0 for v in np.ravel(values)]


def test_each_is_explained_by_itself_whatever_its_share(tested: Platform) -> None:
    """An answer of the other one in between would leave neither of these numbers."""
    for _ in range(5):
        assert shares(tested, "ab-explainer/main") == [10.0, 0.0]
        assert shares(tested, "ab-explainer/canary") == [0.0, 24.5]
    assert shares(tested, "ab@canary") == [0.0, 24.5]
    status = tested.get(
        "/apis/machinelearning.seldon.io/v1/namespaces/default/seldondeployments/ab"
    )
    told = status["status"]["deploymentStatus"]["ab-canary-explainer"]
    assert told == {"explainerFor": "canary", "status": "Available"}


def test_their_documents_and_metrics_tell_them_apart(tested: Platform) -> None:
    for name in ("main", "canary"):
        path = f"/seldon/default/ab-explainer/{name}/api/v1.0/doc/seldon.json"
        document = httpx.get(tested.http + path, timeout=30).json()
        assert "/api/v1.0/explain" in document["paths"], name
    shares(tested, "ab-explainer/canary")

    def counted() -> bool:
        text = httpx.get(tested.api + "/metrics", timeout=30).text
        return any(
            'service="ab-canary-explainer"' in line and line.startswith("penstock_gateway_requests")
            for line in text.splitlines()
        )

    until(counted, "the explainer's requests to be counted")


def test_who_changes_or_drops_one_leaves_the_other_answering(tested: Platform) -> None:
    failed: list[str] = []
    asked, over = threading.Event(), threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            try:
                if shares(tested, "ab-explainer/main") != [10.0, 0.0]:
                    failed.append("another answer")
            except (AssertionError, httpx.HTTPError) as exc:
                failed.append(str(exc))
            asked.set()

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        assert asked.wait(60)
        changed = copy.deepcopy(BOTH)
        changed["spec"]["predictors"][1] = predictor("canary", 50, "0 2")
        apply(tested, changed)
        assert shares(tested, "ab-explainer/canary") == [0.0, 7.0]
        changed["spec"]["predictors"][1] = predictor("canary", 50, "0 2", explained=False)
        apply(tested, changed)
        url = f"{tested.http}/seldon/default/ab-explainer/canary/api/v1.0/explain"
        until(lambda: httpx.post(url, json=MESSAGE, timeout=60).status_code == 404, "it to go")
        apply(tested, BOTH)
        assert shares(tested, "ab-explainer/canary") == [0.0, 24.5]
    finally:
        over.set()
        thread.join()
    assert failed == []


def test_all_goes_with_the_deployment(tested: Platform) -> None:
    tested.run("delete", "sdep", "ab")
    path = "/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices"
    until(lambda: not tested.get(path)["items"], "the explainer's service to go")
    until(
        lambda: {r["status"]["phase"] for r in tested.replicas()} <= {"Stopped"},
        "all processes to go",
    )
