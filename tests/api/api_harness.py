"""A control plane with a fake backend behind a real API server, on the test's own loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import uvicorn
from control_fakes import FakeBackend, FakeFiles

from penstock.api.app import build
from penstock.api.process import ApiServer
from penstock.control.plane import ControlPlane
from penstock.control.settings import ControlSettings
from penstock.store.sqlite import SqliteStore

ISVC = "/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices"


def isvc(name: str = "iris", uri: str = "models/iris", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, **metadata},
        "spec": {"predictor": {"sklearn": {"storageUri": uri}}},
    }


class Api:
    """The server under test and what is behind it."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        plane: ControlPlane,
        backend: FakeBackend,
        stop: asyncio.Event,
    ) -> None:
        self.client = client
        self.plane = plane
        self.backend = backend
        self.stop = stop

    async def apply(self, obj: dict[str, Any], namespace: str = "default") -> httpx.Response:
        group, _, version = obj["apiVersion"].rpartition("/")
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        plural = obj["kind"].lower() + "s"
        scope = "" if obj["kind"] == "Namespace" else f"/namespaces/{namespace}"
        return await self.client.patch(
            f"{base}{scope}/{plural}/{obj['metadata']['name']}",
            params={"fieldManager": "test"},
            json=obj,
            headers={"content-type": "application/apply-patch+yaml"},
        )

    async def until(self, look: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(30):
            while not (found := await look()):
                await asyncio.sleep(0.005)
            return found

    async def ready(self, name: str = "iris") -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            obj = (await self.client.get(f"{ISVC}/{name}")).json()
            conditions = obj.get("status", {}).get("conditions", ())
            is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
            return obj if is_ready else None

        return await self.until(look)


async def serve(**options: Any) -> AsyncIterator[Api]:
    """An API on a free port; `options` go to `build`."""
    store = await SqliteStore.in_memory()
    backend = FakeBackend()
    plane = ControlPlane(store, backend, FakeFiles(), settings=ControlSettings(cores=2))
    sock = socket.create_server(("127.0.0.1", 0))
    stop = asyncio.Event()
    server = ApiServer(
        uvicorn.Config(
            build(plane, stop=stop, **options),
            log_config=None,
            lifespan="off",
            http="httptools",
            ws="none",
            loop="none",
            timeout_graceful_shutdown=2,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    await plane.start()
    base = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=base, timeout=10) as client:
        yield Api(client, plane, backend, stop)
    stop.set()
    server.should_exit = True
    await serving
    await plane.close()
    await store.close()
    sock.close()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async for a in serve():
        yield a
