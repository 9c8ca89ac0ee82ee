"""TLS by an `ssl.SSLContext`: the same engine over the loops' TLS transports."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from http_peers import GET, post

from penstock.http.limits import Limits
from penstock.http.server import Exchange


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server's and client's contexts."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def echo(exchange: Exchange) -> None:
    body = exchange.body
    assert body is not None
    digest = hashlib.sha256(body).hexdigest().encode()
    exchange.send(200, b"x-scheme: %b\r\n" % exchange.scheme.encode(), [digest, body])


@pytest.mark.parametrize("streaming", [False, True])
async def test_requests_over_tls(
    serve: Callable[..., Any], tls: tuple[ssl.SSLContext, ssl.SSLContext], streaming: bool
) -> None:
    """Small, large (read directly), chunked and pipelined, on one connection."""
    server, client = tls
    handler = (lambda e: e.gather(echo)) if streaming else echo
    serving = await serve(handler, ssl=server, streaming=streaming)
    async with await serving.peer(ssl=client, server_hostname="localhost") as peer:
        for body in (b"", b"hello", b"x" * 2_000_000):
            digest = hashlib.sha256(body).hexdigest().encode()
            peer.send(post(body) + post(b"next"))
            answer = await peer.answer()
            assert answer.headers[b"x-scheme"] == b"https"
            assert answer.body == digest + body
            assert (await peer.answer()).body.endswith(b"next")
            peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            peer.send(b"%x\r\n%b\r\n" % (len(body), body) * bool(body) + b"0\r\n\r\n")
            assert (await peer.answer()).body == digest + body


async def test_a_stream_over_tls_waits_for_its_reader(
    serve: Callable[..., Any], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Backpressure works through the TLS transport."""
    server, client = tls
    left = 100

    def handler(exchange: Exchange) -> None:
        def pump() -> None:
            nonlocal left
            while left:
                left -= 1
                if not exchange.write(b"x" * 50_000):
                    return
            exchange.on_drain = None
            exchange.end()

        exchange.on_drain = pump
        exchange.start(200, b"", length=5_000_000)
        pump()

    serving = await serve(handler, ssl=server, unix=True)
    async with await serving.peer(ssl=client, server_hostname="localhost", limit=1024) as peer:
        peer.send(GET)
        await asyncio.sleep(0.05)
        assert left > 0
        assert len((await peer.answer()).body) == 5_000_000


async def test_a_refusal_reaches_the_client_over_tls(
    serve: Callable[..., Any], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """TLS has no half-close to linger with; the answer arrives all the same, and the end comes."""
    server, client = tls
    serving = await serve(echo, ssl=server, limits=Limits(max_body=10, linger_s=0.1))
    async with await serving.peer(ssl=client, server_hostname="localhost") as peer:
        peer.send(post(b"x" * 11))
        assert (await peer.answer()).status == 413
        assert await peer.rest() == b""


async def test_a_client_that_speaks_plain_to_tls_is_let_go(
    serve: Callable[..., Any], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """And one that says nothing at all is given up after head_timeout_s."""
    serving = await serve(echo, ssl=tls[0], limits=Limits(head_timeout_s=0.2))
    for data in (GET, b""):
        async with await serving.peer() as peer:
            peer.send(data)
            try:
                await peer.rest()
            except ConnectionResetError:
                pass
    assert not serving.server.connections


async def test_drain_over_tls(
    serve: Callable[..., Any], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Idle TLS connections close."""
    server, client = tls
    serving = await serve(echo, ssl=server)
    async with await serving.peer(ssl=client, server_hostname="localhost") as peer:
        peer.send(post(b"x"))
        await peer.answer()
        drained = asyncio.create_task(serving.server.drain(5))
        assert await peer.rest() == b""
        assert await drained is True
