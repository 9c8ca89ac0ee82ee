"""Exchanges over HTTP/2, as the handlers of the HTTP/1.1 engine see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from http2_peers import REQUEST, block, frame, headers

from penstock.http.h2.exchange import H2Exchange
from penstock.http.limits import Limits


def echo(exchange: H2Exchange) -> None:
    """The whole body back, with trailers."""

    def whole(exchange: H2Exchange) -> None:
        assert exchange.body is not None
        exchange.send(
            200, b"content-type: text/plain\r\nX-Path: /x\r\n", exchange.body, b"x-end: yes\r\n"
        )

    exchange.gather(whole)


async def test_a_body_comes_back_with_headers_and_trailers(serve2: Callable[..., Any]) -> None:
    client = await (await serve2(echo)).client()
    reply = await client.answer(client.request(b"hello"))
    assert (reply.status, reply.body, reply.trailers) == (200, b"hello", {b"x-end": b"yes"})
    assert reply.headers == {b"content-type": b"text/plain", b"x-path": b"/x"}


async def test_the_head_is_the_same_object_for_equal_requests_on_all_connections(
    serve2: Callable[..., Any],
) -> None:
    """So what a handler derives from a head is derived once."""
    heads = []

    def handler(exchange: H2Exchange) -> None:
        heads.append(exchange.head)
        exchange.send(200, b"", b"")

    serving = await serve2(handler)
    for _ in range(2):
        client = await serving.client()
        for timeout in ("1S", "2S", "3S"):
            await client.answer(client.request(fields=[("grpc-timeout", timeout)]))
    assert len({id(h) for h in heads}) == 1
    assert heads[0].get(b"grpc-timeout") is None
    assert heads[0].get(b"host") == b"a"


async def test_a_block_that_means_something_else_later_is_not_taken_for_the_old_one(
    serve2: Callable[..., Any],
) -> None:
    """The same bytes, an index into the dynamic table, after the table has changed."""
    seen: list[bytes | None] = []

    def handler(exchange: H2Exchange) -> None:
        seen.append(exchange.head.get(b"x-a"))
        exchange.send(200, b"", b"")

    raw = await (await serve2(handler)).raw()
    plain = bytes((0x82, 0x86, 0x84))  # GET http /

    def adding(value: bytes) -> bytes:
        return plain + b"\x40\x03x-a" + bytes((len(value),)) + value

    newest = plain + b"\xbe"  # the dynamic table's first entry
    raw.send(frame(1, 5, 1, adding(b"one")), frame(1, 5, 3, newest), frame(1, 5, 5, newest))
    raw.send(frame(1, 5, 7, adding(b"two")), frame(1, 5, 9, newest), frame(1, 5, 11, newest))
    await raw.ping()
    assert seen == [b"one", b"one", b"one", b"two", b"two", b"two"]


async def test_the_timeout_stays_with_its_exchange(serve2: Callable[..., Any]) -> None:
    def handler(exchange: H2Exchange) -> None:
        exchange.send(200, b"", exchange.timeout or b"none")

    client = await (await serve2(handler)).client()
    for wanted in (b"1S", b"20m", b"1S"):
        stream = client.request(fields=[("grpc-timeout", wanted.decode())])
        assert (await client.answer(stream)).body == wanted
    assert (await client.answer(client.request())).body == b"none"


async def test_many_requests_at_once_are_answered_in_any_order(serve2: Callable[..., Any]) -> None:
    waiting: list[H2Exchange] = []

    def handler(exchange: H2Exchange) -> None:
        waiting.append(exchange)
        if len(waiting) == 100:
            for one in reversed(waiting):
                one.send(200, b"", one.head.path.encode())

    client = await (await serve2(handler)).client()
    streams = {client.request(path=f"/{i}"): f"/{i}".encode() for i in range(100)}
    for stream, wanted in streams.items():
        assert (await client.answer(stream)).body == wanted


async def test_large_bodies_pass_the_windows_both_ways(serve2: Callable[..., Any]) -> None:
    """Larger than the stream's and the connection's window, in frames of both sides' sizes."""
    serving = await serve2(echo)
    client = await serving.client()
    body = bytes(range(256)) * 4096 * 10
    stream = client.request(None)
    left = memoryview(body)
    while left:
        room = min(client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size)
        if not room:
            assert await client.read()
            continue
        client.h2.send_data(stream, bytes(left[:room]))
        left = left[room:]
        client.flush()
        await client.writer.drain()
    client.h2.end_stream(stream)
    client.flush()
    reply = await client.answer(stream)
    assert reply.body == body
    assert reply.trailers == {b"x-end": b"yes"}
    assert serving.server.gathered == 0


