"""Bytes to a class of one's own, through the gateway: as they are, of any type, up to the limit."""

from __future__ import annotations

import socket

import httpx
from platform_harness import Platform

MODEL = '''
import penstock


class Turn(penstock.Model):
    """Turns bytes around."""

    def predict(self, request: penstock.RawRequest):
        return penstock.RawReply(request.body[::-1], f"{request.content_type}+turned")
'''
MANIFEST = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata:
  name: turn
spec:
  predictor:
    python:
      storageUri: models/turn
"""


def test_bytes_go_through_the_gateway_and_back(platform: Platform) -> None:
    (platform.folder / "models" / "turn").mkdir()
    (platform.folder / "models" / "turn" / "model.py").write_text(MODEL)
    (platform.folder / "turn.yaml").write_text(MANIFEST)
    platform.run("apply", "-f", "turn.yaml")
    platform.run("wait", "isvc/turn", "--for", "condition=Ready", "--timeout", "60s")
    body = bytes(range(256)) * 40_000  # 10 MB
    for path in ("/v1/models/turn:predict", "/v2/models/turn/infer"):
        for kind in ("image/png", "application/json"):
            answer = httpx.post(
                platform.http + path, content=body, headers={"content-type": kind}, timeout=60
            )
            assert answer.status_code == 200
            assert answer.headers["content-type"] == f"{kind}+turned"
            assert answer.content == body[::-1]
    host, _, port = platform.http.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(
            b"POST /v1/models/turn:predict HTTP/1.1\r\nhost: h\r\ncontent-type: image/png\r\n"
            b"content-length: %d\r\n\r\n" % 2**40
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
