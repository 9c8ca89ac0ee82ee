"""The server's side of a multiplexed connection: requests in, an exchange for each, responses out together.

What handlers answer within one turn of the loop is written at its end, with one call; the last answer that
is owed goes at once. A response that is not one small piece is cut, and its pieces wait here while the client
says pause, or while the connection is full, so that one long answer neither fills memory nor keeps the
others waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from penstock.http.exchange import ABORTED, ENDED, OPEN, Exchange, error_response, response_pieces
from penstock.http.head import BadRequest, RequestHead
from penstock.http.held import Held
from penstock.http.incoming import Buffer, flat, size_of
from penstock.http.mux.frames import (
    BREAK,
    GOAWAY,
    HEADER_BYTES,
    KIND,
    KIND_BITS,
    LAST,
    NUMBER,
    PAGE_FIELD,
    PART,
    PAUSE,
    PAYLOAD_BYTES,
    PROTOCOL,
    RESUME,
    STREAMS,
    TOGETHER,
    frame,
    pack,
    unpack_from,
)
from penstock.http.mux.outgoing import Outgoing
from penstock.http.mux.page import open_page
from penstock.http.stall import WriteStall

if TYPE_CHECKING:
    import mmap

    from penstock.http.server import HttpServer

logger = logging.getLogger(__name__)


def upgrade(exchange: Exchange, server: HttpServer) -> bool:
    """Answer a request for `frames.PATH`. False: nothing of the kind was asked for."""
    head = exchange.head
    if head.get(b"upgrade") != PROTOCOL:
        return False
    connection = MuxConnection(server, open_page(head.get(PAGE_FIELD)))
    exchange.upgrade(b"upgrade: %b\r\n" % PROTOCOL, connection)
    return True


class MuxConnection(Outgoing, Held):
    """The protocol of a connection that was upgraded."""

    __slots__ = (
        "_find", "_handler", "_page", "_part", "_said_goaway", "_seen", "_seen_at", "_stall", "exchanges",
        "scheme", "server", "write_paused",
    )  # fmt: skip

    def __init__(self, server: HttpServer, page: mmap.mmap | None) -> None:
        super().__init__(server.loop)
        self.server = server
        self.scheme = server.scheme
        self._handler = server.handler
        self._find = server.heads.find
        self._page = page
        #: Requests that are not answered whole, by number.
        self.exchanges: dict[int, MuxExchange] = {}
        self.write_paused = False
        self._part = b""
        self._said_goaway = False
        self._seen = -1
        self._seen_at = 0.0
        self._stall = WriteStall()

    # -- the transport's calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._part:
            data = self._part + data
            self._part = b""
        pos = 0
        size = len(data)
        page = self._page
        exchanges = self.exchanges
        self.progress += 1
        while size - pos >= HEADER_BYTES:
            word, number = unpack_from(data, pos)
            start = pos + HEADER_BYTES
            pos = start + (word >> KIND_BITS)
            if pos > size:
                if pos - start > PAYLOAD_BYTES:
                    return self._broken("a frame is too long")
                self._part = data[start - HEADER_BYTES :]
                self.server.hurry()
                break
            if word & KIND != LAST:
                if not self._control(word & KIND, number):
                    return None
                continue
            if page is not None:
                NUMBER.pack_into(page, 0, number)
            found = data.find(b"\r\n\r\n", start, pos) + 4
            raw = data[start:found]
            head = self._find(raw)
            if head is None:
                try:
                    head = self.server.heads.add(raw)
                except BadRequest as exc:
                    self.later(frame(LAST, number, error_response(exc)))
                    continue
            if head.content_length != pos - found or number in exchanges:
                return self._broken("a request is not of the length that its head says")
            exchange = exchanges[number] = MuxExchange(self, head, data[found:pos], number)
            try:
                self._handler(exchange)
            except Exception:
                logger.exception("the handler of %r failed", head)
                exchange.fault()
        else:
            if pos < size:
                self._part = data[pos:]
                self.server.hurry()
        if len(exchanges) > STREAMS:
            # Pausing would not do: what ends a stream, or lets it go on, comes the same way.
            return self._broken("there are more streams than there may be")
        return None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.forget(self)
        self._out.clear()
        if self._page is not None:
            self._page.close()
            self._page = None
        self._lose()

    def pause_writing(self) -> None:
        self.write_paused = True
        # Requests whose answers nobody takes would only add up.
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        self.progress += 1
        if not self.transport.is_closing():
            self.transport.resume_reading()
        for exchange in tuple(self.exchanges.values()):
            if self.write_paused:
                return
            exchange.go_on()

    # -- requests ---------------------------------------------------------------------------------

    def _control(self, kind: int, number: int) -> bool:
        """A frame that is no request. False: the connection is broken off."""
        exchange = self.exchanges.get(number)
        if kind == BREAK:
            if exchange is not None:
                del self.exchanges[number]
                exchange.lost()
        elif kind in (PAUSE, RESUME):
            # There is a stream: nobody pauses a response of which nothing has come.
            if exchange is not None and exchange._stream is not None:
                exchange._stream.held = kind == PAUSE
                exchange.go_on()
        else:
            self._broken("a frame is of an unknown kind")
            return False
        return True

    def _broken(self, why: str) -> None:
        logger.error("a multiplexed connection is broken off: %s", why)
        self.break_off_from_outside()

    # -- responses --------------------------------------------------------------------------------

    def answer(self, number: int, response: Buffer) -> None:
        """A whole response, of at most PAYLOAD_BYTES."""
        exchanges = self.exchanges
        exchanges.pop(number, None)
        out = self._out
        out += (pack(len(response) << KIND_BITS | LAST, number), response)
        if not exchanges or len(out) >= TOGETHER:
            self.flush()
        else:
            self.flush_later()

    def over(self, exchange: MuxExchange) -> None:
        """A response that went out in pieces is complete, or broken off."""
        self.exchanges.pop(exchange.number, None)

    def last_words(self, response: bytes) -> tuple[bytes, int]:
        """What a loop that stands still leaves to be written, `response` to all that have none; how many.

        Called from another thread, after which the process ends.
        """
        waiting = [e.number for e in tuple(self.exchanges.values()) if not e.state]
        frames = [frame(LAST, number, response) for number in waiting]
        return b"".join((*self._out, *frames)), len(waiting)

    # -- what a server asks of its connections ------------------------------------------------------

    def close_if_idle(self) -> None:
        """For a drain. The client closes when it has what it waits for, so nothing on its way is lost."""
        if not self._said_goaway:
            self._said_goaway = True
            self.later(frame(GOAWAY, 0))

    def check(self, now: float) -> bool:
        limits = self.server.limits
        waiting = self.transport.get_write_buffer_size()
        if self._stall.seconds(waiting, now) >= limits.write_timeout_s:
            logger.info("a gateway does not read its responses; the connection is closed")
            self.break_off_from_outside()
            return False
        if self._seen != self.progress:
            self._seen = self.progress
            self._seen_at = now
            return False
        quiet = now - self._seen_at
        if self._part and quiet >= limits.body_timeout_s:
            self._broken("the rest of a frame did not come")
            return False
        if not self.exchanges and quiet >= limits.idle_timeout_s:
            self.close_if_idle()
        return not waiting and not self._part and not self.exchanges

    def break_off_from_outside(self, exc: Exception | None = None) -> None:
        self.transport.abort()
        self._lose()

    def _lose(self) -> None:
        """Nobody waits for anything any more."""
        lost = tuple(self.exchanges.values())
        self.exchanges.clear()
        for exchange in lost:
            exchange.lost()


class MuxExchange(Exchange):
    """A request on a multiplexed connection."""

    __slots__ = ("_mux", "_stream", "number")

    def __init__(
        self, connection: MuxConnection, head: RequestHead, body: bytes, number: int
    ) -> None:
        # Not by the base's own: this is the hot path, and every call counts.
        self._mux = connection
        self.number = number
        self.head = head
        self.body = body
        self.state = OPEN
        self.on_abort = self.on_drain = None
        #: What a response in pieces is written to, for the base too.
        self._stream: _Stream | None = None

    @property
    def scheme(self) -> str:
        return self._mux.scheme

    @property
    def peer(self) -> str:
        return ""

    def send(self, status: int, headers: bytes, body: Buffer | Sequence[Buffer] = b"") -> None:
        if self.state:
            return self._late()
        self._whole(response_pieces(self.head, status, headers, body, True))
        return None

    def send_raw(self, data: bytes | Sequence[Buffer], *, close: bool = False) -> None:
        if self.state:
            return self._late()
        self._whole((data,) if type(data) is bytes else cast("Sequence[Buffer]", data))
        return None

    def _whole(self, pieces: Sequence[Buffer]) -> None:
        first = pieces[0]
        if len(pieces) > 1 and sum(map(size_of, pieces)) <= PAYLOAD_BYTES:
            first = b"".join(pieces)
        elif len(pieces) > 1 or len(first) > PAYLOAD_BYTES:
            self._in_pieces(pieces)
            return
        self.state = ENDED
        self.on_abort = self.on_drain = None
        self._mux.answer(self.number, first)

    def _in_pieces(self, pieces: Sequence[Buffer]) -> None:
        stream = self._begin()
        for piece in pieces:
            stream.write(flat(piece))
        self.state = ENDED
        stream.finished(True)

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        if not self.state:
            self._begin()
        super().start(status, headers, length=length)

    def upgrade(self, lines: bytes, protocol: object) -> None:
        raise RuntimeError("a connection that requests share cannot be upgraded")

    def _begin(self) -> _Stream:
        stream = self._stream = _Stream(self._mux, self)
        self._connection = stream  # type: ignore[assignment]
        return stream

    def abort(self) -> None:
        if self.state < ENDED:
            self.state = ABORTED
            self.on_abort = self.on_drain = None
            if self._stream is not None:
                self._stream.drop()
            mux = self._mux
            mux.over(self)
            mux.later(frame(BREAK, self.number))

    def go_on(self) -> None:
        """Write what waits, if any does."""
        stream = self._stream
        if stream is not None:
            stream.pump()
            if self.on_drain is not None and not stream.write_paused:
                self.on_drain()

    def lost(self) -> None:
        """Nobody waits for the response any more."""
        if self._stream is not None:
            self._stream.drop()
        if self.state >= ENDED:
            return
        self.state = ABORTED
        on_abort = self.on_abort
        self.on_abort = self.on_drain = None
        try:
            if on_abort is not None:
                on_abort()
        except Exception:
            logger.exception("on_abort of %r failed", self.head)


class _Stream:
    """What a response in pieces is written to: for its exchange, a connection and its transport in one."""

    __slots__ = ("_exchange", "_mux", "_pieces", "_whole", "closing", "held", "progress")

    def __init__(self, mux: MuxConnection, exchange: MuxExchange) -> None:
        self._mux = mux
        self._exchange: MuxExchange | None = exchange
        #: What waits for the client, or for the connection.
        self._pieces: deque[Buffer] = deque()
        self._whole = False
        #: The client takes no more for now.
        self.held = False
        self.closing = False
        self.progress = 0

    @property
    def transport(self) -> _Stream:
        return self

    @property
    def write_paused(self) -> bool:
        return bool(self._pieces)

    def keeps(self, head: RequestHead) -> bool:
        return True

    may_keep = keeps

    def write(self, data: Buffer) -> None:
        if len(data) <= PAYLOAD_BYTES:
            self._pieces.append(data)
        else:
            view = memoryview(data)
            for at in range(0, len(data), PAYLOAD_BYTES):
                self._pieces.append(view[at : at + PAYLOAD_BYTES])
        self.pump()

    def write_all(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            self.write(flat(piece))

    def finished(self, keep: bool) -> None:
        """The exchange has said all that there is."""
        self._whole = True
        exchange = self._exchange
        if exchange is not None:
            exchange.on_abort = exchange.on_drain = None
        self.pump()

    def pump(self) -> None:
        """Write as much as may be."""
        exchange = self._exchange
        if exchange is None:
            return
        mux = self._mux
        pieces = self._pieces
        number = exchange.number
        while pieces and not self.held and not mux.write_paused:
            piece = pieces.popleft()
            mux.flush()
            header = pack(len(piece) << KIND_BITS | PART, number)
            mux.transport.write(header + piece)
            mux.progress += 1
        if self._whole and not pieces:
            self.drop()
            mux.over(exchange)
            mux.later(frame(LAST, number))

    def drop(self) -> None:
        """Let go of everything."""
        self._exchange = None
        self._pieces.clear()
