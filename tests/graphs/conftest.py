"""A gateway on a real port with graphs, in front of services that are functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from graph_services import GraphFrontUnderTest

from penstock.domain.routes import Address, Sleep, Wake
from penstock.gateway.gateway import Gateway
from penstock.http.server import HttpServer, Limits


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[GraphFrontUnderTest]:
    loop = asyncio.get_running_loop()
    wakes: list[Wake | Sleep] = []
    gateway = Gateway(loop, wake=wakes.append)
    server = HttpServer(gateway.handle, limits=Limits(), streaming=True)
    port = (await server.listen(Address(host="127.0.0.1", port=0))).port
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        made = GraphFrontUnderTest(gateway, port, client, tmp_path)
        made.wakes = wakes
        async with made.stack:
            yield made
    server.close()
    gateway.close()
