"""Services that are functions behind real Unix sockets, and the gateway under test in front of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from penstock.domain.graph import Graph
from penstock.domain.routes import Address, Put, Remove, Replica, Route, Sleep, Target, Wake
from penstock.gateway.gateway import Gateway
from penstock.http.server import Exchange, HttpServer, Limits
from penstock.protocols import v2
from penstock.protocols.classification import LABELS_HEADER, Classes, told
from penstock.protocols.infer import InferResponse

#: Answers a request: the decoded JSON, or arrays of a V2 request by name.
Function = Callable[[Any], Any]


class Answer(Exception):
    """Raised by a function to answer something else; bytes are text of a page."""

    def __init__(self, status: int, document: Any, headers: bytes = b"") -> None:
        self.status = status
        self.document = document
        self.headers = headers


class FakeService:
    """One service with one replica, answered by a function."""

    def __init__(self, name: str, path: Path, function: Function) -> None:
        self.name = name
        self.address = Address(path=str(path))
        self.function = function
        #: What it knows of its outputs' classes.
        self.classes: dict[str, Classes] = {}
        self.seen: list[Exchange] = []
        #: While this is set, requests are held until it is cleared.
        self.held: list[Exchange] | None = None
        self.arrived = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.server = HttpServer(self.handle, limits=Limits(), streaming=False)

    def handle(self, exchange: Exchange) -> None:
        if exchange.head.get(b"upgrade") is not None:
            exchange.send(404, b"")  # as any server that does not know what is asked for
            return
        self.seen.append(exchange)
        self.arrived.set()
        exchange.on_abort = self.hung_up.set
        if self.held is not None:
            self.held.append(exchange)
        else:
            self.answer(exchange)

    def release(self) -> None:
        held, self.held = self.held or [], None
        for exchange in held:
            self.answer(exchange)

    def answer(self, exchange: Exchange) -> None:
        head = exchange.head
        body = bytes(exchange.body or b"")
        json_line = b"content-type: application/json\r\n"
        try:
            if head.path.endswith("/infer"):
                length = head.get(b"inference-header-content-length")
                request = v2.decode_infer(body, int(length) if length else None, self.name)
                answer = self.function(dict(request.inputs))
                response = InferResponse(answer, model_name=self.name)
                if head.get(LABELS_HEADER) is not None:
                    response = told(response, self.classes)
                headers, pieces = v2.encode_infer(response, request)
                exchange.send(200, headers, pieces)
            else:
                answer = self.function(msgspec.json.decode(body))
                exchange.send(200, json_line, msgspec.json.encode(answer))
        except Answer as other:
            if isinstance(other.document, bytes):
                exchange.send(other.status, b"content-type: text/html\r\n", other.document)
                return
            exchange.send(
                other.status, json_line + other.headers, msgspec.json.encode(other.document)
            )

    def route(self, **more: Any) -> Route:
        replica = Replica(f"{self.name}-0", f"unix:{self.address.path}")
        return Route("default", self.name, (Target(f"{self.name}-00001", 100, (replica,)),), **more)


def add(number: float) -> Any:
    """A model that answers its only input, and `number` more, as `x`."""
    return lambda arrays: {"x": next(iter(arrays.values())) + np.float32(number)}


class GraphFrontUnderTest:
    """The gateway, a client for it, and services behind it."""

    def __init__(
        self, gateway: Gateway, port: int, client: httpx.AsyncClient, folder: Path
    ) -> None:
        self.gateway = gateway
        self.port = port
        self.client = client
        self.folder = folder
        self.wakes: list[Wake | Sleep] = []
        self.services: dict[str, FakeService] = {}
        self.stack = contextlib.AsyncExitStack()
        self._sequence = 0

    async def serve(self, **functions: Function) -> None:
        """Services by name (`_` for `-`)."""
        for name, function in functions.items():
            name = name.replace("_", "-")
            service = FakeService(name, self.folder / f"{name}.sock", function)
            await service.server.listen(service.address)
            self.stack.callback(service.server.close)
            self.services[name] = service
            self.put(service.route())

    def put(self, route: Route) -> None:
        self._sequence += 1
        self.gateway.apply(Put(self._sequence, route))

    def remove(self, name: str) -> None:
        self._sequence += 1
        self.gateway.apply(Remove(self._sequence, f"default/{name}"))

    def graph(self, graph: Graph) -> None:
        self.put(Route(graph.namespace, graph.name, timeout_s=graph.timeout_s, graph=graph))

    def samples(self, family: str) -> dict[tuple[str, ...], Any]:
        found = self.gateway.snapshot()[family]["samples"]
        return {tuple(s[0]): s[1] for s in found}
