"""One request and its response, as a handler sees them.

An exchange is a small object made per request: a reference that is kept too long can never write into the
connection's next response. All methods are plain calls on the event loop.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from penstock.http.head import JSON_TYPE, BadRequest, RequestHead, status_line
from penstock.http.incoming import BodySink, Buffer, IncomingBody, flat, size_of

if TYPE_CHECKING:
    from penstock.http.connection import Connection
    from penstock.http.held import Held

logger = logging.getLogger(__name__)

#: Bodies up to this size are joined to their head; larger ones are written beside it, uncopied.
JOIN_BYTES: Final = 16 * 1024

# An exchange's state.
OPEN, STARTED, ENDED, ABORTED = range(4)
# How a started response's body is framed, when it is not the number of bytes still owed.
_CHUNKED, _UNTIL_CLOSE, _NONE = -1, -2, -3


def response_pieces(
    head: RequestHead, status: int, headers: bytes, body: Buffer | Sequence[Buffer], keep: bool
) -> tuple[Buffer, ...]:
    """A whole response to the request with that head: one piece, if it is small."""
    rest: tuple[Buffer, ...]
    if type(body) is bytes:
        rest = (body,)
        length = len(body)
    elif isinstance(body, (bytearray, memoryview)):
        rest = (body,)
        length = size_of(body)
    else:
        rest = tuple(map(memoryview, cast("Sequence[Buffer]", body)))
        length = sum(map(size_of, rest))
    lines = status_line(status) + headers
    if not head.minor or not keep:
        lines += b"connection: keep-alive\r\n" if keep else b"connection: close\r\n"
    if status == 204 or status == 304:
        return (lines + b"\r\n",)
    first = b"%bcontent-length: %d\r\n\r\n" % (lines, length)
    if head.method == "HEAD":
        return (first,)
    if length <= JOIN_BYTES:
        return (b"".join((first, *rest)),)
    return (first, *rest)


def error_response(refusal: BadRequest, headers: bytes = b"") -> bytes:
    """The engine's own answer to a request that it does not hand on, with more header lines."""
    body = json.dumps({"error": refusal.message}).encode()
    lines = status_line(refusal.status) + JSON_TYPE + headers
    return b"%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body)


