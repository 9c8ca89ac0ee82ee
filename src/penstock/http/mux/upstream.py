"""The client's side of a multiplexed connection: requests out together, responses in, each to its sink.

The common case is a whole response in one frame, its head known. A response in pieces is read by the very
code that reads one from a connection of its own, which is given the stream for a transport.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from penstock.http.client_connection import UpstreamConnection
from penstock.http.client_exchange import ClientExchange, ResponseSink, UpstreamError
from penstock.http.head import BadResponse, ResponseHead, parse_response_head
from penstock.http.incoming import Buffer
from penstock.http.mux.frames import (
    BREAK,
    GOAWAY,
    HEADER_BYTES,
    KIND,
    KIND_BITS,
    LAST,
    LAST_NUMBER,
    PAGE_FIELD,
    PART,
    PATH,
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
from penstock.http.mux.page import Page

if TYPE_CHECKING:
    from penstock.http.client import Upstream

logger = logging.getLogger(__name__)

#: Bytes of a response that may come after it was told to pause: what was on its way, and not what a process
#: sends that does not listen.
_MOST_SURPLUS: Final = 4 * 1024 * 1024
#: Longest answer to the request for an upgrade.
_MOST_HEAD: Final = 8192


class MuxUpstream(Outgoing, asyncio.Protocol):
    """One multiplexed connection to an upstream."""

    __slots__ = (
        "_find", "_goaway", "_head", "_number", "_owner", "_page", "_part", "_seen", "pending", "ready",
        "write_paused",
    )  # fmt: skip

    def __init__(self, owner: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._owner = owner
        self._find = owner.heads.find
        #: Requests that have no whole answer yet, by number.
        self.pending: dict[int, MuxClientExchange] = {}
        #: True once the other side has agreed, False when it has not.
        self.ready: asyncio.Future[bool] = loop.create_future()
        self._seen = -1
        self.write_paused = False
        self._number = 0
        self._head: bytes | None = b""
        self._part = b""
        self._goaway = False
        self._page: Page | None = None

    @property
    def usable(self) -> bool:
        """Whether one more request may go here now."""
        return not self.write_paused and len(self.pending) < STREAMS

    def unused(self) -> bool:
        """Whether there was no request since the last call, and none is under way."""
        seen, self._seen = self._seen, self.progress
        return seen == self.progress and not self.pending

    # -- the transport's calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._owner.limits.write_high_water)
        page = b""
        try:
            self._page = Page()
            page = b"%b: %b\r\n" % (PAGE_FIELD, self._page.name.encode())
        except OSError as exc:
            logger.warning("no page to share with %s: %s", self._owner.address, exc)
        self.transport.write(
            b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: %b\r\n%b\r\n"
            % (PATH.encode(), PROTOCOL, page)
        )

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            rest = self._begin(data)
            if not rest:
                return None
            data = rest
        if self._part:
            data = self._part + data
            self._part = b""
        pos = 0
        size = len(data)
        pending = self.pending
        while size - pos >= HEADER_BYTES:
            word, number = unpack_from(data, pos)
            start = pos + HEADER_BYTES
            pos = start + (word >> KIND_BITS)
            if pos > size:
                if pos - start > PAYLOAD_BYTES:
                    return self._broken("a frame is too long")
                self._part = data[start - HEADER_BYTES :]
                break
            if word & KIND != LAST:
                if not self._other(word & KIND, number, data[start:pos]):
                    return None
                continue
            exchange = pending.pop(number, None)
            if exchange is None:
                continue  # it was called off
            found = data.find(b"\r\n\r\n", start, pos) + 4
            head = self._find(data[start:found])
            if (
                head is None
                or head.content_length != pos - found
                or head.status < 200
                or exchange.parts is not None
            ):
                exchange.last(data[start:pos])
                continue
            # The common case: a whole response, its head known.
            exchange.status = head.status
            sink = exchange.finish()
            try:
                sink.on_response(head, data[found:pos])
            except Exception:
                # The others on this connection have nothing to do with it.
                logger.exception("taking an answer failed")
                _fail(sink, UpstreamError("response", "the answer could not be taken"))
        else:
            if pos < size:
                self._part = data[pos:]
        if self._goaway and not pending:
            self.transport.close()
        return None

    def _other(self, kind: int, number: int, payload: bytes) -> bool:
        """A frame that is no whole response. False: the connection is broken off."""
        exchange = self.pending.get(number)
        if kind == GOAWAY:
            self.retire()
        elif kind == PART:
            if exchange is not None:
                exchange.part(payload)
        elif kind == BREAK:
            if exchange is not None:
                del self.pending[number]
                exchange.broken(UpstreamError("response", "the answer was broken off"))
        else:
            self._broken("a frame is of an unknown kind")
            return False
        return True

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.mux_lost(self)
        agreed = self.ready.done() and self.ready.result()
        if agreed and not self._goaway and self._owner.on_lost is not None:
            self._owner.on_lost()
        if not self.ready.done():
            self.ready.set_result(False)
        self._out.clear()
        page, self._page = self._page, None
        read = LAST_NUMBER if page is None else page.read()
        if page is not None:
            page.close()
        pending, self.pending = self.pending, {}
        for number, exchange in pending.items():
            unread = number > read
            exchange.broken(
                UpstreamError(
                    "idle-closed" if exchange.parts is None else "response",
                    "the connection was closed before the request was read"
                    if unread
                    else "the connection was closed before the end of an answer",
                    retryable=unread,
                )
            )

    # -- how it begins ------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> bytes:
        """Read the answer to the upgrade; what came behind it."""
        assert self._head is not None  # noqa: S101 - the caller has looked
        self._head += data
        head, found, rest = self._head.partition(b"\r\n\r\n")
        if not found:
            if len(head) > _MOST_HEAD:
                self.transport.abort()
            return b""
        self._head = None
        agreed = False
        try:
            answer = parse_response_head(head + found, self._owner.limits)
            agreed = answer.status == 101 and answer.get(b"upgrade") == PROTOCOL
        except BadResponse as exc:
            logger.info("%s: %s", self._owner.address, exc)
        if self._page is not None:
            self._page.opened()
        if not self.ready.done():
            self.ready.set_result(agreed)
        if not agreed:
            self.transport.abort()
            return b""
        return rest

    # -- requests -----------------------------------------------------------------------------------

    def request(
        self, head: bytes, body: Buffer | None, sink: ResponseSink, method: str
    ) -> ClientExchange:
        """Send a request that is all here, of at most REQUEST_BYTES."""
        number = self._number = self._number + 1
        exchange = MuxClientExchange(self, number, sink, method)
        out = self._out
        if body:
            out += (pack((len(head) + len(body)) << KIND_BITS | LAST, number), head, body)
        else:
            out += (pack(len(head) << KIND_BITS | LAST, number), head)
        pending = self.pending
        if not pending or len(out) >= TOGETHER:
            self.flush()
        else:
            self.flush_later()
        pending[number] = exchange
        if number == LAST_NUMBER:
            self.retire()
        return exchange

    def say(self, kind: int, number: int) -> None:
        """Send a frame about a request."""
        self.later(frame(kind, number))

    def called_off(self, number: int) -> None:
        """Nobody waits for that answer any more."""
        if self.pending.pop(number, None) is not None:
            self.say(BREAK, number)
            if self._goaway and not self.pending:
                self.flush()
                self.transport.close()

    # -- ends ---------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Take no more requests; close when the last answer is here."""
        self._goaway = True
        self._owner.mux_lost(self)
        if not self.pending:
            self.flush()
            self.transport.close()

    def _broken(self, why: str) -> None:
        logger.error("%s: %s", self._owner.address, why)
        self.transport.abort()


