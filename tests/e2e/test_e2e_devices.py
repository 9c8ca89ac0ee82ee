"""Accelerators through the whole platform: declared by the operator, held, waited for, taken, shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from platform_harness import Platform, until

TELLS = """
import os

from penstock.sdk import Model


class Tells(Model):
    def predict(self, payload, headers=None):
        return {"predictions": [os.environ.get("CUDA_VISIBLE_DEVICES")]}
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("dev")
    (folder / "models" / "tells").mkdir(parents=True)
    (folder / "models" / "tells" / "model.py").write_text(TELLS)
    devices = [{"id": "GPU-a", "name": "T4", "memory": "16Gi"}]
    (folder / "devices.json").write_text(json.dumps(devices))
    p = Platform(folder, "--devices", str(folder / "devices.json"))
    p.start()
    yield p
    p.stop()


def tells(name: str, gpu: float, **predictor: Any) -> str:
    block: dict[str, Any] = {"storageUri": "models/tells"}
    if gpu:
        block["resources"] = {"limits": {"nvidia.com/gpu": gpu}}
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"python": block, **predictor}},
        }
    )


def seen(platform: Platform, name: str) -> Any:
    answer = httpx.post(
        f"{platform.http}/v1/models/{name}:predict", json={"instances": [1]}, timeout=30
    )
    answer.raise_for_status()
    return answer.json()["predictions"][0]


def condition(platform: Platform, name: str) -> dict[str, Any]:
    status = platform.service(name).get("status") or {}
    found: dict[str, Any] = next(
        (c for c in status.get("conditions", ()) if c["type"] == "Ready"), {}
    )
    return found


def test_devices_are_held_shared_waited_for_and_taken(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=tells("half", 0.5))
    platform.run("apply", "-f", "-", "--wait", stdin=tells("none", 0))
    assert seen(platform, "half") == "GPU-a"
    assert seen(platform, "none") == "", "who asks for no device sees none"
    table = platform.run("get", "devices")
    assert "nvidia-0" in table
    assert "16 GiB" in table
    assert "half-00001-0" in table
    assert "(0.5)" in table

    platform.run("apply", "-f", "-", stdin=tells("whole", 1, minReplicas=0))
    c = until(
        lambda: (c := condition(platform, "whole")).get("reason") == "WaitingForDevice" and c,
        "its wait",
    )
    assert c["status"] == "False"
    assert "asks for 1 nvidia.com/gpu" in c["message"]
    assert "default.half-00001-0" in c["message"]

    platform.run("delete", "isvc", "half")
    until(lambda: condition(platform, "whole").get("status") == "True", "its device")
    assert seen(platform, "whole") == "GPU-a"

    recreate = {"deploymentStrategy": {"type": "Recreate"}, "priority": 100}
    platform.run("apply", "-f", "-", "--wait", stdin=tells("first", 1, **recreate))
    assert seen(platform, "first") == "GPU-a"
    assert "PutToSleep" in platform.run("events")
    assert condition(platform, "whole")["reason"] == "Asleep"

    changed = json.loads(tells("first", 1, **recreate))
    changed["spec"]["predictor"]["python"]["env"] = [{"name": "A", "value": "b"}]
    platform.run("apply", "-f", "-", "--wait", stdin=json.dumps(changed))
    assert seen(platform, "first") == "GPU-a"
    devices = platform.get("/apis/penstock.dev/v1alpha1/devices")["items"]
    assert [h["replica"].partition("-0.")[0] for h in devices[0]["status"]["holders"]] == [
        "default.first-00002"
    ]


def test_a_sklearn_model_that_asks_for_a_device_is_told_that_it_uses_none(
    platform: Platform,
) -> None:
    """It would hold the device for nothing."""
    platform.run("delete", "isvc", "--all")
    (platform.folder / "models" / "iris").mkdir()
    (platform.folder / "models" / "iris" / "model.joblib").write_bytes(b"never read")
    manifest = json.loads(tells("iris", 1))
    manifest["spec"]["predictor"]["sklearn"] = manifest["spec"]["predictor"].pop("python")
    manifest["spec"]["predictor"]["sklearn"]["storageUri"] = "models/iris"
    platform.run("apply", "-f", "-", stdin=json.dumps(manifest))
    c = until(
        lambda: (c := condition(platform, "iris")).get("reason") == "ModelLoadFailed" and c,
        "its failure",
    )
    assert "run on the processor" in c["message"]
    devices = platform.get("/apis/penstock.dev/v1alpha1/devices")["items"]
    assert devices[0]["status"]["holders"] == []
