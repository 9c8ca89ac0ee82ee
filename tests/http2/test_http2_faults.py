"""RFC 9113's errors: what is malformed ends its stream or its connection, with the code of the standard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from http2_peers import PREFACE, REQUEST, SETTINGS, Raw, block, frame, headers

from penstock.http.h2.exchange import H2Exchange

PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 5, 6, 7, 9, 11


def hold(exchange: H2Exchange) -> None:
    """Answers GET at once and nothing else."""
    if exchange.head.method == "GET":
        exchange.send(200, b"", b"")


def get(stream: int) -> bytes:
    return headers(stream, [(":method", "GET"), *REQUEST[1:]])


def setting(key: int, value: int) -> bytes:
    return frame(4, 0, 0, key.to_bytes(2, "big") + value.to_bytes(4, "big"))


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


OPEN = headers(1, end=False)

CONNECTION_FAULTS: dict[str, tuple[bytes, int]] = {
    "DATA on stream 0": (frame(0, 0, 0, b"x"), PROTOCOL),
    "DATA on an idle stream": (frame(0, 0, 1, b"x"), PROTOCOL),
    "HEADERS on stream 0": (headers(0), PROTOCOL),
    "HEADERS on an even stream": (headers(2), PROTOCOL),
    "a stream number that goes back": (get(5) + get(3), CLOSED),
    "HEADERS on a stream that is closed": (get(1) + get(1), CLOSED),
    "padding longer than the frame": (OPEN + frame(0, 8, 1, b"\x05abc"), PROTOCOL),
    "padding announced in an empty frame": (OPEN + frame(0, 8, 1), SIZE),
    "HEADERS too short for its priority": (frame(1, 0x24, 1, b"abc"), SIZE),
    "a frame over the size announced": (b"\x01\x00\x01\x00\x00\x00\x00\x00\x01", SIZE),
    "a header block interrupted by DATA": (frame(1, 0, 1, block()) + frame(0, 0, 1), PROTOCOL),
    "a header block continued on another stream": (
        frame(1, 0, 1, block()) + frame(9, 4, 3),
        PROTOCOL,
    ),
    "CONTINUATION from nowhere": (frame(9, 4, 1), PROTOCOL),
    "a header block that is no HPACK": (frame(1, 5, 1, b"\xff\xff\xff\xff\xff"), COMPRESSION),
    "a header block cut off": (frame(1, 5, 1, b"\x40\x05ab"), COMPRESSION),
    "an index that is not in the table": (frame(1, 5, 1, b"\xfe"), COMPRESSION),
    "a table larger than allowed": (frame(1, 5, 1, b"\x3f\xe1\xff\x03\x82"), COMPRESSION),
    "PRIORITY on stream 0": (frame(2, 0, 0, bytes(5)), PROTOCOL),
    "RST_STREAM on stream 0": (frame(3, 0, 0, bytes(4)), PROTOCOL),
    "RST_STREAM on an idle stream": (frame(3, 0, 1, bytes(4)), PROTOCOL),
    "RST_STREAM of three bytes": (OPEN + frame(3, 0, 1, bytes(3)), SIZE),
    "SETTINGS on a stream": (frame(4, 0, 1), PROTOCOL),
    "SETTINGS of five bytes": (frame(4, 0, 0, bytes(5)), SIZE),
    "an acknowledgement with settings": (frame(4, 1, 0, bytes(6)), SIZE),
    "a push setting of 2": (setting(2, 2), PROTOCOL),
    "an initial window of 2^31": (setting(4, 1 << 31), FLOW),
    "a frame size under 2^14": (setting(5, 16383), PROTOCOL),
    "a frame size of 2^24": (setting(5, 1 << 24), PROTOCOL),
    "PUSH_PROMISE from a client": (OPEN + frame(5, 4, 1, bytes(4)), PROTOCOL),
    "PING on a stream": (frame(6, 0, 1, bytes(8)), PROTOCOL),
    "PING of seven bytes": (frame(6, 0, 0, bytes(7)), SIZE),
    "GOAWAY on a stream": (frame(7, 0, 1, bytes(8)), PROTOCOL),
    "WINDOW_UPDATE of three bytes": (frame(8, 0, 0, bytes(3)), SIZE),
    "WINDOW_UPDATE of 0 on the connection": (frame(8, 0, 0, bytes(4)), PROTOCOL),
    "WINDOW_UPDATE on an idle stream": (frame(8, 0, 1, u32(1)), PROTOCOL),
    "the connection's window over 2^31-1": (frame(8, 0, 0, u32(0x7FFFFFFF)), FLOW),
    "a stream's window over 2^31-1 by SETTINGS": (
        OPEN + frame(8, 0, 1, u32(0x7FFFFFFF - 65535)) + setting(4, 65536),
        FLOW,
    ),
}

STREAM_FAULTS: dict[str, tuple[bytes, int]] = {
    "WINDOW_UPDATE of 0": (OPEN + frame(8, 0, 1, bytes(4)), PROTOCOL),
    "a stream's window over 2^31-1": (OPEN + frame(8, 0, 1, u32(0x7FFFFFFF)), FLOW),
    "PRIORITY of four bytes": (OPEN + frame(2, 0, 1, bytes(4)), SIZE),
    "DATA after the end": (headers(1) + frame(0, 0, 1, b"x"), CLOSED),
    "trailers that do not end the stream": (OPEN + headers(1, [("a", "b")], end=False), PROTOCOL),
    "trailers with a pseudo-header": (OPEN + headers(1, [(":path", "/")]), PROTOCOL),
    "a body longer than announced": (
        headers(1, [*REQUEST, ("content-length", "1")], end=False) + frame(0, 0, 1, b"xx"),
        PROTOCOL,
    ),
    "a body shorter than announced": (
        headers(1, [*REQUEST, ("content-length", "3")], end=False) + frame(0, 1, 1, b"xx"),
        PROTOCOL,
    ),
    "an announced body that does not come": (
        headers(1, [*REQUEST, ("content-length", "3")]),
        PROTOCOL,
    ),
}

MALFORMED: dict[str, list[tuple[Any, Any]]] = {
    "no method": REQUEST[1:],
    "no scheme": [REQUEST[0], *REQUEST[2:]],
    "no path": [*REQUEST[:2], REQUEST[3]],
    "an empty path": [*REQUEST[:2], (":path", ""), REQUEST[3]],
    "a path without a slash": [*REQUEST[:2], (":path", "x"), REQUEST[3]],
    "a path with a space": [*REQUEST[:2], (":path", "/a b"), REQUEST[3]],
    "a path with a line end": [*REQUEST[:2], (":path", "/a\r\nx: y"), REQUEST[3]],
    "a method with a space": [(":method", "GET /"), *REQUEST[1:]],
    "a method twice": [REQUEST[0], *REQUEST],
    "an unknown pseudo-header": [*REQUEST, (":protocol", "x")],
    "a response's pseudo-header": [*REQUEST, (":status", "200")],
    "a pseudo-header after a field": [REQUEST[0], ("a", "b"), *REQUEST[1:]],
    "a name in upper case": [*REQUEST, ("X-Upper", "1")],
    "a name with a line end": [*REQUEST, ("x\r\ny", "1")],
    "a name with a colon": [*REQUEST, ("x:y", "1")],
    "an empty name": [*REQUEST, ("", "1")],
    "a value with CR": [*REQUEST, ("x", "a\rb")],
    "a value with LF": [*REQUEST, ("x", "a\nb")],
    "a value with NUL": [*REQUEST, ("x", "a\0b")],
    "a value with a request in it": [*REQUEST, ("x", "a\r\n\r\nGET / HTTP/1.1\r\n\r\n")],
    "a value that begins with a space": [*REQUEST, ("x", " a")],
    "a connection field": [*REQUEST, ("connection", "close")],
    "a transfer-encoding": [*REQUEST, ("transfer-encoding", "chunked")],
    "an upgrade": [*REQUEST, ("upgrade", "h2c")],
    "te other than trailers": [*REQUEST, ("te", "gzip")],
    "two hosts": [*REQUEST, ("host", "b")],
    "an authority with a line end": [*REQUEST[:3], (":authority", "a\r\nx: y")],
    "an authority with a user": [*REQUEST[:3], (":authority", "u@a")],
    "two content-lengths": [*REQUEST, ("content-length", "0"), ("content-length", "0")],
    "a content-length with a sign": [*REQUEST, ("content-length", "+0")],
}


@pytest.mark.parametrize("name", CONNECTION_FAULTS)
async def test_a_connection_fault_ends_the_connection(
    serve2: Callable[..., Any], name: str
) -> None:
    """GOAWAY with the standard's code, then the end; another connection is not disturbed."""
    data, code = CONNECTION_FAULTS[name]
    serving = await serve2(hold)
    other = await serving.client()
    raw = await serving.raw(data)
    while (verdict := await raw.verdict())[0] == "answer":
        pass
    assert verdict == ("goaway", code)
    await raw.closed()
    stream = other.request(method="GET")
    assert (await other.answer(stream)).status == 200


