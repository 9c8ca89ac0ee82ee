"""A predictor and a component before it, each a real server on a Unix socket of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx

from penstock import runtimes
from penstock.domain.process import Neighbour, ProcessSpec, ServedModel
from penstock.domain.routes import Address
from penstock.http.server import HttpServer
from penstock.observe.metrics import Registry
from penstock.server.application import Application
from penstock.server.repository import Limits, Repository
from penstock.server.statistics import Metrics


class Component:
    """One running component and a client of it."""

    def __init__(
        self, app: Application, server: HttpServer, client: httpx.AsyncClient, socket: str
    ) -> None:
        self.app = app
        self.server = server
        self.client = client
        self.socket = socket

    async def v1(self, body: Any, verb: str = "predict", **kw: Any) -> httpx.Response:
        return await self.client.post(f"/v1/models/m:{verb}", json=body, **kw)

    async def v2(self, body: Any, verb: str = "infer", **kw: Any) -> httpx.Response:
        return await self.client.post(f"/v2/models/m/{verb}", json=body, **kw)


def write(tmp_path: Path, name: str, code: str) -> Path:
    """The folder `name` of a class of one's own."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(dedent(code))
    return folder


@asynccontextmanager
async def running(
    socket: str,
    framework: str,
    path: Path,
    *,
    predictor: str = "",
    timeout_s: float = 20.0,
    beside: tuple[str, dict[str, Any]] | None = None,
    **options: Any,
) -> AsyncIterator[Component]:
    """Serve the model `m` at `path` on the Unix socket `socket`; `predictor` is another one's socket.

    `beside` is the framework and the options of a predictor in the same process.
    """
    neighbour = Neighbour((f"unix:{predictor}",), "") if predictor else None
    models: tuple[ServedModel, ...] = (
        ServedModel(
            name="m",
            framework=framework,
            path=str(path),
            options=options,
            behind="m-predictor" if beside else "",
        ),
    )
    if beside:
        inner = ServedModel(
            name="m-predictor", framework=beside[0], path=str(path), options=beside[1]
        )
        models = (inner, *models)
    spec = ProcessSpec(
        listen=f"unix:{socket}",
        models=models,
        predictor=neighbour,
        timeout_s=timeout_s,
    )
    metrics = Metrics(Registry(), namespace="default", service="m", revision="r")
    repository = Repository(
        spec.models,
        metrics=metrics,
        hung=lambda _: None,
        find=runtimes.find,
        limits=Limits(timeout_s=timeout_s, predictor=neighbour),
    )
    app = Application(spec, repository, metrics)
    server = HttpServer(app, streaming=False)
    await repository.load_all()
    await server.listen(Address(path=socket))
    transport = httpx.AsyncHTTPTransport(uds=socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://m", timeout=30) as client:
        try:
            yield Component(app, server, client, socket)
        finally:
            server.close()
            await repository.close()


@asynccontextmanager
async def chain(
    tmp_path: Path,
    predictor: tuple[str, Path],
    front: tuple[str, Path],
    *,
    predictor_options: dict[str, Any] | None = None,
    timeout_s: float = 20.0,
    **options: Any,
) -> AsyncIterator[tuple[Component, Component]]:
    """(predictor, the component before it)."""
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(
            running(
                f"{tmp_path}/p.sock", *predictor, timeout_s=timeout_s, **(predictor_options or {})
            )
        )
        before = await stack.enter_async_context(
            running(
                f"{tmp_path}/t.sock",
                *front,
                predictor=behind.socket,
                timeout_s=timeout_s,
                **options,
            )
        )
        yield behind, before


def error_of(response: httpx.Response, status: int) -> str:
    """The message of an error of that status, one line, nothing else in the body."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    message = body["error"]
    assert isinstance(message, str)
    assert "\n" not in message
    assert "Traceback" not in message
    return message
