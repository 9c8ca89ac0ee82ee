"""A connection to an upstream: requests out, responses in, one at a time.

The counterpart of `connection`: the common case is a whole response in one read, its head known. Whatever
could be read in two ways is an error, and bytes that nobody asked for end the connection.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, cast

from penstock.http.chunked import ChunkedDecoder
from penstock.http.client_exchange import ClientExchange, ResponseSink, UpstreamError
from penstock.http.head import (
    CHUNKED,
    BadRequest,
    BadResponse,
    ResponseHead,
    check_partial_head,
)
from penstock.http.incoming import Buffer, flat

if TYPE_CHECKING:
    from penstock.http.client import Upstream

#: Interim responses (1xx) of one exchange.
MAX_INTERIM: Final = 16
#: Up to this size a request is one write, which a Unix socket's receiver gets in one piece.
ONE_PIECE_BYTES: Final = 32 * 1024

# What a connection reads.
_IDLE, _HEAD, _BODY, _CLOSED = range(4)


class UpstreamConnection(asyncio.Protocol):
    """One connection; at most one exchange on it at a time."""

    __slots__ = (
        "_buffer", "_decoder", "_exchange", "_find", "_head", "_interim", "_left", "_owner", "_paused",
        "_state", "_unix", "idle_since", "transport", "write_paused",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, owner: Upstream) -> None:
        self._owner = owner
        self._find = owner.heads.find
        self._unix = owner.address.path is not None
        self._exchange: ClientExchange | None = None
        self._state = _IDLE
        self._buffer: bytearray | None = None
        self._decoder: ChunkedDecoder | None = None
        self._head: ResponseHead | None = None
        self._left = 0
        self._interim = 0
        self._paused = False
        self.write_paused = False
        self.idle_since = 0.0

    # -- requests ---------------------------------------------------------------------------------

    def begin(self, exchange: ClientExchange, pieces: tuple[Buffer, ...] | bytes) -> None:
        """Send a request, or the first part of one."""
        self.expect(exchange)
        if type(pieces) is bytes:
            self.transport.write(pieces)
        else:
            self.write_all(cast("tuple[Buffer, ...]", pieces))

    def expect(self, exchange: ClientExchange) -> None:
        """What is read next is the answer to that."""
        self._exchange = exchange
        exchange._connection = self
        self._state = _HEAD
        self._interim = 0

    def write_all(self, pieces: Iterable[Buffer]) -> None:
        if self._owner.vectored:
            self.transport.writelines(pieces)
        else:
            for piece in pieces:
                self.transport.write(flat(piece))

    # -- the transport's calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._owner.made(self)
        self.transport.set_write_buffer_limits(high=self._owner.limits.write_high_water)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            buffer = self._buffer
            if buffer is not None:
                start = len(buffer)
                buffer += data
                if buffer.find(b"\r\n\r\n", max(0, start - 3)) < 0:
                    try:
                        check_partial_head(buffer, start, self._owner.limits)
                    except BadRequest as exc:
                        self._fail(exc.message)
                    return
                self._buffer = None
                data = bytes(buffer)
            self._read_head(data)
        elif state == _BODY:
            self._read_body(data)
        elif state == _IDLE:
            # Nobody asked: a 408 before closing, or a response too many. Either way not to be trusted.
            self._owner.discard(self)
            self.drop()

    def _read_head(self, data: bytes) -> None:
        found = data.find(b"\r\n\r\n")
        if found < 0:
            try:
                check_partial_head(data, 0, self._owner.limits)
            except BadRequest as exc:
                self._fail(exc.message)
            else:
                self._buffer = bytearray(data)
            return
        end = found + 4
        raw = data[:end]
        head = self._find(raw)
        if head is None:
            try:
                head = self._owner.heads.add(raw)
            except BadResponse as exc:
                self._fail(str(exc))
                return
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 - this state has one
        status = head.status
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                self._fail(f"an interim response {status} was not asked for")
            elif len(data) > end:
                self._read_head(data[end:])
            return
        exchange.status = status
        length = 0 if exchange.method == "HEAD" else head.content_length
        size = len(data)
        if length == size - end or not length:
            # The common case: all of it is here.
            sink = self._finished(exchange, head, extra=length != size - end)
            sink.on_response(head, data[end : end + length])
            return
        if 0 < length < size - end:
            sink = self._finished(exchange, head, extra=True)
            sink.on_response(head, data[end : end + length])
            return
        self._state = _BODY
        self._head = head
        self._left = length
        if length == CHUNKED:
            self._decoder = ChunkedDecoder(self._owner.response_limits)
            if size > end:
                self._chunked_head(exchange, head, data[end:])
                return
        exchange.sink.on_response(head, None)
        if size > end and not exchange.done:
            self._read_body(data[end:])

    def _chunked_head(self, exchange: ClientExchange, head: ResponseHead, rest: bytes) -> None:
        """A chunked response whose first bytes came with its head: often that is all of it."""
        assert self._decoder is not None  # noqa: S101 - set by the caller
        try:
            pieces, end = self._decoder.feed(rest)
        except BadRequest as exc:
            self._fail(exc.message)
            return
        sink = exchange.sink
        if end >= 0:
            self._finished(exchange, head, extra=end != len(rest))
            sink.on_response(head, b"".join(pieces))
            return
        sink.on_response(head, None)
        for piece in pieces:
            if exchange.done:
                return
            sink.on_data(piece)

    def _read_body(self, data: bytes) -> None:
        exchange = self._exchange
        head = self._head
        assert exchange is not None  # noqa: S101 - this state has both
        assert head is not None  # noqa: S101
        sink = exchange.sink
        left = self._left
        if left >= 0:
            size = len(data)
            if size < left:
                self._left = left - size
                sink.on_data(data)
                return
            sink.on_data(data if size == left else memoryview(data)[:left])
            if not exchange.done:
                self._finished(exchange, head, extra=size != left)
                sink.on_end()
            return
        decoder = self._decoder
        if decoder is None:
            sink.on_data(data)
            return
        try:
            pieces, end = decoder.feed(data)
        except BadRequest as exc:
            self._fail(exc.message)
            return
        for piece in pieces:
            sink.on_data(piece)
            if exchange.done:
                return
        if end >= 0:
            self._finished(exchange, head, extra=end != len(data))
            sink.on_end()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)
        self.ended(exc)

    def ended(self, exc: Exception | None = None) -> None:
        """Nothing more will be read."""
        state = self._state
        self._state = _CLOSED
        exchange, self._exchange = self._exchange, None
        if exchange is None or exchange.done:
            return
        sink = exchange.finish()
        if state == _BODY and self._left < 0 and self._decoder is None and exc is None:
            sink.on_end()  # the body was to last until the connection closed
            return
        if self._owner.on_lost is not None:
            self._owner.on_lost()
        if state == _HEAD and self._buffer is None and not exchange.status and not self._interim:
            unread = self._unix and 0 <= exchange.size <= ONE_PIECE_BYTES and _unread(exc)
            sink.on_error(
                UpstreamError(
                    "idle-closed" if exchange.reused else "response",
                    "the connection was closed before the request was read"
                    if unread
                    else "the connection was closed before an answer",
                    retryable=unread,
                )
            )
            return
        sink.on_error(UpstreamError("response", "the connection was closed within the answer"))

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        exchange = self._exchange
        if exchange is not None and not exchange.done and exchange.on_drain is not None:
            exchange.on_drain()

    # -- ends -------------------------------------------------------------------------------------

    def _finished(
        self, exchange: ClientExchange, head: ResponseHead, *, extra: bool
    ) -> ResponseSink:
        """The response is complete: back to the pool, unless something speaks against it."""
        sink = exchange.finish()
        self._exchange = None
        self._head = None
        self._decoder = None
        if self._paused:
            self.resume()
        # Bytes behind the response would be taken for the answer to the next request.
        whole = exchange.sent and (
            0 <= exchange.size <= ONE_PIECE_BYTES or not self.transport.get_write_buffer_size()
        )
        if head.keep_alive and whole and not extra and self._owner.keep(self):
            self._state = _IDLE
        else:
            self.drop()
        return sink

    def _closed(self) -> None:
        """Take no notice of what is still read."""
        self._state = _CLOSED
        self._exchange = None

    def _fail(self, message: str) -> None:
        exchange, self._exchange = self._exchange, None
        self.drop()
        if exchange is not None and not exchange.done:
            exchange.finish().on_error(UpstreamError("response", message))

    def drop(self) -> None:
        """Close, whatever is under way."""
        self._closed()
        self.transport.abort()

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()


def _unread(exc: Exception | None) -> bool:
    """Whether a Unix socket's end means that the peer had not read what was sent.

    Linux gives ECONNRESET when a peer closes with unread bytes in its queue, and EPIPE to a write after
    the peer closed; a peer that had read everything gives a plain end of file.
    """
    return isinstance(exc, OSError) and exc.errno in (errno.ECONNRESET, errno.EPIPE)
