"""A framework that is not installed: the status says which extra to install, and the rest serves on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from platform_harness import Platform, manifest, until

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


@pytest.fixture(scope="module")
def without_catboost(folder: Path) -> Iterator[Platform]:
    """A platform whose interpreter finds no catboost."""
    hidden = folder / "hidden"
    (hidden / "catboost").mkdir(parents=True)
    (hidden / "catboost" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'catboost'\", name='catboost')\n"
    )
    from catboost import CatBoostClassifier

    (folder / "models" / "cat").mkdir()
    model = CatBoostClassifier(iterations=2, verbose=False, allow_writing_files=False)
    model.fit([[0.0], [1.0]] * 4, [0, 1] * 4)
    model.save_model(str(folder / "models" / "cat" / "model.cbm"))
    p = Platform(folder, env={"PYTHONPATH": f"{hidden}:{os.environ.get('PYTHONPATH', '')}"})
    p.start()
    yield p
    p.stop()


def test_the_status_says_which_extra_to_install(without_catboost: Platform) -> None:
    """In one line, in the status, in the answer to a request, and in `penstock get`."""
    p = without_catboost
    service: dict[str, Any] = json.loads(manifest("cat"))
    service["spec"]["predictor"] = {"catboost": {"storageUri": "models/cat"}}
    p.run("apply", "-f", "-", stdin=json.dumps(service))
    said = "catboost needs the package catboost, which is not installed. pip install 'penstock[catboost]'"

    def condition() -> dict[str, Any] | None:
        found = p.service("cat").get("status", {}).get("conditions", [])
        return next((c for c in found if c["type"] == "Ready" and c["status"] == "False"), None)

    found = until(lambda: (c := condition()) and said in c["message"] and c, "the reason")
    assert found["reason"] == "ModelLoadFailed"
    assert "\n" not in found["message"]
    assert said in p.run("get", "isvc", "cat")
    answer = httpx.post(f"{p.http}/v1/models/cat:predict", json=V1, timeout=10)
    assert answer.status_code == 503
    assert said in answer.json()["error"]

    p.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    answer = httpx.post(f"{p.http}/v1/models/iris:predict", json=V1, timeout=10)
    assert answer.json() == {"predictions": [0]}

    # Once it is installed, the same manifest applied again is enough.
    shutil.rmtree(p.folder / "hidden")
    p.run("apply", "-f", "-", "--wait", stdin=json.dumps(service))
    answer = httpx.post(f"{p.http}/v1/models/cat:predict", json={"instances": [[1.0]]}, timeout=10)
    assert answer.status_code == 200
