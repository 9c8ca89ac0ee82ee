"""Named canaries through the real processes: shares, promotion without a restart, rollback."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from typing import Any

import httpx
import pytest
import yaml
from platform_harness import Platform, manifest, until

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


def tried(version: str, percent: int, name: str) -> str:
    obj = yaml.safe_load(manifest(name))
    obj["apiVersion"] = version
    obj["spec"]["canary"] = [
        {
            "predictor": {"name": "v2", "sklearn": {"storageUri": "models/other"}},
            "trafficPercent": percent,
        }
    ]
    return yaml.safe_dump(obj)


def answers(platform: Platform, name: str, count: int, path: str = "") -> Counter[str]:
    url = f"{platform.http}/serving/default/{name}{path}/v1/models/{name}:predict"
    seen: Counter[str] = Counter()
    with httpx.Client(timeout=30) as client:
        for _ in range(count):
            answer = client.post(url, json=V1)
            assert answer.status_code == 200, answer.text
            seen[answer.headers["x-penstock-revision"].removeprefix(f"{name}-")] += 1
    return seen


def stored(platform: Platform, version: str, name: str) -> dict[str, Any]:
    found = platform.get(f"/apis/{version}/namespaces/default/inferenceservices/{name}")
    assert isinstance(found, dict)
    return found


def pids(platform: Platform, name: str) -> dict[str, int]:
    return {
        r["spec"]["revision"].removeprefix(f"{name}-"): r["status"]["pid"]
        for r in platform.replicas()
        if r["spec"]["service"] == name and r["status"]["phase"] == "Ready"
    }


@pytest.mark.parametrize("version", ["serving.kserve.io/v1beta1", "penstock.dev/v1alpha1"])
def test_a_named_canary_is_tried_weighted_and_promoted_without_a_restart(
    platform: Platform, version: str
) -> None:
    name = f"named-{version[:5]}".replace(".", "")
    platform.run("apply", "-f", "-", "--wait", stdin=tried(version, 20, name))
    until(lambda: len(answers(platform, name, 10)) == 2, "the split")
    assert answers(platform, name, 500) == {"00001": 400, "v2-00001": 100}
    assert answers(platform, name, 5, "@v2") == {"v2-00001": 5}

    platform.run("rollout", "weight", name, "v2=50")
    until(lambda: answers(platform, name, 100)["v2-00001"] == 50, "the new weight")

    status = stored(platform, version, name)["status"]
    assert [(c["name"], c["ready"]) for c in status["canaryStatuses"]] == [("v2", True)]
    before = pids(platform, name)
    assert "v2 takes all" in platform.run("rollout", "promote", name)
    until(lambda: answers(platform, name, 20) == {"v2-00001": 20}, "the promotion")
    until(lambda: len(pids(platform, name)) == 1, "the old replica to go")
    assert pids(platform, name) == {"v2-00001": before["v2-00001"]}, "the same process serves on"
    spec = stored(platform, version, name)["spec"]
    assert spec["predictor"]["name"] == "v2"
    assert "canary" not in spec
    assert f"{name}-00001 takes all" in platform.run("rollout", "rollback", name)
    until(lambda: answers(platform, name, 20) == {"00001": 20}, "the rollback")
    platform.run("delete", "isvc", name)


def test_a_canary_that_is_taken_out_leaves_the_predictor_alone(platform: Platform) -> None:
    version, name = "penstock.dev/v1alpha1", "out"
    platform.run("apply", "-f", "-", "--wait", stdin=tried(version, 20, name))
    until(lambda: len(pids(platform, name)) == 2, "both")
    before = pids(platform, name)
    assert "without v2" in platform.run("rollout", "rollback", name)
    until(lambda: len(pids(platform, name)) == 1, "the canary to go")
    assert pids(platform, name) == {"00001": before["00001"]}
    assert answers(platform, name, 20) == {"00001": 20}
    platform.run("delete", "isvc", name)


def test_blue_and_green_change_places_at_once_and_lose_no_request(platform: Platform) -> None:
    """Green at 0% by its name, then at 100%, back, and again: nothing starts, nothing fails."""
    version, name = "penstock.dev/v1alpha1", "bluegreen"
    platform.run("apply", "-f", "-", "--wait", stdin=tried(version, 0, name))
    until(lambda: len(pids(platform, name)) == 2, "both")
    before = pids(platform, name)
    assert answers(platform, name, 20) == {"00001": 20}
    assert answers(platform, name, 5, "@v2") == {"v2-00001": 5}
    stop = threading.Event()
    seen: list[list[str]] = [[], [], []]
    bad: list[str] = []

    def ask(mine: list[str]) -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                answer = client.post(f"{platform.http}/v1/models/{name}:predict", json=V1)
                if answer.status_code != 200:
                    bad.append(answer.text)
                mine.append(answer.headers.get("x-penstock-revision", ""))

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    try:
        for percent, revision in ((100, "v2-00001"), (0, "00001"), (100, "v2-00001")):
            platform.run("rollout", "weight", name, f"v2={percent}")
            until(lambda r=revision: answers(platform, name, 5) == {r: 5}, f"all to {revision}")
            assert pids(platform, name) == before
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert bad == []
    for mine in seen:  # each client saw all requests change sides three times, not by degrees
        assert sum(a != b for a, b in itertools.pairwise(mine)) == 3
    platform.run("rollout", "promote", name)
    until(lambda: pids(platform, name) == {"v2-00001": before["v2-00001"]}, "blue to go")
    platform.run("delete", "isvc", name)


def test_a_rule_sends_some_requests_to_the_canary(platform: Platform) -> None:
    version, name = "penstock.dev/v1alpha1", "ruled"
    obj = yaml.safe_load(tried(version, 0, name))
    obj["spec"]["traffic"] = {"match": [{"headers": {"x-group": {"exact": "beta"}}, "to": "v2"}]}
    platform.run("apply", "-f", "-", "--wait", stdin=yaml.safe_dump(obj))
    until(lambda: len(pids(platform, name)) == 2, "both")
    url = f"{platform.http}/v1/models/{name}:predict"
    for headers, revision in (({}, "00001"), ({"x-group": "beta"}, "v2-00001")):
        answer = httpx.post(url, json=V1, headers=headers)
        assert answer.headers["x-penstock-revision"] == f"{name}-{revision}"
    platform.run("delete", "isvc", name)
