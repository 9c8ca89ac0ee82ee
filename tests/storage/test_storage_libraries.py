"""What is said when a place's library is missing, and Google's keys, which a library turns into tokens."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from storage_fakes import Seen, answer, serving

from penstock.errors import Forbidden, LoadError, NotFound, PenstockError, Unauthorized
from penstock.storage import Credentials, GcsCredentials, HdfsCredentials, Settings, fetch


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [
        ("gs://bucket/m", "gcsfs", "penstock[gcs]"),
        ("webhdfs://node:9870/m", "fsspec.implementations.webhdfs", "penstock[webhdfs]"),
        ("hf://org/m", "huggingface_hub", "penstock[hub]"),
    ],
)
async def test_a_missing_package_says_which_extra_brings_it(
    uri: str,
    module: str,
    extra: str,
    cache: Any,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As every optional thing here does."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LoadError) as caught:
        await fetch(uri, cache=cache, settings=settings)
    assert f"pip install '{extra}'" in str(caught.value)


class Google:
    """A token endpoint and a bucket API that want each other's tokens."""

    def __init__(self) -> None:
        self.token_status = 200
        self.seen: list[Seen] = []
        self.url = ""

    def handle(self, request: Any) -> None:
        length = int(request.headers.get("content-length") or 0)
        body = request.rfile.read(length)
        self.seen.append(Seen(request.path, {k.lower(): v for k, v in request.headers.items()}))
        if request.path == "/token":
            assert parse_qs(body.decode())["assertion"]
            if self.token_status != 200:
                return answer(request, self.token_status, b'{"error": "invalid_grant"}')
            token = {"access_token": "ya29", "expires_in": 3600, "token_type": "Bearer"}
            return answer(
                request, 200, json.dumps(token).encode(), {"content-type": "application/json"}
            )
        if request.headers.get("authorization") != "Bearer ya29":
            return answer(request, 403, b'{"error": {"code": 403, "message": "anonymous caller"}}')
        return answer(request, 404, b'{"error": {"code": 404, "message": "no"}}')


@pytest.fixture
def google() -> Iterator[Google]:
    google = Google()
    with serving(google.handle) as google.url:
        yield google


def key(google: Google, **changes: str) -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return json.dumps(
        {
            "type": "service_account",
            "client_email": "me@project.example",
            "private_key_id": "1",
            "private_key": private.decode(),
            "token_uri": f"{google.url}/token",
            **changes,
        }
    )


async def ask(google: Google, cache: Any, settings: Settings, text: str) -> PenstockError:
    credentials = Credentials(gcs=GcsCredentials(text, endpoint=google.url))
    with pytest.raises(PenstockError) as caught:
        await fetch("gs://bucket/m", cache=cache, settings=settings, credentials=credentials)
    assert "PRIVATE" not in str(caught.value)
    return caught.value


async def test_a_service_accounts_key_becomes_a_token(
    google: Google, cache: Any, settings: Settings
) -> None:
    """Which opens the bucket; without it the answer is Forbidden, with a key that is revoked at once so."""
    assert isinstance(await ask(google, cache, settings, key(google)), NotFound)
    assert google.seen[0].path == "/token"
    google.seen.clear()
    error = await ask(google, cache, settings, "")
    assert isinstance(error, Forbidden)
    assert "The request had no key" in str(error)
    assert all("authorization" not in s.headers for s in google.seen)
    google.token_status = 400
    google.seen.clear()
    assert isinstance(await ask(google, cache, settings, key(google)), Unauthorized)
    assert {s.path for s in google.seen} == {"/token"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"private_key": "-----BEGIN PRIVATE KEY-----\nno\n-----END PRIVATE KEY-----"},
            Unauthorized,
        ),
        ({"token_uri": "http://169.254.169.254/token"}, Forbidden),
        ({"type": "authorized_user"}, Unauthorized),
    ],
)
async def test_bad_keys(
    google: Google,
    cache: Any,
    settings: Settings,
    changes: dict[str, str],
    error: type[PenstockError],
) -> None:
    """Refused before anything is sent."""
    assert isinstance(await ask(google, cache, settings, key(google, **changes)), error)
    assert not google.seen


async def test_a_name_nodes_credentials_stay_with_it(
    google: Google, cache: Any, settings: Settings
) -> None:
    """Another host in the URI gets no token of theirs."""
    credentials = Credentials(
        hdfs=HdfsCredentials(
            "http://namenode:9870", delegation_token="T0KEN", headers={"x": "T0KEN"}
        )
    )
    uri = google.url.replace("http:", "webhdfs:") + "/m"
    with pytest.raises(PenstockError):
        await fetch(uri, cache=cache, settings=settings, credentials=credentials)
    assert google.seen
    assert all("T0KEN" not in s.path + str(s.headers) for s in google.seen)
