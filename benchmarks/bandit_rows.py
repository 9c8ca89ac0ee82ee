"""Rows of bandits and of asking many: regret against the bounds, what a choice costs, twenty at once."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.graph_rows import BODY, WAIT_S, WAITING
from benchmarks.load import wrk
from benchmarks.measure import iris_model
from benchmarks.report import Row
from benchmarks.system import System, system
from penstock.domain.bandit import (
    Arm,
    Bandit,
    Policy,
    PolicyName,
    auer_bound,
    lai_robbins_bound,
)

#: Chances of success of the simulated arms.
MEANS = (0.45, 0.5, 0.55, 0.6, 0.4)
PULLS = 10_000
RUNS = 20
ASKED = 20
ROUNDS = 100
WARM = 10


def regret(_: float) -> list[Row]:
    """Mean regret of 20 runs of 10,000 pulls; the bounds are of the papers that the module cites."""
    auer, lai = auer_bound(MEANS, PULLS), lai_robbins_bound(MEANS, PULLS)
    forced = 0.1 * PULLS * statistics.mean(max(MEANS) - m for m in MEANS)
    rows = []
    for bandit, bound, said, goal in (
        (Bandit(PolicyName.UCB1), auer, "Auer's bound", "below it"),
        (Bandit(PolicyName.THOMPSON), lai, "Lai and Robbins'", "1.5 times at most"),
        (
            Bandit(PolicyName.EPSILON_GREEDY),
            forced,
            "what epsilon 0.1 gives away",
            "3 times at most",
        ),
    ):
        found = [_play(bandit, seed) for seed in range(RUNS)]
        mean = statistics.mean(found)
        most = {"below it": 1.0, "1.5 times at most": 1.5, "3 times at most": 3.0}[goal]
        rows.append(
            Row(
                f"regret of {bandit.policy}, five arms, {PULLS:,} pulls, {RUNS} runs",
                f"{mean:.0f} (deviation {statistics.stdev(found):.0f})",
                f"{said}: {bound:.0f}",
                goal,
                mean <= most * bound,
                {"regret": mean, "bound": bound},
            )
        )
    return rows


def _play(bandit: Bandit, seed: int) -> float:
    chance = random.Random(seed)
    policy = Policy(bandit, random.Random(seed + RUNS))
    arms = [Arm(str(i)) for i in range(len(MEANS))]
    lost = 0.0
    for _ in range(PULLS):
        i = policy.choose(arms)
        arms[i].pulls += 1
        lost += max(MEANS) - MEANS[i]
        arms[i].credit(float(chance.random() < MEANS[i]))
    return lost


def bandits(seconds: float) -> list[Row]:
    """The rate with a bandit against that of a split; a reward's way to the disk and back."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(iris_model(folder).parent, folder / "iris-b")
        with system(model_dir=folder) as s:
            s.apply(_two("plain", {}))
            s.apply(_two("learns", {"bandit": "thompson"}))
            _until_both(s, "learns")
            _until_both(s, "plain")
            reward_s = _rewards(s, "learns")
            rates: dict[str, list[float]] = {"learns": [], "plain": []}
            headers = {"Content-Type": "application/json"}
            for turn in range(8):
                for service in sorted(rates, reverse=bool(turn % 2)):
                    url = f"{s.url}/v2/models/{service}/infer"
                    load = wrk(url, connections=32, seconds=seconds / 2, body=BODY, headers=headers)
                    if load.failed:
                        raise RuntimeError(f"{load.failed} requests of {service} failed")
                    rates[service].append(load.rate)
    ratio = statistics.median(a / b for a, b in zip(rates["learns"], rates["plain"], strict=True))
    learns, plain = (statistics.median(rates[n]) for n in ("learns", "plain"))
    return [
        Row(
            "the gateway with a bandit (Thompson, two arms), 32 connections",
            f"{learns:,.0f}/s",
            f"with a split: {plain:,.0f}/s: {ratio:.2f} times",
            "0.6 times at least",
            ratio >= 0.6,
            {"bandit": learns, "split": plain, "ratio": ratio},
        ),
        Row(
            "a reward, until it is on the disk, one connection, median",
            f"{reward_s * 1e3:.2f} ms",
            "",
            "10 ms at most",
            reward_s <= 0.01,
            {"reward_ms": reward_s * 1e3},
        ),
    ]


