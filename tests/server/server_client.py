"""A model process inside the test: the application behind a real HTTP server on a Unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from server_models import framework

from penstock.domain.process import ProcessSpec, ServedModel
from penstock.domain.routes import Address
from penstock.http.limits import Limits as HttpLimits
from penstock.http.server import HttpServer
from penstock.observe.metrics import Registry
from penstock.runtimes.base import PayloadRuntime, Runtime
from penstock.server.application import Application
from penstock.server.repository import Limits, Repository
from penstock.server.statistics import Metrics


class Served:
    """The parts of a running server, and a client."""

    def __init__(self, app: Application, server: HttpServer, client: httpx.AsyncClient) -> None:
        self.app = app
        self.server = server
        self.client = client
        self.repository = app.repository
        self.hung: list[str] = []
        self.socket = ""

    async def v2(self, data: Any, *, name: str = "m", **request: Any) -> httpx.Response:
        """One float32 input `x` with two columns, as JSON."""
        body = {
            "inputs": [{"name": "x", "shape": [len(data), 2], "datatype": "FP32", "data": data}],
            **request,
        }
        return await self.client.post(f"/v2/models/{name}/infer", json=body)

    async def v1(self, rows: Any, *, name: str = "m") -> httpx.Response:
        return await self.client.post(f"/v1/models/{name}:predict", json={"instances": rows})

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection, for what a polite client does not do."""
        return await asyncio.open_unix_connection(self.socket)


@asynccontextmanager
async def serving(
    tmp_path: Path,
    models: Mapping[str, Callable[[], Runtime | PayloadRuntime]],
    *,
    load: bool = True,
    fields: Mapping[str, Any] | None = None,
    paths: Mapping[str, Path] | None = None,
    **spec: Any,
) -> AsyncIterator[Served]:
    """Serve `models` (name to a function that makes the runtime), loaded unless `load` is false."""
    file = tmp_path / "model.bin"
    file.write_text("x")
    path = f"{tmp_path}/s.sock"
    process_spec = ProcessSpec(
        listen=f"unix:{path}",
        models=tuple(
            ServedModel(
                name=name,
                framework=name,
                path=str((paths or {}).get(name, file)),
                **{"load": load, **(fields or {})},
            )
            for name in models
        ),
        service="svc",
        revision="r1",
        **spec,
    )
    metrics = Metrics(Registry(), namespace="default", service="svc", revision="r1")
    hung: list[str] = []
    repository = Repository(
        process_spec.models,
        metrics=metrics,
        hung=hung.append,
        find=lambda name: framework(lambda path, options: models[name]()),
        limits=Limits(timeout_s=process_spec.timeout_s, max_queue=process_spec.max_queue),
    )
    app = Application(process_spec, repository, metrics)
    server = HttpServer(app, limits=HttpLimits(max_body=process_spec.max_body_bytes))
    await server.listen(Address(path=path))
    transport = httpx.AsyncHTTPTransport(uds=path)
    async with httpx.AsyncClient(transport=transport, base_url="http://m", timeout=20) as client:
        served = Served(app, server, client)
        served.hung = hung
        served.socket = path
        try:
            if load:
                await repository.load_all()
            yield served
        finally:
            server.close()
            async with asyncio.timeout(30):
                await repository.close()


def error_of(response: httpx.Response) -> str:
    """The message of an error body, which has nothing else in it."""
    assert response.headers["content-type"] == "application/json", response.text
    body = json.loads(response.content)
    assert list(body) == ["error"]
    message = body["error"]
    assert isinstance(message, str)
    assert "\n" not in message
    assert "Traceback" not in message
    return message
