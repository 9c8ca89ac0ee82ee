"""The client: its pool, what it takes for a response, and which failures may be tried again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from http_peers import Loop, Sink, Wire

from penstock.domain.routes import Address
from penstock.http.client import (
    Upstream,
    UpstreamError,
    connects,
    fetch,
)
from penstock.http.client_connection import MAX_INTERIM, UpstreamConnection
from penstock.http.server import Exchange

HEAD = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Raw:
    """A server whose every connection is a queue of what came and a hand to answer with."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )
        self.writers: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.connections.put_nowait((reader, writer))

    async def next(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.wait_for(self.connections.get(), 10)


@pytest.fixture(params=["unix", "tcp"])
async def raw(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Raw, Address]]:
    raw = Raw()
    if request.param == "unix":
        address = Address(path=str(tmp_path / "s"))
        server = await asyncio.start_unix_server(raw.accept, address.path)
    else:
        server = await asyncio.start_server(raw.accept, "127.0.0.1", 0)
        address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    yield raw, address
    server.close()
    for writer in raw.writers:
        writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
async def upstream(raw: tuple[Raw, Address]) -> AsyncIterator[Upstream]:
    upstream = Upstream(raw[1])
    yield upstream
    upstream.abort()
    await asyncio.sleep(0)


def wire() -> tuple[Upstream, Wire, Loop]:
    loop = Loop()
    upstream = Upstream(Address(path="/nowhere"), loop=loop)  # type: ignore[arg-type]
    connection = UpstreamConnection(upstream)
    wire = Wire(connection, loop)
    upstream.keep(connection)
    return upstream, wire, loop


# -- the pool -------------------------------------------------------------------------------------


async def test_connections_are_used_again_last_in_first_out(
    raw: tuple[Raw, Address], upstream: Upstream
) -> None:
    """One connection for requests one after another; the warmest of several."""
    server, _ = raw
    sinks = [Sink() for _ in range(3)]
    exchanges = [upstream.request(HEAD, b"hello", sink) for sink in sinks]
    ends = [await server.next() for _ in sinks]
    for reader, _ in ends:
        assert await reader.readexactly(len(HEAD) + 5) == HEAD + b"hello"
    order = [0, 2, 1]
    for i in order:
        ends[i][1].write(OK)
        await asyncio.wait(
            [asyncio.create_task(s.wait()) for s in sinks], return_when="FIRST_COMPLETED"
        )
        while upstream.idle != order.index(i) + 1:
            await asyncio.sleep(0)
    assert all(s.body == b"ok" for s in sinks)
    assert all(e.done and e.status == 200 for e in exchanges)
    sink = Sink()
    upstream.request(HEAD, b"again", sink)
    assert await ends[1][0].readexactly(len(HEAD) + 5) == HEAD + b"again"
    ends[1][1].write(OK)
    await sink.wait()
    assert server.connections.empty()
    assert upstream.open == 3


async def test_the_number_of_idle_connections_is_bounded(
    raw: tuple[Raw, Address],
) -> None:
    """What is over it closes after its response."""
    server, address = raw
    upstream = Upstream(address, max_idle=1)
    sinks = [Sink() for _ in range(3)]
    for sink in sinks:
        upstream.request(HEAD, b"hello", sink)
    for _ in sinks:
        (await server.next())[1].write(OK)
    for sink in sinks:
        await sink.wait()
    assert upstream.idle == 1
    while upstream.open > 1:
        await asyncio.sleep(0)
    upstream.close()


def test_a_connection_that_was_idle_for_long_is_closed() -> None:
    """Before the other side gets to it, which would race with a request."""
    upstream, wire_, loop = wire()
    loop.now = 59
    upstream.sweep()
    assert upstream.idle == 1
    loop.now = 61
    upstream.sweep()
    assert upstream.idle == 0
    assert wire_.closed


