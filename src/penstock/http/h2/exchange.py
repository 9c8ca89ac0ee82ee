"""One stream as its handler sees it: the calls of `penstock.http.exchange.Exchange`, over HTTP/2.

Two things are new: a response may end in `trailers`, and `timeout` has the caller's `grpc-timeout`, which
is kept out of the head because it differs from call to call where the rest of the head does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from penstock.http.exchange import ABORTED, ENDED, OPEN, STARTED
from penstock.http.h2 import frames
from penstock.http.h2.fields import block, content_length
from penstock.http.h2.frames import HEADER, Code, StreamFault
from penstock.http.head import BadRequest, RequestHead
from penstock.http.incoming import BodySink, Buffer, flat, size_of

if TYPE_CHECKING:
    from penstock.http.h2.streams import Streams

__all__ = ["ABORTED", "ENDED", "OPEN", "STARTED", "H2Exchange"]

_END_HEADERS = frames.END_HEADERS
_LAST_HEADERS = frames.END_HEADERS | frames.END_STREAM


class H2Exchange:
    """One request and its response. After the client has gone, everything that writes does nothing."""

    __slots__ = (
        "_callback", "_connection", "_framing", "_held", "_paused", "_queue", "_reserved", "_sink",
        "_size", "_tail", "_told", "_unread", "body", "head", "id", "on_abort", "on_drain",
        "on_goaway", "queued", "received_window", "remote_ended", "state", "timeout", "touched",
        "unannounced", "window",
    )  # fmt: skip

    def __init__(
        self,
        connection: Streams,
        stream: int,
        head: RequestHead,
        timeout: bytes | None,
        ended: bool,
    ) -> None:
        self._connection = connection
        self.id = stream
        self.head = head
        #: The value of the request's `grpc-timeout`.
        self.timeout = timeout
        self.body: Buffer | None = b"" if ended else None
        self.state = OPEN
        self.on_abort: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        #: Called when the connection takes no more requests: what could go on for ever should end.
        self.on_goaway: Callable[[], None] | None = None
        self.remote_ended = ended
        #: Bytes that may be sent, and that may still come.
        self.window = connection.initial_window
        self.received_window = connection.stream_window
        #: Bytes taken in that the peer was not told about yet.
        self.unannounced = 0
        self.touched = connection.now
        self.queued = 0
        self._size = 0
        self._sink: BodySink | None = None
        self._callback: Callable[[H2Exchange], None] | None = None
        self._held: list[Buffer] | None = None
        self._unread = 0
        self._reserved = 0
        self._paused = False
        self._queue: deque[memoryview] | None = None
        self._tail: bytes | None = None
        self._told = False
        self._framing = -1

    def __repr__(self) -> str:
        return f"<H2Exchange {self.id} {self.head!r}>"

    # -- the request ------------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        return self._connection.scheme

    @property
    def peer(self) -> str:
        """The client's address as `host:port`; empty over a Unix socket."""
        return self._connection.peer()

    @property
    def gathering(self) -> bool:
        """The body is being collected and not all here."""
        return self._callback is not None

    def receive(self, sink: BodySink) -> None:
        """Stream the body into `sink`; what is here already comes before this returns."""
        body = self.body
        if body is not None:
            if body:
                sink.on_data(body)
            sink.on_end()
        elif self.state == ABORTED:
            sink.on_abort(ConnectionError("the client has gone"))
        else:
            self._claim()
            self._sink = sink
            self._deliver()

    def gather(self, callback: Callable[[H2Exchange], None]) -> None:
        """Call back with this exchange once the whole body is in `body`; at once when it is there."""
        if self.body is not None:
            callback(self)
        elif self.state != ABORTED:
            self._claim()
            self._callback = callback
            if self._held is not None:
                unread, self._unread = self._unread, 0
                self._connection.consumed(self, unread)
                self._reserve(sum(map(size_of, self._held)))

    def _claim(self) -> None:
        if self._sink is not None or self._callback is not None:
            raise RuntimeError("this body has a receiver already")

    def pause_reading(self) -> None:
        """Let the client wait with its body. A piece that is here already may still arrive."""
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._sink is not None:
                self._deliver()

    def _deliver(self) -> None:
        """Hand on what was held back."""
        held = self._held
        while held and not self._paused:
            sink = self._sink
            if sink is None:
                return
            piece = held.pop(0)
            size = size_of(piece)
            taken = size if held else self._unread  # padding counts with the last piece
            self._unread -= taken
            self._connection.consumed(self, taken)
            sink.on_data(piece)
        if not held and self.remote_ended and not self._paused:
            sink, self._sink = self._sink, None
            self._held = None
            if sink is not None:
                sink.on_end()

    # -- from the connection ----------------------------------------------------------------------

    def take(self, data: bytes, flow: int, end: bool) -> None:
        """A DATA frame: its bytes, and what it counts towards the windows. StreamFault, BadRequest."""
        if end:
            self.remote_ended = True
        self._size += len(data)
        expected = self.head.content_length
        if expected >= 0 and (self._size > expected or (end and self._size != expected)):
            raise StreamFault(Code.PROTOCOL_ERROR, "the body is not as long as content-length says")
        limits = self._connection.limits
        if self._size > limits.max_body:
            raise BadRequest(413, f"The body is over {limits.max_body} bytes.")
        callback = self._callback
        if callback is not None and end and self._held is None:
            self._callback = None
            self.body = data
            callback(self)
            return
        self.touched = self._connection.now
        if self._sink is not None and not self._paused and not self._held:
            if not end:
                self._connection.consumed(self, flow)
            sink = self._sink
            if data:
                sink.on_data(data)
            if end and not self._paused and self._sink is not None:
                self._sink = None
                sink.on_end()
            return
        if self._held is None:
            self._held = []
        if data:
            self._held.append(data)
        if callback is not None:
            self._reserve(len(data))
            if not end:
                self._connection.consumed(self, flow)
        else:
            self._unread += flow
        if end and self._sink is None:
            self._callback = None
            self.body = self._held[0] if len(self._held) == 1 else b"".join(self._held)
            self.drop()
            if callback is not None:
                callback(self)

    def _reserve(self, size: int) -> None:
        server = self._connection.server
        self._reserved += size
        server.gathered += size
        if server.gathered > self._connection.limits.max_gathered:
            raise BadRequest(503, "Too many large requests are on their way in; try again later.")

    def drop(self) -> None:
        """Let go of what was collected."""
        if self._reserved:
            self._connection.server.gathered -= self._reserved
            self._reserved = 0
        self._held = None

    def lost(self, exc: Exception) -> None:
        """The client has gone, or has called this request off."""
        sink = self._sink
        self._sink = self._callback = None
        self.drop()
        self._queue = None
        self.queued = 0
        if self.state < ENDED:
            self.state = ABORTED
            if sink is not None:
                sink.on_abort(exc)
            if self.on_abort is not None:
                self.on_abort()

    # -- the response -----------------------------------------------------------------------------

    def send(
        self,
        status: int,
        headers: bytes,
        body: Buffer | Sequence[Buffer] = b"",
        trailers: bytes = b"",
    ) -> None:
        """Answer at once. `headers` and `trailers` are rendered lines."""
        if self.state:
            return self._late()
        self.state = ENDED
        pieces: Sequence[Buffer]
        if isinstance(body, (bytes, bytearray, memoryview)):
            pieces = (body,)
            size = size_of(body)
        else:
            pieces = body
            size = sum([size_of(piece) for piece in body])
        first = block(status, headers)
        connection = self._connection
        if not trailers and status >= 200 and status != 204 and status != 304:
            first += content_length(size)
        if self.head.method == "HEAD" or status == 204 or status == 304:
            size = 0
        stream = self.id
        if (
            size <= self.window
            and size <= connection.window
            and size <= connection.max_frame
            and len(first) <= connection.max_frame
            and not connection.write_paused
        ):
            connection.window -= size
            length = len(first)
            if trailers:
                tail = block(0, trailers)
                end = len(tail)
                out: tuple[Buffer, ...] = (
                    HEADER.pack(length >> 16, length & 0xFFFF, 1, _END_HEADERS, stream),
                    first,
                    HEADER.pack(size >> 16, size & 0xFFFF, 0, 0, stream) if size else b"",
                    *(pieces if size else ()),
                    HEADER.pack(end >> 16, end & 0xFFFF, 1, _LAST_HEADERS, stream),
                    tail,
                )
            elif size:
                out = (
                    HEADER.pack(length >> 16, length & 0xFFFF, 1, _END_HEADERS, stream),
                    first,
                    HEADER.pack(size >> 16, size & 0xFFFF, 0, 1, stream),
                    *pieces,
                )
            else:
                out = (HEADER.pack(length >> 16, length & 0xFFFF, 1, _LAST_HEADERS, stream), first)
            connection.write_all(out)
            connection.sent(self)
            return None
        return self._send_slowly(first, pieces if size else (), block(0, trailers))

    def _send_slowly(self, first: bytes, pieces: Sequence[Buffer], trailers: bytes) -> None:
        connection = self._connection
        most = connection.max_frame
        if not pieces and not trailers:
            connection.write(frames.headers(self.id, first, end=True, most=most))
            connection.sent(self)
            return
        connection.write(frames.headers(self.id, first, end=False, most=most))
        self._tail = frames.headers(self.id, trailers, end=True, most=most) if trailers else b""
        self._queue = deque(memoryview(flat(p)) for p in pieces if size_of(p))
        self.queued = sum(p.nbytes for p in self._queue)
        connection.wait(self)

    def send_raw(self, data: bytes | Sequence[Buffer], *, close: bool = False) -> None:
        raise RuntimeError("a response rendered for HTTP/1.1 cannot be sent over HTTP/2")

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        """Begin a response whose body follows with `write`."""
        if self.state:
            return self._late()
        self.state = STARTED
        first = block(status, headers)
        bare = status == 204 or status == 304
        if length is not None and not bare:
            first += content_length(length)
        self._framing = length if length is not None else -1
        if bare or self.head.method == "HEAD":
            self._framing = -2
        connection = self._connection
        connection.write(frames.headers(self.id, first, end=False, most=connection.max_frame))
        return None

    def write(self, data: Buffer) -> bool:
        """Send a piece of the body. False asks to wait for `on_drain`; the piece is taken either way."""
        if self.state != STARTED:
            if self.state == ABORTED:
                return True
            raise RuntimeError("write() belongs between start() and end()")
        size = size_of(data)
        framing = self._framing
        if framing == -2 or not size:
            return True
        if framing >= 0:
            if size > framing:
                self.abort()
                raise ValueError(f"the response is {size - framing} bytes longer than announced")
            self._framing = framing - size
        connection = self._connection
        queue = self._queue
        if queue is None:
            queue = self._queue = deque()
        queue.append(memoryview(flat(data)))
        self.queued += size
        connection.wait(self)
        if self.queued > connection.limits.write_high_water or connection.write_paused:
            self._told = True
            return False
        return True

    def end(self, trailers: bytes = b"") -> None:
        """The response is complete."""
        if self.state != STARTED:
            if self.state == ABORTED:
                return
            raise RuntimeError("end() belongs after start()")
        if self._framing > 0:
            missing = self._framing
            self.abort()
            raise ValueError(f"the response is {missing} bytes shorter than announced")
        self.state = ENDED
        connection = self._connection
        if trailers:
            tail = block(0, trailers)
            self._tail = frames.headers(self.id, tail, end=True, most=connection.max_frame)
        else:
            self._tail = b""
        connection.wait(self)

    def abort(self) -> None:
        """Reset the stream, so that what was sent cannot pass for a whole response."""
        if self.state < ENDED:
            self.state = ABORTED
            self._sink = self._callback = None
            self.drop()
            self._connection.reset(self, Code.INTERNAL_ERROR)

    def upgrade(self, lines: bytes, protocol: object) -> None:
        """HTTP/1's, which HTTP/2 has not: RuntimeError."""
        raise RuntimeError("a stream of HTTP/2 cannot be upgraded")

    def fault(self) -> None:
        """The handler failed: 500 if nothing was sent, else a reset."""
        if self.state == OPEN:
            self.refuse(
                BadRequest(500, "The server failed on this request; its log has the details.")
            )
        else:
            self.abort()

    def refuse(self, bad: BadRequest) -> None:
        """What the engine answers by itself."""
        on_abort, sink = self.on_abort, self._sink
        self._sink = self._callback = self.on_abort = None
        self.drop()
        if self.state == OPEN:
            self.send(*self._connection.server.refusal(bad))
        else:
            self.abort()
        if sink is not None:
            sink.on_abort(bad)
        if on_abort is not None:
            on_abort()

    def _late(self) -> None:
        if self.state != ABORTED:
            raise RuntimeError("this request is answered already")

    # -- what waits to be sent ----------------------------------------------------------------------

    def flush(self) -> bool:
        """Send one frame of what waits; False when nothing could be sent."""
        connection = self._connection
        queue = self._queue
        if queue:
            most = min(self.window, connection.window, connection.max_frame)
            if most <= 0:
                return False
            piece = queue[0]
            size = piece.nbytes
            if size > most:
                queue[0] = piece[most:]
                piece = piece[:most]
                size = most
            else:
                queue.popleft()
            self.window -= size
            connection.window -= size
            self.queued -= size
            self.touched = connection.now
            last = not queue and self._tail == b""
            first = HEADER.pack(size >> 16, size & 0xFFFF, 0, last, self.id)
            connection.write_all((first, piece))
            if last:
                connection.sent(self)
                return True
            if not queue and self._tail is not None:
                connection.write(self._tail)
                connection.sent(self)
            return True
        if self._tail is not None:
            tail = self._tail or HEADER.pack(0, 0, 0, 1, self.id)
            connection.write(tail)
            connection.sent(self)
        else:
            connection.drained(self)
        return True

    def drain(self) -> None:
        """Tell a writer that was told to wait that it may go on."""
        low = self._connection.limits.write_high_water // 2
        if self._told and self.state == STARTED and self.queued <= low:
            self._told = False
            if self.on_drain is not None:
                self.on_drain()
