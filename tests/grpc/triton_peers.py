"""A model process, alone or behind a gateway, with both its ports on TCP, for Triton's clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc_peers import gateway, model_process

from penstock.domain.routes import Address
from penstock.http.server import HttpServer
from penstock.protocols.shared_memory import SharedMemory
from penstock.server.application import Application

WAYS = ("process", "gateway")


@dataclass(frozen=True)
class Ports:
    http: int
    grpc: int
    #: The model process behind it.
    app: Application
    regions: Path


@asynccontextmanager
async def serving(
    way: str, tmp_path: Path, models: Mapping[str, Callable[[], Any]], *, shared: bool = True
) -> AsyncIterator[Ports]:
    """`way`: directly at the process, or through a gateway that has each model as a service."""
    regions = tmp_path / "regions"
    async with AsyncExitStack() as stack:
        app, path, grpc_port = await stack.enter_async_context(
            model_process(tmp_path, models, shared_memory=str(regions) if shared else "")
        )
        if way == "process":
            server = HttpServer(app)
        else:
            front = await stack.enter_async_context(gateway())
            first, *others = models
            front.route(first, path, models=others)
            front.gateway.calls.memory = SharedMemory(regions if shared else None, most=1 << 28)
            server = HttpServer(front.gateway.handle, streaming=True)
            grpc_port = front.port
        http = await server.listen(Address(host="127.0.0.1", port=0))
        stack.callback(server.close)
        yield Ports(http.port, grpc_port, app, regions)
