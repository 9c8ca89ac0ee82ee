"""A client's HTTP/2 connection: frames in, exchanges out, many at a time.

The common case is three dictionary look-ups and two slices per request: the header block's bytes were seen
before (they mean the same as long as HPACK's dynamic table stands still, so the decoded head is kept by
them), the body is one DATA frame, the answer is one write. No task and no timer per stream; the server's
sweep calls `check`.

Against abuse: every list here is bounded, and frames that cost little to send and bring nothing (PING,
SETTINGS, RST_STREAM, empty DATA, ...) are paid for from a budget that answered requests refill.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, cast

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from penstock.http.h2 import frames
from penstock.http.h2.exchange import H2Exchange
from penstock.http.h2.fields import Fields, check_trailers, content_length
from penstock.http.h2.fields import block as header_block
from penstock.http.h2.frames import (
    ACK,
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADER_BYTES,
    HEADERS,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    STREAM_BITS,
    U32,
    WITH_PRIORITY,
    Code,
    ConnectionFault,
    StreamFault,
)
from penstock.http.head import BadRequest, RequestHead
from penstock.http.incoming import Buffer

if TYPE_CHECKING:
    from penstock.http.h2.server import Http2Server

logger = logging.getLogger(__name__)

#: Largest frame taken.
FRAME_BYTES: Final = 65536
#: What a client may have on the way, per stream and in all. A stream nobody reads holds no more than this.
STREAM_WINDOW: Final = 256 * 1024
CONNECTION_WINDOW: Final = 8 * 1024 * 1024
#: Frames that bring nothing: how many may come at once, and how many more each second.
BUDGET: Final = 2000
BUDGET_PER_S: Final = 200
#: What an answered request adds to the budget: its own window updates and pings.
EARNED: Final = 4
#: CONTINUATION frames of one header block.
MAX_CONTINUATIONS: Final = 32
#: Streams that were reset here, whose frames may still be on their way.
MAX_FORGOTTEN: Final = 1024
#: Header blocks remembered per connection, and the longest that is.
MAX_BLOCKS: Final = 64
MAX_BLOCK_BYTES: Final = 1024
#: Bytes of small answers (to PING, SETTINGS) that a client which does not read may pile up.
MAX_UNREAD_REPLIES: Final = 1024 * 1024
#: Pieces gathered for one write at most; and frames of bodies, which are larger.
MAX_PIECES: Final = 256
PUMPED: Final = 8

_unpack = HEADER.unpack_from
_Found = tuple[RequestHead, bytes | None]


class H2Connection(asyncio.Protocol):
    """The protocol of one connection that speaks HTTP/2."""

    __slots__ = (
        "_blocks", "_budget", "_budget_at", "_buffer", "_closing", "_continued", "_decoder",
        "_forgotten", "_fragments", "_goaway", "_handler", "_last", "_lingers_since", "_need",
        "_open_block", "_out", "_pending", "_received_window", "_seen", "_seen_at", "_settled",
        "_stalled_at", "_started", "_unannounced", "_waiting", "initial_window", "limits",
        "max_frame", "now", "progress", "scheme", "server", "stream_window", "streams",
        "transport", "window", "write_paused",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.limits = server.limits
        self.scheme = server.scheme
        self._handler = server.handler
        self.streams: dict[int, H2Exchange] = {}
        #: Bytes that may be sent on all streams together; what a new stream may send; frame size.
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_FRAME_BYTES
        self.stream_window = STREAM_WINDOW
        self.write_paused = False
        #: The time of the last sweep; good enough for whatever counts in seconds.
        self.now = server.time()
        self.progress = 0
        self._received_window = CONNECTION_WINDOW
        self._unannounced = 0
        self._buffer = bytearray()
        self._need = 0
        self._started = False
        self._settled = False
        self._last = 0
        self._goaway = False
        self._closing = False
        self._decoder = Decoder(max_header_list_size=self.limits.max_head)
        self._blocks: tuple[dict[bytes, _Found], dict[bytes, _Found]] = ({}, {})
        self._forgotten: dict[int, None] = {}
        # A header block that is not complete: its stream, whether the request ends with it, its parts.
        self._open_block: tuple[int, bool] | None = None
        self._fragments = bytearray()
        self._continued = 0
        self._pending: dict[H2Exchange, None] = {}
        self._budget = BUDGET
        self._budget_at = self.now
        self._seen = -1
        self._seen_at = self.now
        self._waiting = 0
        self._stalled_at = self.now
        self._lingers_since: float | None = None
        self._out: list[Buffer] = []

    # -- the transport's calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self.limits.write_high_water)
        if not self.server.admit(self):
            self._closing = True
            self.transport.write(
                frames.settings({})
                + frames.goaway(0, Code.ENHANCE_YOUR_CALM, "too many connections")
            )
            self.transport.close()
            return
        self.transport.write(
            frames.settings(
                {
                    frames.MAX_CONCURRENT_STREAMS: self.limits.max_streams,
                    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    frames.MAX_FRAME_SIZE: FRAME_BYTES,
                    frames.MAX_HEADER_LIST_SIZE: self.limits.max_head,
                }
            )
            + frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        )

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self.progress += 1
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return
            data = bytes(buffer)
            buffer.clear()
        try:
            if self._started:
                rest = self._frames(data, 0)
            elif data[: len(PREFACE)] == PREFACE:
                self._started = True
                rest = self._frames(data, len(PREFACE))
            elif PREFACE.startswith(data):
                rest = 0
                self._need = len(PREFACE)
            else:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "this is no HTTP/2")
        except ConnectionFault as fault:
            self._fail(fault)
            return
        if rest < len(data) and not self._closing:
            self._buffer = bytearray(memoryview(data)[rest:])

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self.server.forget(self)
        self._buffer.clear()
        self._lose_streams(exc or ConnectionResetError("the client closed its connection"))

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self.progress += 1
        self._pump()
        for stream in tuple(self.streams.values()):
            stream.drain()

    def write(self, data: Buffer) -> None:
        """Send with all else that is sent in this turn of the loop: answers that come together cost one
        call of the system.
        """
        if self._closing:
            return
        out = self._out
        if not out:
            self.server.loop.call_soon(self._flush)
        out.append(data)
        if len(out) > MAX_PIECES:
            self._flush()

    def write_all(self, pieces: Iterable[Buffer]) -> None:
        """`write` for several pieces."""
        if self._closing:
            return
        out = self._out
        if not out:
            self.server.loop.call_soon(self._flush)
        out += pieces
        if len(out) > MAX_PIECES:
            self._flush()

    def _flush(self) -> None:
        out = self._out
        if out:
            self._out = []
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    # -- frames -----------------------------------------------------------------------------------

    def _frames(self, data: bytes, pos: int) -> int:
        """Take the frames that are whole; the position of the first that is not. ConnectionFault."""
        end = len(data)
        streams = self.streams
        while end - pos >= HEADER_BYTES:
            high, low, kind, flags, stream = _unpack(data, pos)
            length = high << 16 | low
            if length > FRAME_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "the frame is too long")
            start = pos + HEADER_BYTES
            stop = start + length
            if stop > end:
                self._need = HEADER_BYTES + length
                return pos
            pos = stop
            stream &= STREAM_BITS
            if self._open_block is not None:
                self._continuation(kind, flags, stream, data[start:stop])
            elif not self._settled and kind != frames.SETTINGS:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            elif kind == DATA:
                if flags & PADDED:
                    start, stop = self._unpad(data, start, stop, length)
                exchange = streams.get(stream)
                self._received_window -= length
                if self._received_window < 0:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more data than the window has")
                self._unannounced += length
                if self._unannounced >= CONNECTION_WINDOW // 2:
                    self._announce()
                if exchange is None or exchange.remote_ended:
                    self._stray_data(stream, exchange)
                    continue
                exchange.received_window -= length
                if exchange.received_window < 0:
                    self._stream_fault(
                        stream, StreamFault(Code.FLOW_CONTROL_ERROR, "more than the window has")
                    )
                    continue
                if not length and not flags & END_STREAM:
                    self._spend()
                self._data(exchange, data[start:stop], length, bool(flags & END_STREAM))
            elif kind == HEADERS:
                if not stream & 1:
                    raise ConnectionFault(
                        Code.PROTOCOL_ERROR, "a client's streams have odd numbers"
                    )
                if flags & PADDED:
                    start, stop = self._unpad(data, start, stop, length)
                if flags & WITH_PRIORITY:
                    start += 5
                    if start > stop:
                        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS is too short")
                block = data[start:stop]
                ended = bool(flags & END_STREAM)
                if flags & END_HEADERS:
                    self._headers(stream, block, ended)
                else:
                    self._open_block = (stream, ended)
                    self._fragments = bytearray(block)
                    self._continued = 0
            else:
                self._other(kind, flags, stream, data[start:stop])
            if self._closing:
                return end
        self._need = HEADER_BYTES
        return pos

    def _unpad(self, data: bytes, start: int, stop: int, length: int) -> tuple[int, int]:
        if not length:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "padding is announced and not there")
        padding = data[start]
        if padding >= length:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "the padding is longer than the frame")
        return start + 1, stop - padding

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

    def _continuation(self, kind: int, flags: int, stream: int, part: bytes) -> None:
        assert self._open_block is not None  # noqa: S101 - the caller looked
        if kind != frames.CONTINUATION or stream != self._open_block[0]:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block is interrupted")
        self._fragments += part
        self._continued += 1
        if len(self._fragments) > self.limits.max_head or self._continued > MAX_CONTINUATIONS:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "the header block is too long")
        if flags & END_HEADERS:
            _, ended = self._open_block
            self._open_block = None
            block = bytes(self._fragments)
            self._fragments = bytearray()
            self._headers(stream, block, ended)

    # -- header blocks ------------------------------------------------------------------------------

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

    # -- the other frames -----------------------------------------------------------------------------

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == frames.PING:
            if len(payload) != 8:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING has eight bytes")
            if stream:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "PING belongs to the connection")
            self._spend()
            if not flags & ACK:
                self._reply(frames.header(8, frames.PING, ACK, 0) + payload)
        elif kind == frames.RST_STREAM:
            self._rst_stream(stream, payload)
        elif kind == frames.SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == frames.PRIORITY:
            if not stream:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY belongs to a stream")
            self._spend()
            if len(payload) != 5:
                if stream not in self.streams:
                    raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PRIORITY has five bytes")
                self._stream_fault(
                    stream, StreamFault(Code.FRAME_SIZE_ERROR, "PRIORITY has five bytes")
                )
        elif kind == frames.GOAWAY:
            if stream or len(payload) < 8:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY is malformed")
            self._spend()
            self.close_if_idle()
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a client does not push")
        elif kind == frames.CONTINUATION:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        else:
            self._spend()  # unknown frames are to be ignored (5.5)

    def _window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        increment = U32.unpack(payload)[0] & STREAM_BITS
        self._spend()
        if not stream:
            if not increment:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a window grows by one or more")
            self.window += increment
            if self.window > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the window is too large")
            self._pump()
            return
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

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS belong to the connection")
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement has no settings")
            if not self._settled:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._spend()
            return
        if len(payload) % 6:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a setting has six bytes")
        self._settled = True
        self._spend(1 + len(payload) // 48)
        for key, value in frames.SETTING.iter_unpack(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the window is too large")
                change = value - self.initial_window
                self.initial_window = value
                for exchange in self.streams.values():
                    exchange.window += change
                    if exchange.window > MAX_WINDOW:
                        raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is too large")
            elif key == frames.MAX_FRAME_SIZE:
                if not DEFAULT_FRAME_BYTES <= value < 1 << 24:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "no such frame size")
                self.max_frame = min(value, FRAME_BYTES)
            elif key == frames.ENABLE_PUSH and value > 1:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        self._reply(frames.header(0, frames.SETTINGS, ACK, 0))
        self._pump()

    # -- flow control ---------------------------------------------------------------------------------

    def _announce(self) -> None:
        count, self._unannounced = self._unannounced, 0
        self._received_window += count
        self.write(frames.window_update(0, count))

    def consumed(self, exchange: H2Exchange, count: int) -> None:
        """A stream's bytes were taken in: let the client send as many more."""
        exchange.unannounced += count
        if exchange.unannounced >= STREAM_WINDOW // 2 and not exchange.remote_ended:
            increment, exchange.unannounced = exchange.unannounced, 0
            exchange.received_window += increment
            self.write(frames.window_update(exchange.id, increment))

    def wait(self, exchange: H2Exchange) -> None:
        """A stream has something to send; it goes out as the windows allow."""
        if exchange not in self._pending:
            self._pending[exchange] = None
            exchange.touched = self.now
        self._pump()

    def drained(self, exchange: H2Exchange) -> None:
        """A stream has sent all it had, and will write more."""
        self._pending.pop(exchange, None)

    def _pump(self) -> None:
        pending = self._pending
        while pending and not self._closing:
            sent = False
            for exchange in tuple(pending):
                if self.write_paused:
                    return
                if exchange in pending and exchange.flush():
                    sent = True
                    if len(self._out) > 2 * PUMPED:
                        self._flush()  # which is what tells when the client does not keep up
                    self._budget = min(BUDGET, self._budget + EARNED)
                    exchange.drain()
            if not sent:
                return

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

    # -- ends ---------------------------------------------------------------------------------------

    def _spend(self, cost: int = 1) -> None:
        self._budget -= cost
        if self._budget < 0:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _reply(self, data: bytes) -> None:
        if self.write_paused and self.transport.get_write_buffer_size() > MAX_UNREAD_REPLIES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "answers are not read")
        self.write(data)

    def _forget(self, stream: int) -> None:
        forgotten = self._forgotten
        forgotten[stream] = None
        if len(forgotten) > MAX_FORGOTTEN:
            del forgotten[next(iter(forgotten))]

    def reset(self, exchange: H2Exchange, code: Code) -> None:
        """End a stream that was not answered whole."""
        self._pending.pop(exchange, None)
        if self.streams.pop(exchange.id, None) is not None and not self._closing:
            self._forget(exchange.id)
            self.write(frames.rst_stream(exchange.id, code))
            self._close_when_empty()

    def _stream_fault(self, stream: int, fault: StreamFault) -> None:
        self._spend()
        self._forget(stream)
        exchange = self.streams.pop(stream, None)
        self._reply(frames.rst_stream(stream, fault.code))
        if exchange is not None:
            self._pending.pop(exchange, None)
            exchange.lost(ConnectionAbortedError(str(fault)))
        self._close_when_empty()

    def _fail(self, fault: ConnectionFault) -> None:
        if self._closing:
            return
        logger.info("a connection is closed: %s (%s)", fault, fault.code.name)
        self.write(frames.goaway(self._last, fault.code, str(fault)))
        self._closing = True
        self._buffer.clear()
        self._lose_streams(ConnectionAbortedError(str(fault)))
        self._linger()

    def _linger(self) -> None:
        """Close for writing, and read on for a moment: a plain close would reset what is on its way out."""
        self._flush()
        transport = self.transport
        if not transport.can_write_eof():
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # asyncio's transport, when the client has reset the connection
            transport.abort()

    def _lose_streams(self, exc: Exception) -> None:
        streams = tuple(self.streams.values())
        self.streams.clear()
        self._pending.clear()
        for exchange in streams:
            try:
                exchange.lost(exc)
            except Exception:
                logger.exception("on_abort of %r failed", exchange.head)

    def close_if_idle(self) -> None:
        """For a drain: no new requests; the end when those under way are answered."""
        if not self._goaway and not self._closing:
            self._goaway = True
            self.write(frames.goaway(self._last, Code.NO_ERROR))
            for exchange in tuple(self.streams.values()):
                if exchange.on_goaway is not None:
                    exchange.on_goaway()
        self._close_when_empty()

    def _close_when_empty(self) -> None:
        if self._goaway and not self.streams and not self._closing:
            self._closing = True
            self._linger()

    def check(self, now: float) -> None:
        """Close what has waited too long. Called by the server's sweep."""
        self.now = now
        limits = self.limits
        if self._closing:
            if self._lingers_since is None:
                self._lingers_since = now
            elif now - self._lingers_since >= limits.linger_s:
                self.transport.abort()
            return
        elapsed = now - self._budget_at
        if elapsed >= 1.0:
            self._budget_at = now
            self._budget = min(BUDGET, self._budget + int(elapsed * BUDGET_PER_S))
        waiting = self.transport.get_write_buffer_size()
        if not waiting or waiting < self._waiting or not self._waiting:
            self._stalled_at = now
        elif now - self._stalled_at >= limits.write_timeout_s:
            logger.info("a client does not read its responses; its connection is closed")
            self.break_off_from_outside()
            return
        self._waiting = waiting
        for exchange in tuple(self._pending):
            if now - exchange.touched >= limits.write_timeout_s:
                self._give_up(exchange)
        for exchange in tuple(self.streams.values()):
            if exchange.gathering and now - exchange.touched >= limits.body_timeout_s:
                exchange.refuse(BadRequest(408, "The request body took too long."))
        if self._seen != self.progress or self.streams:
            self._seen = self.progress
            self._seen_at = now
            if self._open_block is None and self._settled:
                return
        quiet = now - self._seen_at
        if not self._settled or self._open_block is not None:
            if quiet >= limits.head_timeout_s:
                self._fail(ConnectionFault(Code.PROTOCOL_ERROR, "the request took too long"))
        elif quiet >= limits.idle_timeout_s:
            self.close_if_idle()

    def _give_up(self, exchange: H2Exchange) -> None:
        logger.info("a client does not take a response; its stream is reset")
        self.reset(exchange, Code.CANCEL)
        exchange.lost(ConnectionAbortedError("the response was not taken"))

    def break_off_from_outside(self, exc: Exception | None = None) -> None:
        """Break the connection."""
        self._closing = True
        self.transport.abort()
        self._lose_streams(exc or ConnectionAbortedError("the connection was broken off"))

    def peer(self) -> str:
        name = self.transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""
