"""Timeouts, with a clock that the test holds, and the drain."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_peers import GET, Loop, Wire, post, wired

from penstock.domain.routes import Address
from penstock.http.client import UpstreamError, fetch
from penstock.http.limits import Limits
from penstock.http.server import Exchange, HttpServer

LIMITS = Limits(
    head_timeout_s=10, body_timeout_s=30, idle_timeout_s=75, write_timeout_s=60, linger_s=2
)


class Clocked:
    """A connection in memory whose server is swept at chosen times."""

    def __init__(self, handler: Callable[[Exchange], None], **options: Any) -> None:
        self.wire, self.loop = wired(handler, limits=LIMITS, **options)
        self.server: HttpServer = self.wire.get_protocol().server
        self.server.sweep()

    def wait(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass, with the sweeps that it brings."""
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.now = min(end, self.loop.now + step)
            self.server.sweep()
            self.loop.run()


def silent(exchange: Exchange) -> None:
    """Never answers."""


def test_an_idle_connection_is_closed() -> None:
    """Silently, after idle_timeout_s; before and after requests."""
    for requests in (0, 1):
        c = Clocked(lambda e: e.send(200, b""))
        c.wire.feed(GET * requests)
        sent = c.wire.sent
        c.wait(74)
        assert not c.wire.closed
        c.wait(3)
        assert c.wire.closed
        assert c.wire.sent == sent


def test_a_slow_head_is_given_up() -> None:
    """A byte now and then does not help: the whole head has head_timeout_s from its first byte."""
    c = Clocked(silent)
    c.wait(50)
    for byte in GET[:9]:
        c.wire.feed(bytes([byte]))
        c.wait(1)
    assert not c.wire.sent
    c.wire.feed(b"x")
    c.wait(2)
    assert c.wire.sent.startswith(b"HTTP/1.1 408 ")
    assert c.wire.eof
    c.wait(3)
    assert c.wire.closed


def test_a_slow_head_behind_another_request_is_given_up() -> None:
    """Its time begins when it is its turn."""
    seen: list[Exchange] = []
    c = Clocked(seen.append)
    c.wire.feed(GET + GET[:5])
    c.wait(100)
    assert not c.wire.sent
    seen[0].send(200, b"")
    c.loop.run()
    c.wait(9)
    assert b" 408 " not in c.wire.sent
    c.wait(3)
    assert b" 408 " in c.wire.sent


@pytest.mark.parametrize("size", [100, 100_000], ids=["small", "read directly"])
def test_a_body_that_stalls_is_given_up(size: int) -> None:
    """Progress resets the clock, silence does not."""
    aborted: list[bool] = []

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = lambda: aborted.append(True)
        exchange.gather(silent)

    c = Clocked(handler, streaming=True)
    c.wire.feed(post(b"x" * size)[:-50])
    for _ in range(5):
        c.wait(25)
        c.wire.feed(b"x")
    assert not c.wire.sent
    c.wait(32)
    assert c.wire.sent.startswith(b"HTTP/1.1 408 ")
    assert aborted == [True]
    assert c.server.gathered == 0


def test_a_body_that_the_handler_keeps_waiting_is_not_the_clients_fault() -> None:
    """No body timeout while reading is paused, or the body is not claimed."""
    exchanges: list[Exchange] = []

    def handler(exchange: Exchange) -> None:
        exchanges.append(exchange)

    c = Clocked(handler, streaming=True)
    c.wire.feed(post(b"x" * 100)[:-50])
    c.wait(300)
    assert not c.wire.sent
    exchanges[0].gather(silent)
    c.wait(20)
    assert not c.wire.sent
    exchanges[0].pause_reading()
    c.wait(300)
    assert not c.wire.sent
    exchanges[0].resume_reading()
    c.wait(32)
    assert c.wire.sent.startswith(b"HTTP/1.1 408 ")


def test_a_handler_may_take_its_time() -> None:
    """Deadlines of requests are not the engine's."""
    seen: list[Exchange] = []
    c = Clocked(seen.append)
    c.wire.feed(GET)
    c.wait(1000)
    seen[0].send(200, b"")
    assert c.wire.sent.startswith(b"HTTP/1.1 200 ")
    assert not c.wire.closed


def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """write_timeout_s without a byte taken; a byte taken is progress."""
    waiting = 0
    monkeypatch.setattr(Wire, "get_write_buffer_size", lambda self: waiting)
    aborted: list[bool] = []

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = lambda: aborted.append(True)
        exchange.start(200, b"")
        exchange.write(b"x" * 1000)

    c = Clocked(handler)
    c.wire.feed(GET)
    waiting = 1000
    c.wait(59)
    waiting = 999
    c.wait(59)
    assert not c.wire.closed
    c.wait(3)
    assert c.wire.aborted
    assert aborted == [True]


def test_a_closing_connection_is_not_waited_for_forever() -> None:
    """After a refusal the client has linger_s to take its answer; what it sends meanwhile is dropped."""
    c = Clocked(silent)
    c.wire.feed(b"nonsense\r\n\r\n")
    for _ in range(3):
        c.wire.feed(b"more" * 1000)
        c.wait(0.5)
        assert not c.wire.closed
    c.wait(2)
    assert c.wire.closed


async def test_the_sweep_runs_by_itself(serve: Callable[..., Any]) -> None:
    """With real time, and as often as short limits need."""
    serving = await serve(silent, limits=Limits(head_timeout_s=0.1, idle_timeout_s=0.2))
    async with await serving.peer() as peer:
        peer.send(b"GET /")
        assert (await peer.answer()).status == 408
    async with await serving.peer() as peer:
        assert await peer.rest() == b""
    async with asyncio.timeout(30):
        while serving.server.connections or serving.server._timer is not None:
            await asyncio.sleep(0.01)  # nobody to look at, nothing scheduled


