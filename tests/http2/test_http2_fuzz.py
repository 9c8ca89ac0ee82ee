"""Random frames: no exception, no stuck loop, no state left over."""

from __future__ import annotations

import asyncio
from typing import Any

from http2_peers import PREFACE, REQUEST, SETTINGS, block, frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.http.h2.connection import H2Connection
from penstock.http.h2.exchange import H2Exchange
from penstock.http.h2.server import Http2Server


class Transport:
    """Takes what is written; closes when told to."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return None


_blocks = st.one_of(
    st.just(block(REQUEST)),
    st.just(block([*REQUEST, ("content-length", "3")])),
    st.just(block([("trailer", "x")])),
    st.binary(max_size=40),
)
_streams = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 0x80000001, 0x7FFFFFFF])
_frames = st.one_of(
    st.builds(frame, st.just(1), st.sampled_from([0, 1, 4, 5, 0xD, 0x24, 0x2C]), _streams, _blocks),
    st.builds(frame, st.just(9), st.sampled_from([0, 4]), _streams, _blocks),
    st.builds(frame, st.just(0), st.sampled_from([0, 1, 8, 9]), _streams, st.binary(max_size=30)),
    st.builds(
        frame,
        st.integers(0, 11),
        st.integers(0, 255),
        _streams,
        st.one_of(st.binary(max_size=12), st.sampled_from([bytes(4), bytes(8), b"\xff" * 4])),
    ),
    st.binary(max_size=20),
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    frames=st.lists(_frames, max_size=30),
    cuts=st.lists(st.integers(1, 60), max_size=40),
    streaming=st.booleans(),
    answers=st.lists(st.integers(0, 4), min_size=1, max_size=5),
)
def test_random_frames_leave_nothing_behind(
    frames: list[bytes], cuts: list[int], streaming: bool, answers: list[int]
) -> None:
    live: set[int] = set()
    turn = 0

    def handler(exchange: H2Exchange) -> None:
        nonlocal turn
        turn += 1
        what = answers[turn % len(answers)]
        if what == 0:
            exchange.send(200, b"", bytes(100), b"x: y\r\n")
            return
        live.add(exchange.id)
        exchange.on_abort = lambda: live.discard(exchange.id)

        def done(exchange: H2Exchange) -> None:
            live.discard(exchange.id)
            exchange.send(200, b"", exchange.body or b"")

        if what == 1:
            exchange.gather(done)
        elif what == 2:
            exchange.start(200, b"")
            exchange.write(bytes(70_000))

    loop = asyncio.new_event_loop()
    try:
        server = Http2Server(handler, streaming=streaming, clock=lambda: 0.0)  # type: ignore[arg-type]
        server.loop = loop
        server._timer = loop.call_later(1000, lambda: None)
        connection = H2Connection(server)
        transport = Transport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        data = PREFACE + SETTINGS + b"".join(frames)
        for cut in cuts:
            connection.data_received(data[:cut])
            data = data[cut:]
        if data:
            connection.data_received(data)
        loop.run_until_complete(asyncio.sleep(0))
        connection.check(0.0)
        connection.connection_lost(None)
        assert not connection.streams
        assert not connection._pending
        assert not server.connections
        assert server.gathered == 0
        if streaming:
            assert not live
        _well_formed(bytes(transport.written))
    finally:
        loop.close()


def _well_formed(written: bytes) -> None:
    """What was answered is a row of whole frames."""
    pos = 0
    while pos < len(written):
        length = int.from_bytes(written[pos : pos + 3], "big")
        assert written[pos + 3] <= 9
        pos += 9 + length
    assert pos == len(written)


def test_a_block_made_for_a_response_means_what_it_says() -> None:
    """Our own encoding of header lines, read by hpack."""
    from hpack import Decoder

    from penstock.http.h2.fields import block as made
    from penstock.http.h2.fields import content_length

    lines = b"Content-Type: a\r\nx-long: " + b"y" * 5000 + b"\r\nconnection: close\r\nserver: z\r\n"
    fields = Decoder().decode(made(200, lines) + content_length(1234567), raw=True)
    assert [tuple(f) for f in fields] == [
        (b":status", b"200"),
        (b"content-type", b"a"),
        (b"x-long", b"y" * 5000),
        (b"server", b"z"),
        (b"content-length", b"1234567"),
    ]
    assert dict(Decoder().decode(made(499, b""), raw=True)) == {b":status": b"499"}