async def test_a_streamed_body_waits_for_a_paused_reader(serve2: Callable[..., Any]) -> None:
    """While the handler does not read, the client may send no more than the stream's window."""

    class Sink:
        def __init__(self, exchange: H2Exchange) -> None:
            self.exchange = exchange
            self.size = 0
            self.ended = asyncio.Event()

        def on_data(self, data: Any) -> None:
            self.size += len(data)
            self.exchange.pause_reading()

        def on_end(self) -> None:
            self.ended.set()
            self.exchange.send(200, b"", b"%d" % self.size)

        def on_abort(self, exc: Exception) -> None:
            raise AssertionError(exc)

    sinks: list[Sink] = []

    def handler(exchange: H2Exchange) -> None:
        sinks.append(Sink(exchange))
        exchange.receive(sinks[0])

    client = await (await serve2(handler)).client()
    stream = client.request(None)
    sent = 0
    while client.h2.remote_settings.initial_window_size == 65535:
        await client.read()
    while room := min(client.h2.local_flow_control_window(stream), 16384):
        client.h2.send_data(stream, bytes(room))
        sent += room
        client.flush()
    client.h2.ping(b"12345678")
    client.flush()
    await client.read()
    assert sent <= 256 * 1024
    assert sinks[0].size <= 16384
    assert client.h2.local_flow_control_window(stream) == 0
    client.h2.end_stream(stream)
    client.flush()
    while not sinks[0].ended.is_set():
        sinks[0].exchange.resume_reading()
        await asyncio.sleep(0)
    assert (await client.answer(stream)).body == b"%d" % sent


async def test_a_streamed_answer_waits_for_its_reader(serve2: Callable[..., Any]) -> None:
    told: list[bool] = []
    drained = asyncio.Event()

    def handler(exchange: H2Exchange) -> None:
        exchange.on_drain = drained.set
        exchange.start(200, b"")
        while exchange.write(bytes(100_000)):
            pass
        told.append(True)

    async def finish(exchange: H2Exchange) -> None:
        await drained.wait()
        exchange.end(b"grpc-status: 0\r\n")

    tasks = []

    def both(exchange: H2Exchange) -> None:
        handler(exchange)
        tasks.append(asyncio.get_running_loop().create_task(finish(exchange)))

    client = await (await serve2(both)).client()
    reply = await client.answer(client.request())
    assert told == [True]
    assert len(reply.body) < 1_000_000
    assert reply.trailers == {b"grpc-status": b"0"}
    await asyncio.gather(*tasks)


async def test_a_reset_and_a_lost_connection_abort_the_exchange(serve2: Callable[..., Any]) -> None:
    gone: list[int] = []
    arrived = asyncio.Event()

    def handler(exchange: H2Exchange) -> None:
        def abort() -> None:
            gone.append(exchange.id)
            exchange.send(200, b"", b"nobody hears this")

        exchange.on_abort = abort
        arrived.set()

    client = await (await serve2(handler)).client()
    first = client.request()
    client.request()
    client.h2.reset_stream(first, 8)
    client.h2.ping(b"12345678")
    client.flush()
    while not gone:
        await client.read()
    assert gone == [1]
    client.writer.transport.abort()
    while len(gone) < 2:
        await asyncio.sleep(0.001)
    assert gone == [1, 3]


