"""Malformed requests of every HTTP protocol get through the gateway the statuses that a model process has."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
from platform_harness import Platform

sys.path.append(str(Path(__file__).parents[1] / "server"))

from bad_requests import JSON, PROTOCOLS, Bad, Protocol

#: The gateway has its own answers to what is about the repository; the limit of bodies is another one.
_OTHERS = ("V2, repository and extensions", "TensorFlow Serving")
_LIMITS = ("a body over the limit", "gzip of more than is taken")
ISVC = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata:
  name: iris
spec:
  predictor:
    sklearn:
      storageUri: models/other
"""


@pytest.fixture(scope="module")
def served(platform: Platform) -> Platform:
    (platform.folder / "isvc.yaml").write_text(ISVC)
    platform.run("apply", "-f", "isvc.yaml")
    platform.run("wait", "isvc/iris", "--for", "condition=Ready", "--timeout", "60s")
    return platform


def headers_of(protocol: Protocol, bad: Bad | None) -> dict[str, str]:
    given = dict(bad.headers if bad else protocol.good_headers) or JSON
    return {**given, "host": "iris.default.example.com"}


@pytest.mark.parametrize(
    "protocol", [p for p in PROTOCOLS if p.title not in _OTHERS], ids=lambda p: p.title
)
def test_a_gateway_answers_as_the_process_does(served: Platform, protocol: Protocol) -> None:
    with httpx.Client(base_url=served.http, timeout=30) as client:
        for bad in protocol.rows:
            if bad.name in _LIMITS:
                continue
            answer = client.request(
                bad.method,
                bad.path or protocol.path,
                content=bad.body,
                headers=headers_of(protocol, bad),
            )
            assert answer.status_code == bad.status, f"{bad.name}: {answer.text}"
            assert "Traceback" not in answer.text
            good = client.post(
                protocol.path, content=protocol.good, headers=headers_of(protocol, None)
            )
            assert good.status_code == 200, f"after {bad.name}: {good.text}"
