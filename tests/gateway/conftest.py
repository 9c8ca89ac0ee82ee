"""A gateway on a real port, in front of stand-in replicas on real Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_stand_in import Answer, Front, StandIn, say_ok
from learning_plane import Plane

from penstock.domain.routes import Address, Wake
from penstock.gateway.gateway import Gateway
from penstock.http.server import HttpServer, Limits


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    loop = asyncio.get_running_loop()
    wakes: list[Wake] = []
    gateway = Gateway(loop, wake=wakes.append)
    server = HttpServer(gateway.handle, limits=Limits(), streaming=True)
    port = (await server.listen(Address(host="127.0.0.1", port=0))).port
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield Front(gateway, server, port, client, wakes)
    server.close()
    gateway.close()


@pytest.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[StandIn]]]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(name: str = "a", answer: Answer = say_ok, start: bool = True) -> StandIn:
            made = StandIn(tmp_path / f"{name}.sock", answer)
            if start:
                await made.start()
            stack.push_async_callback(made.stop)
            return made

        yield make


@pytest.fixture
async def plane(front: Front) -> Plane:
    """Answers what the gateway says, as soon as it has said it."""
    made = Plane(front)
    saying = front.gateway._wake

    def say(message: Any) -> None:
        saying(message)
        asyncio.get_running_loop().call_soon(made.hear)

    front.gateway._wake = say
    return made
