"""From eight lines of YAML to a live endpoint and back, through the real processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import httpx
from platform_harness import Platform, alive, manifest, until

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]]
V1 = {"instances": ROWS}
V2 = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP64", "data": ROWS}]}


def predicted(platform: Platform, name: str = "iris") -> list[int]:
    answer = httpx.post(f"{platform.http}/v1/models/{name}:predict", json=V1, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def test_from_a_manifest_to_predictions_in_both_protocols_and_back(platform: Platform) -> None:
    (platform.folder / "iris.yaml").write_text(manifest())
    text = platform.run("apply", "-f", "iris.yaml", "--wait", "--timeout=30s")
    assert "iris created" in text
    assert "iris ready" in text
    assert predicted(platform) == [0, 2]
    v2 = httpx.post(f"{platform.http}/v2/models/iris/infer", json=V2, timeout=30).json()
    assert v2["outputs"][0]["data"] == [0, 2]
    url = platform.service()["status"]["url"]
    by_url = httpx.post(f"{url}/v2/models/iris/infer", json=V2, timeout=30)
    assert by_url.json()["outputs"][0]["data"] == [0, 2]

    assert "True" in platform.run("get", "isvc", "iris")
    assert "is loaded" in platform.run("logs", "iris")
    assert "RevisionReady" in platform.run("describe", "isvc", "iris")
    assert json.loads(platform.run("predict", "iris", "-f", "-", stdin=json.dumps(V1))) == {
        "predictions": [0, 2]
    }
    binary = platform.run("predict", "iris", "-f", "-", "--binary", stdin=json.dumps(V2))
    assert json.loads(binary)["outputs"][0]["data"] == [0, 2]
    assert "iris-00001" in platform.run("top", "--once", "--interval", "0.3s")
    metrics = httpx.get(f"{platform.api}/metrics", timeout=10).text
    assert (
        'penstock_gateway_requests_total{component="predictor",namespace="default",protocol="v1"'
        in metrics
    )

    (replica,) = platform.replicas()
    assert "deleted" in platform.run("delete", "isvc", "iris")
    assert not alive(replica["status"]["pid"])
    gone = httpx.post(f"{platform.http}/v1/models/iris:predict", json=V1, timeout=30)
    assert gone.status_code == 404
    platform.run("get", "isvc", "iris", code=4)


def test_a_broken_change_is_said_and_the_old_revision_keeps_serving(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("steady"))
    text = platform.run(
        "apply", "-f", "-", "--wait", code=1, stdin=manifest("steady", "models/broken")
    )
    assert "steady-00001 keeps serving" in text
    assert predicted(platform, "steady") == [0, 2]
    status = platform.service("steady")["status"]
    assert status["modelStatus"]["lastFailureInfo"]["reason"] == "ModelLoadFailed"
    assert "Traceback" in platform.run("logs", "steady", "--revision", "steady-00002")
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("steady", "models/other"))
    assert platform.service("steady")["status"]["components"]["predictor"][
        "latestReadyRevision"
    ].endswith("00003")
    assert predicted(platform, "steady") == [0, 2]
    platform.run("delete", "isvc", "steady")


def test_a_model_that_was_retrained_in_place_serves_after_apply(
    platform: Platform, folder: Path
) -> None:
    import joblib
    from sklearn.dummy import DummyClassifier

    (folder / "models" / "changing").mkdir()
    path = folder / "models" / "changing" / "model.joblib"
    for constant in (1, 2):
        model = DummyClassifier(strategy="constant", constant=constant).fit(
            [[0, 0, 0, 0]] * 3, [0, 1, 2]
        )
        joblib.dump(model, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
        platform.run("apply", "-f", "-", "--wait", stdin=manifest("changing", "models/changing"))
        until(
            lambda constant=constant: predicted(platform, "changing") == [constant] * 2,
            f"the model that answers {constant}",
        )
    platform.run("delete", "isvc", "changing")


class Load:
    """Clients that ask without a pause and count what is not 200."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.url = url
        self.good = 0
        self.bad: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self.url, json=V1)
                except httpx.HTTPError as exc:
                    self.bad.append(repr(exc))
                    continue
                if answer.status_code == 200 and answer.json() == {"predictions": [0, 2]}:
                    self.good += 1
                else:
                    self.bad.append(f"{answer.status_code} {answer.text}")

    def __enter__(self) -> Load:
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for t in self._threads:
            t.join()


