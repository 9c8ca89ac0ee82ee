"""Seldon's own client against the platform: REST and gRPC, a graph of classes and a single model."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import environment
from platform_harness import Platform

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
MODEL = {
    "apiVersion": "machinelearning.seldon.io/v1",
    "kind": "SeldonDeployment",
    "metadata": {"name": "tulips"},
    "spec": {
        "predictors": [
            {
                "name": "main",
                "graph": {
                    "name": "classifier",
                    "implementation": "SKLEARN_SERVER",
                    "modelUri": "models/iris",
                },
            }
        ]
    },
}


@pytest.fixture(scope="module")
def seldon(platform: Platform, folder: Path) -> Platform:
    """A graph, and a single model."""
    shutil.copytree(EXAMPLES / "seldon_units", folder / "examples" / "seldon_units")
    platform.run("apply", "-f", str(EXAMPLES / "seldon_graph.yaml"))
    platform.run("apply", "-f", "-", stdin=json.dumps(MODEL))
    for name in ("flowers", "tulips"):
        platform.run("wait", f"sdep/{name}", "--for=condition=Ready", "--timeout=60s")
    return platform


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["flowers", "tulips"])
def test_its_calls_work_unchanged(seldon: Platform, name: str) -> None:
    python = environment("seldon") / "python"
    done = subprocess.run(
        [
            python,
            "-W",
            "ignore",
            HERE / "seldon_client.py",
            seldon.http.partition("//")[2],
            seldon.grpc,
            name,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for transport in ("rest", "grpc"):
        for payload in ("ndarray", "tensor"):
            success, response, message = told[f"{transport} {payload}"]
            assert success, (transport, payload, message)
            data = response["data"][payload]
            assert len(data["values"] if payload == "tensor" else data[0]) == 3
            assert response["meta"]["puid"]
            assert response["meta"]["tags"]["t"] == 1
            if name == "flowers":
                assert response["meta"]["tags"]["unit"] == "cm"
                assert "picks" in response["meta"]["routing"]
        assert told[f"{transport} feedback"] == [True, ""]
        # Text is nothing for this model, and its client is told so.
        assert told[f"{transport} text"] is False
    assert told["rest, no namespace"] is told["rest, istio"] is told["grpc, no namespace"] is True
