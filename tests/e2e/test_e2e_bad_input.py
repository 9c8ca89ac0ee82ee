"""What is wrong is answered with a status and a reason, and the next good request is answered."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from platform_harness import Platform, until

ODD = """
import os, signal, time
import numpy as np
import penstock

class Odd(penstock.Model):
    def load(self):
        self.hoard = []
    def predict(self, payload):
        v2 = not isinstance(payload, dict)
        what = payload.inputs["what"][0] if v2 else payload["instances"][0]
        what = what.decode() if isinstance(what, bytes) else what
        if what == "raise": raise RuntimeError("it was 4711")
        if what == "hang": time.sleep(600)
        if what == "exit": os._exit(7)
        if what == "signal": os.kill(os.getpid(), signal.SIGKILL)
        if what == "nonsense": return object()
        if what == "memory":
            for _ in range(100):
                self.hoard.append(np.ones(2_000_000))
            return {"predictions": [len(self.hoard)]}
        if what == "none": return None
        return {"said": np.array([what], dtype=object)} if v2 else {"predictions": [what]}
"""
RAISES = """
import penstock

class M(penstock.Model):
    def load(self):
        raise RuntimeError("no weights here")
    def predict(self, payload):
        return payload
"""


def isvc(name: str, block: str, uri: str, **more: Any) -> str:
    resources = more.pop("resources", None)
    inner = {"storageUri": uri, **({"resources": resources} if resources else {})}
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {block: inner, **more}},
        }
    )


def odd(name: str) -> str:
    """A limit that the call which hoards memory goes over, and a time limit for the one that hangs."""
    limits = {"limits": {"memory": "200Mi"}}
    return isvc(name, "python", "models/odd", timeout=2 if "hang" in name else 20, resources=limits)


@pytest.fixture(scope="module")
def faults(platform: Platform) -> Platform:
    """`iris` is Ready; models/odd, models/raises, models/empty and models/versions are there."""
    models = platform.folder / "models"
    for name, source in (("odd", ODD), ("raises", RAISES)):
        (models / name).mkdir()
        (models / name / "model.py").write_text(source)
    (models / "empty").mkdir()
    (models / "empty" / "README.txt").write_text("nothing here")
    for version in ("1", "2"):
        (models / "versions" / version).mkdir(parents=True)
        (models / "versions" / version / "model.joblib").write_bytes(
            (models / "iris" / "model.joblib").read_bytes()
        )
    platform.run("apply", "-f", "-", "--wait", stdin=isvc("iris", "sklearn", "models/iris"))
    return platform


def ask(platform: Platform, name: str, instance: Any) -> httpx.Response:
    return httpx.post(
        f"{platform.http}/v1/models/{name}:predict", json={"instances": [instance]}, timeout=30
    )


GOOD = [5.1, 3.5, 1.4, 0.2]
FAULTY = [
    ("no model", "sklearn", "models/nothing", "There is no model at models/nothing"),
    ("no file of the format", "sklearn", "models/empty", "*.joblib"),
    ("no pickle", "sklearn", "models/broken", "cannot be loaded as a joblib or pickle file"),
    ("wrong format", "onnx", "models/iris", "*.onnx"),
    ("a load that raises", "python", "models/raises", "RuntimeError: no weights here"),
]


@pytest.mark.parametrize(
    ("block", "uri", "said"), [f[1:] for f in FAULTY], ids=[f[0] for f in FAULTY]
)
def test_a_model_that_cannot_be_loaded(faults: Platform, block: str, uri: str, said: str) -> None:
    """As a new service it answers 503 with the reason; as a change it leaves the old revision serving."""
    faults.run("apply", "-f", "-", stdin=isvc("faulty", block, uri))

    def ready(name: str) -> Any:
        found = faults.service(name).get("status", {}).get("conditions", [])
        return next((c for c in found if c["type"] == "Ready" and c["status"] == "False"), None)

    condition = until(
        lambda: (c := ready("faulty")) and said in c.get("message", "") and c, f"{said!r}", 30
    )
    assert "\n" not in condition["message"]
    answer = ask(faults, "faulty", GOOD)
    assert answer.status_code == 503
    assert said in answer.json()["error"]
    if uri == "models/raises":
        assert "Traceback" in faults.run("logs", "faulty")
    faults.run("apply", "-f", "-", "--wait", stdin=isvc("faulty", "sklearn", "models/iris"))
    assert ask(faults, "faulty", GOOD).json() == {"predictions": [0]}
    faults.run("apply", "-f", "-", stdin=isvc("faulty", block, uri))
    until(lambda: said in json.dumps(faults.service("faulty").get("status", {})), f"{said!r}")
    assert ask(faults, "faulty", GOOD).json() == {"predictions": [0]}
    faults.run("delete", "isvc", "faulty")


def ask_v2(platform: Platform, name: str, what: str) -> httpx.Response:
    tensor = {"name": "what", "shape": [1], "datatype": "BYTES", "data": [what]}
    return httpx.post(
        f"{platform.http}/v2/models/{name}/infer", json={"inputs": [tensor]}, timeout=30
    )


def fine(platform: Platform, name: str, protocol: str) -> None:
    """The next good request is answered."""
    answer = ask(platform, name, "fine") if protocol == "v1" else ask_v2(platform, name, "fine")
    assert answer.status_code == 200, answer.text
    if protocol == "v1":
        assert answer.json() == {"predictions": ["fine"]}
    else:
        assert answer.json()["outputs"][0]["data"] == ["fine"]


CALLS = [
    ("raise", 500, "failed in predict: RuntimeError"),
    ("nonsense", 500, "object"),
    ("none", 500, "answered None"),
    ("hang", 504, "did not answer within 2 s"),
    ("exit", 502, "ended the connection before it answered"),
    ("signal", 502, "ended the connection before it answered"),
    ("memory", 502, "ended the connection before it answered"),
]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize(("what", "status", "said"), CALLS, ids=[c[0] for c in CALLS])
def test_a_predict_that_goes_wrong(
    faults: Platform, what: str, status: int, said: str, protocol: str
) -> None:
    """One request fails, and the next good one is answered, if need be by the process that came instead."""
    # A service of its own: a process that ends again and again comes back more slowly each time.
    name = f"odd-{what}-{protocol}"
    faults.run("apply", "-f", "-", "--wait", stdin=odd(name))
    answer = ask(faults, name, what) if protocol == "v1" else ask_v2(faults, name, what)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert "4711" not in answer.text
    fine(faults, name, protocol)
    assert ask(faults, "iris", GOOD).json() == {"predictions": [0]}
    reasons = {"hang": "Unresponsive", "exit": "Exit", "signal": "Signal", "memory": "OutOfMemory"}
    if what in reasons:
        (replica,) = until(
            lambda: [
                r
                for r in faults.replicas()
                if r["spec"]["service"] == name and r["status"]["reason"] == reasons[what]
            ],
            "the reason",
        )
        assert replica["status"]["phase"] in ("Ready", "Starting", "BackOff")
        assert "INFO" not in replica["status"]["message"]
    elif what == "raise":
        assert "Traceback" in faults.run("logs", name)
    faults.run("delete", "isvc", name)


def _unknown_model(p: Platform) -> httpx.Response:
    return httpx.post(f"{p.http}/v2/models/nobody/infer", json={})


def _unknown_version(p: Platform) -> httpx.Response:
    return httpx.post(f"{p.http}/v2/models/iris/versions/7/infer", json={})


def _wrong_width(p: Platform) -> httpx.Response:
    return ask(p, "iris", [1, 2])


def _nan(p: Platform) -> httpx.Response:
    return httpx.post(f"{p.http}/v1/models/iris:predict", content=b'{"instances":[[NaN,1,2,3]]}')


def _header_length(p: Platform) -> httpx.Response:
    return httpx.post(
        f"{p.http}/v2/models/iris/infer",
        content=b"{}",
        headers={"Inference-Header-Content-Length": "100"},
    )


REQUESTS: list[tuple[Callable[[Platform], httpx.Response], int, str]] = [
    (_unknown_model, 404, "nobody does not exist"),
    (_unknown_version, 404, "no version 7"),
    (_wrong_width, 400, "4"),
    (_nan, 400, "NaN"),
    (_header_length, 400, "but the body has"),
]


@pytest.mark.parametrize(
    ("send", "status", "said"), REQUESTS, ids=[r[0].__name__ for r in REQUESTS]
)
def test_a_request_that_is_wrong(
    faults: Platform, send: Callable[[Platform], httpx.Response], status: int, said: str
) -> None:
    answer = send(faults)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert ask(faults, "iris", GOOD).json() == {"predictions": [0]}


@pytest.mark.parametrize(
    ("length", "body", "status"),
    [(5_000_000_000, b"", b"413"), (500, b'{"instances":', b"")],
    ids=["oversized", "truncated"],
)
def test_a_body_that_never_comes_whole(
    faults: Platform, length: int, body: bytes, status: bytes
) -> None:
    host, _, port = faults.http.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.sendall(
            b"POST /v1/models/iris:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            % length
            + body
        )
        if status:
            assert s.recv(100).startswith(b"HTTP/1.1 " + status)
    assert ask(faults, "iris", GOOD).json() == {"predictions": [0]}


def test_the_version_policy_of_a_manifest(faults: Platform, tmp_path: Path) -> None:
    manifest = json.loads(isvc("versions", "sklearn", "models/versions"))
    manifest["spec"]["predictor"]["sklearn"]["versionPolicy"] = {"all": True}
    faults.run("apply", "-f", "-", "--wait", stdin=json.dumps(manifest))
    tensor = {"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": GOOD}
    for version in ("1", "2"):
        url = f"{faults.http}/v2/models/versions/versions/{version}/infer"
        assert httpx.post(url, json={"inputs": [tensor]}).json()["model_version"] == version
    manifest["spec"]["predictor"]["sklearn"]["versionPolicy"] = {"specific": [3]}
    faults.run("apply", "-f", "-", stdin=json.dumps(manifest))
    until(lambda: "has no version 3" in json.dumps(faults.service("versions")), "the reason")
    assert ask(faults, "versions", GOOD).json() == {"predictions": [0]}
    faults.run("delete", "isvc", "versions")
