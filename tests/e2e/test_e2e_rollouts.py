"""Rollouts through the real processes: shares, rollback, promotion, and no request lost under load."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest
from platform_harness import Platform, manifest, until

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


def revisions_of(platform: Platform, name: str, count: int) -> Counter[str]:
    with httpx.Client(timeout=30) as client:
        seen: Counter[str] = Counter()
        for _ in range(count):
            answer = client.post(f"{platform.http}/v1/models/{name}:predict", json=V1)
            assert answer.status_code == 200, answer.text
            seen[answer.headers["x-penstock-revision"][-1]] += 1
    return seen


def traffic(platform: Platform, name: str) -> dict[str, int]:
    predictor = platform.service(name)["status"]["components"]["predictor"]
    return {t["revisionName"][-1]: t["percent"] for t in predictor.get("traffic", ())}


def live(platform: Platform, name: str) -> set[str]:
    return {
        r["spec"]["revision"][-1]
        for r in platform.replicas()
        if r["spec"]["service"] == name and r["status"]["phase"] not in ("Stopped", "Draining")
    }


def test_a_canary_is_tried_rolled_back_and_promoted(platform: Platform) -> None:
    def apply(uri: str, **predictor: object) -> None:
        platform.run("apply", "-f", "-", "--wait", stdin=manifest("canary", uri, **predictor))

    apply("models/iris")
    apply("models/other", canaryTrafficPercent=10)
    until(lambda: traffic(platform, "canary") == {"2": 10, "1": 90}, "the split")
    until(lambda: len(revisions_of(platform, "canary", 10)) == 2, "the gateway's split")
    assert revisions_of(platform, "canary", 1000) == {"2": 100, "1": 900}

    for tag, revision in (("latest", "2"), ("previous", "1")):
        url = f"{platform.http}/serving/default/canary@{tag}/v1/models/canary:predict"
        assert httpx.post(url, json=V1).headers["x-penstock-revision"].endswith(revision)

    apply("models/other", canaryTrafficPercent=0)
    until(lambda: revisions_of(platform, "canary", 20) == {"1": 20}, "the rollback")

    platform.run("rollout", "promote", "canary")
    until(lambda: revisions_of(platform, "canary", 20) == {"2": 20}, "the promotion")
    until(lambda: live(platform, "canary") == {"2"}, "the old replica to go")

    assert "canary-00001 takes all" in platform.run("rollout", "rollback", "canary")
    until(lambda: revisions_of(platform, "canary", 20) == {"1": 20}, "the rollback")
    assert "Pinned to canary-00001" in json.dumps(platform.service("canary")["status"])
    platform.run("delete", "isvc", "canary")


def test_a_rollout_every_half_second_under_load_loses_no_request(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("moving"))
    stop = threading.Event()
    good: Counter[str] = Counter()
    bad: list[str] = []

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"{platform.http}/v1/models/moving:predict", json=V1)
                except httpx.HTTPError as exc:
                    bad.append(repr(exc))
                    continue
                if answer.status_code == 200:
                    good[answer.headers["x-penstock-revision"]] += 1
                else:
                    bad.append(f"{answer.status_code} {answer.text}")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    url = f"{platform.api}/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices/moving"
    try:
        with httpx.Client(timeout=30) as client:
            for turn, uri in zip(range(12), itertools.cycle(("models/other", "models/iris"))):
                predictor = {
                    "sklearn": {"storageUri": uri},
                    "canaryTrafficPercent": [None, 20, 50, 0][turn % 4],
                }
                client.patch(
                    url,
                    content=json.dumps({"spec": {"predictor": predictor}}),
                    headers={"content-type": "application/merge-patch+json"},
                ).raise_for_status()
                stop.wait(0.5)
        platform.run("rollout", "promote", "moving")
        platform.run("rollout", "status", "moving", "--timeout", "30s")
        until(lambda: set(traffic(platform, "moving").values()) == {100}, "the last rollout")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert bad == []
    assert sum(good.values()) > 100
    assert len(good) >= 3, "hardly anything was rolled out"
    platform.run("delete", "isvc", "moving")


BAD = {
    "good": "return x[:, 0]",
    "errors": "raise RuntimeError('no')",
    "slow": "import time; time.sleep(0.3); return x[:, 0]",
    "crashes": (
        "import os\n"
        "        self.n = getattr(self, 'n', 0) + 1\n"
        "        if self.n >= 3: os._exit(9)\n"
        "        return x[:, 0]"
    ),
}


@pytest.fixture(scope="module")
def faulty(folder: Path) -> None:
    for name, body in BAD.items():
        (folder / "models" / name).mkdir()
        (folder / "models" / name / "model.py").write_text(
            "import numpy as np\nimport penstock\n\n\nclass M(penstock.Model):\n"
            f"    def predict(self, x: np.ndarray) -> np.ndarray:\n        {body}\n"
        )


def roll_out(platform: Platform, name: str, model: str, limits: dict[str, object]) -> None:
    """Apply a service of a class in `models/`, whose changes go by one step within `limits`."""
    obj = json.loads(manifest(name))
    obj["spec"]["predictor"] = {"python": {"storageUri": f"models/{model}"}}
    obj["spec"]["rollout"] = {
        "steps": [30],
        "hold": "120s",
        "minRequests": 1000,
        "limits": limits,
    }
    platform.run("apply", "-f", "-", "--wait", stdin=json.dumps(obj))


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("fault", ["errors", "slow", "crashes"])
def test_a_bad_revision_is_taken_back_by_itself_and_the_stable_one_is_untouched(
    platform: Platform, fault: str
) -> None:
    name = f"steps-{fault}"

    limits: dict[str, object] = {"p99": "100ms"}
    roll_out(platform, name, "good", limits)
    pids = {r["status"]["pid"] for r in platform.replicas() if r["spec"]["service"] == name}
    roll_out(platform, name, fault, limits)
    until(lambda: traffic(platform, name).get("2") == 30, "the first step")
    stable: Counter[int] = Counter()
    with httpx.Client(timeout=30) as client:

        def given_up() -> bool:
            for _ in range(10):
                answer = client.post(f"{platform.http}/v1/models/{name}:predict", json=V1)
                if answer.headers.get("x-penstock-revision", "").endswith("1"):
                    stable[answer.status_code] += 1
            message = json.dumps(platform.service(name)["status"]["conditions"])
            return "was given up" in message

        until(given_up, "the rollback")
    until(lambda: traffic(platform, name) == {"2": 0, "1": 100}, "all for the stable one")
    assert set(stable) == {200}
    assert "RolledBack" in platform.run("events", name)
    assert pids <= {r["status"].get("pid") for r in platform.replicas()}
    platform.run("delete", "isvc", name)


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    "metric",
    [
        # A histogram of the model processes, against a number; one of the gateways, against the stable one.
        {"name": "penstock_predict_seconds", "above": 0.1, "max": 0.05},
        {"name": "penstock_gateway_request_seconds", "above": 0.1, "against": "stable"},
    ],
    ids=["model process", "gateway"],
)
def test_any_metric_takes_a_revision_back(platform: Platform, metric: dict[str, object]) -> None:
    name = "metric-" + ("max" if "max" in metric else "against")

    for model in ("good", "slow"):
        roll_out(platform, name, model, {"errorRate": 0.5, "metrics": [metric]})
    until(lambda: traffic(platform, name).get("2") == 30, "the first step")
    with httpx.Client(timeout=30) as client:

        def given_up() -> bool:
            for _ in range(10):
                client.post(f"{platform.http}/v1/models/{name}:predict", json=V1)
            message = json.dumps(platform.service(name)["status"]["conditions"])
            return f"observations of {metric['name']} were above 0.1" in message

        until(given_up, "the rollback")
    until(lambda: traffic(platform, name) == {"2": 0, "1": 100}, "all for the stable one")
    platform.run("delete", "isvc", name)


OWN = """
import prometheus_client

