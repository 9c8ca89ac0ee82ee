"""Malformed requests: a status and a message for each, and the next good request is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import bad_control_requests
import pytest
import pytest_asyncio
from api_harness import ISVC, Api, isvc, serve
from bad_control_requests import SECRETS, TABLES, Bad

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "control-bad-input.md"
ROWS = [(f"{title}: {row.name}", row) for title, rows in TABLES.items() for row in rows]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peopled() -> AsyncIterator[Api]:
    """An API with a service whose fields somebody owns, and a secret; no row changes them."""
    async for api in serve():
        await api.client.patch(
            f"{ISVC}/iris",
            params={"fieldManager": "first"},
            json=isvc(),
            headers={"content-type": "application/apply-patch+yaml"},
        )
        await api.ready()
        secret = {"metadata": {"name": "s"}, "stringData": {"k": "v"}}
        assert (await api.client.post(SECRETS, json=secret)).status_code == 201
        yield api


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("row", [row for _, row in ROWS], ids=[name for name, _ in ROWS])
async def test_a_malformed_request_is_answered_and_so_is_the_next_good_one(
    row: Bad, peopled: Api
) -> None:
    before = (await peopled.client.get(f"{ISVC}/iris")).json()
    answer = await peopled.client.request(
        row.method, row.path, params=row.query, headers=row.headers, content=row.body
    )
    assert answer.status_code == row.status, answer.text
    status = answer.json()
    assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", row.status)
    assert row.says in status["message"]
    assert "Traceback" not in answer.text
    assert (await peopled.client.get(f"{ISVC}/iris")).json() == before


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /version HTTP/1.1\r\nhost: 127.0.0.1\r\nbad header\r\n\r\n",
        b"GET /version HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /version HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"\x00" * 4096,
    ],
)
async def test_bytes_that_are_no_request_harm_nobody(data: bytes, peopled: Api) -> None:
    url = peopled.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 2"))
    except ConnectionError:
        pass
    finally:
        writer.close()
    assert (await peopled.client.get("/readyz")).text == "ok"


def test_the_page_is_the_table() -> None:
    if not PAGE.exists() or PAGE.read_text() != bad_control_requests.page():
        pytest.fail(
            "stale: .venv/bin/python tests/api/bad_control_requests.py > "
            "docs/reference/control-bad-input.md"
        )
