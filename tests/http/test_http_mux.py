"""The connection that requests share: what goes over it, what it holds up, and what is lost with it."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from http_peers import Sink

from penstock.domain.routes import Address
from penstock.http.client import ClientExchange, Upstream
from penstock.http.head import ResponseHead
from penstock.http.mux import frames
from penstock.http.mux.connection import MuxConnection, upgrade
from penstock.http.mux.frames import (
    BREAK,
    GOAWAY,
    LAST,
    LAST_NUMBER,
    PART,
    PAYLOAD_BYTES,
    REQUEST_BYTES,
    RESUME,
    STREAMS,
    frame,
)  # fmt: skip
from penstock.http.mux.page import Page, open_page
from penstock.http.server import Exchange, HttpServer, Limits

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: penstock-mux-1\r\n\r\n"
)


def request(path: str, body: bytes = b"", method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()


class Pair:
    """A server whose handler is the test's, and a client of it."""

    def __init__(self, server: HttpServer, upstream: Upstream) -> None:
        self.server = server
        self.upstream = upstream
        self.paths: list[str] = []
        self.handler: Callable[[Exchange], None] = lambda e: e.send(200, b"", b"ok")
        self.exchanges: dict[str, Exchange] = {}

    def ask(self, path: str, body: bytes = b"", method: str = "POST") -> Sink:
        sink = Sink()
        self.upstream.request(request(path, body, method), body, sink, method=method)
        return sink

    async def share(self) -> MuxConnection:
        """Have requests come at once until there is a connection that they share."""
        kept, self.handler = self.handler, lambda e: e.send(200, b"", b"ok")
        async with asyncio.timeout(20):
            while self.upstream.shared is None:
                for sink in [self.ask("/one"), self.ask("/two")]:
                    await sink.wait()
                await asyncio.sleep(0)
        self.handler = kept
        self.paths.clear()
        return self.connection

    @property
    def connection(self) -> MuxConnection:
        (found,) = [c for c in self.server.connections if isinstance(c, MuxConnection)]
        return found

    def hold(self, exchange: Exchange) -> None:
        self.exchanges[exchange.head.path] = exchange

    async def held(self, path: str) -> tuple[Sink, ClientExchange, Exchange]:
        """A request that is here and not answered: both ends of it."""
        self.handler = self.hold
        sink = Sink()
        client = self.upstream.request(request(path), b"", sink)
        await self.until(lambda: path in self.exchanges)
        return sink, client, self.exchanges[path]

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not what():
                await asyncio.sleep(0)


@pytest.fixture
async def pair(make_server: Callable[..., HttpServer], tmp_path: Path) -> AsyncIterator[Pair]:
    def handler(exchange: Exchange) -> None:
        head = exchange.head
        if head.path == frames.PATH:
            upgrade(exchange, server)
            return
        made.paths.append(head.path)
        made.handler(exchange)

    server = make_server(handler, limits=Limits(max_body=32 * 1024 * 1024))
    address = await server.listen(Address(path=str(tmp_path / "mux.sock")))
    made = Pair(server, Upstream(address, shared=True))
    yield made
    made.upstream.abort()


# -- what goes where ---------------------------------------------------------------------------------


async def test_one_request_at_a_time_shares_nothing(pair: Pair) -> None:
    for _ in range(5):
        assert (await pair.ask("/a").wait()).body == b"ok"
    assert pair.upstream.shared is None
    assert pair.upstream.open == 1


async def test_answers_come_in_any_order(pair: Pair) -> None:
    await pair.share()
    pair.handler = pair.hold
    sinks = [pair.ask(f"/{i}", b"%d" % i) for i in range(20)]
    await pair.until(lambda: len(pair.exchanges) == 20)
    for i in reversed(range(20)):
        exchange = pair.exchanges[f"/{i}"]
        exchange.send(200, b"content-type: text/plain\r\n", exchange.body or b"")
    for i, sink in enumerate(sinks):
        assert (await sink.wait()).body == b"%d" % i
        assert sink.head is not None
        assert sink.head.get(b"content-type") == b"text/plain"
    assert pair.paths == [f"/{i}" for i in range(20)]
    assert len({id(c) for c in pair.server.connections}) == pair.upstream.open + 1