def test_serving_goes_on_while_the_control_plane_is_killed_and_comes_back(
    platform: Platform,
) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest(minReplicas=2))
    until(lambda: _ready_pids(platform, 2), "two replicas")
    before = _ready_pids(platform, 2)
    with Load(f"{platform.http}/v1/models/iris:predict") as load:
        until(lambda: load.good > 50, "requests")
        for _ in range(2):
            old = platform.child("penstock.api")
            os.kill(old, signal.SIGKILL)
            until(lambda old=old: not alive(old), "its end")
            count = load.good
            until(lambda count=count: load.good > count + 50, "requests without a control plane")
            until(lambda: _is_up(platform), "the control plane to be back")
        until(lambda: _ready_pids(platform, 2), "replicas to be known again")
        count = load.good
        until(lambda count=count: load.good > count + 50, "requests")
    assert load.bad == []
    assert _ready_pids(platform, 2) == before
    assert "True" in platform.run("get", "isvc", "iris")


def _live(platform: Platform, name: str) -> dict[str, int]:
    """Pids by name of a service's replicas that have not ended."""
    return {
        r["metadata"]["name"]: r["status"].get("pid", 0)
        for r in platform.replicas()
        if r["spec"]["service"] == name and r["status"]["phase"] != "Stopped"
    }


def _ready_pids(platform: Platform, count: int) -> dict[str, int]:
    """Pids of iris's replicas by name if that many are ready, else nothing."""
    found = [
        r
        for r in platform.replicas()
        if r["spec"]["service"] == "iris" and r["status"]["phase"] == "Ready"
    ]
    return {r["metadata"]["name"]: r["status"]["pid"] for r in found} if len(found) == count else {}


def _is_up(platform: Platform) -> bool:
    try:
        return httpx.get(f"{platform.api}/readyz", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_killed_replica_is_replaced_and_its_end_is_told(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("solo"))
    (replica,) = [r for r in platform.replicas() if r["spec"]["service"] == "solo"]
    os.kill(replica["status"]["pid"], signal.SIGKILL)

    def back() -> bool:
        (now,) = [r for r in platform.replicas() if r["spec"]["service"] == "solo"]
        return now["status"]["phase"] == "Ready" and now["status"]["restarts"] == 1

    until(back, "another process")
    assert predicted(platform, "solo") == [0, 2]
    assert "ReplicaEnded" in platform.run("events", "solo")
    platform.run("delete", "isvc", "solo")


def test_a_change_under_load_fails_no_request(platform: Platform) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest("moving"))
    with Load(f"{platform.http}/v1/models/moving:predict") as load:
        for uri in ("models/other", "models/iris", "models/other"):
            count = load.good
            platform.run("apply", "-f", "-", "--wait", stdin=manifest("moving", uri))
            until(lambda count=count: load.good > count + 20, "requests")
    assert load.bad == []
    until(
        lambda: len(_live(platform, "moving")) == 1,
        "old replicas to end",
    )
    platform.run("delete", "isvc", "moving")


def test_a_second_serve_on_the_same_folder_is_refused_with_the_first_ones_pid(
    platform: Platform,
) -> None:
    assert platform.process is not None
    text = platform.run(
        "serve", "--data-dir", str(platform.data), "--http-port", "0", "--api-port", "0", code=3
    )
    assert str(platform.process.pid) in text


# -- the node itself: these end the platform, so they come last -------------------------------------


def test_after_kill_9_nothing_is_left_and_the_next_start_finds_everything(
    platform: Platform,
) -> None:
    platform.run("apply", "-f", "-", "--wait", stdin=manifest(minReplicas=2))
    revision = platform.service()["status"]["components"]["predictor"]["latestReadyRevision"]
    platform.kill()
    platform.start()
    platform.run("wait", "iris", "--timeout=30s")
    assert predicted(platform) == [0, 2]
    shown = platform.service()["status"]["components"]["predictor"]
    assert shown["latestReadyRevision"] == revision
    assert shown["latestCreatedRevision"] == revision


def test_sigterm_ends_everything_with_exit_code_0(platform: Platform) -> None:
    assert platform.stop() == 0
    assert not any(alive(p) for p in platform.pids)


def test_without_a_server_commands_say_how_to_start_one(platform: Platform) -> None:
    platform.stop()
    text = platform.run("get", "isvc", code=6)
    assert "penstock serve" in text
