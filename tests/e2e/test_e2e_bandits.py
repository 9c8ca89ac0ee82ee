"""Bandits through the real processes: requests follow rewards; what was learned outlives every process."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import yaml
from platform_harness import Platform, alive, manifest, until

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
V2 = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}


@pytest.fixture(scope="module")
def two_gateways(folder: Path) -> Iterator[Platform]:
    """A platform of its own: two gateways, processes that are killed."""
    platform = Platform(folder, "--gateways", "2")
    platform.data = folder / "bandits"
    platform.start()
    yield platform
    platform.stop()


#: No connection is kept, so that any gateway gets a request.
client = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))


def trial(name: str, bandit: Any, percent: int = 50) -> str:
    obj = yaml.safe_load(manifest(name))
    obj["spec"]["canary"] = [
        {
            "predictor": {"name": "v2", "sklearn": {"storageUri": "models/other"}},
            "trafficPercent": percent,
        }
    ]
    obj["spec"]["traffic"] = {"bandit": bandit}
    return yaml.safe_dump(obj)


def ask(platform: Platform, name: str, body: Any = V1, **headers: str) -> httpx.Response:
    """One prediction."""
    verb = f"/v1/models/{name}:predict" if body is V1 else f"/v2/models/{name}/infer"
    answer = client.post(platform.http + verb, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def reward(platform: Platform, answer: httpx.Response, value: float) -> httpx.Response:
    body = {"id": answer.headers["x-request-id"], "reward": value}
    return client.post(platform.http + "/feedback", json=body)


def rounds(platform: Platform, name: str, good: str, count: int) -> Counter[str]:
    """Ask and reward: the arm whose revision ends so is right."""
    taken: Counter[str] = Counter()
    for _ in range(count):
        answer = ask(platform, name)
        arm = answer.headers["x-penstock-arm"].removeprefix(f"{name}-")
        taken[arm] += 1
        told = reward(platform, answer, float(arm == good))
        assert told.status_code == 200, told.text
    return taken


def arms(platform: Platform, name: str) -> dict[str, dict[str, Any]]:
    found = platform.service(name)["status"].get("penstock", {}).get("bandit", [])
    return {a["arm"].removeprefix(f"{name}-"): a for a in found}


def ready(platform: Platform, name: str) -> None:
    def both() -> bool:
        seen = {ask(platform, name).headers["x-penstock-revision"] for _ in range(6)}
        return len(seen) == 2

    until(both, "both arms")


def test_requests_go_where_the_rewards_come_from(two_gateways: Platform) -> None:
    platform, name = two_gateways, "moves"
    platform.run("apply", "-f", "-", "--wait", stdin=trial(name, {"policy": "thompson", "seed": 1}))
    ready(platform, name)
    rounds(platform, name, "v2-00001", 60)
    after = rounds(platform, name, "v2-00001", 40)
    assert after["v2-00001"] >= 34
    shown = platform.run("bandit", "show", name)
    assert "thompson" in shown
    assert f"{name}-v2-00001" in shown
    until(lambda: sum(a["rewards"] for a in arms(platform, name).values()) == 100, "the status")
    status = arms(platform, name)
    assert (status["00001"]["mean"], status["v2-00001"]["mean"]) == (0.0, 1.0)
    metrics = httpx.get(platform.api + "/metrics", timeout=10).text
    line = next(
        m for m in metrics.splitlines()
        if m.startswith("penstock_bandit_rewards_total") and f'arm="{name}-v2-00001"' in m
    )  # fmt: skip
    assert float(line.rpartition(" ")[2]) == status["v2-00001"]["rewards"]
    platform.run("delete", "isvc", name)


def test_any_gateway_takes_any_reward_and_none_counts_twice(two_gateways: Platform) -> None:
    platform, name = two_gateways, "once"
    platform.run("apply", "-f", "-", "--wait", stdin=trial(name, "ucb1"))
    ready(platform, name)
    sockets = sorted(platform.data.glob("run/gateway-*.sock"))
    assert len(sockets) == 2
    one, two = (
        httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://gateway", timeout=30
        )
        for path in sockets
    )
    path = f"/v2/models/{name}"
    with one, two:
        answer = one.post(f"{path}/infer", json=V2)
        assert answer.json()["id"] == answer.headers["x-request-id"]
        body = {"id": answer.json()["id"], "reward": 1}
        assert two.post("/feedback", json=body).status_code == 200
        assert one.post("/feedback", json=body).status_code == 409
        # An id that the client chose is known to the gateway that answered, which the other asks.
        answer = one.post(f"{path}/infer", json={**V2, "id": "mine"})
        assert answer.json()["id"] == "mine"
        assert two.post(f"{path}/feedback", json={"id": "mine", "reward": 0}).status_code == 200
        assert one.post(f"{path}/feedback", json={"id": "mine", "reward": 0}).status_code == 409
        assert two.post(f"{path}/feedback", json={"id": "nobodys", "reward": 0}).status_code == 404
        # Seldon's way.
        said = {"data": {"ndarray": [[5.1, 3.5, 1.4, 0.2]]}}
        seldon = f"/seldon/default/{name}/api/v1.0"
        answer = one.post(f"{seldon}/predictions", json=said)
        assert answer.status_code == 200, answer.text
        body = {"request": said, "response": answer.json(), "reward": 1}
        assert two.post(f"{seldon}/feedback", json=body).status_code == 200
        assert one.post(f"{seldon}/feedback", json=body).status_code == 409
    platform.run("delete", "isvc", name)


def test_what_was_learned_outlives_gateways_control_plane_and_node(two_gateways: Platform) -> None:
    platform, name = two_gateways, "lasts"
    platform.run("apply", "-f", "-", "--wait", stdin=trial(name, {"policy": "ucb1"}))
    ready(platform, name)
    rounds(platform, name, "v2-00001", 40)
    early = ask(platform, name)

    for module in ("penstock.gateway", "penstock.gateway", "penstock.api"):
        pid = platform.child(module)
        os.kill(pid, signal.SIGKILL)
        until(lambda p=pid: not alive(p), "the process to end")

    def answers() -> bool:
        try:
            ask(platform, name)
            metrics = httpx.get(platform.api + "/metrics", timeout=5).text
        except (httpx.HTTPError, AssertionError):
            return False
        # One that has not heard from the control plane goes by what a file kept, which is older.
        return "\npenstock_gateways 2.0\n" in metrics

    until(answers, "the platform")
    # An id of a gateway that is no more is as good as any.
    told = until(lambda: _counted(reward(platform, early, 1.0)), "the reward to be kept")
    assert told.status_code == 200, told.text
    after = rounds(platform, name, "v2-00001", 20)
    assert after["v2-00001"] >= 15

    platform.kill()
    platform.start()
    until(lambda: len(_revisions(platform, name)) == 2, "both replicas")
    until(answers, "the platform")
    after = rounds(platform, name, "v2-00001", 20)
    assert after["v2-00001"] >= 15
    until(lambda: sum(a["rewards"] for a in arms(platform, name).values()) == 81, "the status")
    # Deleted, and made again: nothing of it is left.
    platform.run("delete", "isvc", name)
    platform.run("apply", "-f", "-", "--wait", stdin=trial(name, {"policy": "ucb1"}))
    ready(platform, name)
    answer = ask(platform, name)
    assert reward(platform, answer, 1.0).status_code == 200
    forgotten = until(lambda: _counted(reward(platform, early, 1.0)), "the gateways to settle")
    assert forgotten.status_code == 404
    platform.run("delete", "isvc", name)


def _counted(answer: httpx.Response) -> httpx.Response | None:
    return None if answer.status_code == 503 else answer


def _revisions(platform: Platform, name: str) -> set[str]:
    return {
        r["spec"]["revision"]
        for r in platform.replicas()
        if r["spec"]["service"] == name and r["status"]["phase"] == "Ready"
    }


def test_a_graphs_splitter_learns(two_gateways: Platform) -> None:
    platform = two_gateways
    documents = [
        yaml.safe_load(manifest("left")),
        yaml.safe_load(manifest("right", "models/other")),
    ]
    documents.append(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "InferenceGraph",
            "metadata": {"name": "fork", "annotations": {"penstock.dev/bandit": "thompson"}},
            "spec": {
                "nodes": {
                    "root": {
                        "routerType": "Splitter",
                        "steps": [
                            {"name": "l", "serviceName": "left", "weight": 90},
                            {"name": "r", "serviceName": "right", "weight": 10},
                        ],
                    }
                }
            },
        }
    )
    platform.run("apply", "-f", "-", "--wait", stdin=yaml.safe_dump_all(documents))
    taken: Counter[str] = Counter()
    url = f"{platform.http}/serving/default/fork"
    for i in range(100):
        answer = client.post(url, json=V1)
        assert answer.status_code == 200, answer.text
        arm = answer.headers["x-penstock-arm"]
        taken[arm] += i >= 50
        told = reward(platform, answer, float(arm == "r"))
        assert told.json()["credited"][0]["step"].startswith("root."), told.text
    assert taken["r"] >= 40
    assert "root" in platform.run("bandit", "show", "fork")
    for kind, name in (("inferencegraph", "fork"), ("isvc", "left"), ("isvc", "right")):
        platform.run("delete", kind, name)


def test_arms_behind_a_transformer_and_clients_that_keep_theirs(two_gateways: Platform) -> None:
    """Whoever comes for the first time goes where the rewards point; who was here stays where it was."""
    platform, name = two_gateways, "kept"
    code = platform.folder / "models" / "between"
    code.mkdir()
    (code / "model.py").write_text(
        "import penstock\n"
        "class Between(penstock.Transformer):\n"
        "    def predict(self, payload):\n"
        "        return self.predictor.ask(payload)\n"
    )
    obj = yaml.safe_load(trial(name, "thompson"))
    obj["spec"]["transformer"] = {"python": {"storageUri": "models/between"}}
    obj["spec"]["traffic"]["sticky"] = {}
    platform.run("apply", "-f", "-", "--wait", stdin=yaml.safe_dump(obj))
    until(lambda: len(_revisions(platform, name)) == 3, "the replicas")
    first: Counter[str] = Counter()
    for visitor in range(40):
        client.cookies.clear()
        answer = ask(platform, name)
        arm = answer.headers["x-penstock-arm"]
        assert answer.headers["x-penstock-answered-by"] == arm
        first[arm] += visitor >= 20
        for _ in range(2):  # the cookie that came with the first answer
            assert reward(platform, answer, float("v2" in arm)).status_code == 200
            answer = ask(platform, name)
            assert answer.headers["x-penstock-arm"] == arm
    client.cookies.clear()
    assert first[f"{name}-v2-00001"] >= 17
    assert (
        sum(a["rewards"] for a in until(lambda: _all(platform, name, 80), "status").values()) == 80
    )
    # Over gRPC the same.
    inputs = [grpcclient.InferInput("x", [1, 4], "FP64")]
    inputs[0].set_data_from_numpy(np.array([[5.1, 3.5, 1.4, 0.2]]))
    with grpcclient.InferenceServerClient(platform.grpc) as caller:
        said = caller.infer(name, inputs).get_response()
    told = client.post(platform.http + "/feedback", json={"id": said.id, "reward": 1.0})
    assert told.status_code == 200, told.text
    platform.run("delete", "isvc", name)


def _all(platform: Platform, name: str, count: int) -> dict[str, Any] | None:
    found = arms(platform, name)
    return found if sum(a["rewards"] for a in found.values()) >= count else None


def test_rewards_count_once_while_processes_are_killed(two_gateways: Platform) -> None:
    """Each answer is rewarded until somebody says that it counted; kills in between lose and add none."""
    platform, name = two_gateways, "exact"
    platform.run("apply", "-f", "-", "--wait", stdin=trial(name, "thompson"))
    ready(platform, name)
    stop = threading.Event()
    rewarded: list[int] = [0] * 4
    wrong: list[str] = []

    def visit(mine: int) -> None:
        with httpx.Client(timeout=30) as own:
            while not stop.is_set():
                try:
                    answer = own.post(f"{platform.http}/v1/models/{name}:predict", json=V1)
                    if answer.status_code != 200:
                        continue
                except httpx.HTTPError:
                    continue  # its gateway was killed
                body = {"id": answer.headers["x-request-id"], "reward": 1}
                while True:
                    try:
                        told = own.post(f"{platform.http}/feedback", json=body)
                    except httpx.HTTPError:
                        continue
                    if told.status_code in (200, 409):  # 409: an answer before was lost
                        rewarded[mine] += 1
                        break
                    if told.status_code != 503:
                        wrong.append(told.text)
                        return

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for module in ("penstock.api", "penstock.gateway", "penstock.api", "penstock.gateway"):
            before = sum(rewarded)
            until(lambda b=before: sum(rewarded) > b + 40, "rewards")
            pid = platform.child(module)
            os.kill(pid, signal.SIGKILL)
            until(lambda p=pid: not alive(p), "the process to end")
        before = sum(rewarded)
        until(lambda: sum(rewarded) > before + 40, "rewards")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []

    def counted() -> int:
        return sum(a["rewards"] for a in arms(platform, name).values())

    until(lambda: counted() == sum(rewarded), f"{sum(rewarded)} rewards, not {counted()}")
    platform.run("delete", "isvc", name)
