"""The real kubectl against the real platform, across a kill of the control plane."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import httpx
from platform_harness import Platform, manifest, until

ROWS = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
SERVICES = "/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices"
LABEL = "serving.kserve.io/inferenceservice=iris"


def kubectl(platform: Platform, *args: str, fails: bool = False) -> str:
    done = subprocess.run(
        [os.environ.get("PENSTOCK_TEST_KUBECTL", "kubectl"), *args],
        cwd=platform.folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(platform.folder),
            "KUBECONFIG": str(platform.folder / "kubeconfig"),
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    text = done.stdout + done.stderr
    assert (done.returncode != 0) is fails, f"{args}: {text}\n{platform.node_logs()}"
    return text


def test_a_service_is_applied_looked_at_and_deleted_with_kubectl(platform: Platform) -> None:
    (platform.folder / "iris.yaml").write_text(manifest())
    platform.run("kubeconfig", "-o", "kubeconfig")
    applied = kubectl(platform, "apply", "--server-side", "-f", "iris.yaml")
    assert "serverside-applied" in applied
    kubectl(platform, "wait", "--for=condition=Ready", "isvc/iris", "--timeout=60s")
    answer = httpx.post(f"{platform.http}/v1/models/iris:predict", json=ROWS, timeout=30)
    assert answer.json() == {"predictions": [0]}
    assert "Running" in kubectl(platform, "get", "pods", "-l", LABEL)
    assert "is loaded" in kubectl(platform, "logs", "-l", LABEL)
    assert "RevisionReady" in kubectl(platform, "get", "events")
    assert platform.run("get", "isvc", "iris", "-o", "yaml").count("managedFields") == 0

    assert "no kind 'services'" in platform.run("get", "services", code=1)

    kubectl(platform, "scale", "isvc", "iris", "--replicas=2")
    until(lambda: len(_ready_pods(platform)) == 2, "two pods that are ready")
    (platform.folder / "one.yaml").write_text(manifest(minReplicas=1))
    clash = kubectl(platform, "apply", "--server-side", "-f", "one.yaml", fails=True)
    assert ".spec.predictor.minReplicas" in clash

    # Owners outlive the control plane; versions of what is not stored do not.
    before = platform.service()["metadata"]
    pods = platform.get("/api/v1/namespaces/default/pods")["metadata"]["resourceVersion"]
    os.kill(platform.child("penstock.api"), signal.SIGKILL)
    until(lambda: _answers(platform), "the control plane to be back")
    assert platform.service()["metadata"]["managedFields"] == before["managedFields"]
    query = {"watch": "1", "resourceVersion": pods}
    with httpx.stream("GET", f"{platform.api}/api/v1/pods", params=query, timeout=30) as stream:
        first = json.loads(next(stream.iter_lines()))
    assert (first["type"], first["object"]["code"]) == ("ERROR", 410)
    query = {"watch": "1", "resourceVersion": before["resourceVersion"], "timeoutSeconds": "1"}
    resumed = httpx.get(f"{platform.api}{SERVICES}", params=query, timeout=30)
    assert "ERROR" not in resumed.text

    kubectl(platform, "apply", "--server-side", "--force-conflicts", "-f", "one.yaml")
    until(lambda: len(_ready_pods(platform)) == 1, "one pod")
    kubectl(platform, "delete", "isvc", "iris", "--cascade=foreground", "--timeout=60s")
    # An end can be read for a while.
    until(
        lambda: {r["status"]["phase"] for r in platform.replicas()} <= {"Stopped"},
        "no replica that runs",
    )


def _ready_pods(platform: Platform) -> list[str]:
    items = platform.get("/api/v1/namespaces/default/pods")["items"]
    return [p["metadata"]["name"] for p in items if p["status"]["containerStatuses"][0]["ready"]]


def _answers(platform: Platform) -> bool:
    try:
        return httpx.get(f"{platform.api}/readyz", timeout=5).text == "ok"
    except httpx.TransportError:
        time.sleep(0.05)
        return False
