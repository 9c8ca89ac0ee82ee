"""A model process sees no credential of whoever started the platform."""

from __future__ import annotations

import http.server
import json
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest
from platform_harness import Platform

_MODEL = """\
import os

import penstock


class Environment(penstock.Model):
    def predict(self, payload, headers=None):
        return {"predictions": sorted(os.environ)}
"""


def test_a_model_sees_its_manifest_s_variables_and_no_one_s_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What programs need to run comes through; AWS keys, tokens and proxies do not."""
    secrets = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HTTPS_PROXY", "DATABASE_URL")
    for name in secrets:
        monkeypatch.setenv(name, "/dev/null")
    (tmp_path / "models" / "env").mkdir(parents=True)
    (tmp_path / "models" / "env" / "model.py").write_text(_MODEL)
    (tmp_path / "env.yaml").write_text(
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceService\nmetadata:\n  name: env\n"
        "spec:\n  predictor:\n    python:\n      storageUri: models/env\n"
        "      env:\n      - {name: MY_OWN, value: x}\n"
    )
    platform = Platform(tmp_path)
    platform.start()
    try:
        platform.run("apply", "-f", "env.yaml", "--wait", "--timeout=50s")
        answer = httpx.post(
            f"{platform.http}/v1/models/env:predict",
            content=json.dumps({"instances": []}),
            timeout=30,
        )
    finally:
        platform.stop()
    seen = set(answer.json()["predictions"])
    assert {"MY_OWN", "PATH"} <= seen
    assert not seen & set(secrets)


def test_no_log_has_the_token_of_a_storage_uri(tmp_path: Path, folder: Path) -> None:
    """Signed URLs carry theirs in the query; the HTTP library's own lines would show it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "model.joblib").write_bytes(
        next((folder / "models" / "iris").glob("model.*")).read_bytes()
    )
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(shelf))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/model.joblib?token=t0ps3cret"
    (tmp_path / "remote.yaml").write_text(
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceService\nmetadata:\n  name: remote\n"
        f"spec:\n  predictor:\n    sklearn:\n      storageUri: {url}\n"
    )
    platform = Platform(tmp_path, "--log-level", "DEBUG")
    platform.start()
    try:
        platform.run("apply", "-f", "remote.yaml", "--wait", "--timeout=50s")
    finally:
        platform.stop()
        server.shutdown()
        serving.join(10)
        server.server_close()
    logs = {p: p.read_text() for p in (platform.data / "logs").rglob("*.log")}
    assert any("penstock" in text for text in logs.values())
    assert not [path for path, text in logs.items() if "t0ps3cret" in text]
