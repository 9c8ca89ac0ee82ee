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
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await serve(handler, unix=False, **HttpServer arguments)`: a server on a real socket."""
    servers: list[HttpServer] = []

    async def start(
        handler: Callable[[Exchange], None], *, unix: bool = False, **options: Any
    ) -> Serving:
        server = HttpServer(handler, **options)
        servers.append(server)
        if unix:
            address = Address(path=str(tmp_path / f"{len(servers)}.sock"))
        else:
            address = Address(host="127.0.0.1", port=0)
        return Serving(server, await server.listen(address), tmp_path)

    yield start
    for server in servers:
        server.close()
    await asyncio.sleep(0)