async def test_a_handler_that_fails_answers_500_and_the_connection_goes_on(
    serve2: Callable[..., Any],
) -> None:
    def handler(exchange: H2Exchange) -> None:
        if exchange.head.path == "/bad":
            raise RuntimeError("on purpose")
        exchange.send(200, b"", b"fine")

    client = await (await serve2(handler)).client()
    reply = await client.answer(client.request(path="/bad"))
    assert (reply.status, b"log" in reply.body) == (500, True)
    assert (await client.answer(client.request())).body == b"fine"


async def test_an_early_answer_resets_the_request_without_an_error(
    serve2: Callable[..., Any],
) -> None:
    """The rest of the body is of no use; frames of it that are on their way do no harm."""
    client = await (await serve2(lambda e: e.send(403, b"", b"no"))).client()
    stream = client.request(None)
    for _ in range(4):
        client.h2.send_data(stream, bytes(10_000))
    client.flush()
    reply = await client.answer(stream)
    assert (reply.status, reply.body) == (403, b"no")
    assert (await client.answer(client.request())).status == 403


async def test_head_requests_and_empty_answers_have_no_body(serve2: Callable[..., Any]) -> None:
    client = await (await serve2(lambda e: e.send(200, b"", b"body"))).client()
    reply = await client.answer(client.request(method="HEAD"))
    assert (reply.body, reply.headers[b"content-length"]) == (b"", b"4")


async def test_a_body_over_the_limit_is_refused_and_the_connection_goes_on(
    serve2: Callable[..., Any],
) -> None:
    serving = await serve2(echo, limits=Limits(max_body=1000))
    client = await serving.client()
    assert (await client.answer(client.request(bytes(1000)))).status == 200
    announced = client.request(bytes(2000), fields=[("content-length", "2000")])
    assert (await client.answer(announced)).status == 413
    assert (await client.answer(client.request(bytes(1001)))).status == 413
    stream = client.request(None)
    client.h2.send_data(stream, bytes(900))
    client.h2.send_data(stream, bytes(900))
    client.flush()
    assert (await client.answer(stream)).status == 413
    assert (await client.answer(client.request(b"x"))).body == b"x"
    assert serving.server.gathered == 0


async def test_a_drain_answers_what_is_under_way_and_takes_no_more(
    serve2: Callable[..., Any],
) -> None:
    waiting: list[H2Exchange] = []
    serving = await serve2(waiting.append, limits=Limits(linger_s=0.02))
    raw = await serving.raw(headers(1))
    await raw.ping()
    drain = asyncio.get_running_loop().create_task(serving.server.drain(10))
    goaway = await raw.until(7)
    assert (goaway.code, goaway.payload[:4]) == (0, b"\0\0\0\1")
    raw.send(headers(3))
    assert (await raw.until(3, 3)).code == 7  # refused: to be sent again elsewhere
    waiting[0].send(200, b"", b"done")
    assert (await raw.until(0, 1)).payload == b"done"
    assert await drain
    await raw.closed()
    assert len(waiting) == 1


async def test_without_streaming_the_handler_gets_whole_bodies(serve2: Callable[..., Any]) -> None:
    def handler(exchange: H2Exchange) -> None:
        assert exchange.body is not None
        exchange.send(200, b"", exchange.body)

    client = await (await serve2(handler, streaming=False)).client()
    assert (await client.answer(client.request(b"x" * 16_000))).body == b"x" * 16_000
    assert (await client.answer(client.request())).body == b""


async def test_padding_priority_and_trailers_of_requests_are_understood(
    serve2: Callable[..., Any],
) -> None:
    raw = await (await serve2(echo)).raw()
    fields = block(REQUEST)
    raw.send(
        frame(1, 4 | 8 | 0x20, 1, b"\x03" + bytes(4) + b"\x10" + fields + bytes(3)),
        frame(0, 8, 1, b"\x05hello" + bytes(5)),
        frame(2, 0, 1, bytes(5)),
        frame(0xEE, 0xFF, 1, b"an unknown frame"),
        frame(1, 5, 1, block([("x-trailer", "1")])),
    )
    data = await raw.until(0)
    assert data.payload == b"hello"
