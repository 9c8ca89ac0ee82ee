"""What could be read in two ways is refused, answered by the engine, and ends the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from http_peers import GET, wired

from penstock.http.limits import Limits
from penstock.http.server import Exchange

H = b"host: a\r\n"


def head(*lines: bytes, first: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join((first, b"host: a", *lines)) + b"\r\n\r\n"


#: name -> (bytes, status)
REFUSED: dict[str, tuple[bytes, int]] = {
    # two lengths
    "both lengths": (head(b"content-length: 5", b"transfer-encoding: chunked"), 400),
    "both lengths, other order": (head(b"transfer-encoding: chunked", b"content-length: 5"), 400),
    "two lengths that differ": (head(b"content-length: 5", b"content-length: 6"), 400),
    "two lengths that agree": (head(b"content-length: 5", b"content-length: 5"), 400),
    "a list of lengths": (head(b"content-length: 5, 5"), 400),
    "plus sign": (head(b"content-length: +5"), 400),
    "minus sign": (head(b"content-length: -5"), 400),
    "minus zero": (head(b"content-length: -0"), 400),
    "hexadecimal length": (head(b"content-length: 0x5"), 400),
    "space within a length": (head(b"content-length: 5 5"), 400),
    "underscore in a length": (head(b"content-length: 1_0"), 400),
    "empty length": (head(b"content-length:"), 400),
    "decimal point": (head(b"content-length: 5.0"), 400),
    "vertical tab before a length": (head(b"content-length: \x0b5"), 400),
    "non-ASCII digit": (head("content-length: ٥".encode()), 400),
    "overlong length": (head(b"content-length: " + b"9" * 19), 400),
    # transfer codings
    "unknown coding": (head(b"transfer-encoding: zstd"), 501),
    "misspelled coding": (head(b"transfer-encoding: xchunked"), 501),
    "quoted coding": (head(b'transfer-encoding: "chunked"'), 501),
    "coding with a parameter": (head(b"transfer-encoding: chunked;a=b"), 501),
    "coding not at the end": (head(b"transfer-encoding: chunked, gzip"), 400),
    "gzip without chunked": (head(b"transfer-encoding: gzip"), 400),
    "gzip under chunked": (head(b"transfer-encoding: gzip, chunked"), 501),
    "identity": (head(b"transfer-encoding: identity"), 400),
    "chunked twice": (head(b"transfer-encoding: chunked, chunked"), 400),
    "chunked in two fields": (
        head(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        400,
    ),
    "chunked, then unknown in a second field": (
        head(b"transfer-encoding: chunked", b"transfer-encoding: cow"),
        501,
    ),
    "empty coding": (head(b"transfer-encoding:"), 400),
    "empty coding in a list": (head(b"transfer-encoding: ,chunked"), 400),
    "control character in a coding": (head(b"transfer-encoding: \x0bchunked"), 400),
    "coding on HTTP/1.0": (head(b"transfer-encoding: chunked", first=b"POST / HTTP/1.0"), 400),
    # field lines
    "folded line": (head(b"a: b", b" c"), 400),
    "folded line with a tab": (head(b"a: b", b"\tc"), 400),
    "folded first line": (b"GET / HTTP/1.1\r\n host: a\r\n\r\n", 400),
    "space before the colon": (head(b"content-length : 5"), 400),
    "tab before the colon": (head(b"transfer-encoding\t: chunked"), 400),
    "no colon": (head(b"content-length 5"), 400),
    "empty name": (head(b": 5"), 400),
    "NUL in a name": (head(b"a\x00b: c"), 400),
    "NUL in a value": (head(b"a: b\x00c"), 400),
    "DEL in a value": (head(b"a: b\x7fc"), 400),
    "escape in a value": (head(b"a: \x1b[0m"), 400),
    "parenthesis in a name": (head(b"a(b: c"), 400),
    "non-ASCII name": (head("ä: c".encode()), 400),
    "bare CR in a value": (head(b"a: b\rcontent-length: 5"), 400),
    "bare CR before CRLF": (head(b"a: b\r"), 400),
    "bare LF between fields": (b"POST / HTTP/1.1\r\nhost: a\ncontent-length: 5\r\n\r\n", 400),
    "bare LF after the request line": (b"GET / HTTP/1.1\nhost: a\r\n\r\n", 400),
    "bare LFs all along": (b"GET / HTTP/1.1\nhost: a\n\n", 400),
    "bare LF as the empty line": (b"GET / HTTP/1.1\r\nhost: a\r\n\n", 400),
    "bare CR as the empty line": (b"GET / HTTP/1.1\r\nhost: a\r\n\rGET", 400),
    # request line
    "no version": (b"GET /\r\nhost: a\r\n\r\n", 400),
    "version in lower case": (head(first=b"GET / http/1.1"), 400),
    "HTTP/2": (head(first=b"GET / HTTP/2.0"), 505),
    "HTTP/1.2": (head(first=b"GET / HTTP/1.2"), 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": (head(first=b"GET / HTTP/0.9"), 505),
    "version with two digits": (head(first=b"GET / HTTP/1.10"), 400),
    "two spaces": (head(first=b"GET  / HTTP/1.1"), 400),
    "a tab between": (head(first=b"GET\t/ HTTP/1.1"), 400),
    "a space at the end": (head(first=b"GET / HTTP/1.1 "), 400),
    "a space at the start": (head(first=b" GET / HTTP/1.1"), 400),
    "a space in the target": (head(first=b"GET /a b HTTP/1.1"), 400),
    "invalid method": (head(first=b"GE(T / HTTP/1.1"), 400),
    "non-ASCII method": (head(first="GÉT / HTTP/1.1".encode()), 400),
    "non-ASCII target": (head(first="GET /ä HTTP/1.1".encode()), 400),
    "control character in the target": (head(first=b"GET /\x01 HTTP/1.1"), 400),
    "NUL in the target": (head(first=b"GET /\x00 HTTP/1.1"), 400),
    "fragment in the target": (head(first=b"GET /a#b HTTP/1.1"), 400),
    "relative target": (head(first=b"GET a HTTP/1.1"), 400),
    "asterisk for GET": (head(first=b"GET * HTTP/1.1"), 400),
    "CONNECT": (head(first=b"CONNECT a:443 HTTP/1.1"), 501),
    "two empty lines first": (b"\r\n\r\n" + GET, 400),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    # host
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (head(b"host: b"), 400),
    "two hosts that agree": (head(b"host: a"), 400),
    "two hosts on HTTP/1.0": (head(b"host: b", first=b"GET / HTTP/1.0"), 400),
    "a host with a path": (b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400),
    "a host with a user": (b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", 400),
    "a host with a space": (b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
    "a list of hosts": (b"GET / HTTP/1.1\r\nhost: a b, c d\r\n\r\n", 400),
    "another host in the target": (head(first=b"GET http://b/ HTTP/1.1"), 400),
    "a user in the target": (head(first=b"GET http://u@a/ HTTP/1.1"), 400),
    "no host in an absolute target": (head(first=b"GET http:///x HTTP/1.1"), 400),
    # expectations
    "unknown expectation": (head(b"expect: cake", b"content-length: 1"), 417),
}

CHUNKED = head(b"transfer-encoding: chunked")

REFUSED_CHUNKS: dict[str, tuple[bytes, int]] = {
    "plus sign": (b"+5\r\nhello\r\n0\r\n\r\n", 400),
    "minus sign": (b"-5\r\nhello\r\n0\r\n\r\n", 400),
    "0x": (b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "space before": (b" 5\r\nhello\r\n0\r\n\r\n", 400),
    "space after": (b"5 \r\nhello\r\n0\r\n\r\n", 400),
    "underscore": (b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n", 400),
    "no hexadecimal": (b"g\r\nhello\r\n0\r\n\r\n", 400),
    "empty": (b"\r\nhello\r\n0\r\n\r\n", 400),
    "overlong": (b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n", 400),
    "wraps around 64 bits": (b"10000000000000005\r\nhello\r\n0\r\n\r\n", 400),
    "bare LF after the size": (b"5\nhello\r\n0\r\n\r\n", 400),
    "bare CR after the size": (b"5\rhello\r\n0\r\n\r\n", 400),
    "bare LF after the data": (b"5\r\nhello\n0\r\n\r\n", 400),
    "data longer than its size": (b"5\r\nhelloo\r\n0\r\n\r\n", 400),
    "data shorter than its size": (b"6\r\nhello\r\n0\r\n\r\n", 400),
    "bare LF in an extension": (b"5;a\n\r\nhello\r\n0\r\n\r\n", 400),
    "bare CR in an extension": (b"5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
    "NUL in an extension": (b"5;a\x00\r\nhello\r\n0\r\n\r\n", 400),
    "endless extension": (b"5;" + b"a" * 300, 400),
    "endless size": (b"0" * 300, 400),
    "many extensions": ((b"1;" + b"a" * 200 + b"\r\na\r\n") * 100 + b"0\r\n\r\n", 400),
    "trailer without a colon": (b"0\r\nabc\r\n\r\n", 400),
    "trailer with a bare LF": (b"0\r\na: b\n\r\n", 400),
    "trailer with a bare CR": (b"0\r\na: b\rc\r\n\r\n", 400),
    "trailer with a space before its colon": (b"0\r\na : b\r\n\r\n", 400),
    "folded trailer": (b"0\r\na: b\r\n c\r\n\r\n", 400),
    "a length as trailer": (b"0\r\ncontent-length: 5\r\n\r\n", 400),
    "a coding as trailer": (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a space before a chunk extension": (b"5 ;a=b\r\nhello\r\n0\r\n\r\n", 400),
    "a host as trailer": (b"0\r\nHost: b\r\n\r\n", 400),
    "too many trailers": (b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
    "too large a trailer": (b"0\r\n" + (b"a: " + b"b" * 8000 + b"\r\n") * 9, 431),
    "an endless trailer": (b"0\r\na: " + b"b" * 9000, 400),
    "over the limit": (b"fffffff\r\n", 413),
}


@pytest.mark.parametrize("streaming", [False, True], ids=["gathered", "streaming"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_head_is_refused(name: str, cut: bool, streaming: bool) -> None:
    """No handler sees it, the status says what it was, and what follows is not read as a request."""
    data, status = REFUSED[name]
    seen: list[Exchange] = []
    wire, _ = wired(seen.append, streaming=streaming)
    for piece in [data[i : i + 1] for i in range(len(data))] if cut else [data]:
        wire.feed(piece)
    wire.feed(b"hello" + GET)
    check_refusal(wire, status)
    assert not seen


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("name", REFUSED_CHUNKS)
def test_an_ambiguous_chunk_is_refused(name: str, cut: bool) -> None:
    """A gathered body that breaks the coding never reaches the handler."""
    data, status = REFUSED_CHUNKS[name]
    seen: list[Exchange] = []
    wire, _ = wired(seen.append, limits=Limits(max_body=1 << 20))
    data = CHUNKED + data
    for piece in [data[i : i + 1] for i in range(len(data))] if cut else [data]:
        wire.feed(piece)
    wire.feed(GET)
    check_refusal(wire, status)
    assert not seen


@pytest.mark.parametrize("name", REFUSED_CHUNKS)
def test_a_streamed_body_that_breaks_the_coding_is_aborted(name: str) -> None:
    """The receiver hears of it, and the client gets the engine's answer unless one had begun."""
    data, status = REFUSED_CHUNKS[name]
    sink = Sink()
    aborted: list[bool] = []

    def handler(exchange: Exchange) -> None:
        exchange.on_abort = lambda: aborted.append(True)
        exchange.receive(sink)

    wire, _ = wired(handler, streaming=True, limits=Limits(max_body=1 << 20))
    wire.feed(CHUNKED)
    wire.feed(data)
    check_refusal(wire, status)
    assert sink.aborted
    assert not sink.ended
    assert aborted == [True]


