"""The repository API through the whole platform: what is loaded, waking it, and letting it sleep."""

from __future__ import annotations

import os
from typing import Any

import httpx
from platform_harness import Platform, manifest, until

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


def test_a_service_is_unloaded_and_loaded_and_counted(platform: Platform) -> None:
    """Unload puts it to sleep, load wakes it; the other one, which keeps a replica, says what to do."""
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("iris", minReplicas=0))
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("kept", minReplicas=2))

    def post(path: str, **options: Any) -> httpx.Response:
        return httpx.post(platform.http + path, timeout=30, **options)

    def index() -> dict[str, str]:
        return {m["name"]: m["state"] for m in post("/v2/repository/index").json()}

    assert index() == {"iris": "READY", "kept": "READY"}
    (pid,) = [r["status"]["pid"] for r in platform.replicas() if r["spec"]["service"] == "iris"]
    answer = post("/v2/repository/models/iris/unload")
    assert (answer.status_code, answer.json()) == (200, {"name": "iris", "unload": True})
    assert index() == {"iris": "UNAVAILABLE", "kept": "READY"}
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the process")
    answer = post("/v2/repository/models/iris/load")
    assert (answer.status_code, answer.json()) == (200, {"name": "iris", "load": True})
    assert index() == {"iris": "READY", "kept": "READY"}
    assert post("/v1/models/iris:predict", json=V1).json() == {"predictions": [0]}
    assert "Unloaded" in platform.run("events", "-n", "default")

    answer = post("/v2/repository/models/kept/unload")
    assert answer.status_code == 409
    assert "minReplicas: 0" in answer.json()["error"]
    assert post("/v2/repository/models/nobody/load").status_code == 404

    for _ in range(10):
        assert post("/v1/models/kept:predict", json=V1).status_code == 200
    found = httpx.get(platform.http + "/v2/models/stats", timeout=10).json()["model_stats"]
    counts = {m["name"]: m["inference_stats"]["success"]["count"] for m in found}
    assert counts == {"iris": 1, "kept": 10}
    one = httpx.get(platform.http + "/v2/models/kept/stats", timeout=10).json()["model_stats"]
    assert one[0]["inference_stats"]["success"]["count"] == 10
