"""Answers that stream and models with numbered versions, through gateway and model process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from platform_harness import Platform

STREAM = """
import asyncio
import os
import penstock

class Counter(penstock.Model):
    async def predict(self, payload):
        for i in range(payload["instances"][0]):
            yield f"{i}\\n"
            await asyncio.sleep(payload.get("pause", 0))
            while "until" in payload and not os.path.exists(payload["until"]):
                await asyncio.sleep(0.01)
        if payload.get("fail"):
            raise RuntimeError("in the middle")
"""


@pytest.fixture(scope="module")
def counting(platform: Platform) -> Platform:
    """`counter` streams."""
    folder = platform.folder / "models" / "counter"
    folder.mkdir()
    (folder / "model.py").write_text(STREAM)
    platform.run("apply", "-f", "-", "--wait", stdin=isvc("counter", "python", "models/counter"))
    return platform


def isvc(name: str, block: str, uri: str, **more: Any) -> str:
    return json.dumps(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {block: {"storageUri": uri, **more}}},
        }
    )


def stream(p: Platform, **payload: Any) -> Iterator[str]:
    url = f"{p.http}/v1/models/counter:predict"
    with httpx.stream("POST", url, json=payload, timeout=20) as answer:
        assert answer.status_code == 200
        yield from answer.iter_text()


def test_pieces_come_as_the_model_yields_them(counting: Platform, tmp_path: Path) -> None:
    """The first piece is here before the next one is made."""
    here = tmp_path / "here"
    pieces = []
    for piece in stream(counting, instances=[4], until=str(here)):
        pieces.append(piece)
        here.touch()
    assert "".join(pieces) == "0\n1\n2\n3\n"


def test_a_stream_that_breaks_is_never_taken_for_whole(counting: Platform) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        list(stream(counting, instances=[3], fail=True))
    assert "in the middle" in counting.run("logs", "counter")
    assert "".join(stream(counting, instances=[2])) == "0\n1\n"


def test_a_client_that_goes_away_ends_its_stream(counting: Platform) -> None:
    for piece in stream(counting, instances=[10_000], pause=0.01):
        assert piece
        break
    assert "".join(stream(counting, instances=[1])) == "0\n"


def test_versions_by_their_numbers_and_the_newest_without(platform: Platform) -> None:
    """`versionPolicy` says which are served; a request names one, or gets the newest of them."""
    import joblib
    from sklearn.dummy import DummyClassifier

    root: Path = platform.folder / "models" / "numbered"
    for version in (1, 2, 10):
        (root / str(version)).mkdir(parents=True)
        model = DummyClassifier(strategy="constant", constant=version)
        joblib.dump(model.fit([[0.0]], [version]), root / str(version) / "model.joblib")
    policy = {"versionPolicy": {"latest": 2}}
    manifest = isvc("numbered", "sklearn", "models/numbered", **policy)
    platform.run("apply", "-f", "-", "--wait", stdin=manifest)
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0]}]}

    def infer(path: str = "") -> httpx.Response:
        return httpx.post(f"{platform.http}/v2/models/numbered{path}/infer", json=body, timeout=10)

    for path, version in (("", 10), ("/versions/10", 10), ("/versions/2", 2)):
        answer = infer(path).json()
        assert answer["outputs"][0]["data"] == [version]
        assert answer["model_version"] == str(version)
    answer = infer("/versions/1")
    assert answer.status_code == 404
    assert "It has 2, 10." in answer.json()["error"]
    metadata = httpx.get(f"{platform.http}/v2/models/numbered", timeout=10).json()
    assert metadata["versions"] == ["2", "10"]
