"""Every asynchronous test here runs on uvloop and on asyncio's own loop: their transports differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop
from http2_peers import Serving

from penstock.domain.routes import Address
from penstock.http.h2.server import Http2Server


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def serve2() -> AsyncIterator[Callable[..., Any]]:
    """`await serve2(handler, **Http2Server arguments)`: a server on a free port."""
    found: list[Serving] = []

    async def start(handler: Callable[[Any], None], **options: Any) -> Serving:
        server = Http2Server(handler, **{"streaming": True, **options})
        serving = Serving(server, await server.listen(Address(host="127.0.0.1", port=0)))
        found.append(serving)
        return serving

    yield start
    for serving in found:
        await serving.close()
