"""Rows of graphs: what steps in a row add to one hop, and steps side by side to the slowest of them."""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import Row
from benchmarks.system import System, system

ROUNDS = 300
WARM = 30
#: What a waiting model waits, seconds.
WAIT_S = 0.01
TRIVIAL = """\
import penstock


class Echo(penstock.Model):
    async def predict(self, request):
        return {"x": request.as_numpy()}
"""
WAITING = f"""\
import time

import penstock


class Late(penstock.Model):
    def predict(self, request):
        time.sleep({WAIT_S})
        return {{"x": request.as_numpy()}}
"""
_TENSOR = {"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}
BODY = json.dumps({"inputs": [_TENSOR]}).encode()
#: The trivial model, asked by a client that was answered just before.
_AT_ONCE = "t0 at once"


def graphs(_: float) -> list[Row]:
    """Medians over one connection, the services and graphs asked in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, code in (("trivial", TRIVIAL), ("waiting", WAITING)):
            (folder / kind).mkdir()
            (folder / kind / "model.py").write_text(code)
        with system(model_dir=folder) as s:
            for model, kind in (("t", "trivial"), ("w", "waiting")):
                for i in range(5 if model == "w" else 3):
                    s.apply(_service(f"{model}{i}", kind))
            chain = [{"name": "t0"}, *({"name": f"t{i}", "inputs": [f"t{i - 1}"]} for i in (1, 2))]
            s.apply(_pipeline("chain", {"steps": chain}))
            names = [f"w{i}" for i in range(5)]
            s.apply(
                _pipeline(
                    "ensemble",
                    {
                        "steps": [{"name": n} for n in names],
                        "output": {"from": names, "combine": "object"},
                    },
                )
            )
            took, slowest_s = _medians(s)
    hop, chain_ms = took["t0"] * 1e3, took["chain"] * 1e3
    warm = took[_AT_ONCE] * 1e3
    alone, five, slowest = took["w0"] * 1e3, took["ensemble"] * 1e3, slowest_s * 1e3
    added = (chain_ms - hop) / hop
    return [
        Row(
            "a graph of three trivial steps in a row, one connection, median",
            f"{chain_ms:.2f} ms",
            f"one service: {hop:.2f} ms: adds {added:.1f} hops",
            "adds 3 hops at most",
            added <= 3,
            {"chain_ms": chain_ms, "hop_ms": hop, "hop_at_once_ms": warm},
        ),
        Row(
            "an ensemble of five models that wait 10 ms, one connection, median",
            f"{five:.2f} ms",
            f"the slowest of the five by its trace: {slowest:.2f} ms, a hop {hop:.2f} ms (to a client that "
            f"was answered just before: {warm:.2f} ms); one of them alone: {alone:.2f} ms",
            "the slowest and one hop",
            five <= slowest + hop,
            {
                "ensemble_ms": five,
                "slowest_ms": slowest,
                "hop_ms": hop,
                "hop_at_once_ms": warm,
                "alone_ms": alone,
            },
        ),
    ]


def _service(name: str, folder: str) -> str:
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"python": {"storageUri": folder}}},
        }
    )


def _pipeline(name: str, spec: dict[str, object]) -> str:
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": name},
            "spec": spec,
        }
    )


def _medians(s: System) -> tuple[dict[str, float], float]:
    """Seconds by name; and those of the slowest step of the ensemble, of which each answer's trace tells.

    To a client that has waited for 10 ms a hop costs some tenths of a millisecond more than to one that was
    answered just before: caches are cold by then, its own, the gateway's and the model's. Who asks models
    that wait has always waited, so the trivial models are asked after as long a pause; the other figure is
    printed beside.
    """
    names = (_AT_ONCE, "t0", "chain", "w0", "ensemble")
    took: dict[str, list[float]] = {name: [] for name in names}
    slowest: list[float] = []
    connection = http.client.HTTPConnection(s.url.partition("//")[2], timeout=30)

    def ask(name: str, **more: str) -> tuple[float, http.client.HTTPResponse]:
        headers = {"content-type": "application/json", **more}
        began = time.perf_counter()
        connection.request("POST", f"/v2/models/{name}/infer", BODY, headers)
        response = connection.getresponse()
        body = response.read()
        ended = time.perf_counter()
        if response.status != 200:
            raise RuntimeError(f"{name} answered {response.status}: {body[:200]!r}")
        return ended - began, response

    for i in range(2 * (WARM + ROUNDS)):
        # A trace costs something, so those that are timed have none; and those that have one come after
        # the same others, because caches are cold after them.
        traced = {"x-penstock-trace": "1"} if i % 2 else {}
        for name in names:
            if name in ("t0", "chain"):
                time.sleep(WAIT_S)
            seconds, response = ask(name.split()[0], **(traced if name == "ensemble" else {}))
            if i < 2 * WARM:
                continue
            if traced and name == "ensemble":
                trace = json.loads(response.headers["x-penstock-trace"])
                slowest.append(max(step["ms"] for step in trace["steps"]) / 1e3)
            else:
                took[name].append(seconds)
    connection.close()
    medians = {name: statistics.median(values) for name, values in took.items()}
    return medians, statistics.median(slowest)