def check_refusal(wire: Any, status: int) -> None:
    answer = wire.sent
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b'{"error": "' in answer
    assert b"connection: close\r\n" in answer
    assert answer.count(b"\r\n\r\n") == 1
    assert wire.eof or wire.closed


class Sink:
    """Collects a body."""

    def __init__(self, then: Callable[[bytes], None] | None = None) -> None:
        self.data: list[bytes] = []
        self.ended = False
        self.aborted: Exception | None = None
        self._then = then

    def on_data(self, data: Any) -> None:
        self.data.append(bytes(data))

    def on_end(self) -> None:
        self.ended = True
        if self._then is not None:
            self._then(b"".join(self.data))

    def on_abort(self, exc: Exception) -> None:
        self.aborted = exc


ACCEPTED: dict[str, bytes] = {
    "no space after the colon": head(b"content-length:0"),
    "spaces around a value": head(b"content-length: \t 0 \t "),
    "coding in capitals": head(b"transfer-encoding: CHUNKED") + b"0\r\n\r\n",
    "chunk extension": CHUNKED + b'5;a="b c";d\r\nhello\r\n0;x\r\n\r\n',
    "zeros before a chunk size": CHUNKED + b"0000000000000005\r\nhello\r\n00\r\n\r\n",
    "trailers": CHUNKED + b"5\r\nhello\r\n0\r\na: b\r\nc:d\r\n\r\n",
    "one empty line first": b"\r\n" + GET,
    "absolute target": head(first=b"GET http://A/b HTTP/1.1"),
    "options of the server": head(first=b"OPTIONS * HTTP/1.1"),
    "empty host": b"GET / HTTP/1.1\r\nhost:\r\n\r\n",
    "IPv6 host": b"GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
    "bytes beyond ASCII in a value": head(b"a: \xff\xe4"),
    "an unusual method": head(first=b"M-SEARCH / HTTP/1.1"),
    "HTTP/1.0 without a host": b"GET / HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_unusual_but_clear_is_served(name: str, cut: bool) -> None:
    """Strict is not the same as narrow."""
    data = ACCEPTED[name]
    wire, _ = wired(lambda exchange: exchange.send(200, b"", b"yes"))
    for piece in [data[i : i + 1] for i in range(len(data))] if cut else [data]:
        wire.feed(piece)
    assert wire.sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.sent.count(b"\r\n\r\n") == 1
