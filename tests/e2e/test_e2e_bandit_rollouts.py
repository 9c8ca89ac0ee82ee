"""A bandit whose service rolls revisions out, good and bad, under load: shares, rewards, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from platform_harness import Platform, alive, manifest, until

NAME = "offers"
STABLE, GOOD, BAD = (f"{NAME}-0000{i}" for i in (1, 2, 3))
BOLD = f"{NAME}-bold-00001"

MODEL = """
import penstock


class Offer(penstock.Model):
    def predict(self, payload):
        {body}
"""
BODIES = {
    "plain": "return ['plain' for _ in payload['instances']]",
    "plainer": "return ['plainer' for _ in payload['instances']]",
    "bold": "return ['bold' for _ in payload['instances']]",
    "faulty": "raise RuntimeError('no offer')",
}


@pytest.fixture(scope="module")
def offers(folder: Path) -> Iterator[Platform]:
    """Two gateways, so that shares, rewards and evidence are sums."""
    for name, body in BODIES.items():
        (folder / "models" / name).mkdir()
        (folder / "models" / name / "model.py").write_text(MODEL.format(body=body))
    platform = Platform(folder, "--gateways", "2")
    platform.data = folder / "offers"
    platform.start()
    yield platform
    platform.stop()


def rolling(model: str) -> str:
    obj = json.loads(manifest(NAME))
    obj["spec"] = {
        "predictor": {"python": {"storageUri": f"models/{model}"}},
        "canary": [
            {
                "predictor": {"name": "bold", "python": {"storageUri": "models/bold"}},
                "trafficPercent": 50,
            }
        ],
        "traffic": {"bandit": "thompson"},
        "rollout": {"steps": [20], "hold": "2s", "minRequests": 100, "limits": {"errorRate": 0.2}},
    }
    return json.dumps(obj)


class Visitors:
    """Ask all the time, and reward what bold offers, until told to stop."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.stop = threading.Event()
        #: (revision, status, status of its reward).
        self.seen: list[tuple[str, int, int]] = []
        self.lost: list[str] = []
        self.threads = [threading.Thread(target=self._visit) for _ in range(3)]

    def _visit(self) -> None:
        # A connection each time: any gateway.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(timeout=30, limits=limits, base_url=self.platform.http) as client:
            while not self.stop.is_set():
                try:
                    self._ask(client)
                except httpx.HTTPError as exc:
                    self.lost.append(repr(exc))

    def _ask(self, client: httpx.Client) -> None:
        answer = client.post(f"/v1/models/{NAME}:predict", json={"instances": [1]})
        revision = answer.headers.get("x-penstock-revision", "")
        told = 0
        if answer.status_code == 200:
            body = {"id": answer.headers["x-request-id"], "reward": float(revision == BOLD)}
            told = client.post("/feedback", json=body).status_code
            while told == 503:
                told = client.post("/feedback", json=body).status_code
        self.seen.append((revision, answer.status_code, told))

    def __enter__(self) -> Visitors:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def traffic(platform: Platform) -> dict[str, int]:
    predictor = platform.service(NAME)["status"]["components"]["predictor"]
    return {t["revisionName"]: t["percent"] for t in predictor.get("traffic", ())}


def arms(platform: Platform) -> dict[str, dict[str, Any]]:
    found = platform.service(NAME)["status"].get("penstock", {}).get("bandit", [])
    return {a["arm"]: a for a in found}


def test_a_service_with_a_bandit_rolls_out_a_good_and_a_bad_revision_under_load(
    offers: Platform,
) -> None:
    platform = offers
    platform.run("apply", "-f", "-", "--wait", stdin=rolling("plain"))
    until(lambda: traffic(platform) == {STABLE: 50, BOLD: 50}, "both arms")
    with Visitors(platform) as visitors:
        until(lambda: len(visitors.seen) > 200, "what the bandit learns")
        platform.run("apply", "-f", "-", stdin=rolling("plainer"))
        until(lambda: traffic(platform).get(GOOD) == 20, "the first step")
        # The control plane dies meanwhile: gateways go on as they were told, the step is found again.
        pid = platform.child("penstock.api")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "the control plane to end")
        until(lambda: _reached(platform), "the new control plane")
        until(lambda: traffic(platform) == {GOOD: 50, BOLD: 50}, "the promotion")
        until(lambda: any(s[0] == GOOD and s[2] == 200 for s in visitors.seen), "its arm")

        platform.run("apply", "-f", "-", stdin=rolling("faulty"))
        until(lambda: traffic(platform).get(BAD) == 0, "the rollback")
        until(lambda: traffic(platform) == {BAD: 0, GOOD: 50, BOLD: 50}, "the arms as they were")
        met = len(visitors.seen)
        until(lambda: len(visitors.seen) > met + 200, "the time after")
        after = visitors.seen[met + 100 :]

    seen = visitors.seen
    assert visitors.lost == []
    assert {s[0] for s in seen if s[1] != 200} == {BAD}, "others than the bad one failed"
    assert BAD not in {s[0] for s in after}
    outcomes = Counter((s[0], s[2]) for s in seen if s[1] == 200)
    # Of the good one nothing counts until it is an arm: 404, then 200. Nobody else's is refused.
    assert set(outcomes) == {(STABLE, 200), (BOLD, 200), (GOOD, 404), (GOOD, 200)}
    assert outcomes[GOOD, 404] >= 100
    # The bandit knows all the time that bold is liked.
    while_tried = [s for s in seen if s[1:] == (200, 200)][200:]
    assert sum(s[0] == BOLD for s in while_tried) > 0.9 * len(while_tried)

    counted = {name: outcomes[name, 200] for name in (STABLE, GOOD, BOLD)}
    until(
        lambda: {n: a["rewards"] for n, a in arms(platform).items()} == counted,
        f"{counted} rewards",
    )
    assert "RolledBack" in platform.run("events", NAME)
    platform.run("delete", "isvc", NAME)


def _reached(platform: Platform) -> bool:
    try:
        return httpx.get(platform.api + "/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
