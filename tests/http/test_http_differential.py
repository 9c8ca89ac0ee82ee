"""The engine against h11: whatever is valid is read alike, and whatever the engine reads, h11 reads too."""

from __future__ import annotations

import os
from typing import Any

import h11
from http_peers import Loop, Wire, pieces, wired
from http_strategies import Message, cuts, render_request, render_response, requests, responses
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.domain.routes import Address
from penstock.http.client import ClientExchange, Upstream, UpstreamError
from penstock.http.client_connection import UpstreamConnection
from penstock.http.head import ResponseHead
from penstock.http.server import Exchange

RUNS = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Seen = tuple[str, str, list[tuple[bytes, bytes]], bytes]


def read_with_h11(data: bytes) -> list[Seen]:
    """Requests as h11's server reads them; stops at the first error or at what is incomplete.

    h11 does not skip the empty line that RFC 9112, 2.2 forgives before a request; that is done here.
    """
    seen: list[Seen] = []
    while data:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(data.removeprefix(b"\r\n"))
        body = b""
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return seen
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return seen
        headers = [(bytes(n), bytes(v)) for n, v in request.headers]
        seen.append((request.method.decode(), request.target.decode("latin-1"), headers, body))
        data = connection.trailing_data[0]
        connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        if connection.our_state is not h11.DONE:
            return seen
    return seen


class Gather:
    """A body sink that answers at the end."""

    def __init__(self, exchange: Exchange, answer: Any) -> None:
        self.exchange = exchange
        self.answer = answer
        self.body = b""
        exchange.receive(self)

    def on_data(self, data: Any) -> None:
        self.body += bytes(data)

    def on_end(self) -> None:
        self.answer(self.exchange, self.body)

    def on_abort(self, exc: Exception) -> None:
        raise AssertionError(exc)


def note(seen: list[Seen], exchange: Exchange, body: bytes) -> None:
    head = exchange.head
    seen.append((head.method, head.target, list(head.headers), body))


@RUNS
@given(
    messages=st.lists(requests, min_size=1, max_size=4),
    cuts=cuts,
    streaming=st.booleans(),
    late=st.booleans(),
)
def test_the_server_reads_what_h11_writes(
    messages: list[Message], cuts: list[int], streaming: bool, late: bool
) -> None:
    """Pipelined, cut anywhere, gathered or streamed, answered at once or later: h11's server agrees."""
    data = b"".join(map(render_request, messages))
    seen: list[Seen] = []
    waiting: list[Exchange] = []

    def answer(exchange: Exchange, body: bytes) -> None:
        note(seen, exchange, body)
        if late:
            waiting.append(exchange)
        else:
            exchange.send(200, b"")

    def handler(exchange: Exchange) -> None:
        if streaming:
            Gather(exchange, answer)
        else:
            assert exchange.body is not None
            answer(exchange, bytes(exchange.body))

    wire, loop = wired(handler, streaming=streaming)
    for piece in pieces(data, cuts):
        wire.feed(piece)
    while waiting:
        assert len(waiting) == 1  # one at a time, in order
        waiting.pop().send(200, b"")
        loop.run()
    expected = read_with_h11(data)
    assert len(expected) == len(messages)
    assert seen == expected
    assert wire.sent == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" * len(messages)


@RUNS
@given(messages=st.lists(responses, min_size=1, max_size=3), raw=st.booleans())
def test_h11_reads_what_the_server_writes(messages: list[Message], raw: bool) -> None:
    """send, and start with write and end, whole or chunked, as an h11 client reads them."""
    remaining = list(messages)

    def handler(exchange: Exchange) -> None:
        message = remaining.pop(0)
        lines = b"".join(b"%b: %b\r\n" % (n.encode(), v) for n, v in message.headers)
        if message.chunks is None and raw:
            exchange.send(message.status, lines, message.split_body())
        elif message.chunks is None:
            exchange.start(message.status, lines, length=len(message.body))
            exchange.write(message.body)
            exchange.end()
        else:
            exchange.start(message.status, lines)
            for piece in message.split_body():
                exchange.write(piece)
            exchange.end()

    wire, _ = wired(handler)
    wire.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n" * len(messages))
    left = wire.sent
    for message in messages:
        client = h11.Connection(h11.CLIENT)
        client.send(
            h11.Request(method="POST", target="/", headers=[("host", "a"), ("content-length", "0")])
        )
        client.send(h11.EndOfMessage())
        client.receive_data(left)
        response = client.next_event()
        assert isinstance(response, h11.Response)
        assert response.status_code == message.status
        names = [(bytes(n), bytes(v)) for n, v in response.headers][: len(message.headers)]
        assert names == [(n.lower().encode(), v) for n, v in message.headers]
        body = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            body += event.data
        assert body == message.body
        left = client.trailing_data[0]
    assert left == b""


