"""Who is let in: hosts, origins, tokens, addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_harness import ISVC, Api, isvc, serve

from penstock.api.security import check_bind, host_of, is_loopback, read_token
from penstock.errors import InvalidInput

TOKEN = "0123456789abcdef0123"


@pytest.fixture
async def guarded() -> AsyncIterator[Api]:
    async for a in serve(token=TOKEN, hosts=["penstock.example"]):
        yield a


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "localhost:8090"}, 200),
        ({"host": "127.0.0.1:8090"}, 200),
        ({"host": "[::1]:8090"}, 200),
        ({"host": "evil.example"}, 403),  # a name that somebody points at 127.0.0.1
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost", "origin": "http://localhost:8090"}, 200),
        ({"host": "localhost", "origin": "https://evil.example"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
    ],
)
async def test_a_page_in_a_browser_is_kept_out(
    api: Api, headers: dict[str, str], code: int
) -> None:
    answer = await api.client.get(ISVC, headers=headers)
    assert answer.status_code == code
    if code == 403:
        assert answer.json()["reason"] == "Forbidden"


async def test_a_form_cannot_write(api: Api) -> None:
    answer = await api.client.post(ISVC, data={"a": "b"})
    assert answer.status_code == 415


async def test_with_a_token_only_health_is_open(guarded: Api) -> None:
    client = guarded.client
    assert (await client.get("/healthz")).status_code == 200
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = await client.get(ISVC, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text
    assert (await client.get("/metrics")).status_code == 401
    good = {"authorization": f"Bearer {TOKEN}"}
    assert (await client.post(ISVC, json=isvc(), headers=good)).status_code == 201
    assert (await client.get("/healthz", headers={"host": "penstock.example"})).status_code == 200


def test_an_address_that_others_reach_needs_a_token_or_a_clear_word() -> None:
    check_bind("127.0.0.1", token=None, insecure=False)
    check_bind("::1", token=None, insecure=False)
    check_bind("0.0.0.0", token=TOKEN, insecure=False)
    check_bind("0.0.0.0", token=None, insecure=True)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(InvalidInput, match="token"):
            check_bind(host, token=None, insecure=False)


def test_token_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for text in ("", "short", "with a space in it 123", "x" * 15):
        file.write_text(text)
        with pytest.raises(InvalidInput):
            read_token(file)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_token(tmp_path / "nothing")
    file.write_text(TOKEN + "\n")
    assert read_token(file) == TOKEN


def test_hosts_are_taken_apart() -> None:
    assert host_of("LocalHost:8090") == "localhost"
    assert host_of("[::1]:80") == "::1"
    assert is_loopback("127.8.9.1")
    assert not is_loopback("169.254.1.1")
    assert not is_loopback("")
