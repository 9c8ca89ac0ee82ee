"""The other side of the wire, for tests: raw sockets read by h11, and transports in memory."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11

from penstock.domain.routes import Address
from penstock.http.client import UpstreamError
from penstock.http.connection import Connection
from penstock.http.head import ResponseHead
from penstock.http.server import Exchange, HttpServer

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def post(body: bytes, target: str = "/", extra: bytes = b"") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n".encode()
    return head + extra + b"\r\n" + body


@dataclass
class Answer:
    """A response as h11 read it."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    interim: list[int] = field(default_factory=list)


class Peer:
    """A client that sends what it is told and reads responses with h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._h11: h11.Connection | None = None
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, method: str = "GET") -> Answer:
        """The next response; h11.RemoteProtocolError when it is broken off or malformed."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
        if self._rest:
            connection.receive_data(self._rest)
        interim: list[int] = []
        response: h11.Response | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await asyncio.wait_for(self.reader.read(65536), 20))
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                self._rest = connection.trailing_data[0]
                return Answer(response.status_code, dict(response.headers), body, interim)
            else:
                raise AssertionError(event)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        return self._rest + await asyncio.wait_for(self.reader.read(), 20)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass
class Serving:
    """A server under test and where it listens."""

    server: HttpServer
    address: Address
    tmp_path: Path

    async def peer(self, **options: Any) -> Peer:
        if self.address.path is not None:
            return Peer(*await asyncio.open_unix_connection(self.address.path, **options))
        return Peer(*await asyncio.open_connection(self.address.host, self.address.port, **options))

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        """One connection, one request, its answer."""
        async with await self.peer() as peer:
            peer.send(data)
            return await peer.answer(method)


class Sink:
    """Collects the response to a request of the client's."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.body = b""
        self.streamed = False
        self.error: UpstreamError | None = None
        self.done = asyncio.Event()

    def on_response(self, head: ResponseHead, body: bytes | None) -> None:
        self.head = head
        if body is None:
            self.streamed = True
        else:
            self.body = body
            self.done.set()

    def on_data(self, data: Any) -> None:
        self.body += bytes(data)

    def on_end(self) -> None:
        self.done.set()

    def on_error(self, exc: UpstreamError) -> None:
        assert self.error is None
        self.error = exc
        self.done.set()

    async def wait(self) -> Sink:
        async with asyncio.timeout(20):
            await self.done.wait()
        return self


class Loop:
    """Just enough of an event loop for a connection on a `Wire`."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.now = 0.0

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self.soon.append((callback, args))

    def call_later(self, delay: float, callback: Callable[..., None]) -> _Timer:
        return _Timer()

    def time(self) -> float:
        return self.now

    def run(self) -> None:
        while self.soon:
            callback, args = self.soon.pop(0)
            callback(*args)


class _Timer:
    def cancel(self) -> None:
        pass


class Wire(asyncio.Transport):
    """A transport in memory: what is written is in `sent`, what is fed arrives in the pieces given."""

    def __init__(self, protocol: Any, loop: Loop) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = loop
        self._unread = b""
        self.sent = b""
        self.closed = False
        self.aborted = False
        self.paused = False
        self.eof = False
        protocol.connection_made(self)

    def feed(self, data: bytes) -> None:
        self._unread += data
        while self._unread and not self.paused and not self.closed:
            protocol = self._protocol
            if isinstance(protocol, asyncio.BufferedProtocol):
                buffer = protocol.get_buffer(-1)
                count = min(len(buffer), len(self._unread))
                memoryview(buffer)[:count] = self._unread[:count]
                self._unread = self._unread[count:]
                protocol.buffer_updated(count)
            else:
                part, self._unread = self._unread, b""
                protocol.data_received(part)
            self._loop.run()

    def hang_up(self) -> None:
        if not self.closed and not self._protocol.eof_received():
            self.close()
        self._loop.run()

    def write(self, data: Any) -> None:
        assert not self.closed
        assert not self.eof
        self.sent += bytes(data)

    def writelines(self, pieces: Iterable[Any]) -> None:
        for piece in pieces:
            self.write(piece)

    def write_eof(self) -> None:
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False
        if self._unread:
            self._loop.call_soon(self.feed, b"")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


def wired(handler: Callable[[Exchange], None], **options: Any) -> tuple[Wire, Loop]:
    """A server's connection on a `Wire`."""
    server = HttpServer(handler, **options)
    loop = Loop()
    server.loop = loop  # type: ignore[assignment]
    return Wire(Connection(server), loop), loop


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at these places."""
    places = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]
