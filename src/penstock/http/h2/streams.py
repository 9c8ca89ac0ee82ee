"""The streams of a connection: header blocks to requests, requests to their handler, and their ends.

The common case is two dictionary look-ups per request: the header block's bytes were seen before (they
mean the same as long as HPACK's dynamic table stands still, so the decoded head is kept by them), and the
body is one DATA frame. No task and no timer per stream. `connection` reads the frames and calls here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, cast

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from penstock.http.h2 import frames
from penstock.http.h2.exchange import H2Exchange
from penstock.http.h2.fields import Fields, check_trailers, content_length
from penstock.http.h2.fields import block as header_block
from penstock.http.h2.flow import BUDGET, EARNED, FlowControl
from penstock.http.h2.frames import DATA, END_STREAM, MAX_WINDOW, Code, ConnectionFault, StreamFault
from penstock.http.head import BadRequest, RequestHead

if TYPE_CHECKING:
    from penstock.http.h2.server import Http2Server

logger = logging.getLogger(__name__)

#: Streams that were reset here, whose frames may still be on their way.
MAX_FORGOTTEN: Final = 1024
#: Header blocks remembered per connection, and the longest that is.
MAX_BLOCKS: Final = 64
MAX_BLOCK_BYTES: Final = 1024

_Found = tuple[RequestHead, bytes | None]


class Streams(FlowControl):
    """The requests under way on a connection."""

    __slots__ = ("_blocks", "_decoder", "_forgotten", "_goaway", "_handler", "_last", "streams")

    def __init__(self, server: Http2Server) -> None:
        super().__init__(server)
        self._handler = server.handler
        self.streams: dict[int, H2Exchange] = {}
        #: The highest stream the client has opened.
        self._last = 0
        self._goaway = False
        self._decoder = Decoder(max_header_list_size=self.limits.max_head)
        self._blocks: tuple[dict[bytes, _Found], dict[bytes, _Found]] = ({}, {})
        self._forgotten: dict[int, None] = {}

    def _headers(self, stream: int, block: bytes, ended: bool) -> None:
        """A whole header block: a new request, or the trailers of one."""
        if stream <= self._last:
            self._trailers(stream, block, ended)
            return
        self._last = stream
        found = self._blocks[ended].get(block)
        if found is None:
            fields, stable = self._decode(block)
            try:
                found = self.server.find_head(fields, ended)
            except StreamFault as fault:
                self._stream_fault(stream, fault)
                return
            except BadRequest as bad:
                self._spend()
                self._refuse_headless(stream, bad, ended)
                return
            if stable and len(block) <= MAX_BLOCK_BYTES:
                known = self._blocks[ended]
                if len(known) >= MAX_BLOCKS:
                    known.clear()
                known[block] = found
        if len(self.streams) >= self.limits.max_streams or self._goaway:
            self._forget(stream)
            self._spend()
            self._reply(frames.rst_stream(stream, Code.REFUSED_STREAM))
            return
        head, timeout = found
        exchange = self.streams[stream] = H2Exchange(self, stream, head, timeout, ended)
        try:
            if ended or self.server.streaming:
                self._handler(exchange)  # type: ignore[arg-type]
            else:
                exchange.gather(self._handler)  # type: ignore[arg-type]
        except Exception:
            logger.exception("the handler of %r failed", head)
            exchange.fault()

    def _decode(self, block: bytes) -> tuple[Fields, bool]:
        """A block's fields, and whether the same bytes will mean the same next time. ConnectionFault."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        first = entries[0] if entries else None
        count, size = len(entries), table.maxsize
        try:
            fields = cast("Fields", self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "the header list is too large") from None
        except (HPACKError, IndexError, ValueError) as exc:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "the header block is broken") from exc
        entries = table.dynamic_entries
        stable = (
            len(entries) == count
            and (entries[0] if entries else None) is first
            and table.maxsize == size
        )
        if not stable:
            for known in self._blocks:
                known.clear()
        return fields, stable

    def _trailers(self, stream: int, block: bytes, ended: bool) -> None:
        fields, _ = self._decode(block)
        exchange = self.streams.get(stream)
        if exchange is None:
            if stream not in self._forgotten:
                raise ConnectionFault(Code.STREAM_CLOSED, "HEADERS on a stream that is closed")
            self._spend()
            return
        if exchange.remote_ended:
            self._stream_fault(stream, StreamFault(Code.STREAM_CLOSED, "HEADERS after the end"))
            return
        if not ended:
            self._stream_fault(
                stream, StreamFault(Code.PROTOCOL_ERROR, "trailers do not end the stream")
            )
            return
        try:
            check_trailers(fields)
        except StreamFault as fault:
            self._stream_fault(stream, fault)
            return
        self._data(exchange, b"", 0, True)

    def _refuse_headless(self, stream: int, bad: BadRequest, ended: bool) -> None:
        """Answer a request that has no head to make an exchange of."""
        status, lines, body, trailers = self.server.refusal(bad)
        first = header_block(status, lines)
        if not trailers:
            first += content_length(len(body))
        out = frames.headers(stream, first, end=not body and not trailers, most=self.max_frame)
        if body and len(body) <= min(self.window, self.initial_window, self.max_frame):
            self.window -= len(body)
            out += frames.header(len(body), DATA, 0 if trailers else END_STREAM, stream) + body
        if trailers:
            out += frames.headers(stream, header_block(0, trailers), end=True, most=self.max_frame)
        if not ended:
            self._forget(stream)
            out += frames.rst_stream(stream, Code.NO_ERROR)
        self._reply(out)

    def _data(self, exchange: H2Exchange, data: bytes, flow: int, end: bool) -> None:
        try:
            exchange.take(data, flow, end)
        except StreamFault as fault:
            self._stream_fault(exchange.id, fault)
        except BadRequest as bad:
            exchange.refuse(bad)
        except Exception:
            logger.exception("the receiver of a request body failed")
            exchange.fault()

    def _stray_data(self, stream: int, exchange: H2Exchange | None) -> None:
        if stream == 0 or stream > self._last:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on a stream that is not open")
        self._spend()
        if exchange is not None:
            self._stream_fault(stream, StreamFault(Code.STREAM_CLOSED, "DATA after the end"))
        elif stream not in self._forgotten:
            self._reply(frames.rst_stream(stream, Code.STREAM_CLOSED))

    def _rst_stream(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        if not stream or stream > self._last or not stream & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        self._spend()
        exchange = self.streams.pop(stream, None)
        if exchange is not None:
            self._pending.pop(exchange, None)
            self._forget(stream)
            exchange.lost(ConnectionResetError("the client called the request off"))
            self._close_when_empty()

    def _grow_stream(self, stream: int, increment: int) -> None:
        """The client takes so many more bytes on a stream."""
        exchange = self.streams.get(stream)
        if exchange is None:
            if stream > self._last or not stream & 1:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        if not increment:
            self._stream_fault(
                stream, StreamFault(Code.PROTOCOL_ERROR, "a window grows by one or more")
            )
            return
        exchange.window += increment
        if exchange.window > MAX_WINDOW:
            self._stream_fault(
                stream, StreamFault(Code.FLOW_CONTROL_ERROR, "the window is too large")
            )
            return
        if exchange in self._pending:
            self._pump()

    def _move_windows(self, value: int) -> None:
        """The client's SETTINGS say with how large a window streams begin; open ones move along."""
        if value > MAX_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the window is too large")
        change = value - self.initial_window
        self.initial_window = value
        for exchange in self.streams.values():
            exchange.window += change
            if exchange.window > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is too large")

    def sent(self, exchange: H2Exchange) -> None:
        """A response is out, whole."""
        stream = exchange.id
        self._pending.pop(exchange, None)
        self.streams.pop(stream, None)
        if self._budget < BUDGET:
            self._budget += EARNED
        if not exchange.remote_ended:
            # Answered before the request was all here: the rest is of no use.
            exchange.drop()
            self._forget(stream)
            self.write(frames.rst_stream(stream, Code.NO_ERROR))
        if self._goaway:
            self._close_when_empty()

    def reset(self, exchange: H2Exchange, code: Code) -> None:
        """End a stream that was not answered whole."""
        self._pending.pop(exchange, None)
        if self.streams.pop(exchange.id, None) is not None and not self._closing:
            self._forget(exchange.id)
            self.write(frames.rst_stream(exchange.id, code))
            self._close_when_empty()

    def _forget(self, stream: int) -> None:
        forgotten = self._forgotten
        forgotten[stream] = None
        if len(forgotten) > MAX_FORGOTTEN:
            del forgotten[next(iter(forgotten))]

    def _stream_fault(self, stream: int, fault: StreamFault) -> None:
        self._spend()
        self._forget(stream)
        exchange = self.streams.pop(stream, None)
        self._reply(frames.rst_stream(stream, fault.code))
        if exchange is not None:
            self._pending.pop(exchange, None)
            exchange.lost(ConnectionAbortedError(str(fault)))
        self._close_when_empty()

    def _lose_streams(self, exc: Exception) -> None:
        streams = tuple(self.streams.values())
        self.streams.clear()
        self._pending.clear()
        for exchange in streams:
            try:
                exchange.lost(exc)
            except Exception:
                logger.exception("on_abort of %r failed", exchange.head)

    def _close_when_empty(self) -> None:
        if self._goaway and not self.streams and not self._closing:
            self._closing = True
            self._linger()
