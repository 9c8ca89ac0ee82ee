"""Calls with many messages, served one message at a time and in order.

`MessageStream` cuts a client's stream into messages. `StreamInfer` answers each ModelInferRequest of a
ModelStreamInfer as if it had come alone: it hands a `StreamedCall`, which looks like an exchange, to the
same handler that takes ModelInfer. So queueing, routing, retries and metrics exist once, and a request
that fails is an answer with an `error_message`, after which the stream goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import Internal, InvalidInput, PenstockError, TooLarge, Unavailable
from penstock.http.exchange import ABORTED, ENDED, OPEN, STARTED
from penstock.http.head import RequestHead
from penstock.protocols.grpc.wire import (
    CONTENT_TYPE,
    OK,
    decompress,
    error_lines,
    read_status,
    reply_error,
    varint,
)

if TYPE_CHECKING:
    from penstock.http.h2.exchange import H2Exchange
    from penstock.http.incoming import Buffer

logger = logging.getLogger(__name__)

INFER_PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
_UNARY: Final = "grpc-unary-head"


class MessageStream:
    """Calls `take(stream, message)` for each message; the next comes after `done()`."""

    def __init__(
        self, exchange: H2Exchange, take: Callable[[MessageStream, bytes], None], most: int
    ) -> None:
        self.exchange = exchange
        self._take = take
        self._most = most
        self._buffer = bytearray()
        self._busy = False
        self._blocked = False
        self._cutting = False
        self._ended = False
        self._closed = False
        self._stopping = False
        self.on_gone: Callable[[], None] | None = None
        exchange.on_abort = self._aborted
        exchange.on_drain = self._drained
        exchange.on_goaway = self._stop
        exchange.receive(self)

    # -- the request (penstock.http's BodySink)

    def on_data(self, data: Buffer) -> None:
        self._buffer += data
        if self._busy or self._blocked:
            self.exchange.pause_reading()
        self._next()

    def on_end(self) -> None:
        self._ended = True
        self._next()

    def on_abort(self, exc: Exception) -> None:
        self._closed = True

    def _aborted(self) -> None:
        self._closed = True
        self._buffer.clear()
        if self.on_gone is not None:
            self.on_gone()

    def _drained(self) -> None:
        self._blocked = False
        self._next()

    def _stop(self) -> None:
        """The server is being stopped: the message under way is the last."""
        self._stopping = True
        self._next()

    def _next(self) -> None:
        if self._cutting:
            return
        self._cutting = True
        try:
            while not (self._busy or self._blocked or self._closed or self._stopping):
                message = self._cut()
                if message is None:
                    break
                self._busy = True
                self._take(self, message)
        except PenstockError as error:
            self.fail(error)
        except Exception:
            logger.exception("a stream of messages failed")
            self.fail(Internal("The server failed on this call; its log has the details."))
        finally:
            self._cutting = False
        if self._busy or self._blocked or self._closed:
            return
        if self._stopping and not (self._ended and not self._buffer):
            self.fail(Unavailable("The server is being stopped.", hint="Open the stream again."))
        elif not self._ended:
            self.exchange.resume_reading()
        elif self._buffer:
            self.fail(InvalidInput("The last message is cut off."))
        else:
            self.finish()

    def _cut(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 5:
            return None
        length = int.from_bytes(buffer[1:5], "big")
        if length > self._most:
            raise TooLarge(f"A message is over {self._most} bytes.")
        if buffer[0] > 1:
            raise InvalidInput("A message has an unknown flag.")
        if len(buffer) < 5 + length:
            return None
        with memoryview(buffer) as view:
            message = bytes(view[5 : 5 + length])
        if buffer[0]:
            encoding = self.exchange.head.get(b"grpc-encoding")
            message = decompress(message, encoding, self._most)
        del buffer[: 5 + length]
        return message

    # -- the response

    def send(self, pieces: Sequence[Buffer]) -> None:
        """Send one message."""
        if self._closed:
            return
        exchange = self.exchange
        if exchange.state == OPEN:
            exchange.start(200, CONTENT_TYPE)
        size = sum([len(p) for p in pieces])
        if not exchange.write(b"".join((b"\0" + size.to_bytes(4, "big"), *pieces))):
            self._blocked = True

    def done(self) -> None:
        """The message is dealt with."""
        self._busy = False
        self._next()

    def finish(self, trailers: bytes = OK) -> None:
        """End the call."""
        if self._closed:
            return
        self._closed = True
        exchange = self.exchange
        if exchange.state == OPEN:
            exchange.send(200, CONTENT_TYPE, b"", trailers)
        elif exchange.state == STARTED:
            exchange.end(trailers)

    def fail(self, error: PenstockError) -> None:
        self.finish(error_lines(error))


class StreamedCall:
    """One request of a ModelStreamInfer, to a handler that expects an exchange with its whole body."""

    __slots__ = (
        "_pieces", "_stream", "_trailers", "body", "head", "on_abort", "on_drain", "state", "timeout",
    )  # fmt: skip

    def __init__(self, stream: MessageStream, head: RequestHead, message: bytes) -> None:
        self._stream = stream
        self.head = head
        self.body: Buffer = b"\0%b%b" % (len(message).to_bytes(4, "big"), message)
        self.timeout: bytes | None = None
        self.state = OPEN
        self.on_abort: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        self._pieces: list[Buffer] = []
        self._trailers = b""

    scheme = "http"
    peer = ""

    def gather(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def aborted(self) -> None:
        """The stream's client has gone."""
        if self.state < ENDED:
            self.state = ABORTED
            if self.on_abort is not None:
                self.on_abort()

    def send(
        self,
        status: int,
        headers: bytes,
        body: Buffer | Sequence[Buffer] = b"",
        trailers: bytes = b"",
    ) -> None:
        if self.state != OPEN:
            return
        pieces = [body] if isinstance(body, (bytes, bytearray, memoryview)) else list(body)
        self._answer(pieces, trailers)

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        if self.state == OPEN:
            self.state = STARTED

    def write(self, data: Buffer) -> bool:
        if self.state == STARTED:
            self._pieces.append(bytes(data))
        return True

    def end(self, trailers: bytes = b"") -> None:
        if self.state == STARTED:
            self._answer(self._pieces, trailers)

    def abort(self) -> None:
        if self.state < ENDED:
            self._error("The answer broke off.")

    def fault(self) -> None:
        if self.state < ENDED:
            self._error("The server failed on this request; its log has the details.")

    def _answer(self, pieces: list[Buffer], trailers: bytes) -> None:
        status, message = read_status(trailers)
        if status:
            self._error(message or f"The status is {status}.")
            return
        self.state = ENDED
        framed = b"".join(pieces)
        inner = memoryview(framed)[5:]
        stream = self._stream
        stream.on_gone = None
        stream.send((b"\x12" + varint(len(inner)), inner))
        stream.done()

    def _error(self, message: str) -> None:
        self.state = ENDED
        text = message.encode()
        stream = self._stream
        stream.on_gone = None
        stream.send((b"\x0a" + varint(len(text)), text))
        stream.done()


def serve_stream_infer(exchange: H2Exchange, handler: Callable[[Any], None], most: int) -> None:
    """Serve a ModelStreamInfer; `handler` takes each of its requests as a ModelInfer."""
    head = exchange.head
    unary = head.memo.get(_UNARY)
    if unary is None:
        unary = head.memo[_UNARY] = _as_unary(head)

    def take(stream: MessageStream, message: bytes) -> None:
        call = StreamedCall(stream, unary, message)
        stream.on_gone = call.aborted
        try:
            handler(call)
        except PenstockError as error:
            reply_error(call, error)

    MessageStream(exchange, take, most)


def _as_unary(head: RequestHead) -> RequestHead:
    """The same head, for a ModelInfer whose message is not compressed."""
    made = RequestHead()
    for name in ("raw", "method", "query", "host", "minor", "keep_alive", "expect_continue"):
        setattr(made, name, getattr(head, name))
    made.target = made.path = INFER_PATH
    made.headers = tuple(
        h for h in head.headers if h[0] not in (b"grpc-encoding", b"content-length")
    )
    made._fields = dict(made.headers)
    made.content_length = -1
    made.memo = {}
    return made