def _rewards(s: System, name: str) -> float:
    connection = http.client.HTTPConnection(s.url.partition("//")[2], timeout=30)
    took = []
    for _ in range(ROUNDS):
        response = _post(connection, f"/v2/models/{name}/infer", BODY)
        own = response["id"]
        began = time.perf_counter()
        _post(connection, "/feedback", json.dumps({"id": own, "reward": 1}).encode())
        took.append(time.perf_counter() - began)
    connection.close()
    return statistics.median(took)


def query(_: float) -> list[Row]:
    """Twenty models that wait 10 ms, at once, against one of them; and against one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "waiting").mkdir()
        (folder / "waiting" / "model.py").write_text(WAITING)
        names = [f"w{i}" for i in range(ASKED)]
        with system(model_dir=folder) as s:
            s.apply("\n---\n".join(_waiting(n) for n in names))
            connection = http.client.HTTPConnection(s.url.partition("//")[2], timeout=30)
            body = json.dumps({"models": names, **json.loads(BODY)}).encode()
            slowest: list[float] = []

            def many() -> None:
                results = _post(connection, "/v2/query", body)["results"]
                if any(r["status"] != 200 for r in results):
                    raise RuntimeError(str(results))
                slowest.append(max(r["seconds"] for r in results))

            took = _median(many)
            one = _median(lambda: _post(connection, "/v2/models/w0/infer", BODY))
            connection.close()
    inside = statistics.median(slowest[WARM:])
    return [
        Row(
            f"{ASKED} models that wait 10 ms asked by one query, one connection, median",
            f"{took * 1e3:.1f} ms",
            f"one of them alone: {one * 1e3:.1f} ms; the slowest within the query: {inside * 1e3:.1f} ms;"
            f" one after the other: {ASKED * one * 1e3:.0f} ms",
            "the slowest and 5 ms",
            took <= inside + 0.005,
            {
                "query_ms": took * 1e3,
                "slowest_ms": inside * 1e3,
                "one_ms": one * 1e3,
                "wait_ms": WAIT_S * 1e3,
            },
        )
    ]


def _median(work: Callable[[], object]) -> float:
    took = []
    for i in range(WARM + ROUNDS):
        began = time.perf_counter()
        work()
        if i >= WARM:
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> dict[str, Any]:
    connection.request("POST", path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {answer[:200]!r}")
    found: dict[str, Any] = json.loads(answer)
    return found


def _until_both(s: System, name: str) -> None:
    connection = http.client.HTTPConnection(s.url.partition("//")[2], timeout=30)
    seen: set[str] = set()
    deadline = time.monotonic() + 60
    while len(seen) < 2:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {seen} of {name} answers")
        connection.request(
            "POST", f"/v2/models/{name}/infer", BODY, {"content-type": "application/json"}
        )
        response = connection.getresponse()
        response.read()
        seen.add(response.getheader("x-penstock-revision", ""))
    connection.close()


def _two(name: str, traffic: dict[str, object]) -> str:
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {
                "predictor": {"sklearn": {"storageUri": "iris"}},
                "canary": [
                    {
                        "predictor": {"name": "b", "sklearn": {"storageUri": "iris-b"}},
                        "trafficPercent": 50,
                    }
                ],
                **({"traffic": traffic} if traffic else {}),
            },
        }
    )


def _waiting(name: str) -> str:
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"python": {"storageUri": "waiting"}}},
        }
    )
