"""A SeldonDeployment as it runs, without processes: real model applications behind a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from seldon_oracle import HERE

from penstock import dialects
from penstock.domain.assembly import Assembly
from penstock.domain.process import Neighbour
from penstock.domain.routes import Address, Put, Replica, Route, Target
from penstock.gateway.gateway import Gateway
from penstock.gateway.grpc.front import GrpcFront
from penstock.http.h2.server import Http2Server
from penstock.http.server import HttpServer, Limits
from penstock.protocols.grpc.wire import refusal
from penstock.runtimes.base import LoadOptions
from penstock.runtimes.explainer import load as load_explainer
from penstock.runtimes.seldon_python import load

sys.path.insert(0, str(HERE.parent / "server"))
from server_client import Served, serving
from server_models import Doubler

CLASSES = "file:///units"


def node(name: str, type_: str | None = None, cls: str = "", **more: Any) -> dict[str, Any]:
    """A node; with `cls` it is a class of the tests."""
    made: dict[str, Any] = {"name": name, **more}
    if type_ is not None:
        made["type"] = type_
    if cls:
        made["modelUri"] = CLASSES
        named = {"name": "MODEL_NAME", "value": f"graph_units.py:{cls}", "type": "STRING"}
        made["parameters"] = [*made.get("parameters", ()), named]
    return made


def parameter(name: str, value: str, type_: str = "STRING") -> dict[str, str]:
    return {"name": name, "value": value, "type": type_}


def deployment(*graphs: dict[str, Any], name: str = "dep", **spec: Any) -> dict[str, Any]:
    """One predictor per graph; a graph may have `predictor` with fields of its predictor."""
    predictors = []
    for i, graph in enumerate(graphs):
        graph = dict(graph)
        more = graph.pop("predictor", {})
        predictors.append({"name": f"p{i}" if i else "main", "graph": graph, **more})
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"predictors": predictors, **spec},
    }


class Deployed:
    """The gateway's address and what runs behind it."""

    def __init__(self, client: httpx.AsyncClient, gateway: Gateway, name: str) -> None:
        self.client = client
        self.gateway = gateway
        self.prefix = f"/seldon/default/{name}"
        self.parts: dict[str, Served] = {}
        #: gRPC's port.
        self.port = 0
        self.sequence = 0

    async def predict(self, message: Any, **headers: str) -> httpx.Response:
        path = f"{self.prefix}/api/v1.0/predictions"
        return await self.client.post(path, json=message, headers=headers)

    async def rows(self, *rows: Any) -> Any:
        """The whole answer to an ndarray."""
        answer = await self.predict({"data": {"ndarray": list(rows)}})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def feedback(self, document: Any) -> httpx.Response:
        return await self.client.post(f"{self.prefix}/api/v1.0/feedback", json=document)

    def unit(self, part: str) -> Any:
        """The instance of a node's class."""
        served = self.parts[part]
        (name,) = served.repository.names()
        runtime: Any = served.repository.get(name).runtime
        return runtime._instance

    def put(self, route: Route) -> None:
        self.sequence += 1
        self.gateway.apply(Put(self.sequence, route))


@asynccontextmanager
async def deployed(
    tmp_path: Path, manifest: Mapping[str, Any], *, absent: tuple[str, ...] = ()
) -> AsyncIterator[Deployed]:
    """Run it. Prepackaged nodes double their input; parts that are `absent` have a route and no process."""
    assembly = dialects.translate(manifest).object
    assert isinstance(assembly, Assembly)
    gateway = Gateway(asyncio.get_running_loop(), wake=lambda m: None)
    server = HttpServer(gateway.handle, limits=Limits(), streaming=True)
    port = (await server.listen(Address(host="127.0.0.1", port=0))).port
    async with (
        contextlib.AsyncExitStack() as stack,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        stack.callback(gateway.close)
        stack.callback(server.close)
        calls = GrpcFront(gateway, time=asyncio.get_running_loop().time, most=1 << 26)
        grpc_server = Http2Server(
            calls.handle, limits=Limits(), streaming=True, http1=False, refusal=refusal
        )
        stack.callback(grpc_server.close)
        found = Deployed(client, gateway, assembly.name)
        found.port = (await grpc_server.listen(Address(host="127.0.0.1", port=0))).port
        for i, part in enumerate(assembly.parts):
            name = part["metadata"]["name"]
            if name in absent:
                found.put(Route("default", name, (), timeout_s=2, message="it could not be loaded"))
                continue
            folder = tmp_path / str(i)
            folder.mkdir()
            model = dialects.translate(part).object.predictor.model
            options = dict(model.options)
            asked = options.pop("predictor", "")
            graph_at = Neighbour(
                (f"tcp:127.0.0.1:{port}",), f"/serving/default/{asked}", asked.partition("@")[0]
            )
            files = Path(model.storage.uri)

            def make(
                name: str = name,
                options: dict[str, Any] = options,
                at: Neighbour = graph_at,
                files: Path = files,
            ) -> Any:
                if at.model:
                    return load_explainer(files, LoadOptions(name, options=options, predictor=at))
                if "unit" not in options:
                    return Doubler()
                return load(HERE, LoadOptions(name, options=options))

            models = {model.served_name or name: make}
            served = await stack.enter_async_context(serving(folder, models))
            found.parts[name] = served
            replica = Replica(f"{name}-0", f"unix:{served.socket}")
            found.put(Route("default", name, (Target(f"{name}-00001", 100, (replica,)),)))
        graph = assembly.graph
        found.put(Route("default", graph.name, timeout_s=graph.timeout_s, graph=graph))
        yield found
