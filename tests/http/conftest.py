"""Every asynchronous test here runs on uvloop and on asyncio's own loop: their transports differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from http_peers import Serving

from penstock.domain.routes import Address
from penstock.http.server import Exchange, HttpServer


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def make_server() -> AsyncIterator[Callable[..., HttpServer]]:
    """`HttpServer`, closed at the end of the test (uvloop's loops hang when a listener is left)."""
    servers: list[HttpServer] = []

    def make(handler: Callable[[Exchange], None], **options: Any) -> HttpServer:
        servers.append(HttpServer(handler, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
    await asyncio.sleep(0)


@pytest.fixture
def serve(make_server: Callable[..., HttpServer], tmp_path: Path) -> Callable[..., Any]:
    """`await serve(handler, unix=False, **HttpServer arguments)`: a server on a real socket."""
    count = 0

    async def start(
        handler: Callable[[Exchange], None], *, unix: bool = False, **options: Any
    ) -> Serving:
        nonlocal count
        count += 1
        server = make_server(handler, **options)
        address = Address(host="127.0.0.1", port=0)
        if unix:
            address = Address(path=str(tmp_path / f"{count}.sock"))
        return Serving(server, await server.listen(address), tmp_path)

    return start
