"""One request to an upstream and its response, as the caller sees them, and how it can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from penstock.http.head import ResponseHead
from penstock.http.incoming import Buffer, size_of

if TYPE_CHECKING:
    from penstock.http.client_connection import UpstreamConnection

Phase: TypeAlias = Literal["connect", "idle-closed", "response"]

#: Bytes of a streamed request that wait for the connection to be made before `write` says no.
EARLY_BYTES: Final = 64 * 1024
#: Requests up to this size are joined; a larger body is written beside its head, uncopied.
JOIN_BYTES: Final = 16 * 1024


class UpstreamError(Exception):
    """The exchange failed.

    `phase`: `connect` (no connection), `idle-closed` (a reused connection was closed with no byte of a
    response), `response` (anything later). `retryable`: no byte of the request can have been acted on.
    That is known where no connection was made, and over Unix sockets where the system reports that the
    peer closed without having read the request. A peer that read it and died has perhaps acted on it, so
    an `idle-closed` that is not `retryable` may be sent again only if the request is idempotent.
    """

    def __init__(self, phase: Phase, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.phase = phase
        self.retryable = retryable


class ResponseSink(Protocol):
    """Takes the answer to one request. After `on_end`, `on_error` or a whole `on_response`: nothing more."""

    def on_response(self, head: ResponseHead, body: bytes | None) -> None:
        """`body`: all of it, or None when `on_data` and `on_end` follow."""

    def on_data(self, data: Buffer) -> None:
        """The next piece, never empty."""

    def on_end(self) -> None:
        """The response is complete."""

    def on_error(self, exc: UpstreamError) -> None:
        """There will be no (more of the) response. Never called from within `request`."""


class _Nobody:
    """The sink of an exchange that is over."""

    def on_response(self, head: ResponseHead, body: bytes | None) -> None:
        pass

    def on_data(self, data: Buffer) -> None:
        pass

    def on_end(self) -> None:
        pass

    def on_error(self, exc: UpstreamError) -> None:
        pass


_NOBODY: Final = _Nobody()


class ClientExchange:
    """One request under way."""

    __slots__ = (
        "_chunked", "_connection", "_early", "_early_bytes", "_left", "done", "method",
        "on_drain", "reused", "sent", "sink", "size", "status",
    )  # fmt: skip

    def __init__(self, sink: ResponseSink, method: str) -> None:
        self._connection: UpstreamConnection | None = None
        self.sink = sink
        self.method = method
        #: Nothing more will be told to the sink.
        self.done = False
        #: The request is out completely.
        self.sent = True
        self.reused = False
        #: Bytes of the request, when it was written in one go; -1 when not.
        self.size = -1
        #: Of the response, once its head is here.
        self.status = 0
        #: Called when writing may go on after `write` said no.
        self.on_drain: Callable[[], None] | None = None
        self._early: list[Buffer] | None = None

    _early_bytes: int
    _chunked: bool
    #: Body bytes still owed when the length was told, -1 when it was not.
    _left: int

    def write(self, data: Buffer) -> bool:
        """Send a piece of the request's body. False asks to wait for `on_drain`; it is taken either way.

        Does nothing once the exchange is done. More bytes than the announced length: ValueError, and the
        connection is closed.
        """
        if self.done:
            return True
        if self.sent:
            raise RuntimeError("write() belongs to a request made with more=True, before end()")
        size = size_of(data)
        if not size:
            return True
        if self._left >= 0:
            if size > self._left:
                self.cancel()
                raise ValueError("the request body is longer than announced")
            self._left -= size
        if not self._chunked:
            return self._write((data,), size)
        if size <= JOIN_BYTES:
            return self._write((b"".join((b"%x\r\n" % size, data, b"\r\n")),), size)
        return self._write((b"%x\r\n" % size, data, b"\r\n"), size)

    def _write(self, pieces: tuple[Buffer, ...], size: int) -> bool:
        connection = self._connection
        if connection is None:
            assert self._early is not None  # noqa: S101 - without a connection there is a waiting line
            self._early.extend(pieces)
            self._early_bytes += size
            return self._early_bytes < EARLY_BYTES
        connection.write_all(pieces)
        return not connection.write_paused

    @property
    def unsent(self) -> int:
        """Bytes of the request that wait here to be written."""
        connection = self._connection
        if connection is None:
            return self._early_bytes
        transport = connection.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def end(self) -> None:
        """The request's body is complete. Does nothing once the exchange is done."""
        if self.done or self.sent:
            return
        if self._left > 0:
            self.cancel()
            raise ValueError("the request body is shorter than announced")
        if self._chunked:
            self._write((b"0\r\n\r\n",), 0)
        self.sent = True

    def cancel(self) -> None:
        """Give up: the connection is closed, the sink hears nothing more."""
        if self.done:
            return
        connection = self._connection
        self.finish()
        if connection is not None:
            connection.drop()

    def finish(self) -> ResponseSink:
        """Nothing more will happen; the sink, for a last word.

        Sinks hold their exchange most often, so it lets go of them: a cycle per request otherwise.
        """
        sink = self.sink
        self.done = True
        self.sink = _NOBODY
        self.on_drain = None
        self._connection = None
        self._early = None
        return sink

    def pause(self) -> None:
        """Let the upstream wait with its response. Pieces already read may still arrive."""
        if self._connection is not None and not self.done:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None and not self.done:
            self._connection.resume()
