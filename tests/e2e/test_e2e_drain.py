"""SIGTERM and Ctrl-C while requests are under way: they are answered, and then everything ends."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from platform_harness import Platform, alive, manifest

SLEEPER = """
import pathlib
import time
import penstock

class M(penstock.Model):
    def predict(self, payload):
        pathlib.Path(payload["instances"][0]).touch()
        time.sleep(1.0)
        return {"predictions": ["awake"]}
"""


@pytest.fixture
def sleeping(folder: Path, tmp_path: Path) -> Iterator[Platform]:
    (folder / "models" / "sleeper").mkdir(exist_ok=True)
    (folder / "models" / "sleeper" / "model.py").write_text(SLEEPER)
    p = Platform(folder)
    p.data = tmp_path / "data"
    p.start()
    service = json.loads(manifest("sleeper"))
    service["spec"]["predictor"] = {"python": {"storageUri": "models/sleeper"}}
    p.run("apply", "-f", "-", "--wait", stdin=json.dumps(service))
    yield p
    p.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_what_is_under_way_is_answered(
    sleeping: Platform, tmp_path: Path, number: signal.Signals
) -> None:
    answers: list[httpx.Response] = []
    begun = tmp_path / "begun"

    def ask() -> None:
        url = f"{sleeping.http}/v1/models/sleeper:predict"
        answers.append(httpx.post(url, json={"instances": [str(begun)]}, timeout=60))

    thread = threading.Thread(target=ask)
    thread.start()
    while not begun.exists():
        assert thread.is_alive()
    pids = sleeping.descendants()
    assert sleeping.process is not None
    sleeping.process.send_signal(number)
    thread.join()
    (answer,) = answers
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": ["awake"]}
    assert sleeping.process.wait(90) == 0
    assert not any(alive(p) for p in pids)
