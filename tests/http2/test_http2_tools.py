"""Real clients: nghttp2's tools, curl, and ALPN over TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from http2_peers import Client

from penstock.http.h2.exchange import H2Exchange
from penstock.http.server import Exchange


def echo(exchange: Any) -> None:
    def whole(exchange: Any) -> None:
        kind = b"x-kind: h2\r\n" if isinstance(exchange, H2Exchange) else b"x-kind: h1\r\n"
        exchange.send(200, kind + b"x-scheme: %b\r\n" % exchange.scheme.encode(), exchange.body)

    exchange.gather(whole)


async def run(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_h2load_has_every_request_answered(
    serve2: Callable[..., Any], tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(20_000))
    port = (await serve2(echo, http1=False)).address.port
    out = await run(
        "h2load", "-c4", "-m16", "-n2000", "-d", str(body), f"http://127.0.0.1:{port}/x"
    )
    assert "2000 succeeded, 0 failed, 0 errored" in out


async def test_nghttp_sees_no_protocol_error(serve2: Callable[..., Any], tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(bytes(300_000))
    port = (await serve2(echo, http1=False)).address.port
    out = await run("nghttp", "-nv", "-p200", "-d", str(body), f"http://127.0.0.1:{port}/x")
    assert ":status: 200" in out
    assert "PROTOCOL_ERROR" not in out


async def test_curl_speaks_both_on_one_port(serve2: Callable[..., Any]) -> None:
    port = (await serve2(echo)).address.port
    for flag, kind in (("--http2-prior-knowledge", "h2"), ("--http1.1", "h1")):
        out = await run("curl", "-sSi", flag, "-d", "hello", f"http://127.0.0.1:{port}/x")
        assert f"x-kind: {kind}" in out
        assert out.endswith("hello")


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server's and client's contexts."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    server.set_alpn_protocols(["h2", "http/1.1"])
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_over_tls_the_client_chooses(
    serve2: Callable[..., Any], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    serving = await serve2(echo, ssl=tls[0])
    url = f"https://localhost:{serving.address.port}/x"
    for http2 in (True, False):
        async with httpx.AsyncClient(verify=tls[1], http2=http2, http1=not http2) as client:
            for size in (3, 500_000):
                answer = await client.post(url, content=bytes(size))
                assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
                assert answer.headers["x-kind"] == ("h2" if http2 else "h1")
                assert answer.headers["x-scheme"] == "https"
                assert len(answer.content) == size


async def test_a_port_for_http2_only_asks_nothing_over_tls(
    serve2: Callable[..., Any], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """A gRPC client that offers no ALPN is understood all the same."""
    client: Client = await (await serve2(echo, ssl=tls[0], http1=False)).client(tls[1])
    assert (await client.answer(client.request(b"hi"))).body == b"hi"


def test_a_handler_may_be_the_same_for_both() -> None:
    """What handlers use of an exchange of HTTP/1.1 is there for HTTP/2."""
    public = {n for n in dir(Exchange) if not n.startswith("_")}
    assert public <= {n for n in dir(H2Exchange) if not n.startswith("_")}
