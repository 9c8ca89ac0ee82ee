"""Rows about dividing requests: how exact a split is, what it costs, and what a rollout a second loses."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load import wrk
from benchmarks.measure import iris_model
from benchmarks.report import Row
from benchmarks.system import System, manifest, system

JSON = {"Content-Type": "application/json"}
BODY = json.dumps(
    {"inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [[5.1, 3.5, 1.4, 0.2]]}]}
).encode()  # fmt: skip
SHARE = 10
REQUESTS = 10_000
ROLLOUTS_S = 60


def _two_models(folder: Path) -> None:
    shutil.copytree(iris_model(folder).parent, folder / "iris-b")


def _patch(s: System, name: str, predictor: dict[str, Any]) -> None:
    httpx.patch(
        f"{s.api}/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices/{name}",
        content=json.dumps({"spec": {"predictor": predictor}}),
        headers={"content-type": "application/merge-patch+json"},
        timeout=30,
    ).raise_for_status()


def _traffic(s: System, name: str) -> dict[str, int]:
    obj = httpx.get(
        f"{s.api}/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices/{name}",
        timeout=30,
    ).json()
    predictor = obj.get("status", {}).get("components", {}).get("predictor", {})
    return {t["revisionName"]: t["percent"] for t in predictor.get("traffic", ())}


def _until_split(s: System, name: str) -> None:
    deadline = time.monotonic() + 60
    while sorted(_traffic(s, name).values()) != [SHARE, 100 - SHARE]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no split: {_traffic(s, name)}")
        time.sleep(0.05)


def split(seconds: float) -> list[Row]:
    """10% of 10,000 requests; and the rate with a split against that without, of as many processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _two_models(folder)
        with system(model_dir=folder) as s:
            s.apply(manifest("divided", "sklearn", "iris"))
            s.apply(manifest("divided", "sklearn", "iris-b", canaryTrafficPercent=SHARE))
            s.apply(manifest("whole", "sklearn", "iris", minReplicas=2))
            _until_split(s, "divided")
            counted: dict[str, int] = {}
            with httpx.Client(timeout=30) as client:
                for _ in range(REQUESTS):
                    answer = client.post(
                        f"{s.url}/v2/models/divided/infer", content=BODY, headers=JSON
                    )
                    answer.raise_for_status()
                    revision = answer.headers["x-penstock-revision"]
                    counted[revision] = counted.get(revision, 0) + 1
            rates: dict[str, list[float]] = {"divided": [], "whole": []}
            for service in rates:
                url = f"{s.url}/v2/models/{service}/infer"
                wrk(url, connections=32, seconds=1, body=BODY, headers=JSON)
            for turn in range(10):
                # Side by side and in both orders, so that a machine that changes changes both.
                for service in sorted(rates, reverse=bool(turn % 2)):
                    url = f"{s.url}/v2/models/{service}/infer"
                    load = wrk(url, connections=32, seconds=seconds / 2, body=BODY, headers=JSON)
                    if load.failed:
                        raise RuntimeError(f"{load.failed} requests of {service} failed")
                    rates[service].append(load.rate)
    new = counted.get("divided-00002", 0) / REQUESTS
    pairs = [a / b for a, b in zip(rates["divided"], rates["whole"], strict=True)]
    ratio = statistics.median(pairs)
    with_split, without = (statistics.median(rates[n]) for n in ("divided", "whole"))
    return [
        Row(
            f"a split of {SHARE}% over {REQUESTS:,} requests",
            f"{new:.2%}",
            "",
            "within one point",
            abs(new - SHARE / 100) <= 0.01,
            {"share": new},
        ),
        Row(
            "the gateway with a split, 32 connections, two model processes",
            f"{with_split:,.0f}/s",
            f"without one: {without:,.0f}/s: {ratio:.3f} times (median of {len(pairs)} pairs)",
            "0.95 times at least",
            ratio >= 0.95,
            {"split": with_split, "whole": without, "ratio": ratio},
        ),
    ]


def rollouts(_: float) -> list[Row]:
    """A change every second for a minute, under 32 connections."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _two_models(folder)
        with system(model_dir=folder) as s:
            s.apply(manifest("moving", "sklearn", "iris"))
            loads = []
            load = threading.Thread(
                target=lambda: loads.append(
                    wrk(
                        f"{s.url}/v2/models/moving/infer",
                        connections=32,
                        seconds=ROLLOUTS_S + 2,
                        body=BODY,
                        headers=JSON,
                    )
                )
            )
            load.start()
            served = set()
            began = time.monotonic()
            for turn in range(ROLLOUTS_S):
                time.sleep(max(0.0, began + turn + 1 - time.monotonic()))
                _patch(s, "moving", {"sklearn": {"storageUri": ("iris-b", "iris")[turn % 2]}})
                served.update(_traffic(s, "moving"))
            load.join()
            revisions = httpx.get(
                f"{s.api}/apis/penstock.dev/v1alpha1/namespaces/default/revisions", timeout=30
            ).json()["items"]
    (done,) = loads
    newest = max(r["spec"]["number"] for r in revisions)
    return [
        Row(
            f"a rollout every second for {ROLLOUTS_S} s under 32 connections",
            f"{done.failed} of {done.requests:,} requests failed; {newest} revisions, "
            f"{len(served)} seen serving",
            "",
            "none fails",
            done.failed == 0 and newest >= ROLLOUTS_S * 0.9,
            {"failed": done.failed, "requests": done.requests, "revisions": newest},
        )
    ]