class Exchange:
    """One request, and the way to answer it: `send` or `send_raw`, or `start`, `write`, `end`.

    After the client has gone, everything that writes does nothing.
    """

    __slots__ = (
        "_connection",
        "_framing",
        "_incoming",
        "body",
        "head",
        "on_abort",
        "on_drain",
        "state",
    )

    def __init__(self, connection: Connection, head: RequestHead, body: Buffer | None) -> None:
        self._connection = connection
        self.head = head
        #: The whole body, b"" when there is none, None while it is not all here (see `receive`, `gather`).
        self.body = body
        self.state = OPEN
        #: Called once if the client goes away, or breaks the protocol, before the response ended.
        self.on_abort: Callable[[], None] | None = None
        #: Called when writing may go on after `write` said no.
        self.on_drain: Callable[[], None] | None = None

    _incoming: IncomingBody
    #: Set by `start`.
    _framing: int

    def __repr__(self) -> str:
        return f"<Exchange {self.head!r} {('open', 'started', 'ended', 'aborted')[self.state]}>"

    # -- the request ------------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        return self._connection.scheme

    @property
    def peer(self) -> str:
        """The client's address as `host:port`; empty over a Unix socket."""
        return self._connection.peer()

    def receive(self, sink: BodySink) -> None:
        """Stream the body into `sink`; what is here already comes before this returns."""
        body = self.body
        if body is not None:
            if body:
                sink.on_data(body)
            sink.on_end()
        elif self.state >= ENDED:
            sink.on_abort(ConnectionError("the exchange is over"))
        else:
            self._connection.claim(self._incoming)
            self._incoming.receive(sink)

    def gather(self, callback: Callable[[Exchange], None]) -> None:
        """Call back with this exchange once the whole body is in `body`; at once when it is there.

        Never called when the client goes away first (`on_abort` is).
        """
        if self.body is not None:
            callback(self)
        elif self.state < ENDED:
            self._connection.claim(self._incoming)
            try:
                self._incoming.gather(callback)
            except BadRequest as exc:
                self._connection.refuse(exc)

    def pause_reading(self) -> None:
        """Let the client wait with its body. Pieces already read may still arrive."""
        if self.body is None and self.state < ENDED:
            self._connection.pause_user(self)

    def resume_reading(self) -> None:
        if self.state < ENDED:
            self._connection.resume_user(self)

    # -- the response -----------------------------------------------------------------------------

    def send(self, status: int, headers: bytes, body: Buffer | Sequence[Buffer] = b"") -> None:
        """Answer at once. `headers` are rendered lines; framing and connection are added here."""
        if self.state:
            return self._late()
        # Whatever is wrong with the arguments must show before a byte is out: then it is a 500.
        connection = self._connection
        head = self.head
        keep = connection.keeps(head)
        pieces = response_pieces(head, status, headers, body, keep)
        if len(pieces) == 1:
            connection.transport.write(pieces[0])
        else:
            connection.write_all(pieces)
        self.state = ENDED
        connection.finished(keep)
        return None

    def send_raw(self, data: bytes | Sequence[Buffer], *, close: bool = False) -> None:
        """Answer with a complete response, head and body, that is framed already.

        The caller answers for `connection:` too; `close` ends the connection after it, as does what the
        client asked for.
        """
        if self.state:
            return self._late()
        connection = self._connection
        if type(data) is bytes:
            connection.transport.write(data)
        else:
            connection.write_all([memoryview(piece) for piece in cast("Sequence[Buffer]", data)])
        self.state = ENDED
        connection.finished(connection.keeps(self.head) and not close)
        return None

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        """Begin a response whose body follows with `write`.

        Without a length it is chunked; a client of HTTP/1.0 reads until the connection closes.
        """
        if self.state:
            return self._late()
        connection = self._connection
        head = self.head
        lines = status_line(status) + headers
        bare = status == 204 or status == 304
        # Without a length, HTTP/1.0 has only the end of the connection to say where a body ends.
        framed = bare or length is not None or head.minor
        keep = bool(framed) and connection.may_keep(head)
        if not head.minor or not keep:
            lines += b"connection: keep-alive\r\n" if keep else b"connection: close\r\n"
        if bare:
            self._framing = _NONE
        elif length is not None:
            lines += b"content-length: %d\r\n" % length
            self._framing = length
        elif head.minor:
            lines += b"transfer-encoding: chunked\r\n"
            self._framing = _CHUNKED
        else:
            self._framing = _UNTIL_CLOSE
        if head.method == "HEAD":
            self._framing = _NONE
        connection.transport.write(lines + b"\r\n")
        connection.closing = not keep
        self.state = STARTED
        return None

    def write(self, data: Buffer) -> bool:
        """Send a piece of the body. False asks to wait for `on_drain`; the piece is taken either way.

        More bytes than `start` announced: the connection is broken and ValueError raised.
        """
        if self.state != STARTED:
            if self.state == ABORTED:
                return True
            raise RuntimeError("write() belongs between start() and end()")
        connection = self._connection
        size = size_of(data)
        framing = self._framing
        if size:
            connection.progress += 1
            if framing >= 0:
                if size > framing:
                    self.abort()
                    raise ValueError(
                        f"the response is {size - framing} bytes longer than announced"
                    )
                self._framing = framing - size
                connection.transport.write(flat(data))
            elif framing == _CHUNKED:
                if size <= JOIN_BYTES:
                    connection.transport.write(b"".join((b"%x\r\n" % size, data, b"\r\n")))
                else:
                    connection.write_all((b"%x\r\n" % size, data, b"\r\n"))
            elif framing == _UNTIL_CLOSE:
                connection.transport.write(flat(data))
        return not connection.write_paused

    def end(self) -> None:
        """The response is complete. Fewer bytes than announced: the connection is broken, ValueError."""
        if self.state != STARTED:
            if self.state == ABORTED:
                return
            raise RuntimeError("end() belongs after start()")
        framing = self._framing
        connection = self._connection
        if framing > 0:
            self.abort()
            raise ValueError(f"the response is {framing} bytes shorter than announced")
        self.state = ENDED
        if framing == _CHUNKED:
            connection.transport.write(b"0\r\n\r\n")
        connection.finished(not connection.closing and connection.may_keep(self.head))

    def upgrade(self, lines: bytes, protocol: Held) -> None:
        """Answer 101 with those header lines, and let `protocol` have the connection."""
        self._connection.hand_over(self, lines, protocol)

    def abort(self) -> None:
        """Break the connection, so that what was sent cannot pass for a whole response."""
        if self.state < ENDED:
            reset = self.state == STARTED and self._framing == _UNTIL_CLOSE
            self.state = ABORTED
            self._connection.break_off(reset=reset)

    def fault(self) -> None:
        """The handler failed: 500 if nothing was sent, else a broken connection."""
        if self.state == OPEN:
            body = b'{"error":"The server failed on this request; its log has the details."}'
            self.send(500, JSON_TYPE, body)
        else:
            self.abort()

    def _late(self) -> None:
        if self.state != ABORTED:
            raise RuntimeError("this request is answered already")