class MuxClientExchange(ClientExchange):
    """A request on a multiplexed connection, sent whole."""

    __slots__ = ("_mux", "number", "parts")

    #: The base's, which differ only for requests on connections of their own.
    sent = True
    reused = False
    size = -1

    def __init__(self, mux: MuxUpstream, number: int, sink: ResponseSink, method: str) -> None:
        # Not by the base's own: this is the hot path, and every call counts.
        self._mux = mux
        self.number = number
        self.sink = sink
        self.method = method
        self.done = False
        self.on_drain = None
        #: Set where the response comes in pieces, to what reads it.
        self._connection = None
        #: Reads the response, if it comes in pieces.
        self.parts: _Parts | None = None

    @property
    def unsent(self) -> int:
        return self._mux.transport.get_write_buffer_size()

    def cancel(self) -> None:
        if not self.done:
            self.finish()
            self.parts = None
            self._mux.called_off(self.number)

    def part(self, data: bytes) -> None:
        """A piece of the response."""
        parts = self.parts
        if parts is None:
            self.status = 0
            parts = self.parts = _Parts(self._mux, self)
        if data:
            parts.more(data)

    def last(self, data: bytes) -> None:
        """The end of the response, or all of it."""
        self.part(data)
        if self.parts is not None:  # nobody called it off meanwhile
            self.parts.ended()

    def broken(self, error: UpstreamError) -> None:
        """There will be no more of the response."""
        if not self.done:
            _fail(self.finish(), error)


class _Parts(UpstreamConnection):
    """Reads a response that comes in pieces; to the reader, this is a connection and its transport."""

    __slots__ = ("_mux", "_number", "_surplus")

    def __init__(self, mux: MuxUpstream, exchange: MuxClientExchange) -> None:
        super().__init__(mux._owner)
        self._surplus = 0
        self._mux = mux
        self._number = exchange.number
        self.transport = cast("asyncio.Transport", _Transport(mux, exchange.number))
        self.expect(exchange)

    def _finished(
        self, exchange: ClientExchange, head: ResponseHead, *, extra: bool
    ) -> ResponseSink:
        # The last frame is still to come, or being read; the stream ends with it, and not by our will.
        self._closed()
        return exchange.finish()

    def more(self, data: bytes) -> None:
        if self._paused:
            self._surplus += len(data)
            if self._surplus > _MOST_SURPLUS:
                self._fail("the answer goes on although it was told to wait")
                return
        else:
            self._surplus = 0
        try:
            self.data_received(data)
        except Exception:
            logger.exception("taking a part of an answer failed")
            self._fail("the answer could not be taken")


class _Transport:
    """What is done to a stream in the way that it would be done to a connection."""

    __slots__ = ("_mux", "_number")

    def __init__(self, mux: MuxUpstream, number: int) -> None:
        self._mux = mux
        self._number = number

    def pause_reading(self) -> None:
        self._mux.say(PAUSE, self._number)

    def resume_reading(self) -> None:
        if self._number in self._mux.pending:
            self._mux.say(RESUME, self._number)

    def abort(self) -> None:
        self._mux.called_off(self._number)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return True  # it serves one response, and is never kept for another


def _fail(sink: ResponseSink, error: UpstreamError) -> None:
    try:
        sink.on_error(error)
    except Exception:
        logger.exception("telling of an answer that failed has failed")