async def test_a_connection_that_the_server_closed_while_idle_is_not_used(
    raw: tuple[Raw, Address], upstream: Upstream
) -> None:
    """Its end of file was noticed, so the next request opens another."""
    server, _ = raw
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    _, writer = await server.next()
    writer.write(OK)
    await sink.wait()
    writer.close()
    while upstream.idle:
        await asyncio.sleep(0)
    again = Sink()
    upstream.request(HEAD, b"hello", again)
    (await server.next())[1].write(OK)
    assert (await again.wait()).body == b"ok"


def test_bytes_nobody_asked_for_close_an_idle_connection() -> None:
    """They would be taken for the answer to the next request."""
    upstream, wire_, _ = wire()
    wire_.feed(OK)
    assert upstream.idle == 0
    assert wire_.aborted


@pytest.mark.parametrize(
    "extra", [OK, b"x", b"\r\n"], ids=["a second response", "a byte", "an empty line"]
)
@pytest.mark.parametrize(
    "length",
    [b"content-length: 2\r\n\r\nok", b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
)
@pytest.mark.parametrize("split", [False, True])
def test_bytes_behind_a_response_end_its_connection(
    extra: bytes, length: bytes, split: bool
) -> None:
    """The response itself is good."""
    upstream, wire_, _ = wire()
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    data = b"HTTP/1.1 200 OK\r\n" + length + extra
    for piece in (data[:25], data[25:]) if split else (data,):
        wire_.feed(piece)
    assert sink.body == b"ok"
    assert sink.done.is_set()
    assert upstream.idle == 0
    assert wire_.aborted


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nconnection: x, Close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_a_server_that_closes_is_not_asked_again(data: bytes) -> None:
    """As it says, or as its version implies."""
    upstream, wire_, _ = wire()
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    wire_.feed(data)
    assert sink.body == b"ok"
    assert upstream.idle == 0
    assert wire_.closed


async def test_a_closed_upstream_finishes_what_is_under_way(
    raw: tuple[Raw, Address], upstream: Upstream
) -> None:
    """And takes nothing new; the refusal is told later, not from within request."""
    server, _ = raw
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    _, writer = await server.next()
    upstream.close()
    upstream.close()
    late = Sink()
    upstream.request(HEAD, b"hello", late)
    assert late.error is None
    error = (await late.wait()).error
    assert error is not None
    assert (error.phase, error.retryable) == ("connect", True)
    writer.write(OK)
    assert (await sink.wait()).body == b"ok"
    while upstream.open:
        await asyncio.sleep(0)


# -- responses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_that_have_no_body(status: int) -> None:
    """Whatever their fields say."""
    upstream, wire_, _ = wire()
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    wire_.feed(b"HTTP/1.1 %d X\r\ncontent-length: 500\r\n\r\n" % status)
    assert sink.done.is_set()
    assert sink.body == b""
    assert upstream.idle == 1


def test_a_head_request_has_no_body_in_its_answer() -> None:
    """The length is of what GET would give."""
    upstream, wire_, _ = wire()
    for framing in (b"content-length: 500", b"transfer-encoding: chunked", b"x: y"):
        sink = Sink()
        upstream.request(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", None, sink, method="HEAD")
        wire_.feed(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        assert sink.done.is_set()
        assert sink.body == b""


def test_interim_responses_are_skipped() -> None:
    """100 and 103, in one piece or several, but not without end."""
    upstream, wire_, _ = wire()
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    wire_.feed(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 1"
    )
    wire_.feed(b"02 Processing\r\n\r\n")
    wire_.feed(OK)
    assert sink.body == b"ok"
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    wire_.feed(b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1))
    assert sink.error is not None
    assert not sink.error.retryable
    assert wire_.aborted


async def test_a_body_until_the_connection_closes(
    raw: tuple[Raw, Address], upstream: Upstream
) -> None:
    """Streamed, and complete at the end of file."""
    server, _ = raw
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    reader, writer = await server.next()
    await reader.readexactly(len(HEAD) + 5)
    writer.write(b"HTTP/1.1 200 OK\r\n\r\nsome")
    await writer.drain()
    writer.write(b"thing")
    writer.close()
    await sink.wait()
    assert sink.body == b"something"
    assert sink.streamed
    assert sink.error is None
    assert upstream.idle == 0


async def test_a_large_response_is_streamed(raw: tuple[Raw, Address], upstream: Upstream) -> None:
    """pause holds it back, resume lets it come; the connection is then used again."""
    server, _ = raw
    sink = Sink()
    exchange = upstream.request(HEAD, b"hello", sink)
    _, writer = await server.next()
    size = 20_000_000
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
    while sink.head is None:
        await asyncio.sleep(0)
    exchange.pause()
    writer.write(b"x" * size)
    await asyncio.sleep(0.05)  # time in which it could come, if it did
    assert len(sink.body) < 1_000_000
    exchange.resume()
    await sink.wait()
    assert sink.body == b"x" * size
    assert sink.streamed
    assert upstream.idle == 1


BROKEN: dict[str, bytes] = {
    "both lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
    "signed length": b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
    "unknown coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded line": b"HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 2\r\n\r\nok",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "space before colon": b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status 99": b"HTTP/1.1 099 OK\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "unasked switch": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_response_that_could_be_read_in_two_ways_is_an_error(name: str) -> None:
    """Never guessed at, never sent again, and the connection is not used again."""
    upstream, wire_, _ = wire()
    sink = Sink()
    exchange = upstream.request(HEAD, b"hello", sink)
    wire_.feed(BROKEN[name])
    assert sink.error is not None
    assert sink.error.phase == "response"
    assert not sink.error.retryable
    assert exchange.done
    assert wire_.aborted
    assert upstream.idle == 0


# -- failures -------------------------------------------------------------------------------------


async def failed(upstream: Upstream, body: bytes | None = b"hello") -> UpstreamError:
    sink = Sink()
    upstream.request(HEAD, body, sink)
    error = (await sink.wait()).error
    assert error is not None
    return error


async def test_nobody_listens(tmp_path: Path) -> None:
    """Retryable: nothing was sent."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    for address in (
        Address(path=str(tmp_path / "none")),
        Address(host="127.0.0.1", port=sock.getsockname()[1]),
    ):
        error = await failed(Upstream(address))
        assert (error.phase, error.retryable) == ("connect", True)
        assert not await connects(address)
    sock.close()


async def test_connecting_has_a_deadline(tmp_path: Path) -> None:
    """A full backlog: connect neither succeeds nor fails."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(0)
    address = Address(host="127.0.0.1", port=sock.getsockname()[1])
    fillers = []
    for _ in range(2):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(sock.getsockname())
        fillers.append(filler)
    error = await failed(Upstream(address, connect_timeout_s=0.1))
    assert (error.phase, error.retryable) == ("connect", True)
    assert not await connects(address, timeout_s=0.1)
    for filler in fillers:
        filler.close()
    sock.close()


async def reuse(
    server: Raw, upstream: Upstream
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Make one request, so that the connection is used again for the next."""
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    reader, writer = await server.next()
    await reader.readexactly(len(HEAD) + 5)
    writer.write(OK)
    await sink.wait()
    return reader, writer


@pytest.mark.parametrize("used", [False, True], ids=["new", "reused"])
async def test_closed_after_the_request_was_read(
    raw: tuple[Raw, Address], upstream: Upstream, used: bool
) -> None:
    """It may have been acted on: not retryable, whatever the connection was."""
    server, _ = raw
    if used:
        reader, writer = await reuse(server, upstream)
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    if not used:
        reader, writer = await server.next()
    await reader.readexactly(len(HEAD) + 5)
    writer.close()
    error = (await sink.wait()).error
    assert error is not None
    assert (error.phase, error.retryable) == ("idle-closed" if used else "response", False)


def plain_server(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    sock.setblocking(False)
    return sock


async def read(end: socket.socket, flags: int = 0) -> bytes:
    """What came, as soon as something came; a plain socket, so that nothing else is read."""
    for _ in range(100_000):
        try:
            return end.recv(1000, flags)
        except BlockingIOError:
            await asyncio.sleep(0)
    raise AssertionError("nothing came")


async def accept(sock: socket.socket) -> socket.socket:
    end, _ = await asyncio.get_running_loop().sock_accept(sock)
    end.setblocking(False)
    return end


@pytest.mark.parametrize("used", [False, True], ids=["new", "reused"])
async def test_closed_before_the_request_was_read(tmp_path: Path, used: bool) -> None:
    """Over a Unix socket the system tells: certainly not acted on."""
    sock = plain_server(tmp_path / "s")
    upstream = Upstream(Address(path=str(tmp_path / "s")))
    end: socket.socket | None = None
    if used:
        first = Sink()
        upstream.request(HEAD, b"hello", first)
        end = await accept(sock)
        await read(end)
        end.send(OK)
        await first.wait()
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    if end is None:
        end = await accept(sock)
        assert await read(end, socket.MSG_PEEK) == HEAD + b"hello"
    end.close()
    error = (await sink.wait()).error
    assert error is not None
    assert (error.phase, error.retryable) == ("idle-closed" if used else "response", True)
    sock.close()


async def test_a_peer_gone_before_the_request_was_written(tmp_path: Path) -> None:
    """Closed, but not noticed yet when the request is made: retryable too."""
    sock = plain_server(tmp_path / "s")
    upstream = Upstream(Address(path=str(tmp_path / "s")))
    first = Sink()
    upstream.request(HEAD, b"hello", first)
    end = await accept(sock)
    await read(end)
    end.send(OK)
    await first.wait()
    end.close()
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)  # the loop had no chance to see the end of file
    error = (await sink.wait()).error
    assert error is not None
    assert (error.phase, error.retryable) == ("idle-closed", True)
    sock.close()


async def test_a_large_request_that_was_partly_read_is_not_retryable(tmp_path: Path) -> None:
    """What does not fit into one piece may have been read in part."""
    sock = plain_server(tmp_path / "s")
    upstream = Upstream(Address(path=str(tmp_path / "s")))
    sink = Sink()
    upstream.request(HEAD, b"x" * 1_000_000, sink)
    end = await accept(sock)
    await read(end)
    end.close()
    error = (await sink.wait()).error
    assert error is not None
    assert not error.retryable
    sock.close()


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 20",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    ],
)
async def test_closed_within_the_response(
    raw: tuple[Raw, Address], upstream: Upstream, part: bytes
) -> None:
    """Not retryable, and not mistaken for a whole response."""
    server, _ = raw
    sink = Sink()
    upstream.request(HEAD, b"hello", sink)
    reader, writer = await server.next()
    await reader.readexactly(len(HEAD) + 5)
    writer.write(part)
    writer.close()
    error = (await sink.wait()).error
    assert error is not None
    assert (error.phase, error.retryable) == ("response", False)


async def test_cancel_closes_and_is_silent(raw: tuple[Raw, Address], upstream: Upstream) -> None:
    """While connecting, waiting, and within the response."""
    server, _ = raw
    sink = Sink()
    upstream.request(HEAD, b"hello", sink).cancel()
    await server.next()
    while upstream.idle != 1:  # the connection was made; it serves the next one
        await asyncio.sleep(0)
    for part in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe"):
        exchange = upstream.request(HEAD, b"hello", sink)
        reader, writer = (
            await server.next() if not upstream._connections else await last(server, upstream)
        )
        await reader.readexactly(len(HEAD) + 5)
        writer.write(part)
        while part and sink.head is None:
            await asyncio.sleep(0)
        exchange.cancel()
        exchange.cancel()
        assert exchange.write(b"x")
        exchange.end()
        assert await reader.read() == b""
    assert sink.error is None
    assert not sink.done.is_set()
    assert upstream.idle == 0


async def last(
    server: Raw, upstream: Upstream
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The server's end of the newest connection."""
    if server.connections.empty():
        writer = server.writers[-1]
        protocol: Any = writer.transport.get_protocol()
        return protocol._stream_reader, writer
    return await server.next()


# -- streamed requests ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_request_can_be_streamed(serve: Callable[..., Any], chunked: bool) -> None:
    """Written before the connection is made, while it is, and slower than it could."""
    serving = await serve(lambda e: e.send(200, b"", e.body), unix=True)
    upstream = Upstream(serving.address)
    body = bytes(range(256)) * 20_000
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    for _ in range(2):
        sink = Sink()
        go = asyncio.Event()
        exchange = upstream.request(
            b"POST / HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n",
            None,
            sink,
            more=True,
            chunked=chunked,
            length=None if chunked else len(body),
        )
        exchange.on_drain = go.set
        waited = 0
        for i in range(0, len(body), 50_000):
            if not exchange.write(memoryview(body)[i : i + 50_000]):
                waited += 1
                await asyncio.wait_for(go.wait(), 10)
                go.clear()
        exchange.end()
        assert (await sink.wait()).body == body
        assert waited
    assert upstream.open == 1
    upstream.close()


def test_a_streamed_request_keeps_to_its_length() -> None:
    """More or less than announced would be the start, or the end, of somebody else's request."""
    for sent in (b"hell", b"hellos"):
        upstream, wire_, _ = wire()
        exchange = upstream.request(HEAD, None, Sink(), more=True, length=5)
        with pytest.raises(ValueError, match="announced"):
            (exchange.write(sent), exchange.end())
        assert wire_.aborted
        assert upstream.idle == 0
    upstream, wire_, _ = wire()
    exchange = upstream.request(HEAD, b"hello", Sink())
    with pytest.raises(RuntimeError):
        exchange.write(b"more")


def test_an_answer_before_the_request_is_out_ends_the_connection() -> None:
    """What is not sent is never sent; the response is good."""
    upstream, wire_, _ = wire()
    sink = Sink()
    exchange = upstream.request(HEAD, None, sink, more=True, length=5)
    exchange.write(b"he")
    wire_.feed(OK)
    assert sink.body == b"ok"
    assert exchange.done
    assert exchange.write(b"llo")
    exchange.end()
    assert wire_.aborted
    assert upstream.idle == 0


# -- fetch ----------------------------------------------------------------------------------------


async def test_fetch(serve: Callable[..., Any]) -> None:
    """One call: status, fields, body."""

    def handler(exchange: Exchange) -> None:
        head = exchange.head
        exchange.start(201, b"x-seen: %b\r\n" % (head.get(b"x-a") or b""))
        exchange.write(f"{head.method} {head.target} {head.host} ".encode())
        exchange.write(exchange.body or b"-")
        exchange.end()

    for unix in (False, True):
        serving = await serve(handler, unix=unix)
        status, headers, body = await fetch(
            serving.address, "PUT", "/a?b", [("X-A", "1")], b"body", 5
        )
        host = "localhost" if unix else "127.0.0.1"
        assert (status, body) == (201, f"PUT /a?b {host} body".encode())
        assert (b"x-seen", b"1") in headers
        assert (await fetch(serving.address, "GET", "/"))[2] == f"GET / {host} -".encode()
        assert (await fetch(serving.address, "HEAD", "/"))[2] == b""
        assert await connects(serving.address)


async def test_fetch_gives_up(serve: Callable[..., Any]) -> None:
    """In time, and on answers that are too large."""
    gone = asyncio.Event()

    def handler(exchange: Exchange) -> None:
        if exchange.head.path == "/large":
            exchange.start(200, b"")
            for _ in range(20):
                exchange.write(b"x" * 100_000)
            return
        exchange.on_abort = gone.set

    serving = await serve(handler)
    with pytest.raises(TimeoutError):
        await fetch(serving.address, "GET", "/", timeout_s=1)
    await asyncio.wait_for(gone.wait(), 30)
    with pytest.raises(UpstreamError, match="too large"):
        await fetch(serving.address, "GET", "/large", max_body=1_000_000)
