"""A client's HTTP/2 connection: bytes in, frames to where they belong, and the connection's own end.

Frames are cut here and handed on: those of a request to `streams`, which make exchanges of them, those
that open windows to `flow`, which sends. No timer per connection; the server's sweep calls `check`.

Against abuse: every list is bounded, and frames that cost little to send and bring nothing (PING,
SETTINGS, RST_STREAM, empty DATA, ...) are paid for from a budget that answered requests refill.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from penstock.http.h2 import frames
from penstock.http.h2.exchange import H2Exchange
from penstock.http.h2.flow import BUDGET, BUDGET_PER_S, CONNECTION_WINDOW, STREAM_WINDOW
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
    PADDED,
    PREFACE,
    STREAM_BITS,
    U32,
    WITH_PRIORITY,
    Code,
    ConnectionFault,
    StreamFault,
)
from penstock.http.h2.streams import Streams
from penstock.http.head import BadRequest
from penstock.http.stall import WriteStall

if TYPE_CHECKING:
    from penstock.http.h2.server import Http2Server

logger = logging.getLogger(__name__)

#: Largest frame taken.
FRAME_BYTES: Final = 65536
#: How long a client may take to answer a PING, which it gets when it says nothing while a call is under
#: way, seconds.
PING_ANSWER_S: Final = 20.0
#: CONTINUATION frames of one header block.
MAX_CONTINUATIONS: Final = 32

_unpack = HEADER.unpack_from


class H2Connection(Streams):
    """The protocol of one connection that speaks HTTP/2."""

    __slots__ = (
        "_budget_at", "_buffer", "_busy", "_continued", "_fragments", "_lingers_since", "_need",
        "_open_block", "_pinged", "_seen", "_seen_at", "_settled", "_stall", "_started",
    )  # fmt: skip

    def __init__(self, server: Http2Server) -> None:
        super().__init__(server)
        self._buffer = bytearray()
        self._need = 0
        self._started = False
        self._settled = False
        # A header block that is not complete: its stream, whether the request ends with it, its parts.
        self._open_block: tuple[int, bool] | None = None
        self._fragments = bytearray()
        self._continued = 0
        self._budget_at = self.now
        self._seen = -1
        #: There were streams at the last sweep; a PING of ours is not answered.
        self._busy = False
        self._pinged = False
        self._seen_at = self.now
        self._stall = WriteStall()
        self._lingers_since: float | None = None

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
        if stream:
            self._grow_stream(stream, increment)
        else:
            self._grow_window(increment)

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
                self._move_windows(value)
            elif key == frames.MAX_FRAME_SIZE:
                if not DEFAULT_FRAME_BYTES <= value < 1 << 24:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "no such frame size")
                self.max_frame = min(value, FRAME_BYTES)
            elif key == frames.ENABLE_PUSH and value > 1:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        self._reply(frames.header(0, frames.SETTINGS, ACK, 0))
        self._pump()

    def _fail(self, fault: ConnectionFault) -> None:
        if self._closing:
            return
        logger.info("a connection is closed: %s (%s)", fault, fault.code.name)
        self.write(frames.goaway(self._last, fault.code, str(fault)))
        self._closing = True
        self._buffer.clear()
        self._lose_streams(ConnectionAbortedError(str(fault)))
        self._linger()

    def close_if_idle(self) -> None:
        """For a drain: no new requests; the end when those under way are answered."""
        if not self._goaway and not self._closing:
            self._goaway = True
            self.write(frames.goaway(self._last, Code.NO_ERROR))
            for exchange in tuple(self.streams.values()):
                if exchange.on_goaway is not None:
                    exchange.on_goaway()
        self._close_when_empty()

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
        if self._stall.seconds(waiting, now) >= limits.write_timeout_s:
            logger.info("a client does not read its responses; its connection is closed")
            self.break_off_from_outside()
            return
        for exchange in tuple(self._pending):
            if now - exchange.touched >= limits.write_timeout_s:
                self._give_up(exchange)
        for exchange in tuple(self.streams.values()):
            if exchange.gathering and now - exchange.touched >= limits.body_timeout_s:
                exchange.refuse(BadRequest(408, "The request body took too long."))
        busy = bool(self.streams)
        if self._seen != self.progress or (self._busy and not busy):
            self._seen = self.progress
            self._seen_at = now
            self._pinged = False
        self._busy = busy
        quiet = now - self._seen_at
        if not self._settled or self._open_block is not None:
            if quiet >= limits.head_timeout_s:
                self._fail(ConnectionFault(Code.PROTOCOL_ERROR, "the request took too long"))
        elif quiet >= limits.idle_timeout_s:
            if not busy:
                self.close_if_idle()
            elif not self._pinged:
                # A call may be quiet for long; a peer that went without a word is for ever.
                self._pinged = True
                self.write(frames.header(8, frames.PING, 0, 0) + bytes(8))
            elif quiet >= limits.idle_timeout_s + PING_ANSWER_S:
                logger.info("a client with calls under way has gone; its connection is closed")
                self.break_off_from_outside()

    def _give_up(self, exchange: H2Exchange) -> None:
        logger.info("a client does not take a response; its stream is reset")
        self.reset(exchange, Code.CANCEL)
        exchange.lost(ConnectionAbortedError("the response was not taken"))

    def break_off_from_outside(self, exc: Exception | None = None) -> None:
        """Break the connection."""
        self._closing = True
        self.transport.abort()
        self._lose_streams(exc or ConnectionAbortedError("the connection was broken off"))
