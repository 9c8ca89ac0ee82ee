"""Calls with many messages: a client's stream is cut into messages, which are taken in order, some at a time.

The next message is taken when few enough are under way (one, unless told otherwise); a client that does not
read its answers is not read from. What reflection and ModelStreamInfer (see `stream_infer`) have in common.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from penstock.errors import (
    DeadlineExceeded,
    Internal,
    InvalidInput,
    PenstockError,
    TooLarge,
    Unavailable,
)
from penstock.http.exchange import OPEN, STARTED
from penstock.protocols.grpc.wire import CONTENT_TYPE, OK, decompress, error_lines, timeout_s

if TYPE_CHECKING:
    from penstock.http.h2.exchange import H2Exchange
    from penstock.http.incoming import Buffer

logger = logging.getLogger(__name__)


class MessageStream:
    """Calls `take(stream, message)` for each message, which is under way until `done()`.

    `at_once` messages may be; and a message waits while `ready(message)` is false, to be asked for again
    when another is done. A message has `most` bytes at most. `gone` is called when the client has gone or its
    time is up, `room` when it has read what it was sent.
    """

    def __init__(
        self,
        exchange: H2Exchange,
        take: Callable[[MessageStream, bytes], None],
        most: int,
        *,
        at_once: int = 1,
        ready: Callable[[bytes], bool] | None = None,
        gone: Callable[[], None] | None = None,
        room: Callable[[], None] | None = None,
    ) -> None:
        self.exchange = exchange
        self._take = take
        self._most = most
        self._at_once = at_once
        self._ready = ready
        self._gone = gone
        self._room = room
        self._buffer = bytearray()
        self._under_way = 0
        #: A message that is not ready to be taken.
        self._held: bytes | None = None
        self._blocked = False
        self._cutting = False
        self._ended = False
        self._closed = False
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        limit_s = timeout_s(exchange.timeout)
        if limit_s is not None:
            self._timer = asyncio.get_running_loop().call_later(limit_s, self._late, limit_s)
        exchange.on_abort = self._aborted
        exchange.on_drain = self._drained
        exchange.on_goaway = self._stop
        exchange.receive(self)

    # -- the request (penstock.http's BodySink)

    def on_data(self, data: Buffer) -> None:
        self._buffer += data
        if self._full():
            self.exchange.pause_reading()
        self._next()

    def _full(self) -> bool:
        return self._blocked or self._held is not None or self._under_way >= self._at_once

    def on_end(self) -> None:
        self._ended = True
        self._next()

    def on_abort(self, exc: Exception) -> None:
        self._close()

    def _aborted(self) -> None:
        self._close()
        self._buffer.clear()
        self._held = None
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _late(self, limit_s: float) -> None:
        """The caller's deadline for the whole stream has passed."""
        self.fail(DeadlineExceeded(f"The stream was not over within {limit_s:g} s."))
        self._aborted()

    def _close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _drained(self) -> None:
        self._blocked = False
        if self._room is not None:
            self._room()
        self._next()

    def _stop(self) -> None:
        """The server is being stopped: what is under way is the last."""
        self._stopping = True
        self._next()

    def _next(self) -> None:
        if self._cutting:
            return
        self._cutting = True
        try:
            while not (self._blocked or self._closed or self._stopping):
                if self._under_way >= self._at_once:
                    break
                message = self._held if self._held is not None else self._cut()
                if message is None:
                    break
                if self._ready is not None and not self._ready(message):
                    self._held = message
                    break
                self._held = None
                self._under_way += 1
                self._take(self, message)
        except PenstockError as error:
            self.fail(error)
        except Exception:
            logger.exception("a stream of messages failed")
            self.fail(Internal("The server failed on this call; its log has the details."))
        finally:
            self._cutting = False
        if self._blocked or self._closed:
            return
        if self._under_way:
            if not (self._ended or self._stopping or self._full()):
                self.exchange.resume_reading()
            return
        rest = self._buffer or self._held is not None
        if self._stopping and (rest or not self._ended):
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

    def send(self, pieces: Sequence[Buffer]) -> bool:
        """Send one message. False asks to wait for `room`; it is taken either way."""
        if self._closed:
            return True
        exchange = self.exchange
        if exchange.state == OPEN:
            exchange.start(200, CONTENT_TYPE)
        size = sum([len(p) for p in pieces])
        if not exchange.write(b"".join((b"\0" + size.to_bytes(4, "big"), *pieces))):
            self._blocked = True
        return not self._blocked

    def done(self) -> None:
        """A message is dealt with."""
        self._under_way -= 1
        self._next()

    def finish(self, trailers: bytes = OK) -> None:
        """End the call."""
        if self._closed:
            return
        self._close()
        exchange = self.exchange
        if exchange.state == OPEN:
            exchange.send(200, CONTENT_TYPE, b"", trailers)
        elif exchange.state == STARTED:
            exchange.end(trailers)

    def fail(self, error: PenstockError) -> None:
        self.finish(error_lines(error))
