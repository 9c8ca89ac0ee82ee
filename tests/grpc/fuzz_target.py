"""Coverage-guided fuzzing (atheris) of what reads bytes from outside: `fuzz_target.py TARGET [options]`.

Each target feeds bytes to one reader. It may refuse them with an error that is the caller's; any other
exception, and a reader that holds more afterwards than it may, ends the run with a failure.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import atheris

with atheris.instrument_imports(include=["penstock"]):
    from penstock.errors import InvalidInput, NotFound, TooLarge, Unsupported
    from penstock.http.h2.connection import H2Connection
    from penstock.http.h2.server import Http2Server
    from penstock.http.limits import Limits
    from penstock.protocols.codecs import coded
    from penstock.protocols.grpc import infer, stream_infer, wire
    from penstock.protocols.infer import InferResponse
    from penstock.protocols.shared_memory import SharedMemory
    from penstock.protocols.v2 import decode_infer, encode_infer, parse_header_length
    from penstock.runtimes.base import TensorSpec

REFUSALS = (InvalidInput, NotFound, TooLarge, Unsupported)
SPECS = (TensorSpec("x", "FP32", (-1, 2)),)
NO_MEMORY = SharedMemory(None, most=1000)


def protobuf(data: bytes) -> None:
    """A framed ModelInfer, as a model process takes it, and its answer."""
    encoding = (None, b"gzip", b"deflate", b"br")[data[0] & 3] if data else None
    try:
        body = wire.unframe(data[1:], encoding, 10_000)
        wire.peek_strings(body, (1, 2))
        request = infer.decode_infer(body, memory=NO_MEMORY)
        infer.encode_infer(InferResponse(dict(request.inputs), request.datatypes), request)
    except REFUSALS:
        pass


def message(data: bytes) -> None:
    """The same, without the frame in the way."""
    protobuf(b"\0\0" + len(data).to_bytes(4, "big") + data)


def binary_header(data: bytes) -> None:
    """A V2 body with raw tensors behind its JSON."""
    length = int.from_bytes(data[:2], "big") % (len(data) + 2)
    body = bytearray(data[2:])
    try:
        parse_header_length(data[:8], len(body))
    except REFUSALS:
        pass
    for asked in (length, None, 0):
        try:
            request = decode_infer(bytearray(body), asked, "m", "1", SPECS, NO_MEMORY)
            means = coded(request, None, SPECS)
            if means is not None:
                encode_infer(means.response(means.inputs, None), request)
            encode_infer(InferResponse(dict(request.inputs), request.datatypes), request)
        except REFUSALS:
            pass


class Wire:
    """A transport that keeps nothing."""

    def write(self, data: Any) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def set_write_buffer_limits(self, high: int) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None


_loop = asyncio.new_event_loop()


def frames(data: bytes) -> None:
    """What a client may send on an HTTP/2 connection, in two pieces."""

    def handler(exchange: Any) -> None:
        exchange.gather(lambda e: e.send(200, b"", b"x" * 100, b"grpc-status: 0\r\n"))

    server = Http2Server(
        handler, limits=Limits(max_head=2000), streaming=True, http1=False, clock=lambda: 0.0
    )
    server.loop = _loop
    connection = H2Connection(server)
    connection.connection_made(Wire())  # type: ignore[arg-type]
    start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    cut = data[0] if data else 0
    connection.data_received(start + data[1:cut])
    connection.data_received(data[max(1, cut) :])
    assert len(connection.streams) <= server.limits.max_streams
    assert len(connection._fragments) <= server.limits.max_head + 65536
    connection.connection_lost(None)
    assert not connection.streams
    assert server.gathered == 0
    _loop.call_soon(_loop.stop)
    _loop.run_forever()


class Sink:
    """Takes the answers of a stream's requests."""

    def send(self, pieces: Any) -> bool:
        return True

    def streams(self, call: Any) -> None: ...

    def done(self, call: Any) -> None: ...


def answers(data: bytes) -> None:
    """What a model process may answer to a request of a stream, in pieces."""
    cut = data[0] if data else 0
    for headers in (stream_infer.STREAMED, b""):
        call = stream_infer.StreamedCall(Sink(), None, b"")  # type: ignore[arg-type]
        call.start(200, headers)
        call.write(data[1:cut])
        call.write(data[max(1, cut) :])
        call.end(b"grpc-status: 0\r\n")
        assert call.state >= 2


TARGETS: dict[str, Callable[[bytes], None]] = {
    f.__name__: f for f in (protobuf, message, binary_header, frames, answers)
}

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()
