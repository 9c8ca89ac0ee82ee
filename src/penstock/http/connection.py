"""A client's connection: bytes in, exchanges out, one at a time and in order.

The common case is one call: a whole request in one read, its head known, so `data_received` cuts the body
off, calls the handler, and the handler's answer is one write. Requests that arrive behind one under way
wait in a bounded buffer. Nothing here keeps a timer: the server's sweep looks at `progress` and at the
state, and calls `check`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.http.exchange import ABORTED, ENDED, OPEN, Exchange, error_response
from penstock.http.head import BadRequest, RequestHead, check_partial_head, status_line
from penstock.http.held import Held
from penstock.http.incoming import Buffer, IncomingBody, flat
from penstock.http.stall import WriteStall

if TYPE_CHECKING:
    from penstock.http.incoming import _DirectReader
    from penstock.http.server import HttpServer

logger = logging.getLogger(__name__)

# What the connection waits for.
HEAD: Final = 0  #: a request's head; `buffer` has the part that came
BODY: Final = 1  #: the rest of a request's body
BUSY: Final = 2  #: the response to a request that is all here
PENDING: Final = 3  #: its turn, to read requests that are in `buffer`
DISCARD: Final = 4  #: the rest of a body that nobody wants; the response is out
LINGER: Final = 5  #: the client to close, after the last response
CLOSED: Final = 6

# Why reading is paused; any of them is enough.
_BY_USER, _UNCLAIMED, _PIPELINE, _WRITE = 1, 2, 4, 8

#: Body bytes worth reading to the end to keep a connection whose request was answered early.
DISCARD_BYTES: Final = 64 * 1024

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Held):
    """The protocol of one accepted connection."""

    __slots__ = (
        "_buffer", "_continued", "_find", "_handler", "_incoming", "_paused", "_seen", "_seen_at",
        "_stall", "closing", "exchange", "progress", "scheme", "server", "state",
        "transport", "write_paused",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self._handler = server.handler
        self._find = server.heads.find
        self.scheme = server.scheme
        self.state = HEAD
        self.exchange: Exchange | None = None
        #: Counts whatever a sweep should take for progress.
        self.progress = 0
        self._seen = -1
        self._seen_at = 0.0
        self._stall = WriteStall()
        self._buffer: bytearray | None = None
        self._incoming: IncomingBody | None = None
        self._paused = 0
        self._continued = False
        self.write_paused = False
        #: The response under way was announced as the last one.
        self.closing = False

    # -- the transport's calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self.server.limits.write_high_water)
        if not self.server.admit(self):
            # No lingering: what is over the limit must not add up.
            self.state = CLOSED
            refusal = BadRequest(503, "There are too many connections.")
            self.transport.write(error_response(refusal, b"connection: close\r\n"))
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == HEAD:
            buffer = self._buffer
            if buffer is None:
                self._consume(data)
            else:
                self._continue_head(buffer, data)
        elif state in (BODY, DISCARD):
            self._body_data(data)
        elif state in (BUSY, PENDING):
            if self._buffer is None:
                self._buffer = bytearray(data)
            else:
                self._buffer += data
            if len(self._buffer) > self.server.limits.max_pipeline_bytes:
                self._pause(_PIPELINE)

    def eof_received(self) -> bool:
        state = self.state
        if state == BUSY and self.server.half_close:
            self.closing = True
            return True
        if state == BODY:
            self.refuse(BadRequest(400, "The body ends before its announced length."))
            return False
        self.state = CLOSED
        self._lost(ConnectionResetError("the client closed its connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self._buffer = None
        self.server.forget(self)
        self._lost(exc or ConnectionResetError("the client closed its connection"))

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self.progress += 1
        exchange = self.exchange
        if exchange is not None:
            if exchange.on_drain is not None:
                exchange.on_drain()
        elif self.state == PENDING:
            self._pump()

    # -- requests ---------------------------------------------------------------------------------

    def _consume(self, data: bytes) -> None:
        """Read requests off the front of `data`, as long as each is answered at once."""
        pos = 0
        size = len(data)
        while True:
            found = data.find(b"\r\n\r\n", pos)
            if found < 0:
                self._begin_head(data[pos:] if pos else data)
                return
            end = found + 4
            raw = data[pos:end]
            head = self._find(raw)
            if head is None:
                try:
                    head = self.server.heads.add(raw)
                except BadRequest as exc:
                    self.refuse(exc)
                    return
            pos = end + head.content_length
            if pos > size or pos < end:
                self._begin_body(head, data[end:])
                return
            exchange = self.exchange = Exchange(self, head, data[end:pos])
            self.state = BUSY
            self.progress += 1
            try:
                self._handler(exchange)
            except Exception:
                logger.exception("the handler of %r failed", head)
                exchange.fault()
            if self.state != HEAD:
                if pos < size and self.state <= PENDING:
                    self._keep(data[pos:])
                return
            if pos == size:
                return

    def _keep(self, data: bytes) -> None:
        """Put bytes that came behind the request under way in front of later ones."""
        if data:
            buffer = bytearray(data)
            if self._buffer is not None:
                buffer += self._buffer
            self._buffer = buffer
            if len(buffer) > self.server.limits.max_pipeline_bytes:
                self._pause(_PIPELINE)

    def _begin_head(self, part: bytes) -> None:
        if not part:
            return
        try:
            check_partial_head(part, 0, self.server.limits)
        except BadRequest as exc:
            self.refuse(exc)
            return
        self._buffer = bytearray(part)
        self.progress += 1
        self.server.hurry()

    def _continue_head(self, buffer: bytearray, data: bytes) -> None:
        start = len(buffer)
        buffer += data
        if buffer.find(b"\r\n\r\n", max(0, start - 3)) >= 0:
            self._buffer = None
            self._consume(bytes(buffer))
            return
        try:
            check_partial_head(buffer, start, self.server.limits)
        except BadRequest as exc:
            self.refuse(exc)

    def _pump(self) -> None:
        """Take up the requests that waited."""
        if self.state != PENDING or self.write_paused:
            return
        self.state = HEAD
        buffer = self._buffer
        self._buffer = None
        if buffer is not None:
            self._consume(bytes(buffer))
        self._pumped()

    def _pumped(self) -> None:
        if self.state != PENDING:
            self._resume(_WRITE)
            if self._buffer is None or self.state == HEAD:
                self._resume(_PIPELINE)

    # -- bodies -----------------------------------------------------------------------------------

    def _begin_body(self, head: RequestHead, rest: bytes) -> None:
        exchange = self.exchange = Exchange(self, head, None)
        incoming = self._incoming = exchange._incoming = IncomingBody(
            self, head.content_length, self.server.limits
        )
        self.state = BODY
        self._continued = False
        self.progress += 1
        self.server.hurry()
        if not self.server.streaming:
            incoming.touched = bool(rest)
            exchange.gather(self._call_handler)
            if rest:
                self._body_data(rest)
            return
        after = None
        if rest:
            try:
                after = incoming.feed(rest)
            except BadRequest as exc:
                self.refuse(exc)
                return
            if after is not None:
                self._complete(incoming, after)
        self._call_handler(exchange)
        if self.state == BODY and not incoming.claimed:
            self._pause(_UNCLAIMED)

    def _call_handler(self, exchange: Exchange) -> None:
        try:
            self._handler(exchange)
        except Exception:
            logger.exception("the handler of %r failed", exchange.head)
            exchange.fault()

    def _body_data(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None:
            return
        self.progress += 1
        try:
            after = incoming.feed(data)
        except BadRequest as exc:
            self.refuse(exc)
            return
        except Exception:
            logger.exception("the receiver of a request body failed")
            if self.exchange is not None:
                self.exchange.fault()
            return
        if after is not None and self._incoming is incoming:
            self._complete(incoming, after)

    def body_progress(self, complete: bool) -> None:
        """A direct read brought bytes of the body."""
        self.progress += 1
        if complete:
            self.transport.set_protocol(self)
            incoming = self._incoming
            if incoming is not None:
                self._complete(incoming, b"")

    def _complete(self, incoming: IncomingBody, after: bytes) -> None:
        """The body is all here."""
        self._incoming = None
        self._keep(after)
        self._resume(_BY_USER)
        if self.state == DISCARD:
            self._next()
            return
        exchange = self.exchange
        if exchange is None:
            return
        self.state = BUSY
        try:
            incoming.finish(exchange)
        except Exception:
            logger.exception("the receiver of a request body failed")
            if self.exchange is not None:
                self.exchange.fault()

    def claim(self, incoming: IncomingBody) -> None:
        """Somebody wants the body: tell the client to send it, and read."""
        if incoming.claimed:
            raise RuntimeError("this body has a receiver already")
        exchange = self.exchange
        if (
            exchange is not None
            and exchange.head.expect_continue
            and not self._continued
            and not incoming.touched
            and exchange.state == OPEN
        ):
            self._continued = True
            self.transport.write(_CONTINUE)
        self._resume(_UNCLAIMED)

    def read_into(self, reader: _DirectReader) -> None:
        """Let the transport fill a body's buffer by itself."""
        reader.connection = self
        self.transport.set_protocol(reader)

    # -- reading on and off -----------------------------------------------------------------------

    def _pause(self, reason: int) -> None:
        if not self._paused:
            self.transport.pause_reading()
        self._paused |= reason

    def _resume(self, reason: int) -> None:
        paused = self._paused
        if paused & reason:
            self._paused = paused & ~reason
            if not self._paused:
                self.progress += 1
                self.transport.resume_reading()

    def pause_user(self, exchange: Exchange) -> None:
        if exchange is self.exchange and self.state == BODY:
            self._pause(_BY_USER)

    def resume_user(self, exchange: Exchange) -> None:
        if exchange is self.exchange:
            self._resume(_BY_USER)

    # -- responses --------------------------------------------------------------------------------

    def keeps(self, head: RequestHead) -> bool:
        """Whether the connection stays open after the response that is being made now."""
        if self.state == BUSY:
            return head.keep_alive and not self.server.draining and not self.closing
        return self.may_keep(head) and self._can_discard()

    def may_keep(self, head: RequestHead) -> bool:
        """The same, for a response that ends later, when the body may be here."""
        return head.keep_alive and not self.server.draining and not self.closing

    def _can_discard(self) -> bool:
        incoming = self._incoming
        exchange = self.exchange
        if incoming is None or exchange is None:
            return False
        if exchange.head.expect_continue and not self._continued and not incoming.touched:
            return False  # the client may send the body or not; nobody can tell which
        return 0 <= incoming.missing <= DISCARD_BYTES

    def write_all(self, pieces: Sequence[Buffer]) -> None:
        """Write several buffers with one system call where the loop can."""
        if self.server.vectored:
            self.transport.writelines(pieces)
        else:
            for piece in pieces:
                self.transport.write(flat(piece))

    def finished(self, keep: bool) -> None:
        """The response is out."""
        self.progress += 1
        exchange = self.exchange
        if exchange is not None:
            # Callbacks are most often methods of what holds the exchange: a cycle per request, if left.
            exchange.on_abort = exchange.on_drain = None
        if self.state == BUSY:
            self.exchange = None
            if not keep:
                self._close()
            elif self._buffer is None and not self._paused and not self.write_paused:
                self.state = HEAD
            else:
                self._next()
        elif self.state == BODY:
            keep = keep and self._can_discard()
            self.exchange = None
            incoming = self._incoming
            if incoming is not None:
                incoming.detach()
            if keep:
                self.state = DISCARD
                self._resume(_BY_USER | _UNCLAIMED)
            else:
                self._incoming = None
                self._linger()

    def _next(self) -> None:
        """Go on with what waits, if anything does, from the loop: a handler may be on the stack."""
        if self.server.draining:
            self._close()
            return
        self.state = PENDING
        if self.write_paused:
            # A client that sends and does not read gets no further answers for now.
            self._pause(_WRITE)
        else:
            self.server.loop.call_soon(self._pump)

    def refuse(self, exc: BadRequest) -> None:
        """Answer for the handler, and close."""
        exchange = self.exchange
        if exchange is not None and exchange.state != OPEN:
            self.break_off_from_outside(exc)
            return
        self.exchange = None
        self.transport.write(error_response(exc, b"connection: close\r\n"))
        incoming, self._incoming = self._incoming, None
        self._linger()
        if exchange is not None:
            self._tell(exchange, incoming, exc)

    def break_off(self, *, reset: bool = False) -> None:
        """Close without finishing what was being said, by the handler's will."""
        if reset:
            # A body that lasts until the connection closes would look whole after a plain close.
            sock: Any = self.transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        exchange, self.exchange = self.exchange, None
        incoming, self._incoming = self._incoming, None
        self.state = CLOSED
        self.transport.abort()
        if exchange is not None:
            exchange.state = ABORTED
            exchange.on_abort = exchange.on_drain = None
        if incoming is not None:
            incoming.detach()

    def _lost(self, exc: Exception) -> None:
        """Tell the exchange under way that its client is gone."""
        exchange, self.exchange = self.exchange, None
        incoming, self._incoming = self._incoming, None
        if exchange is not None:
            self._tell(exchange, incoming, exc)

    def _tell(self, exchange: Exchange, incoming: IncomingBody | None, exc: Exception) -> None:
        """The exchange came to its end from outside: its handler's callbacks, each once."""
        exchange.state = ABORTED
        on_abort = exchange.on_abort
        exchange.on_abort = exchange.on_drain = None
        try:
            if incoming is not None:
                incoming.abort(exc)
        except Exception:
            logger.exception("on_abort of the body of %r failed", exchange.head)
        try:
            if on_abort is not None:
                on_abort()
        except Exception:
            logger.exception("on_abort of %r failed", exchange.head)

    def hand_over(self, exchange: Exchange, lines: bytes, protocol: Held) -> None:
        """Another protocol has the connection from here on; what it says first comes after a 101."""
        if exchange is not self.exchange or self.state != BUSY or self._buffer is not None:
            raise RuntimeError("this connection cannot be upgraded now")
        exchange.state = ENDED
        exchange.on_abort = exchange.on_drain = None
        self.exchange = None
        self.state = CLOSED
        transport = self.transport
        transport.write(status_line(101) + b"connection: upgrade\r\n" + lines + b"\r\n")
        self.server.connections.add(protocol)
        self.server.connections.discard(self)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    # -- ends -------------------------------------------------------------------------------------

    def _close(self) -> None:
        if self._buffer is not None or self._paused:
            self._linger()  # the client is still sending: a plain close would reset what it has to read
        else:
            self.state = CLOSED
            self.transport.close()

    def _linger(self) -> None:
        transport = self.transport
        self._buffer = None
        self.progress += 1
        if transport.is_closing():
            self.state = CLOSED
            return
        self.state = LINGER
        self.server.hurry()
        if transport.get_protocol() is not self:
            self.transport.set_protocol(self)
        self._resume(self._paused)
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:  # asyncio's transport, when the client has reset the connection
                transport.abort()

    def close_if_idle(self) -> None:
        """For a drain."""
        if self.state == HEAD and self._buffer is None:
            self._close()

    def check(self, now: float) -> bool:
        """Close what has waited too long. Called by the server's sweep. True: nothing is under way."""
        limits = self.server.limits
        waiting = self.transport.get_write_buffer_size()
        if self._stall.seconds(waiting, now) >= limits.write_timeout_s:
            logger.info("a client does not read its response; its connection is closed")
            self.break_off_from_outside()
            return False
        if self._seen != self.progress:
            self._seen = self.progress
            self._seen_at = now
            return False
        quiet = now - self._seen_at
        state = self.state
        if state == HEAD:
            if self._buffer is None:
                if quiet < limits.idle_timeout_s:
                    return not waiting
                self._close()
            elif quiet >= limits.head_timeout_s:
                self.refuse(BadRequest(408, "The request head took too long."))
        elif state == BODY:
            if quiet >= limits.body_timeout_s and not self._paused:
                self.refuse(BadRequest(408, "The request body took too long."))
        elif state == DISCARD:
            if quiet >= limits.body_timeout_s:
                self.transport.abort()
        elif state == LINGER and quiet >= limits.linger_s and not waiting:
            self.transport.close()
        return False

    def break_off_from_outside(self, exc: Exception | None = None) -> None:
        """Break the connection for a reason that the handler does not know of."""
        self.state = CLOSED
        self.transport.abort()
        self._lost(exc or ConnectionAbortedError("the connection was broken off"))

    def peer(self) -> str:
        name = self.transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""
