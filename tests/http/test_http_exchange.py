"""What a handler can say, and how it arrives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import h11
import pytest
from http_peers import GET, post, wired

from penstock.http.head import parse_request_head, render_headers
from penstock.http.server import Exchange, Limits

TEXT = b"content-type: text/plain\r\n"


async def test_a_request_is_what_the_client_sent(serve: Callable[..., Any]) -> None:
    """Head, target, query, body and peer."""
    seen: list[Exchange] = []

    def handler(exchange: Exchange) -> None:
        seen.append(exchange)
        exchange.send(200, TEXT, b"hello")

    serving = await serve(handler)
    answer = await serving.ask(post(b"abc", "/p%20q?x=1&y=%2F", b"X-Thing:  v  \r\nx-thing: w\r\n"))
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers[b"content-type"] == b"text/plain"
    head = seen[0].head
    assert (head.method, head.path, head.query) == ("POST", "/p%20q", "x=1&y=%2F")
    assert head.target == "/p%20q?x=1&y=%2F"
    assert head.get(b"x-thing") == b"v, w"
    assert head.get(b"x-other") is None
    assert head.host == "a"
    assert seen[0].body == b"abc"
    assert seen[0].scheme == "http"
    assert seen[0].peer.startswith("127.0.0.1:")


async def test_unix_socket(serve: Callable[..., Any]) -> None:
    """The same over a Unix socket, whose peers have no address."""
    serving = await serve(lambda e: e.send(200, b"", e.peer.encode() + b"."), unix=True)
    assert (await serving.ask(GET)).body == b"."


async def test_keep_alive_serves_one_after_the_other(serve: Callable[..., Any]) -> None:
    """Many requests on one connection."""
    serving = await serve(lambda e: e.send(200, b"", e.body))
    async with await serving.peer() as peer:
        for i in range(20):
            peer.send(post(b"%d" % i))
            assert (await peer.answer()).body == b"%d" % i
        assert len(serving.server.connections) == 1
        # Equal heads are one object, parsed once.
        assert len(serving.server.heads.heads) == 2  # content-length 1 and 2


@pytest.mark.parametrize(
    ("request_", "header", "closes"),
    [
        (GET, None, False),
        (b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"close", True),
        (b"GET / HTTP/1.1\r\nhost: a\r\nconnection: foo, Close\r\n\r\n", b"close", True),
        (b"GET / HTTP/1.0\r\n\r\n", b"close", True),
        (b"GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", b"keep-alive", False),
    ],
)
async def test_the_connection_header_is_obeyed(
    serve: Callable[..., Any], request_: bytes, header: bytes | None, closes: bool
) -> None:
    """HTTP/1.1 stays open unless asked, HTTP/1.0 only if asked."""
    serving = await serve(lambda e: e.send(200, b"", b"x"))
    async with await serving.peer() as peer:
        peer.send(request_)
        answer = await peer.answer()
        assert answer.headers.get(b"connection") == header
        if closes:
            assert await peer.rest() == b""
        else:
            peer.send(request_)
            assert (await peer.answer()).body == b"x"


@pytest.mark.parametrize("how", ["send", "start", "chunked"])
async def test_head_is_answered_without_a_body(serve: Callable[..., Any], how: str) -> None:
    """The fields of the answer to GET, and the connection stays in step."""

    def handler(exchange: Exchange) -> None:
        if how == "send":
            exchange.send(200, TEXT, b"hello")
            return
        exchange.start(200, TEXT, length=5 if how == "start" else None)
        exchange.write(b"hello")
        exchange.end()

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET.replace(b"GET", b"HEAD"))
        answer = await peer.answer("HEAD")
        assert answer.body == b""
        if how != "chunked":
            assert answer.headers[b"content-length"] == b"5"
        peer.send(GET)
        assert (await peer.answer()).body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_no_length(
    serve: Callable[..., Any], status: int
) -> None:
    """Whatever the handler passes as body."""
    serving = await serve(lambda e: e.send(status, b"", b"never"))
    async with await serving.peer() as peer:
        for _ in range(2):
            peer.send(GET)
            answer = await peer.answer()
            assert answer.status == status
            assert b"content-length" not in answer.headers
            assert b"transfer-encoding" not in answer.headers


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000])
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "wide", "pieces"])
async def test_bodies_of_any_kind_and_size(serve: Callable[..., Any], size: int, kind: str) -> None:
    """Buffers, views whose items are wider than a byte, and sequences of them."""
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    data = data[: size // 8 * 8 if kind == "wide" else size]
    body: Any = {
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "wide": memoryview(data[: len(data) // 8 * 8]).cast("d"),
        "pieces": [data[: size // 2], memoryview(data)[size // 2 :]],
    }[kind]
    # A Unix socket takes little at a time, so large ones go out in several writes.
    serving = await serve(lambda e: e.send(200, TEXT, body), unix=True)
    async with await serving.peer() as peer:
        for _ in range(2):
            peer.send(GET)
            assert (await peer.answer()).body == data


async def test_a_raw_answer_goes_out_as_it_is(serve: Callable[..., Any]) -> None:
    """For a gateway that passes a response on; `close` ends the connection after it."""
    whole = b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 2\r\n\r\nhi"

    def handler(exchange: Exchange) -> None:
        if exchange.head.path == "/parts":
            exchange.send_raw((whole[:-2], memoryview(b"hi")))
        else:
            exchange.send_raw(whole, close=exchange.head.path == "/close")

    serving = await serve(handler)
    async with await serving.peer() as peer:
        for path in (b"/", b"/parts", b"/close"):
            peer.send(GET.replace(b"/ ", path + b" "))
            answer = await peer.answer()
            assert (answer.headers[b"x"], answer.body) == (b"y", b"hi")
        assert await peer.rest() == b""


async def test_a_stream_without_length_is_chunked(serve: Callable[..., Any]) -> None:
    """Small and large pieces; empty ones do not end it."""
    big = b"z" * 100_000

    def handler(exchange: Exchange) -> None:
        exchange.start(200, TEXT)
        exchange.write(b"a")
        exchange.write(b"")
        exchange.write(memoryview(big))
        exchange.end()

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET)
        answer = await peer.answer()
        assert answer.headers[b"transfer-encoding"] == b"chunked"
        assert answer.body == b"a" + big
        peer.send(GET)
        assert (await peer.answer()).body == b"a" + big


async def test_a_stream_to_http_1_0_lasts_until_the_connection_closes(
    serve: Callable[..., Any],
) -> None:
    """There is no chunked coding in HTTP/1.0, not even for those who ask to keep the connection."""

    def handler(exchange: Exchange) -> None:
        exchange.start(200, TEXT)
        exchange.write(b"ab")
        exchange.write(b"cd")
        exchange.end()

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        assert await peer.rest() == (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nabcd"
        )


@pytest.mark.parametrize("how", ["length", "chunked", "http/1.0"])
async def test_an_abort_is_no_silent_truncation(serve: Callable[..., Any], how: str) -> None:
    """The client can tell that the response is not whole."""

    def handler(exchange: Exchange) -> None:
        exchange.start(200, TEXT, length=100 if how == "length" else None)
        exchange.write(b"part")
        asyncio.get_running_loop().call_later(0.05, exchange.abort)

    serving = await serve(handler)
    async with await serving.peer() as peer:
        if how == "http/1.0":
            peer.send(b"GET / HTTP/1.0\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await peer.rest()
        else:
            peer.send(GET)
            with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
                await peer.answer()


@pytest.mark.parametrize("sent", [3, 5])
async def test_a_body_of_another_length_than_announced_breaks_the_connection(
    serve: Callable[..., Any], sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    """And the handler that did it gets a ValueError, which is logged."""

    def handler(exchange: Exchange) -> None:
        exchange.start(200, TEXT, length=4)
        exchange.write(b"x" * sent)
        exchange.end()

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET)
        with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
            await peer.answer()
    assert "than announced" in caplog.text


async def test_a_handler_that_raises_answers_500_and_the_next_request_is_served(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The fault is in the log, not in the answer."""

    def handler(exchange: Exchange) -> None:
        if exchange.head.path == "/bad":
            raise KeyError("secret")
        exchange.send(200, b"", b"fine")

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET.replace(b"/ ", b"/bad "))
        answer = await peer.answer()
        assert answer.status == 500
        assert b'"error"' in answer.body
        assert b"secret" not in answer.body
        peer.send(GET)
        assert (await peer.answer()).body == b"fine"
    assert "secret" in caplog.text