@pytest.mark.parametrize("name", STREAM_FAULTS)
async def test_a_stream_fault_ends_the_stream_only(serve2: Callable[..., Any], name: str) -> None:
    data, code = STREAM_FAULTS[name]
    gone: list[int] = []

    def handler(exchange: H2Exchange) -> None:
        exchange.on_abort = lambda: gone.append(exchange.id)
        hold(exchange)
        if exchange.head.content_length > 0:
            exchange.gather(hold)

    raw = await (await serve2(handler)).raw(data)
    assert await raw.verdict() == ("rst", code)
    assert gone in ([1], [])
    raw.send(get(101))
    assert (await raw.until(1)).stream == 101


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_ends_its_stream_and_reaches_no_handler(
    serve2: Callable[..., Any], name: str
) -> None:
    """Whatever could become a line of its own in HTTP/1.1 behind the gateway is among these."""
    seen: list[str] = []

    def handler(exchange: H2Exchange) -> None:
        seen.append(exchange.head.path)
        exchange.send(200, b"", b"")

    raw = await (await serve2(handler)).raw(headers(1, MALFORMED[name]))
    assert await raw.verdict() == ("rst", PROTOCOL)
    await raw.ping()
    assert seen == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([*REQUEST, *((f"x-{i}", "1") for i in range(101))], b"431"),
        ([*REQUEST[:2], (":path", "/" + "x" * 9000), REQUEST[3]], b"414"),
        ([(":method", "CONNECT"), (":authority", "a:1")], b"501"),
        ([*REQUEST, ("content-length", "999999999999")], b"413"),
    ],
    ids=["many fields", "a long path", "CONNECT", "a huge body"],
)
async def test_what_is_well_formed_and_not_served_gets_a_status(
    serve2: Callable[..., Any], fields: Any, status: bytes
) -> None:
    raw = await (await serve2(hold)).raw(headers(1, fields, end=False))
    found = await raw.until(1)
    assert status in found.payload
    await raw.ping()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        PREFACE[:20] + b"xxxx" + SETTINGS,
        PREFACE + frame(6, 0, 0, bytes(8)),
        PREFACE + frame(4, 1, 0),
    ],
    ids=["HTTP/1.1", "TLS", "a broken preface", "PING before SETTINGS", "only an acknowledgement"],
)
async def test_a_connection_that_does_not_begin_as_http2_ends(
    serve2: Callable[..., Any], data: bytes
) -> None:
    serving = await serve2(hold, http1=False)
    raw = Raw(*await serving.connect())
    raw.send(data)
    assert await raw.verdict() == ("goaway", PROTOCOL)
    await raw.closed()
