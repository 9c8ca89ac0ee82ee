"""Order, backpressure and bounds: pipelining, slow readers, too many connections, heads over limits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from http_peers import GET, Peer, post, wired

from penstock.http.head import HeadCache, RequestHead, parse_request_head
from penstock.http.limits import Limits
from penstock.http.server import Exchange

# -- pipelining -----------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order(serve: Callable[..., Any]) -> None:
    """The next one starts when the one before is answered, whoever is quick."""
    under_way = 0

    def handler(exchange: Exchange) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        number = int(exchange.head.path[1:])

        def answer() -> None:
            nonlocal under_way
            under_way -= 1
            exchange.send(200, b"", b"%d" % number)

        if number % 3:
            asyncio.get_running_loop().call_later(0.002, answer)
        else:
            answer()

    serving = await serve(handler)
    async with await serving.peer() as peer:
        for start in (0, 30):
            numbers = range(start, start + 30)
            peer.send(b"".join(GET.replace(b"/ ", b"/%d " % i) for i in numbers))
            for i in numbers:
                assert (await peer.answer()).body == b"%d" % i


def test_what_waits_behind_a_request_is_bounded() -> None:
    """Reading stops; when the line moves it goes on, and nothing is lost."""
    seen: list[Exchange] = []
    wire, loop = wired(seen.append, limits=Limits(max_pipeline_bytes=1000))
    count = 100
    for _ in range(count):
        wire.feed(GET)
    assert wire.paused
    waiting = wire.get_protocol()._buffer
    assert len(waiting) <= 1000 + len(GET)
    for i in range(count):
        assert len(seen) == i + 1
        seen[i].send(200, b"")
        loop.run()
    assert not wire.paused
    assert wire.sent.count(b"HTTP/1.1 200") == count


def test_requests_behind_the_last_one_are_not_served() -> None:
    """After `connection: close` nothing further is read."""
    seen: list[Exchange] = []
    wire, _ = wired(lambda e: (seen.append(e), e.send(200, b""))[0])
    wire.feed(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + GET)
    assert len(seen) == 1
    assert wire.closed


def test_a_handler_does_not_run_inside_another_answer() -> None:
    """A pipelined request is taken up from the loop, not from within `send`."""
    depth = 0
    seen: list[Exchange] = []

    def handler(exchange: Exchange) -> None:
        nonlocal depth
        depth += 1
        assert depth == 1
        seen.append(exchange)
        depth -= 1

    wire, loop = wired(handler)
    wire.feed(GET * 3)
    depth += 1
    seen[0].send(200, b"")
    depth -= 1
    loop.run()
    assert len(seen) == 2


# -- slow readers ---------------------------------------------------------------------------------


async def slow_peer(serving: Any) -> Peer:
    """A client that takes little at a time. (A Unix socket holds about 200 kB, and has no timers.)"""
    return await serving.peer(limit=1024)


async def test_a_stream_waits_for_a_slow_reader(serve: Callable[..., Any]) -> None:
    """write says no at the high water mark, on_drain says go; memory stays bounded."""
    piece = b"x" * 50_000
    count = 100
    most = 0

    def handler(exchange: Exchange) -> None:
        sent = 0

        def pump() -> None:
            nonlocal sent, most
            while sent < count:
                sent += 1
                more = exchange.write(piece)
                (connection,) = serving.server.connections
                most = max(most, connection.transport.get_write_buffer_size())
                if not more:
                    return
            exchange.on_drain = None
            exchange.end()

        exchange.on_drain = pump
        exchange.start(200, b"")
        pump()

    serving = await serve(handler, unix=True, limits=Limits(write_high_water=300_000))
    async with await slow_peer(serving) as peer:
        peer.send(GET)
        answer = await peer.answer()
    assert len(answer.body) == len(piece) * count
    assert 300_000 < most < 400_000


async def test_a_client_that_asks_and_does_not_read_is_not_served_on(
    serve: Callable[..., Any],
) -> None:
    """Pipelined requests wait while answers do; then all are answered."""
    served = 0
    size = 200_000
    stuck = asyncio.Event()

    def handler(exchange: Exchange) -> None:
        nonlocal served
        served += 1
        exchange.send(200, b"", b"x" * size)
        if connection().write_paused:
            stuck.set()

    def connection() -> Any:
        (found,) = serving.server.connections
        return found

    serving = await serve(handler, unix=True)
    async with await slow_peer(serving) as peer:
        peer.send(GET * 300)
        await asyncio.wait_for(stuck.wait(), 10)
        before = served
        await asyncio.sleep(0.05)  # nothing may happen in this time
        assert served == before < 300
        assert connection().transport.get_write_buffer_size() < 3 * size + 300_000
        for _ in range(300):
            assert len((await peer.answer()).body) == size


async def test_late_answers_to_a_client_that_does_not_read(serve: Callable[..., Any]) -> None:
    """The same for a handler that answers later: one answer at a time, and none while writing waits."""
    size = 1_000_000
    served = 0

    def handler(exchange: Exchange) -> None:
        nonlocal served
        served += 1
        asyncio.get_running_loop().call_soon(exchange.send, 200, b"", b"x" * size)

    serving = await serve(handler, unix=True)
    async with await slow_peer(serving) as peer:
        for _ in range(20):
            peer.send(GET)
            await asyncio.sleep(0.002)
        (connection,) = serving.server.connections
        assert served < 20
        assert connection.transport.get_write_buffer_size() < 3 * size
        for _ in range(20):
            assert len((await peer.answer()).body) == size


async def test_a_slow_handler_slows_the_sender(serve: Callable[..., Any]) -> None:
    """A body that nobody takes stays in the sockets, not in this process."""
    seen: asyncio.Queue[Exchange] = asyncio.Queue()
    serving = await serve(seen.put_nowait, streaming=True)
    async with await serving.peer() as peer:
        peer.send(post(b"x" * 50_000_000))
        exchange = await seen.get()
        await asyncio.sleep(0.05)  # time in which it could be read, if it were
        held = sum(len(p) for p in exchange._incoming._held)
        assert held < 600_000
        whole: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        exchange.gather(lambda e: whole.set_result(len(e.body or b"")))
        assert await asyncio.wait_for(whole, 20) == 50_000_000
        exchange.send(200, b"")
        assert (await peer.answer()).status == 200


# -- limits of heads and connections --------------------------------------------------------------


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nhost: a", 414),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a: bcdefgh\r\n" * 40 + b"c: d", 431),
    ],
)
def test_a_head_over_its_limits_is_refused(data: bytes, status: int, complete: bool) -> None:
    """As soon as it is known, not when the head ends."""
    limits = Limits(max_line=100, max_head=400)
    seen: list[Exchange] = []
    wire, _ = wired(seen.append, limits=limits)
    for i in range(0, len(data), 7):
        if not wire.sent:
            wire.feed(data[i : i + 7])
    assert wire.sent.startswith(b"HTTP/1.1 %d " % status)
    wire, _ = wired(seen.append, limits=limits)
    wire.feed(data + (b"\r\n\r\n" if complete else b""))
    assert wire.sent.startswith(b"HTTP/1.1 %d " % status)
    assert seen == []


def test_too_many_header_fields() -> None:
    """100 are allowed, one more is not."""
    wire, _ = wired(lambda e: e.send(200, b""))
    wire.feed(b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * 99 + b"\r\n")
    assert wire.sent.startswith(b"HTTP/1.1 200 ")
    wire, _ = wired(lambda e: e.send(200, b""))
    wire.feed(b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * 100 + b"\r\n")
    assert wire.sent.startswith(b"HTTP/1.1 431 ")


async def test_one_connection_too_many_is_told_so(serve: Callable[..., Any]) -> None:
    """503 and closed; when one leaves there is room again."""
    serving = await serve(lambda e: e.send(200, b""), limits=Limits(max_connections=2))
    peers = [await serving.peer() for _ in range(2)]
    for peer in peers:
        peer.send(GET)
        assert (await peer.answer()).status == 200
    async with await serving.peer() as third:
        assert (await third.rest()).startswith(b"HTTP/1.1 503 ")
    await peers[0].close()
    while len(serving.server.connections) > 1:
        await asyncio.sleep(0)
    assert (await serving.ask(GET)).status == 200
    await peers[1].close()


def test_the_cache_of_heads_is_bounded() -> None:
    """In entries and in the size of what it keeps; one out for one in."""
    limits = Limits()
    cache: HeadCache[RequestHead] = HeadCache(
        parse_request_head, limits, max_entries=10, max_bytes=100
    )
    heads = [b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % i for i in range(25)]
    for i, raw in enumerate(heads):
        assert cache.find(raw) is None
        assert cache.add(raw) is cache.find(raw)
        assert len(cache.heads) == min(i + 1, 10)
    assert [raw for raw in heads if cache.find(raw)] == heads[-10:]
    large = b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nhost: a\r\n\r\n"
    assert cache.add(large).path == "/" + "a" * 100
    assert cache.find(large) is None
    assert len(cache.heads) == 10


def test_heads_that_differ_in_a_byte_are_told_apart() -> None:
    """The cache key is the bytes, not their meaning."""
    paths: list[str] = []
    wire, _ = wired(lambda e: (paths.append(e.head.path), e.send(200, b""))[0])
    for path in (b"/a", b"/b", b"/a", b"/A"):
        wire.feed(GET.replace(b"/ ", path + b" "))
    assert paths == ["/a", "/b", "/a", "/A"]


async def test_small_packets_are_not_delayed(serve: Callable[..., Any]) -> None:
    """TCP_NODELAY is set on accepted connections."""
    options: list[int] = []

    def handler(exchange: Exchange) -> None:
        (connection,) = serving.server.connections
        sock = connection.transport.get_extra_info("socket")
        options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        exchange.send(200, b"")

    serving = await serve(handler)
    await serving.ask(GET)
    assert options[0]
