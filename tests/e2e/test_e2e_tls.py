"""The inference ports over TLS, as `penstock serve --tls-cert --tls-key` opens them."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from platform_harness import Platform, manifest
from tritonclient.grpc import service_pb2, service_pb2_grpc

import grpc

V1 = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(folder: Path, authority: trustme.CA) -> Iterator[Platform]:
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    p = Platform(folder, "--tls-cert", "cert.pem", "--tls-key", "key.pem")
    p.start()
    p.run("apply", "-f", "-", "--wait", stdin=manifest("iris"))
    yield p
    p.stop()


def context(authority: trustme.CA) -> ssl.SSLContext:
    made = ssl.create_default_context()
    authority.configure_trust(made)
    return made


def test_requests_over_tls_are_answered_and_plain_ones_are_not(
    secure: Platform, authority: trustme.CA
) -> None:
    assert secure.http.startswith("https://")
    url = f"{secure.http}/v1/models/iris:predict"
    with httpx.Client(verify=context(authority), timeout=10) as client:
        assert client.post(url, json=V1).json() == {"predictions": [0]}
        assert client.get(f"{secure.http}/v2/health/ready").json() == {"ready": True}
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.post(url, json=V1, timeout=10)
    with pytest.raises(httpx.TransportError):
        httpx.post(url.replace("https:", "http:"), json=V1, timeout=10)
    with httpx.Client(verify=context(authority), timeout=10) as client:
        assert client.post(url, json=V1).status_code == 200
    assert secure.service()["status"]["url"].startswith("https://")


def test_grpc_over_tls(secure: Platform, authority: trustme.CA) -> None:
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with grpc.secure_channel(secure.grpc, credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ModelReady(service_pb2.ModelReadyRequest(name="iris"), timeout=10).ready


def test_penstock_predict_over_tls_trusts_what_the_system_trusts(
    secure: Platform, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secure.folder / "p.json").write_text(json.dumps(V1))
    authority.cert_pem.write_to_path(secure.folder / "ca.pem")
    said = secure.run("predict", "iris", "-f", "p.json", code=6)
    assert "Traceback" not in said
    assert "certificate" in said
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.folder / "ca.pem"))
    assert json.loads(secure.run("predict", "iris", "-f", "p.json")) == {"predictions": [0]}
