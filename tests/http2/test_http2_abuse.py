"""What costs a client little and could cost a server much: bounded, and no other connection disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hpack import Encoder
from http2_peers import REQUEST, Raw, block, frame, headers

from penstock.http.h2.connection import BUDGET, STREAM_WINDOW
from penstock.http.h2.exchange import H2Exchange
from penstock.http.limits import Limits

CALM = 11
FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda i: frame(6, 0, 0, bytes(8)),
    "PING acknowledgements": lambda i: frame(6, 1, 0, bytes(8)),
    "SETTINGS": lambda i: frame(4, 0, 0, b"\0\3\0\0\0\1"),
    "SETTINGS acknowledgements": lambda i: frame(4, 1, 0),
    "PRIORITY": lambda i: frame(2, 0, 2 * i + 1, bytes(5)),
    "WINDOW_UPDATE": lambda i: frame(8, 0, 0, b"\0\0\0\1"),
    "empty DATA": lambda i: frame(0, 0, 1),
    "unknown frames": lambda i: frame(200, 0, 0, b"x"),
    "requests reset at once": lambda i: headers(2 * i + 3) + frame(3, 0, 2 * i + 3, bytes(4)),
    "streams with an error": lambda i: headers(2 * i + 3, REQUEST[1:]),
    "requests over the limit of streams": lambda i: headers(2 * i + 3),
}


class Held:
    """A handler that keeps every request."""

    def __init__(self) -> None:
        self.live: set[int] = set()
        self.most = 0

    def __call__(self, exchange: H2Exchange) -> None:
        if exchange.head.path == "/now":
            exchange.send(200, b"", b"")
            return
        self.live.add(exchange.id)
        self.most = max(self.most, len(self.live))
        exchange.on_abort = lambda: self.live.discard(exchange.id)


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_its_connection_and_disturbs_no_other(
    serve2: Callable[..., Any], name: str
) -> None:
    held = Held()
    serving = await serve2(held)
    other = await serving.client()
    raw = await serving.raw(headers(1, end=False))

    async def send() -> None:
        # All that the budget allows and what it gets back meanwhile, many times over.
        try:
            for start in range(0, 20 * BUDGET, 500):
                raw.send(*(FLOODS[name](i) for i in range(start, start + 500)))
                await raw.writer.drain()
        except ConnectionError:
            pass

    sending = asyncio.get_running_loop().create_task(send())
    found = await raw.until(7)
    assert found.code == CALM
    await raw.closed()
    await sending
    assert held.most <= Limits().max_streams
    assert not held.live
    assert (await other.answer(other.request(path="/now"))).status == 200


async def test_a_well_behaved_client_with_many_requests_and_resets_is_not_cut_off(
    serve2: Callable[..., Any],
) -> None:
    client = await (await serve2(Held())).client()
    for i in range(2 * BUDGET // 3):
        stream = client.request(path="/now" if i % 3 else "/held")
        if i % 3:
            await client.answer(stream)
        else:
            client.h2.reset_stream(stream, 8)
            client.h2.ping(b"12345678")
            client.flush()
    assert client.goaway is None


@pytest.mark.parametrize("kind", ["endless", "many empty"])
async def test_an_endless_header_block_is_cut_off(serve2: Callable[..., Any], kind: str) -> None:
    raw = await (await serve2(Held())).raw(frame(1, 1, 1, block()))
    part = b"\x00\x01a\x7f\x00" + bytes(127) if kind == "endless" else b""
    for _ in range(2000):
        raw.send(frame(9, 0, 1, part * 10))
    assert (await raw.until(7)).code == CALM


async def test_a_header_bomb_is_not_unpacked(serve2: Callable[..., Any]) -> None:
    """One large field in the table, then thousands of one-byte references to it."""
    bomb = Encoder().encode([*REQUEST, ("x", "y" * 3000)]) + b"\xbe" * 16_000
    raw = await (await serve2(Held())).raw(
        frame(1, 0, 1, bomb[:16000]), frame(9, 4, 1, bomb[16000:])
    )
    assert (await raw.until(7)).code == CALM


async def test_a_window_of_zero_holds_its_own_stream_only(serve2: Callable[..., Any]) -> None:
    """The answer waits, bounded, until the time for writing is over; then its stream is reset."""
    now = 0.0
    aborted: list[str] = []

    def handler(exchange: H2Exchange) -> None:
        exchange.on_abort = lambda: aborted.append(exchange.head.path)
        if exchange.head.path == "/stream":
            exchange.start(200, b"")
            while exchange.write(bytes(50_000)):
                pass
            assert exchange.queued <= 2 * Limits().write_high_water
        else:
            exchange.send(200, b"", bytes(1000))

    serving = await serve2(handler, clock=lambda: now)
    raw = await serving.raw(frame(4, 0, 0, b"\0\4" + bytes(4)))
    raw.send(headers(1), headers(3, [*REQUEST[:2], (":path", "/stream"), REQUEST[3]]))
    await raw.until(1, 3)
    await raw.ping()
    (connection,) = serving.server.connections
    assert len(connection.streams) == 2
    now = 61.0
    serving.server.sweep()
    now = 122.0
    serving.server.sweep()
    resets = {(await raw.until(3)).stream for _ in range(2)}
    assert resets == {1, 3}
    assert aborted == ["/stream"]
    assert not connection.streams
    await raw.ping()


async def test_a_client_that_does_not_read_is_cut_off(serve2: Callable[..., Any]) -> None:
    """Its pings are answered only as long as somebody takes the answers."""
    now = 0.0
    serving = await serve2(Held(), clock=lambda: now)
    reader, writer = await serving.connect()
    raw = Raw(reader, writer)
    reader._limit = 1  # type: ignore[attr-defined]
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0))
    for _ in range(100):
        raw.send(frame(6, 0, 0, bytes(8)) * 15)
        now += 10.0
        serving.server.sweep()
        await asyncio.sleep(0)
    (connection,) = serving.server.connections
    assert connection.transport.get_write_buffer_size() < 2 * 1024 * 1024


async def test_a_body_that_stops_is_given_up(serve2: Callable[..., Any]) -> None:
    now = 0.0
    done: list[H2Exchange] = []
    serving = await serve2(lambda e: e.gather(done.append), clock=lambda: now)
    raw = await serving.raw(headers(1, end=False), frame(0, 0, 1, b"part"))
    await raw.ping()
    now = 31.0
    serving.server.sweep()
    assert b"408" in (await raw.until(1, 1)).payload
    assert not done
    assert serving.server.gathered == 0
    await raw.ping()


@pytest.mark.parametrize("sent", [b"", b"PRI * HTTP/2.0\r\n", None])
async def test_a_connection_that_says_nothing_is_closed(
    serve2: Callable[..., Any], sent: bytes | None
) -> None:
    now = 0.0
    serving = await serve2(Held(), http1=False, clock=lambda: now)
    raw = Raw(*await serving.connect()) if sent is not None else await serving.raw()
    raw.send(sent or b"")
    await raw.until(4)
    if sent is None:
        await raw.ping()
    for now in (1.0, 12.0, 100.0, 200.0, 300.0):  # noqa: B007 - the clock reads it
        serving.server.sweep()
    await raw.closed()
    assert not serving.server.connections


async def test_more_data_than_the_window_is_a_fault(serve2: Callable[..., Any]) -> None:
    held = Held()
    raw = await (await serve2(held)).raw(headers(1, end=False))
    for _ in range(STREAM_WINDOW // 65536 + 1):
        raw.send(frame(0, 0, 1, bytes(65536)))
    found = await raw.until(3)
    assert (found.stream, found.code) == (1, 3)
    assert not held.live


async def test_too_many_streams_are_refused_to_be_sent_again(serve2: Callable[..., Any]) -> None:
    serving = await serve2(Held(), limits=Limits(max_streams=4))
    raw = await serving.raw(*(headers(1 + 2 * i) for i in range(5)))
    found = await raw.until(3)
    assert (found.stream, found.code) == (9, 7)


async def test_too_many_connections_are_refused(serve2: Callable[..., Any]) -> None:
    serving = await serve2(Held(), limits=Limits(max_connections=1), http1=False)
    first = await serving.raw()
    await first.ping()
    second = await serving.raw()
    assert (await second.until(7)).code == CALM
    await second.closed()
    await first.ping()


async def test_a_peer_that_went_without_a_word_is_found_out(serve2: Callable[..., Any]) -> None:
    """Half-open: its call waits for the server, so nothing of the client's would ever be missed."""
    now = 0.0
    held = Held()
    serving = await serve2(held, clock=lambda: now)
    gone = await serving.raw(headers(1))
    await gone.ping()
    present = await serving.raw(headers(3))
    await present.ping()
    assert len(serving.server.connections) == 2
    for now in (1.0, 74.0):  # noqa: B007 - the clock reads it
        serving.server.sweep()
    now = 80.0
    serving.server.sweep()
    for peer in (gone, present):
        assert (await peer.until(6)).flags == 0
    present.send(frame(6, 1, 0, bytes(8)))
    await present.ping()
    for now in (90.0, 101.0):  # noqa: B007 - the clock reads it
        serving.server.sweep()
    await gone.closed()
    await present.ping()
    assert len(serving.server.connections) == 1
    assert held.live == {3}


async def test_a_peer_that_closes_its_half_gives_its_calls_up(serve2: Callable[..., Any]) -> None:
    held = Held()
    serving = await serve2(held)
    raw = await serving.raw(headers(1))
    await raw.ping()
    assert held.live
    raw.writer.write_eof()
    await raw.closed()
    assert not held.live
    assert not serving.server.connections