class Collect:
    """A response sink."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.body = b""
        self.ended = False
        self.error: UpstreamError | None = None

    def on_response(self, head: ResponseHead, body: bytes | None) -> None:
        assert self.head is None
        self.head = head
        if body is not None:
            self.body = body
            self.ended = True

    def on_data(self, data: Any) -> None:
        assert not self.ended
        assert data
        self.body += bytes(data)

    def on_end(self) -> None:
        assert not self.ended
        self.ended = True

    def on_error(self, exc: UpstreamError) -> None:
        assert not self.ended
        self.error = exc


def upstream_wire() -> tuple[Upstream, UpstreamConnection, Wire, Loop]:
    """An upstream with one idle connection, in memory."""
    loop = Loop()
    upstream = Upstream(Address(path="/nowhere"), loop=loop)  # type: ignore[arg-type]
    connection = UpstreamConnection(upstream)
    wire = Wire(connection, loop)
    upstream.keep(connection)
    return upstream, connection, wire, loop


@RUNS
@given(messages=st.lists(responses, min_size=1, max_size=4), cuts=cuts)
def test_the_client_reads_what_h11_writes(messages: list[Message], cuts: list[int]) -> None:
    """One keep-alive connection, responses cut anywhere, each as it was meant."""
    upstream, _, wire, _ = upstream_wire()
    for message in messages:
        sink = Collect()
        upstream.request(b"POST / HTTP/1.1\r\n\r\n", None, sink)
        for piece in pieces(render_response(message), cuts):
            wire.feed(piece)
        assert sink.error is None
        assert sink.ended
        assert sink.head is not None
        assert sink.head.status == message.status
        names = list(sink.head.headers)[: len(message.headers)]
        assert names == [(n.lower().encode(), v) for n, v in message.headers]
        assert sink.body == message.body
        assert upstream.idle == 1


@RUNS
@given(body=st.lists(st.binary(max_size=20_000), max_size=5), chunked=st.booleans())
def test_h11_reads_what_the_client_streams(body: list[bytes], chunked: bool) -> None:
    """A streamed request, chunked or of known length."""
    upstream, _, wire, _ = upstream_wire()
    whole = b"".join(body)
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(whole)
    exchange: ClientExchange = upstream.request(
        b"POST /x HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n",
        None,
        Collect(),
        more=True,
        chunked=chunked,
        length=None if chunked else len(whole),
    )
    for piece in body:
        exchange.write(piece)
    exchange.end()
    seen = read_with_h11(wire.sent)
    assert [(m, t, b) for m, t, _, b in seen] == [("POST", "/x", whole)]


EXAMPLES = int(os.environ.get("HTTP_EXAMPLES", "1500"))
SEEDS = [
    b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\na: b\r\n\r\n",
    b"GET /a HTTP/1.0\r\na: b\r\n\r\n",
    b"GET http://a/x HTTP/1.1\r\nhost: a\r\n\r\n",
]
DIRT = [
    b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b";", b",", b"0", b"5", b"+", b"-", b"0x", b"\x0b",
    b"\xff",
    b"content-length: 6\r\n", b"Content-Length: 5\r\n", b"transfer-encoding: chunked\r\n", b"host: b\r\n",
    b"Transfer-Encoding: identity\r\n", b"connection: close\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n",
]  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 3), st.sampled_from(DIRT)),
        min_size=1,
        max_size=3,
    ),
    cuts=cuts,
)
@example(seed=SEEDS[0], edits=[(27, 0, b"content-length: 6\r\n")], cuts=[])
def test_whatever_the_server_takes_h11_takes_alike(
    seed: bytes, edits: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    """Damage a request at random: what still gets through must mean the same to another strict reader."""
    data = seed
    for place, removed, dirt in edits:
        place %= len(data) + 1
        data = data[:place] + dirt + data[place + removed :]
    data += b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"
    seen: list[Seen] = []

    def handler(exchange: Exchange) -> None:
        note(seen, exchange, bytes(exchange.body or b""))
        exchange.send(200, b"")

    wire, _ = wired(handler)
    for piece in pieces(data, cuts):
        wire.feed(piece)
    assert seen == read_with_h11(data)[: len(seen)]