# -- drain ----------------------------------------------------------------------------------------


async def test_drain_answers_what_is_under_way_and_closes(serve: Callable[..., Any]) -> None:
    """Idle connections close, answers say close, new connections are refused."""
    arrived: asyncio.Queue[Exchange] = asyncio.Queue()
    serving = await serve(arrived.put_nowait)
    idle, busy, sending = [await serving.peer() for _ in range(3)]
    busy.send(GET)
    exchange = await arrived.get()
    sending.send(post(b"hello")[:-2])
    while sum(c.state == 1 for c in serving.server.connections) < 1:
        await asyncio.sleep(0)
    drained = asyncio.create_task(serving.server.drain(10))
    assert await idle.rest() == b""
    with pytest.raises(OSError):  # noqa: PT011 - refused, by whichever errno
        await serving.peer()
    exchange.send(200, b"", b"done")
    answer = await busy.answer()
    assert (answer.body, answer.headers[b"connection"]) == (b"done", b"close")
    assert await busy.rest() == b""
    sending.send(b"lo")
    late = await arrived.get()
    assert late.body == b"hello"
    assert not drained.done()
    late.send(200, b"")
    assert (await sending.answer()).headers[b"connection"] == b"close"
    assert await drained is True
    for peer in (idle, busy, sending):
        await peer.close()


async def test_drain_ends_after_its_grace_time(serve: Callable[..., Any]) -> None:
    """What is not answered by then is broken off, and its handler hears of it."""
    aborted = asyncio.Event()
    arrived = asyncio.Event()

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = aborted.set
        arrived.set()

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET)
        await arrived.wait()
        assert await serving.server.drain(0.1) is False
        assert aborted.is_set()
        try:
            assert await peer.rest() == b""
        except ConnectionResetError:
            pass


async def test_requests_sent_just_before_a_drain_are_answered(serve: Callable[..., Any]) -> None:
    """Bytes already on the wire are not met by a reset."""
    serving = await serve(lambda e: e.send(200, b"", b"in time"))
    peers = [await serving.peer() for _ in range(20)]
    for peer in peers:
        peer.send(GET)
        await peer.answer()
    for peer in peers:
        peer.send(GET)
    drained = asyncio.create_task(serving.server.drain(5))
    for peer in peers:
        assert (await peer.answer()).body == b"in time"
    assert await drained is True
    for peer in peers:
        await peer.close()


async def test_a_stream_that_began_before_the_drain_ends_in_peace(
    serve: Callable[..., Any],
) -> None:
    """Its head could not say close any more; the connection closes all the same."""
    arrived: asyncio.Queue[Exchange] = asyncio.Queue()

    def handler(exchange: Exchange) -> None:
        exchange.start(200, b"")
        arrived.put_nowait(exchange)

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET)
        exchange = await arrived.get()
        drained = asyncio.create_task(serving.server.drain(5))
        await asyncio.sleep(0)
        exchange.write(b"all of it")
        exchange.end()
        assert (await peer.answer()).body == b"all of it"
        assert await peer.rest() == b""
        assert await drained is True


# -- addresses ------------------------------------------------------------------------------------


async def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_left_at_the_end(
    make_server: Callable[..., HttpServer], tmp_path: Path
) -> None:
    """A dead process's socket is in nobody's way; closing removes only what is still one's own."""
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    address = Address(path=str(path))
    first = make_server(lambda e: e.send(200, b"", b"first"))
    second = make_server(lambda e: e.send(200, b"", b"second"))
    await first.listen(address, mode=0o600)
    assert (await fetch(address, "GET", "/"))[2] == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    await second.listen(address)
    assert (await fetch(address, "GET", "/"))[2] == b"second"
    first.close()
    assert (await fetch(address, "GET", "/"))[2] == b"second"
    second.close()
    assert os.listdir(tmp_path) == []


async def test_a_file_that_is_no_socket_is_not_replaced(
    make_server: Callable[..., HttpServer], tmp_path: Path
) -> None:
    """Somebody's data, perhaps."""
    path = tmp_path / "data"
    path.write_text("precious")
    server = make_server(silent)
    with pytest.raises(OSError, match="no socket"):
        await server.listen(Address(path=str(path)))
    assert path.read_text() == "precious"


async def test_two_servers_share_a_port(make_server: Callable[..., HttpServer]) -> None:
    """SO_REUSEPORT, for several gateway processes."""
    servers = [make_server(lambda e: e.send(200, b"")) for _ in range(2)]
    address = await servers[0].listen(Address(host="127.0.0.1", port=0), reuse_port=True)
    assert (await servers[1].listen(address, reuse_port=True)) == address
    third = make_server(silent)
    with pytest.raises(OSError):  # noqa: PT011 - in use, by whichever errno
        await third.listen(address)
    assert (await fetch(address, "GET", "/"))[0] == 200
    for server in servers:
        server.close()


async def test_a_bound_socket_can_be_listened_on(make_server: Callable[..., HttpServer]) -> None:
    """For sockets that a supervisor opened."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = make_server(lambda e: e.send(200, b"", b"ok"))
    address = await server.listen(sock)
    assert address.port == sock.getsockname()[1]
    assert (await fetch(address, "GET", "/"))[2] == b"ok"
    server.close()
    with pytest.raises(UpstreamError):
        await fetch(address, "GET", "/")


def test_the_loop_in_memory_runs() -> None:
    """A stand-in that runs nothing would make the tests above pass for nothing."""
    loop = Loop()
    ran: list[int] = []
    loop.call_soon(ran.append, 1)
    loop.run()
    assert ran == [1]