async def test_a_handler_that_raises_within_a_stream_breaks_it_off(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An error after the status cannot be told otherwise."""

    def handler(exchange: Exchange) -> None:
        exchange.start(200, TEXT)
        exchange.write(b"some")
        raise KeyError("oh")

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET)
        with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
            await peer.answer()
    assert caplog.record_tuples[0][1] == logging.ERROR


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize(
    "say",
    [
        lambda e, n: e.send(200, b"", "x" * n),
        lambda e, n: e.send(200, b"", [b"x" * n, "x"]),
        lambda e, n: e.send(200, "a: b\r\n", b"x" * n),
        lambda e, n: e.send(200, b"", None),
        lambda e, n: e.send_raw([b"x" * n, "x"]),
        lambda e, n: e.start(200, "a: b\r\n"),
    ],
)
async def test_a_mistake_in_an_answer_is_a_500_not_half_an_answer(
    serve: Callable[..., Any], say: Any, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong types show before the first byte is out, and the connection goes on."""
    serving = await serve(lambda e: say(e, size))
    async with await serving.peer() as peer:
        for _ in range(2):
            peer.send(GET)
            assert (await peer.answer()).status == 500
    assert "TypeError" in caplog.text


def test_callbacks_that_raise_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One that fails does not keep the other from being called."""

    class Sink:
        def on_data(self, data: Any) -> None:
            pass

        def on_end(self) -> None:
            pass

        def on_abort(self, exc: Exception) -> None:
            raise KeyError("sink")

    def bad() -> None:
        raise KeyError("exchange")

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = bad
        exchange.receive(Sink())

    wire, _ = wired(handler, streaming=True)
    wire.feed(post(b"hello")[:-2])
    wire.hang_up()
    assert wire.closed
    assert "'sink'" in caplog.text
    assert "'exchange'" in caplog.text


async def test_a_client_that_hangs_up_aborts_its_exchange(serve: Callable[..., Any]) -> None:
    """on_abort once; what the handler says afterwards goes nowhere."""
    arrived: asyncio.Queue[Exchange] = asyncio.Queue()
    aborted: asyncio.Queue[bool] = asyncio.Queue()

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = lambda: aborted.put_nowait(True)
        arrived.put_nowait(exchange)

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET)
        exchange = await arrived.get()
    assert await asyncio.wait_for(aborted.get(), 30)
    exchange.send(200, b"", b"too late")
    exchange.start(200, b"")
    assert exchange.write(b"x")
    exchange.end()
    exchange.abort()
    assert aborted.empty()


async def test_a_client_that_hangs_up_within_a_stream_aborts_it(serve: Callable[..., Any]) -> None:
    """The same when the response has begun."""
    aborted = asyncio.Event()
    started = asyncio.Event()

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = aborted.set
        exchange.start(200, TEXT)
        exchange.write(b"some")
        started.set()

    serving = await serve(handler)
    async with await serving.peer() as peer:
        peer.send(GET)
        await started.wait()
    await asyncio.wait_for(aborted.wait(), 30)


async def test_half_close_is_a_hang_up_unless_it_is_allowed(serve: Callable[..., Any]) -> None:
    """With half_close=True a client that has said all it wants still gets its answer."""
    for half_close in (False, True):
        aborted = asyncio.Event()

        def handler(exchange: Exchange, aborted: asyncio.Event = aborted) -> None:
            exchange.on_abort = aborted.set
            asyncio.get_running_loop().call_later(0.1, exchange.send, 200, b"", b"late")

        serving = await serve(handler, half_close=half_close)
        async with await serving.peer() as peer:
            peer.send(GET)
            peer.writer.write_eof()
            rest = await peer.rest()
        assert rest.endswith(b"late") == half_close
        assert aborted.is_set() != half_close


async def test_answers_that_are_ready_reach_a_client_that_half_closed(
    serve: Callable[..., Any],
) -> None:
    """`printf ... | nc` works with handlers that answer at once."""
    serving = await serve(lambda e: e.send(200, b"", b"x" * 10_000))
    async with await serving.peer() as peer:
        peer.send(GET * 20)
        peer.writer.write_eof()
        assert (await peer.rest()).count(b"HTTP/1.1 200 OK") == 20


def test_an_exchange_is_answered_once() -> None:
    """A second answer is the handler's mistake and cannot reach the wire."""
    seen: list[Exchange] = []
    wire, _ = wired(seen.append)
    wire.feed(GET)
    exchange = seen[0]
    exchange.send(200, b"", b"one")
    sent = wire.sent
    for again in (
        lambda: exchange.send(200, b"", b"two"),
        lambda: exchange.send_raw(b"two"),
        lambda: exchange.start(200, b""),
        lambda: exchange.write(b"two"),
        exchange.end,
    ):
        with pytest.raises(RuntimeError):
            again()
    exchange.abort()
    wire.feed(GET)
    assert wire.sent == sent
    assert len(seen) == 2


def test_a_stale_exchange_cannot_write_into_a_later_one() -> None:
    """References that are kept too long are harmless."""
    seen: list[Exchange] = []
    wire, _ = wired(seen.append)
    wire.feed(GET)
    seen[0].send(200, b"")
    wire.feed(GET)
    with pytest.raises(RuntimeError):
        seen[0].send(200, b"", b"stale")
    seen[0].pause_reading()
    seen[0].resume_reading()
    assert not wire.paused
    seen[1].send(201, b"")
    assert wire.sent.count(b"HTTP/1.1") == 2


def test_header_lines_cannot_be_injected() -> None:
    """render_headers refuses what would not stay on its line."""
    assert render_headers([("A", "b"), ("c", "dé")]) == b"A: b\r\nc: d\xe9\r\n"
    for name, value in [("a", "b\r\nc: d"), ("a\n", "b"), ("a b", "c"), ("", "c"), ("a", "\x00")]:
        with pytest.raises(ValueError, match="header field"):
            render_headers([(name, value)])


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/models/iris%3Apredict", "/v1/models/iris:predict"),
        ("/v1/models/%69r%49s%3apredict?a=%69", "/v1/models/irIs:predict"),
        ("/%7E%2d%5f%39", "/~-_9"),
        ("/%2e%2E/%2f%25%3f%00%20%zz%4", "/%2e%2E/%2f%25%3f%00%20%zz%4"),
        ("http://a/x%3Ay", "/x:y"),
    ],
)
def test_needless_escapes_of_a_path_are_undone(target: str, path: str) -> None:
    head = parse_request_head(f"GET {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode(), Limits())
    assert head.path == path
    assert head.target == target
