"""What goes out on a connection, and how much may: both sides' windows, and the streams that wait.

A response is written into its exchange; `_pump` takes frames from the exchanges that wait, in turn, as far
as the windows and the client's reading allow. What is sent in one turn of the loop is one write. Here is
also the budget from which frames are paid that bring nothing. `streams` stands on this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from penstock.http.h2 import frames
from penstock.http.h2.exchange import H2Exchange
from penstock.http.h2.frames import (
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    MAX_WINDOW,
    Code,
    ConnectionFault,
)
from penstock.http.held import Held
from penstock.http.incoming import Buffer

if TYPE_CHECKING:
    from penstock.http.h2.server import Http2Server

#: What a client may have on the way, per stream and in all. A stream nobody reads holds no more than this.
STREAM_WINDOW: Final = 256 * 1024
CONNECTION_WINDOW: Final = 8 * 1024 * 1024
#: Frames that bring nothing: how many may come at once, and how many more each second.
BUDGET: Final = 2000
BUDGET_PER_S: Final = 200
#: What an answered request adds to the budget: its own window updates and pings.
EARNED: Final = 4
#: Bytes of small answers (to PING, SETTINGS) that a client which does not read may pile up.
MAX_UNREAD_REPLIES: Final = 1024 * 1024
#: Pieces gathered for one write at most; and frames of bodies, which are larger.
MAX_PIECES: Final = 256
PUMPED: Final = 8


class FlowControl(Held):
    """The sending half of a connection, and the windows of both."""

    __slots__ = (
        "_budget", "_closing", "_out", "_pending", "_received_window", "_unannounced",
        "initial_window", "limits", "max_frame", "now", "progress", "scheme", "server",
        "stream_window", "transport", "window", "write_paused",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.limits = server.limits
        self.scheme = server.scheme
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
        self._closing = False
        self._budget = BUDGET
        self._pending: dict[H2Exchange, None] = {}
        self._out: list[Buffer] = []

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

    def _reply(self, data: bytes) -> None:
        if self.write_paused and self.transport.get_write_buffer_size() > MAX_UNREAD_REPLIES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "answers are not read")
        self.write(data)

    def _spend(self, cost: int = 1) -> None:
        self._budget -= cost
        if self._budget < 0:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

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

    def _grow_window(self, increment: int) -> None:
        """The client takes so many more bytes, on all streams together."""
        if not increment:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a window grows by one or more")
        self.window += increment
        if self.window > MAX_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the window is too large")
        self._pump()

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

    def peer(self) -> str:
        name = self.transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""