async def test_a_large_request_has_a_connection_of_its_own(pair: Pair) -> None:
    connection = await pair.share()
    before = connection.progress
    body = b"x" * REQUEST_BYTES
    pair.handler = lambda e: e.send(200, b"", b"%d" % len(e.body or b""))
    assert (await pair.ask("/large", body).wait()).body == b"%d" % len(body)
    assert connection.progress == before
    assert (await pair.ask("/small", b"x").wait()).body == b"1"
    assert connection.progress > before


async def test_a_body_that_streams_has_a_connection_of_its_own(pair: Pair) -> None:
    connection = await pair.share()
    before = connection.progress
    pair.handler = lambda e: e.gather(lambda e: e.send(200, b"", bytes(e.body or b"")))
    sink = Sink()
    exchange = pair.upstream.request(request("/x", b"12"), None, sink, more=True, length=2)
    exchange.write(b"12")
    exchange.end()
    assert (await sink.wait()).body == b"12"
    assert connection.progress == before


@pytest.mark.parametrize("size", [0, 1, PAYLOAD_BYTES - 40, PAYLOAD_BYTES, 3_000_001])
async def test_answers_of_any_length(pair: Pair, size: int) -> None:
    await pair.share()
    body = os.urandom(size)
    for sent in (
        body,
        bytearray(body),
        [memoryview(body)[: size // 2], memoryview(body)[size // 2 :]],
    ):
        pair.handler = lambda e, sent=sent: e.send(200, b"", sent)
        sinks = [pair.ask("/a"), pair.ask("/b")]
        for sink in sinks:
            assert (await sink.wait()).body == body
            assert sink.error is None


@pytest.mark.parametrize("length", [None, 200_000])
async def test_an_answer_in_pieces(pair: Pair, length: int | None) -> None:
    """Each piece is out when it is written, framed as HTTP/1.1 frames it."""
    await pair.share()
    sink, _, exchange = await pair.held("/a")
    exchange.start(200, b"x-a: 1\r\n", length=length)
    for i in range(2):
        exchange.write(b"%d" % i * 100_000)
        await pair.until(lambda i=i: len(sink.body) == (i + 1) * 100_000)
        assert (await pair.ask("/b", method="GET").wait()).error is None if i > 1 else True
    exchange.end()
    assert (await sink.wait()).body == b"0" * 100_000 + b"1" * 100_000
    assert sink.error is None
    await pair.until(lambda: not pair.connection.exchanges)


async def test_no_body_to_head_and_204(pair: Pair) -> None:
    await pair.share()
    pair.handler = lambda e: e.send(200, b"", b"four")
    sink = await pair.ask("/a", method="HEAD").wait()
    assert (sink.body, sink.error) == (b"", None)
    assert sink.head is not None
    assert sink.head.get(b"content-length") == b"4"
    pair.handler = lambda e: e.send(204, b"")
    sink = await pair.ask("/a").wait()
    assert (sink.body, sink.error) == (b"", None)
    pair.handler = lambda e: e.send_raw(OK)
    assert (await pair.ask("/a").wait()).body == b"ok"


async def test_scheme_and_peer(pair: Pair) -> None:
    await pair.share()
    pair.handler = lambda e: e.send(200, b"", f"{e.scheme} {e.peer!r}".encode())
    assert (await pair.ask("/a").wait()).body == b"http ''"


async def test_more_streams_than_there_may_be(pair: Pair) -> None:
    """Those over the limit go on connections of their own; all are answered."""
    await pair.share()
    pair.handler = pair.hold
    count = STREAMS + 50
    sinks = [pair.ask(f"/{i}") for i in range(count)]
    await pair.until(lambda: len(pair.exchanges) == count)
    assert len(pair.connection.exchanges) == STREAMS
    for exchange in pair.exchanges.values():
        exchange.send(200, b"", b"ok")
    for sink in sinks:
        assert (await sink.wait()).body == b"ok"
    pair.handler = lambda e: e.send(200, b"", b"ok")
    assert (await pair.ask("/again").wait()).body == b"ok"


# -- what it holds up --------------------------------------------------------------------------------


async def test_who_does_not_read_holds_up_nobody_else(pair: Pair) -> None:
    """A paused answer waits in its own line, of which the writer is told; the others pass."""
    await pair.share()
    sink, client, exchange = await pair.held("/long")
    exchange.start(200, b"", length=50 * 100_000)
    exchange.write(b"x" * 100_000)
    await pair.until(lambda: bool(sink.body))
    client.pause()
    drained = asyncio.Event()
    exchange.on_drain = drained.set
    written = 1
    while exchange.write(b"x" * 100_000):
        written += 1
        await asyncio.sleep(0)
        assert written < 49, "writing goes on although nobody reads"
    written += 1
    pair.handler = lambda e: e.send(200, b"", b"ok")
    await pair.ask("/short").wait()  # what was on its way is here with that
    seen = len(sink.body)
    for _ in range(20):
        assert (await pair.ask("/short").wait()).body == b"ok"
    assert len(sink.body) == seen
    client.resume()
    async with asyncio.timeout(20):
        await drained.wait()
    for _ in range(50 - written):
        exchange.write(b"x" * 100_000)
    exchange.end()
    assert len((await sink.wait()).body) == 50 * 100_000
    assert sink.error is None


async def test_a_gateway_that_reads_nothing_gets_no_more_answers(
    pair: Pair, tmp_path: Path
) -> None:
    """Its requests are not read either, so what waits for it is bounded."""
    reader, writer = await _connected(pair)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    pair.handler = lambda e: e.send(200, b"", b"x" * 100_000)
    for number in range(1, 400):
        writer.write(frame(LAST, number, request("/a")))
    connection = pair.connection
    await pair.until(lambda: connection.write_paused)
    answered = len(pair.paths)
    assert answered < 300
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        while len(pair.paths) < 399 or connection.exchanges:
            await reader.read(1 << 20)
    writer.close()


# -- calling off, breaking off -----------------------------------------------------------------------


async def test_a_request_that_is_called_off(pair: Pair) -> None:
    """Its handler is told, what comes of it goes nowhere, and the others live."""
    await pair.share()
    pair.handler = pair.hold
    sinks = {p: Sink() for p in ("/a", "/b")}
    clients = {p: pair.upstream.request(request(p), b"", s) for p, s in sinks.items()}
    await pair.until(lambda: len(pair.exchanges) == 2)
    told = asyncio.Event()
    pair.exchanges["/a"].on_abort = told.set
    clients["/a"].cancel()
    async with asyncio.timeout(20):
        await told.wait()
    pair.exchanges["/a"].send(200, b"", b"late")
    pair.exchanges["/b"].send(200, b"", b"ok")
    assert (await sinks["/b"].wait()).body == b"ok"
    assert not sinks["/a"].done.is_set()
    assert not pair.connection.exchanges


async def test_called_off_before_the_other_side_has_read_it(pair: Pair) -> None:
    """A request and its end in one read: handled, and told at once that nobody waits."""
    await pair.share()
    told: list[str] = []

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = lambda: told.append(exchange.head.path)

    pair.handler = handler
    keep = pair.ask("/keep")
    pair.upstream.request(request("/a"), b"", Sink()).cancel()
    await pair.until(lambda: told == ["/a"])
    assert not keep.done.is_set()


async def test_called_off_in_the_middle_of_an_answer(pair: Pair) -> None:
    await pair.share()
    sink, client, exchange = await pair.held("/a")
    told = asyncio.Event()
    exchange.on_abort = told.set
    exchange.start(200, b"")
    exchange.write(b"first")
    await pair.until(lambda: sink.body == b"first")
    client.cancel()
    async with asyncio.timeout(20):
        await told.wait()
    exchange.write(b"more")
    exchange.end()
    pair.handler = lambda e: e.send(200, b"", b"ok")
    assert (await pair.ask("/b").wait()).body == b"ok"
    assert sink.body == b"first"
    assert not sink.done.is_set()


@pytest.mark.parametrize("started", [False, True])
async def test_an_answer_that_is_broken_off(pair: Pair, started: bool) -> None:
    """An error, and never a short answer; nothing happens to the others."""
    await pair.share()
    pair.handler = pair.hold
    sink, other = pair.ask("/a"), pair.ask("/b")
    await pair.until(lambda: len(pair.exchanges) == 2)
    exchange = pair.exchanges["/a"]
    if started:
        exchange.start(200, b"")
        exchange.write(b"first")
    exchange.abort()
    error = (await sink.wait()).error
    assert error is not None
    assert (error.phase, error.retryable) == ("response", False)
    pair.exchanges["/b"].send(200, b"", b"ok")
    assert (await other.wait()).body == b"ok"


async def test_a_length_that_is_not_kept(pair: Pair) -> None:
    await pair.share()

    def short(exchange: Exchange) -> None:
        exchange.start(200, b"", length=10)
        exchange.write(b"123")
        exchange.end()

    pair.handler = short
    sink = await pair.ask("/a").wait()
    assert sink.error is not None
    pair.handler = lambda e: e.send(200, b"", b"ok")
    assert (await pair.ask("/b").wait()).body == b"ok"


async def test_a_handler_that_raises(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    await pair.share()

    def broken(exchange: Exchange) -> None:
        raise RuntimeError("no")

    pair.handler = broken
    sink = await pair.ask("/a").wait()
    assert sink.head is not None
    assert sink.head.status == 500
    assert "the handler of <POST /a> failed" in caplog.text


async def test_a_sink_that_raises_harms_no_other(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    await pair.share()

    class Bad(Sink):
        def on_response(self, head: ResponseHead, body: bytes | None) -> None:
            raise RuntimeError("no")

    bad = Bad()
    pair.upstream.request(request("/a"), b"", bad)
    others = [pair.ask("/b") for _ in range(5)]
    for other in others:
        assert (await other.wait()).body == b"ok"
    assert (await bad.wait()).error is not None
    assert "taking an answer failed" in caplog.text


async def test_a_head_that_is_refused(pair: Pair) -> None:
    """By the server's own limits: that request is answered, and the connection lives."""
    await pair.share()
    for head, status in (
        (b"POST /a HTTP/1.1\r\ncontent-length: 0\r\n\r\n", 400),
        (b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n", 413),
        (b"POST /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
        (b"no head at all", 400),
    ):
        sink = Sink()
        pair.upstream.request(head, b"", sink)
        await sink.wait()
        assert sink.head is not None, sink.error
        assert sink.head.status == status
    assert (await pair.ask("/b").wait()).body == b"ok"


# -- the end -----------------------------------------------------------------------------------------


async def test_a_drain_loses_nothing(pair: Pair) -> None:
    """What is under way, and what is sent before the client knows, is answered."""
    await pair.share()
    pair.upstream.on_lost = lambda: pytest.fail("the end was announced")
    pair.handler = pair.hold
    sinks = [pair.ask(f"/{i}") for i in range(5)]
    await pair.until(lambda: len(pair.exchanges) == 5)
    drain = asyncio.ensure_future(pair.server.drain(10))
    while pair.upstream.shared is not None:
        if len(sinks) < 500:
            sinks.append(pair.ask(f"/{len(sinks)}"))
        await asyncio.sleep(0)
    await pair.until(lambda: len(pair.exchanges) == len(sinks))
    assert not drain.done()
    for exchange in pair.exchanges.values():
        exchange.send(200, b"", b"ok")
    for sink in sinks:
        assert (await sink.wait()).error is None
    assert await drain
    late = await pair.ask("/late").wait()
    assert late.error is not None
    assert late.error.phase == "connect"


async def test_closing_the_client_leaves_nothing_behind(pair: Pair) -> None:
    await pair.share()
    sink, _, exchange = await pair.held("/a")
    pair.upstream.close()
    assert pair.upstream.shared is None
    exchange.send(200, b"", b"ok")
    assert (await sink.wait()).body == b"ok"
    await pair.until(lambda: not pair.server.connections)


async def test_an_unused_connection_is_closed(pair: Pair) -> None:
    await pair.share()
    pair.upstream.sweep()
    assert pair.upstream.shared is not None
    pair.upstream.sweep()
    assert pair.upstream.shared is None
    await pair.until(lambda: not any(isinstance(c, MuxConnection) for c in pair.server.connections))
    await pair.share()


async def test_the_server_closes_one_that_rests_too_long(pair: Pair) -> None:
    connection = await pair.share()
    assert connection.check(0.0) is False  # it has just been used
    assert connection.check(1.0) is True
    connection.check(1000.0)
    await pair.until(lambda: pair.upstream.shared is None)
    await pair.until(lambda: connection not in pair.server.connections)


async def test_numbers_end(pair: Pair) -> None:
    """After the last number another connection is made; nothing is lost in between."""
    await pair.share()
    mux = pair.upstream.shared
    assert mux is not None
    mux._number = LAST_NUMBER - 3
    for _ in range(3):
        assert (await pair.ask("/a").wait()).body == b"ok"
    assert pair.upstream.shared is None
    assert (await pair.ask("/a").wait()).body == b"ok"
    await pair.share()
    assert pair.upstream.shared is not mux


async def test_the_client_hears_of_the_end(pair: Pair) -> None:
    connection = await pair.share()
    pair.handler = pair.hold
    sinks = [pair.ask("/a"), pair.ask("/b")]
    await pair.until(lambda: len(pair.exchanges) == 2)
    told: list[str] = []
    pair.upstream.on_lost = lambda: told.append("lost")
    pair.exchanges["/a"].on_abort = lambda: told.append("/a")
    connection.break_off_from_outside()
    assert told == ["/a"]
    for sink in sinks:
        error = (await sink.wait()).error
        assert error is not None
        assert (error.phase, error.retryable) == ("idle-closed", False)
    assert told == ["/a", "lost"]
    pair.handler = lambda e: e.send(200, b"", b"ok")
    await pair.share()


# -- a server that does not know it, or is broken ------------------------------------------------------


async def test_a_server_that_does_not_know_it_is_asked_once(
    make_server: Callable[..., HttpServer], tmp_path: Path
) -> None:
    paths: list[str] = []

    def handler(exchange: Exchange) -> None:
        paths.append(exchange.head.path)
        exchange.send(404 if exchange.head.path == frames.PATH else 200, b"", b"ok")

    server = make_server(handler)
    address = await server.listen(Address(path=str(tmp_path / "s")))
    upstream = Upstream(address, shared=True)
    upstream.on_lost = lambda: paths.append("lost")
    for _ in range(20):
        sinks = [Sink() for _ in range(5)]
        for sink in sinks:
            upstream.request(request("/a"), b"", sink)
        for sink in sinks:
            assert (await sink.wait()).body == b"ok"
        for connection in tuple(upstream._connections):
            connection.drop()
        await asyncio.sleep(0)
    assert paths.count(frames.PATH) == 1
    assert "lost" not in paths
    upstream.abort()


@asynccontextmanager
async def _answering(
    tmp_path: Path, said: bytes, *, hang_up: bool = False
) -> AsyncIterator[Upstream]:
    """A client of a server that agrees, and answers the first frame with `said`; all else by HTTP."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while head := await reader.read(65536):
            if frames.PROTOCOL in head:
                writer.write(UPGRADED)
                await reader.read(65536)
                writer.write(said)
                if hang_up:
                    writer.close()
            else:
                writer.write(OK * head.count(b"POST"))

    server = await asyncio.start_unix_server(accept, str(tmp_path / "s"))
    upstream = Upstream(Address(path=str(tmp_path / "s")), shared=True)
    try:
        async with asyncio.timeout(20):
            while upstream.shared is None:
                for sink in [_sent(upstream), _sent(upstream)]:
                    await sink.wait()
                await asyncio.sleep(0)
        yield upstream
    finally:
        upstream.abort()
        server.close()
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _sent(upstream: Upstream) -> Sink:
    sink = Sink()
    upstream.request(request("/a"), b"", sink)
    return sink


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (frame(9, 1), "closed"),
        (frame(RESUME, 1), "closed"),
        (frames.pack((PAYLOAD_BYTES + 1) << 4 | LAST, 1), "closed"),
        (frame(BREAK, 1), "broken off"),
        (frame(LAST, 1, b""), "closed"),
        (frame(LAST, 1, OK[:-1]), "closed within"),
        (frame(PART, 1, OK[:20]) + frame(LAST, 1), "closed"),
        (frame(LAST, 1, b"HTTP/1.1 banana\r\n\r\n"), "malformed"),
        (frame(LAST, 1, b"HTTP/1.1 101 Now\r\nupgrade: x\r\n\r\n"), "not asked for"),
        (frame(PART, 1, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), "chunk"),
        (frame(LAST, 1, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"), "closed within"),
    ],
)  # fmt: skip
async def test_answers_that_are_none(tmp_path: Path, said: bytes, what: str) -> None:
    """An error that says so, not to be sent again."""
    async with _answering(tmp_path, said) as upstream:
        error = (await _sent(upstream).wait()).error
        assert error is not None
        assert what in str(error)
        assert not error.retryable or "read" in str(error)


@pytest.mark.parametrize(
    "said",
    [
        frame(LAST, 7, OK) + frame(PART, 8, b"x") + frame(BREAK, 9) + frame(LAST, 1, OK),
        frame(PART, 1, OK[:10]) + frame(PART, 1, OK[10:]) + frame(LAST, 1),
        frame(PART, 1, OK[:-1]) + frame(LAST, 1, OK[-1:]),
        frame(PART, 1, b"HTTP/1.1 200 OK\r\n\r\nok") + frame(LAST, 1),
        frame(GOAWAY, 0) + frame(LAST, 1, OK),
        frame(LAST, 1, b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    ],
)
async def test_answers_that_are_unusual(tmp_path: Path, said: bytes) -> None:
    """Frames for requests that were called off, heads in two pieces, a body until the end."""
    async with _answering(tmp_path, said) as upstream:
        sink = await _sent(upstream).wait()
        assert (sink.error, sink.body) == (None, b"ok")


async def test_an_answer_that_does_not_pause(tmp_path: Path) -> None:
    """What comes although it was told to wait is bounded: the others' memory is not this model's."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n"
    said = frame(PART, 1, head + b"x") + frame(PART, 1, b"x" * 100_000) * 100

    class Pausing(Sink):
        client: ClientExchange

        def on_data(self, data: Any) -> None:
            super().on_data(data)
            self.client.pause()

    async with _answering(tmp_path, said) as upstream:
        sink = Pausing()
        sink.client = upstream.request(request("/a"), b"", sink)
        error = (await sink.wait()).error
        assert error is not None
        assert "told to wait" in str(error)
        assert len(sink.body) < 5_000_000
        assert upstream.shared is not None
        assert not upstream.shared.pending


async def test_unread_by_a_server_that_shares_a_page_and_closes(tmp_path: Path) -> None:
    """The page says that it took nothing up, so the request may be sent again."""
    async with _answering(tmp_path, b"", hang_up=True) as upstream:
        error = (await _sent(upstream).wait()).error
        assert error is not None
        assert error.retryable


async def _connected(pair: Pair) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that is upgraded by hand."""
    assert pair.upstream.address.path is not None
    reader, writer = await asyncio.open_unix_connection(pair.upstream.address.path)
    writer.write(
        b"GET %b HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: %b\r\n\r\n"
        % (frames.PATH.encode(), frames.PROTOCOL)
    )
    async with asyncio.timeout(20):
        assert await reader.readuntil(b"\r\n\r\n") == UPGRADED
    return reader, writer


@pytest.mark.parametrize(
    "said",
    [
        frame(7, 1),
        frame(PART, 1, request("/a")),
        frame(GOAWAY, 0),
        frames.pack((PAYLOAD_BYTES + 1) << 4 | LAST, 1),
        frame(LAST, 1, request("/a", b"12") + b"1"),
        frame(LAST, 1, request("/a", b"1") + b"12"),
        frame(LAST, 1, b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        frame(LAST, 1, request("/wait")) + frame(LAST, 1, request("/wait")),
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"".join(frame(LAST, number, request("/wait")) for number in range(1, STREAMS + 2)),
    ],
)  # fmt: skip
async def test_frames_that_are_none(pair: Pair, said: bytes) -> None:
    """They end their connection; the server goes on."""
    pair.handler = lambda e: None if e.head.path == "/wait" else e.send(200, b"", b"ok")
    reader, writer = await _connected(pair)
    writer.write(said)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    assert (await pair.ask("/b").wait()).body == b"ok"


async def test_a_frame_that_comes_byte_by_byte(pair: Pair) -> None:
    reader, writer = await _connected(pair)
    for byte in frame(LAST, 1, request("/a", b"12") + b"12"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        assert await reader.readexactly(frames.HEADER_BYTES + len(OK)) == frame(LAST, 1, OK)
    connection = pair.connection
    writer.write(frame(LAST, 2, request("/b"))[:-1])
    await pair.until(lambda: bool(connection._part))
    connection.check(0.0)
    connection.check(1000.0)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()


# -- the page ------------------------------------------------------------------------------------------


def test_pages_that_are_none(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with open("/dev/null") as null, open(tmp_path / "small", "w+") as small:
        fifo_fd = os.open(fifo, os.O_RDWR)
        names = (
            None, b"", b"/etc/passwd", str(tmp_path / "small").encode(), b"/proc/self/fd/0",
            b"/proc/1/fd/../../../etc/passwd", b"/proc/%d/fd/99999" % os.getpid(),
            b"/proc/%d/fd/%d" % (os.getpid(), null.fileno()),
            b"/proc/%d/fd/%d" % (os.getpid(), small.fileno()),
            b"/proc/%d/fd/%d" % (os.getpid(), fifo_fd),
        )  # fmt: skip
        for name in names:
            assert open_page(name) is None, name
        os.close(fifo_fd)


def test_a_page_cannot_be_cut_off_under_its_reader() -> None:
    page = Page()
    fd = os.open(page.name, os.O_RDWR)
    with pytest.raises(PermissionError):
        os.truncate(fd, 0)
    written = open_page(page.name.encode())
    assert isinstance(written, mmap.mmap)
    frames.NUMBER.pack_into(written, 0, 77)
    page.opened()
    written.close()
    assert page.read() == 77
    os.close(fd)
    page.close()


# -- a process that is killed --------------------------------------------------------------------------


class Process:
    """`mux_server.py`, and a client that shares a connection with it."""

    def __init__(self, process: asyncio.subprocess.Process, upstream: Upstream) -> None:
        self.process = process
        self.upstream = upstream

    async def said(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode().strip()

    def ask(self, path: str) -> Sink:
        sink = Sink()
        self.upstream.request(request(path), b"", sink)
        return sink

    async def share(self) -> None:
        async with asyncio.timeout(20):
            while self.upstream.shared is None:
                for sink in [self.ask("/one"), self.ask("/one")]:
                    await sink.wait()
                assert await self.said() == "one"
                assert await self.said() == "one"


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    path = str(tmp_path / "s")
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("mux_server.py")), path,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    upstream = Upstream(Address(path=path), shared=True)
    made = Process(child, upstream)
    assert await made.said() == "ready"
    yield made
    upstream.abort()
    if child.returncode is None:
        child.kill()
    await child.wait()


async def test_what_a_killed_process_never_took_up_may_be_sent_again(process: Process) -> None:
    """The kernel had all of it; only the page tells which requests were begun."""
    await process.share()
    begun = [process.ask("/wait"), process.ask("/wait")]
    assert await process.said() == "wait"
    assert await process.said() == "wait"
    begun.append(process.ask("/hang"))
    assert await process.said() == "hang"
    unread = [process.ask("/wait") for _ in range(5)]
    await asyncio.sleep(0)
    process.process.send_signal(signal.SIGKILL)
    for sink in begun:
        error = (await sink.wait()).error
        assert error is not None
        assert not error.retryable
    for sink in unread:
        error = (await sink.wait()).error
        assert error is not None
        assert error.retryable


async def test_the_last_words_of_a_process_that_hangs(process: Process) -> None:
    """All that wait are answered from outside of the loop; what it had not taken up may be sent again."""
    await process.share()
    sinks = [process.ask("/wait"), process.ask("/wait"), process.ask("/last"), process.ask("/wait")]
    for expected in ("wait", "wait", "last", "3"):
        assert await process.said() == expected
    for sink in sinks[:3]:
        await sink.wait()
        assert sink.head is not None
        assert sink.head.status == 504
        assert b"It hangs." in sink.body
    error = (await sinks[3].wait()).error
    assert error is not None
    assert error.retryable
