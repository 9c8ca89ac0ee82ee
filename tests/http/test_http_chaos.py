"""Anything in any order: handlers, clients and time do what they like, and the books balance."""

from __future__ import annotations

import logging
import os
from typing import Any

from http_peers import GET, post, wired
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.http.exchange import ABORTED, ENDED, OPEN, STARTED
from penstock.http.limits import Limits
from penstock.http.server import Exchange

CHUNKED = b"POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
BYTES = [
    GET,
    GET[:9],
    GET[9:],
    post(b"x" * 50),
    post(b"y" * 50_000),
    post(b"z" * 150_000)[:-140_000],
    post(b"q" * 20, extra=b"expect: 100-continue\r\n")[:-20],
    b"q" * 20,
    b"z" * 140_000,
    CHUNKED,
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + GET,
    b"\r\n",
    b"garbage",
    b"GET / HTTP/1.0\r\n\r\n",
]

EXAMPLES = int(os.environ.get("HTTP_EXAMPLES", "600"))
actions = st.one_of(
    st.tuples(st.just("feed"), st.sampled_from(BYTES)),
    st.tuples(
        st.just("do"),
        st.sampled_from(
            [
                "send",
                "start",
                "write",
                "end",
                "abort",
                "receive",
                "gather",
                "pause",
                "resume",
                "raw",
            ]
        ),
    ),
    st.tuples(
        st.just("policy"), st.sampled_from(["wait", "send", "receive", "gather", "stream", "raise"])
    ),
    st.tuples(st.just("time"), st.sampled_from([0.1, 5.0, 40.0])),
    st.tuples(st.just("pause writing"), st.none()),
    st.tuples(st.just("resume writing"), st.none()),
)


class Watched:
    """An exchange, what its handler does with it, and what it hears."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.heard: list[str] = []
        self.wanted = 0
        self.got = 0
        exchange.on_abort = lambda: self.hear("gone")

    def hear(self, what: str) -> None:
        assert what not in self.heard, "told twice"
        assert "end" not in self.heard or what == "gone"
        self.heard.append(what)

    def on_data(self, data: Any) -> None:
        assert data
        assert not {"end", "abort", "gone"} & set(self.heard)
        assert self.exchange.state in (OPEN, STARTED)
        self.got += len(data)

    def on_end(self) -> None:
        self.hear("end")

    def on_abort(self, exc: Exception) -> None:
        self.hear("abort")

    def do(self, what: str) -> None:
        exchange = self.exchange
        state = exchange.state
        try:
            if what == "send":
                exchange.send(200, b"", b"answer")
            elif what == "raw":
                exchange.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            elif what == "start":
                exchange.start(200, b"")
            elif what == "write":
                exchange.write(b"piece")
            elif what == "end":
                exchange.end()
            elif what == "abort":
                exchange.abort()
            elif what == "pause":
                exchange.pause_reading()
            elif what == "resume":
                exchange.resume_reading()
            elif not self.wanted and state in (OPEN, STARTED):
                self.wanted = 1
                if what == "receive":
                    exchange.receive(self)
                else:
                    exchange.gather(lambda e: self.hear("end"))
        except RuntimeError:
            # Only for what does not belong there.
            if what in ("send", "raw", "start"):
                assert state in (STARTED, ENDED)
            else:
                assert what in ("write", "end")
                assert state in (OPEN, ENDED)


class Alarm(logging.Handler):
    """Fails the test on anything that is logged as an error, other than what handlers did on purpose."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and "on purpose" not in str(record.exc_info):
            raise AssertionError(record.getMessage()) from (record.exc_info or (None, None))[1]


@settings(max_examples=EXAMPLES, deadline=None)
@given(script=st.lists(actions, max_size=25), streaming=st.booleans(), half_close=st.booleans())
def test_whatever_happens_is_accounted_for(
    script: list[tuple[str, Any]], streaming: bool, half_close: bool
) -> None:
    """No call is made twice or after the end, no memory stays counted, no connection stays open."""
    seen: list[Watched] = []
    policy = "wait"

    def handler(exchange: Exchange) -> None:
        assert all(w.exchange.state in (ENDED, ABORTED) for w in seen), "two at a time"
        assert streaming or exchange.body is not None
        watched = Watched(exchange)
        seen.append(watched)
        if policy == "raise":
            raise KeyError("on purpose")
        if policy == "stream":
            watched.do("start")
            watched.do("write")
            watched.do("receive")
            watched.do("end")
        elif policy != "wait":
            watched.do(policy)

    limits = Limits(max_gathered=400_000, max_pipeline_bytes=1000)
    wire, loop = wired(handler, streaming=streaming, half_close=half_close, limits=limits)
    connection = wire.get_protocol()
    server = connection.server
    alarm = Alarm()
    logger = logging.getLogger("penstock.http")
    logger.addHandler(alarm)
    propagate, logger.propagate = logger.propagate, False
    try:
        for what, value in script:
            if what == "feed":
                if not wire.closed:
                    wire.feed(value)
            elif what == "policy":
                policy = value
            elif what == "time":
                loop.now += value
                server.sweep()
            elif what == "pause writing":
                if not wire.closed and not connection.write_paused:
                    connection.pause_writing()
            elif what == "resume writing":
                if not wire.closed and connection.write_paused:
                    connection.resume_writing()
            elif seen:
                seen[-1].do(value)
            loop.run()
            assert 0 <= server.gathered <= 400_000
        wire.hang_up()
        if half_close:  # a client that stays gets its answer, and then has to go
            if seen:
                seen[-1].do("abort")
            wire.close()
        loop.run()
        for _ in range(200):
            loop.now += 1
            server.sweep()
            loop.run()
    finally:
        logger.removeHandler(alarm)
        logger.propagate = propagate
    assert wire.closed
    assert not server.connections
    assert server.gathered == 0
    assert connection.exchange is None
    for watched in seen:
        assert watched.exchange.state in (ENDED, ABORTED)
        assert watched.exchange.on_abort is None
    answers = wire.sent.count(b"HTTP/1.1 2") + wire.sent.count(b"HTTP/1.1 5")
    assert answers <= len(seen) + 1