import penstock

UNSURE = prometheus_client.Counter("unsure", "Low scores.", ["kind"])
SCORE = prometheus_client.Gauge("mean_score", "Of the last requests.")


class M(penstock.Model):
    def predict(self, payload, headers=None):
        SCORE.set({score})
        if {score} < 0.8:
            UNSURE.labels("low").inc()
        return {{"predictions": [{score}]}}
"""


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"metrics": [{"name": "unsure_total", "labels": {"kind": "low"}, "max": 0.1}]},
            "counted in unsure_total",
        ),
        (
            {"gauges": [{"name": "mean_score", "against": "stable", "worse": "below", "every": 1}]},
            "mean_score was below the stable revision's by more than 10%",
        ),
    ],
    ids=["counter", "gauge"],
)
def test_what_a_class_counts_itself_takes_a_revision_back(
    platform: Platform, folder: Path, limits: dict[str, object], said: str
) -> None:
    name = f"own-{next(iter(limits))}"

    def apply(score: float) -> None:
        place = folder / "models" / f"{name}-{score}"
        place.mkdir()
        (place / "model.py").write_text(OWN.format(score=score))
        roll_out(platform, name, place.name, {"errorRate": 0.5, **limits})

    apply(0.9)
    apply(0.7)
    until(lambda: traffic(platform, name).get("2") == 30, "the first step")
    with httpx.Client(timeout=30) as client:

        def given_up() -> bool:
            for _ in range(10):
                client.post(f"{platform.http}/v1/models/{name}:predict", json=V1)
            return said in json.dumps(platform.service(name)["status"]["conditions"])

        until(given_up, "the rollback")
    until(lambda: traffic(platform, name) == {"2": 0, "1": 100}, "all for the stable one")
    platform.run("delete", "isvc", name)
