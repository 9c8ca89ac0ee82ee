"""Stand-in replicas on real Unix sockets, and the gateway under test with a client for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from penstock.domain.routes import Put, Replica, Route, Snapshot, Target, Wake
from penstock.gateway.gateway import Gateway
from penstock.http.server import HttpServer

Answer = Callable[["Seen", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Seen:
    """A request as a replica got it."""

    line: str
    headers: dict[str, str]
    body: bytes


def reply(body: bytes = b'{"ok":true}', *, status: str = "200 OK", extra: str = "") -> bytes:
    lines = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{extra}"
    return f"{lines}content-length: {len(body)}\r\n\r\n".encode() + body


async def say_ok(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(reply())


class StandIn:
    """A replica: reads requests one after another and answers each with `answer`."""

    def __init__(self, path: Path, answer: Answer = say_ok) -> None:
        self.path = path
        self.answer = answer
        #: What it says when the gateway itself asks, which is not among what it has `seen`.
        self.ready = True
        self.asked_ready = 0
        self.seen: list[Seen] = []
        self.connections = 0
        self.arrived = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def route(self) -> Replica:
        return Replica(id=self.path.stem, address=f"unix:{self.path}")

    async def start(self) -> StandIn:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.split("\r\n")
                fields = (line.split(": ", 1) for line in lines[1:] if line)
                headers = {name.lower(): value for name, value in fields}
                if headers.get("transfer-encoding") == "chunked":
                    body = b""
                    while size := int((await reader.readline()).strip(), 16):
                        body += await reader.readexactly(size)
                        await reader.readline()
                    await reader.readline()
                else:
                    body = await reader.readexactly(int(headers.get("content-length", "0")))
                if "/v2/health/ready " in lines[0] and headers.get("connection") == "close":
                    self.asked_ready += 1
                    writer.write(reply(status="200 OK" if self.ready else "503 Not ready"))
                    await writer.drain()
                    continue
                if "upgrade" in headers:
                    # As any server that does not know what is asked for.
                    writer.write(reply(status="404 Not Found"))
                    await writer.drain()
                    continue
                seen = Seen(lines[0], headers, body)
                self.seen.append(seen)
                async with self.arrived:
                    self.arrived.notify_all()
                await self.answer(seen, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def until_seen(self, count: int) -> None:
        async with self.arrived:
            await asyncio.wait_for(self.arrived.wait_for(lambda: len(self.seen) >= count), 30)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)


@dataclass
class Front:
    """The gateway under test and a client for it."""

    gateway: Gateway
    server: HttpServer
    port: int
    client: httpx.AsyncClient
    wakes: list[Wake] = field(default_factory=list)
    sequence: int = 0

    def routes(self, *routes: Route) -> None:
        self.sequence += 1
        self.gateway.apply(Snapshot(self.sequence, routes))

    def put(self, route: Route) -> None:
        self.sequence += 1
        self.gateway.apply(Put(self.sequence, route))

    def counted(self) -> dict[tuple[str, ...], float]:
        samples = self.gateway.snapshot()["penstock_gateway_requests"]["samples"]
        return {(labels[1], *labels[3:]): value for labels, value in samples}


def route(name: str, *replicas: Replica, **fields: object) -> Route:
    """A route with one revision at 100%."""
    fields.setdefault("targets", (Target(revision=f"{name}-00001", weight=100, replicas=replicas),))
    return Route(namespace="default", name=name, **fields)  # type: ignore[arg-type]
