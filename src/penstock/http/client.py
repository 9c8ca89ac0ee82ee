"""The client side of the hop between processes: pooled keep-alive connections to one address.

Made for a gateway: requests come with a rendered head, answers go to a sink by plain calls, and an error
says whether the request can be sent again without any chance that it is acted on twice. Deadlines belong
to the caller (`ClientExchange.cancel`); only connecting has one here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

from penstock.domain.routes import Address
from penstock.http.chunked import ChunkedDecoder
from penstock.http.head import (
    CHUNKED,
    BadRequest,
    BadResponse,
    HeadCache,
    ResponseHead,
    check_partial_head,
    parse_response_head,
    render_headers,
)
from penstock.http.incoming import Buffer, flat, size_of
from penstock.http.limits import Limits

logger = logging.getLogger(__name__)

Phase: TypeAlias = Literal["connect", "idle-closed", "response"]

#: Interim responses (1xx) of one exchange.
MAX_INTERIM: Final = 16
#: Bytes of a streamed request that wait for the connection to be made before `write` says no.
EARLY_BYTES: Final = 64 * 1024
#: Up to this size a request is one write, which a Unix socket's receiver gets in one piece.
ONE_PIECE_BYTES: Final = 32 * 1024
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
        "_chunked", "_connection", "_early", "_early_bytes", "_left", "_owner", "done", "method",
        "on_drain", "reused", "sent", "sink", "size", "status",
    )  # fmt: skip

    def __init__(self, owner: Upstream, sink: ResponseSink, method: str) -> None:
        self._owner = owner
        self._connection: _UpstreamConnection | None = None
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


# What a connection reads.
_IDLE, _HEAD, _BODY, _CLOSED = range(4)


class _UpstreamConnection(asyncio.Protocol):
    """One connection; at most one exchange on it at a time."""

    __slots__ = (
        "_buffer", "_decoder", "_exchange", "_find", "_head", "_interim", "_left", "_owner", "_paused",
        "_state", "_unix", "idle_since", "transport", "write_paused",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, owner: Upstream) -> None:
        self._owner = owner
        self._find = owner.heads.find
        self._unix = owner.address.path is not None
        self._exchange: ClientExchange | None = None
        self._state = _IDLE
        self._buffer: bytearray | None = None
        self._decoder: ChunkedDecoder | None = None
        self._head: ResponseHead | None = None
        self._left = 0
        self._interim = 0
        self._paused = False
        self.write_paused = False
        self.idle_since = 0.0

    # -- requests ---------------------------------------------------------------------------------

    def begin(self, exchange: ClientExchange, pieces: tuple[Buffer, ...] | bytes) -> None:
        """Send a request, or the first part of one."""
        self._exchange = exchange
        exchange._connection = self
        self._state = _HEAD
        self._interim = 0
        if type(pieces) is bytes:
            self.transport.write(pieces)
        else:
            self.write_all(cast("tuple[Buffer, ...]", pieces))

    def write_all(self, pieces: Iterable[Buffer]) -> None:
        if self._owner.vectored:
            self.transport.writelines(pieces)
        else:
            for piece in pieces:
                self.transport.write(flat(piece))

    # -- the transport's calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._owner.made(self)
        self.transport.set_write_buffer_limits(high=self._owner.limits.write_high_water)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            buffer = self._buffer
            if buffer is not None:
                start = len(buffer)
                buffer += data
                if buffer.find(b"\r\n\r\n", max(0, start - 3)) < 0:
                    try:
                        check_partial_head(buffer, start, self._owner.limits)
                    except BadRequest as exc:
                        self._fail(exc.message)
                    return
                self._buffer = None
                data = bytes(buffer)
            self._read_head(data)
        elif state == _BODY:
            self._read_body(data)
        elif state == _IDLE:
            # Nobody asked: a 408 before closing, or a response too many. Either way not to be trusted.
            self._owner.discard(self)
            self.drop()

    def _read_head(self, data: bytes) -> None:
        found = data.find(b"\r\n\r\n")
        if found < 0:
            try:
                check_partial_head(data, 0, self._owner.limits)
            except BadRequest as exc:
                self._fail(exc.message)
            else:
                self._buffer = bytearray(data)
            return
        end = found + 4
        raw = data[:end]
        head = self._find(raw)
        if head is None:
            try:
                head = self._owner.heads.add(raw)
            except BadResponse as exc:
                self._fail(str(exc))
                return
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 - this state has one
        status = head.status
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                self._fail(f"an interim response {status} was not asked for")
            elif len(data) > end:
                self._read_head(data[end:])
            return
        exchange.status = status
        length = 0 if exchange.method == "HEAD" else head.content_length
        size = len(data)
        if length == size - end or not length:
            # The common case: all of it is here.
            sink = self._finished(exchange, head, extra=length != size - end)
            sink.on_response(head, data[end : end + length])
            return
        if 0 < length < size - end:
            sink = self._finished(exchange, head, extra=True)
            sink.on_response(head, data[end : end + length])
            return
        self._state = _BODY
        self._head = head
        self._left = length
        if length == CHUNKED:
            self._decoder = ChunkedDecoder(self._owner.response_limits)
            if size > end:
                self._chunked_head(exchange, head, data[end:])
                return
        exchange.sink.on_response(head, None)
        if size > end and not exchange.done:
            self._read_body(data[end:])

    def _chunked_head(self, exchange: ClientExchange, head: ResponseHead, rest: bytes) -> None:
        """A chunked response whose first bytes came with its head: often that is all of it."""
        assert self._decoder is not None  # noqa: S101 - set by the caller
        try:
            pieces, end = self._decoder.feed(rest)
        except BadRequest as exc:
            self._fail(exc.message)
            return
        sink = exchange.sink
        if end >= 0:
            self._finished(exchange, head, extra=end != len(rest))
            sink.on_response(head, b"".join(pieces))
            return
        sink.on_response(head, None)
        for piece in pieces:
            if exchange.done:
                return
            sink.on_data(piece)

    def _read_body(self, data: bytes) -> None:
        exchange = self._exchange
        head = self._head
        assert exchange is not None  # noqa: S101 - this state has both
        assert head is not None  # noqa: S101
        sink = exchange.sink
        left = self._left
        if left >= 0:
            size = len(data)
            if size < left:
                self._left = left - size
                sink.on_data(data)
                return
            sink.on_data(data if size == left else memoryview(data)[:left])
            if not exchange.done:
                self._finished(exchange, head, extra=size != left)
                sink.on_end()
            return
        decoder = self._decoder
        if decoder is None:
            sink.on_data(data)
            return
        try:
            pieces, end = decoder.feed(data)
        except BadRequest as exc:
            self._fail(exc.message)
            return
        for piece in pieces:
            sink.on_data(piece)
            if exchange.done:
                return
        if end >= 0:
            self._finished(exchange, head, extra=end != len(data))
            sink.on_end()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        state = self._state
        self._state = _CLOSED
        self._owner.lost(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None or exchange.done:
            return
        sink = exchange.finish()
        if state == _BODY and self._left < 0 and self._decoder is None and exc is None:
            sink.on_end()  # the body was to last until the connection closed
            return
        if state == _HEAD and self._buffer is None and not exchange.status and not self._interim:
            unread = self._unix and 0 <= exchange.size <= ONE_PIECE_BYTES and _unread(exc)
            sink.on_error(
                UpstreamError(
                    "idle-closed" if exchange.reused else "response",
                    "the connection was closed before the request was read"
                    if unread
                    else "the connection was closed before an answer",
                    retryable=unread,
                )
            )
            return
        sink.on_error(UpstreamError("response", "the connection was closed within the answer"))

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        exchange = self._exchange
        if exchange is not None and not exchange.done and exchange.on_drain is not None:
            exchange.on_drain()

    # -- ends -------------------------------------------------------------------------------------

    def _finished(
        self, exchange: ClientExchange, head: ResponseHead, *, extra: bool
    ) -> ResponseSink:
        """The response is complete: back to the pool, unless something speaks against it."""
        sink = exchange.finish()
        self._exchange = None
        self._head = None
        self._decoder = None
        if self._paused:
            self.resume()
        # Bytes behind the response would be taken for the answer to the next request.
        whole = exchange.sent and (
            0 <= exchange.size <= ONE_PIECE_BYTES or not self.transport.get_write_buffer_size()
        )
        if head.keep_alive and whole and not extra and self._owner.keep(self):
            self._state = _IDLE
        else:
            self.drop()
        return sink

    def _fail(self, message: str) -> None:
        exchange, self._exchange = self._exchange, None
        self.drop()
        if exchange is not None and not exchange.done:
            exchange.finish().on_error(UpstreamError("response", message))

    def drop(self) -> None:
        """Close, whatever is under way."""
        self._state = _CLOSED
        self._exchange = None
        self.transport.abort()

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()


def _unread(exc: Exception | None) -> bool:
    """Whether a Unix socket's end means that the peer had not read what was sent.

    Linux gives ECONNRESET when a peer closes with unread bytes in its queue, and EPIPE to a write after
    the peer closed; a peer that had read everything gives a plain end of file.
    """
    return isinstance(exc, OSError) and exc.errno in (errno.ECONNRESET, errno.EPIPE)


class Upstream:
    """Connections to one address."""

    def __init__(
        self,
        address: Address,
        *,
        limits: Limits | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        max_idle: int = 256,
        max_idle_s: float = 60.0,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.address = address
        self.limits = limits if limits is not None else Limits()
        # Responses have no limit of their own: whoever streams them does not hold them.
        self.response_limits = Limits(max_body=1 << 62)
        self.heads: HeadCache[ResponseHead] = HeadCache(
            parse_response_head, self.limits, max_entries=256
        )
        self._loop = loop if loop is not None else asyncio.get_running_loop()
        self.vectored = type(self._loop).__module__.startswith("uvloop")
        self._time = self._loop.time
        self._max_idle = max_idle
        self._max_idle_s = max_idle_s
        self._connect_timeout_s = connect_timeout_s
        #: Most recently used last.
        self._idle: deque[_UpstreamConnection] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._connections: set[_UpstreamConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    @property
    def open(self) -> int:
        """Connections there are."""
        return len(self._connections)

    def request(
        self,
        head: bytes,
        body: Buffer | None,
        sink: ResponseSink,
        *,
        more: bool = False,
        chunked: bool = False,
        length: int | None = None,
        method: str = "POST",
    ) -> ClientExchange:
        """Send a request whose head is rendered and framed.

        `more`: the body goes on with `write` and `end`, chunked if the head says so, else of the length
        that the head says (told as `length`, it is enforced). `method` must be the head's.
        """
        exchange = ClientExchange(self, sink, method)
        pieces: bytes | tuple[Buffer, ...]
        if more:
            exchange.sent = False
            exchange._chunked = chunked
            exchange._left = -1 if length is None else length
            pieces = head
            if body:
                raise ValueError("with more=True the body goes through write()")
        elif not body:
            pieces = head
            exchange.size = len(head)
        else:
            size = size_of(body)
            exchange.size = len(head) + size
            pieces = head + body if size <= JOIN_BYTES else (head, body)
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            exchange.reused = True
            connection.begin(exchange, pieces)
            return exchange
        exchange._early = [pieces] if type(pieces) is bytes else list(pieces)  # type: ignore[arg-type]
        exchange._early_bytes = 0
        if self._closed:
            self._loop.call_soon(self._not_connected, exchange, "this upstream is closed")
        else:
            task = self._loop.create_task(self._connect(exchange))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        return exchange

    async def _connect(self, exchange: ClientExchange) -> None:
        address = self.address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await _open(self._loop, address, lambda: _UpstreamConnection(self))
        except TimeoutError:
            self._not_connected(exchange, f"no connection within {self._connect_timeout_s:g} s")
            return
        except OSError as exc:
            self._not_connected(exchange, f"no connection: {exc.strerror or exc}")
            return
        if connection.transport.is_closing():
            self._not_connected(exchange, "the connection was closed at once")
            return
        if exchange.done:
            # Cancelled meanwhile; the connection serves the next one.
            if not self.keep(connection):
                connection.drop()
            return
        early, exchange._early = exchange._early, None
        connection.begin(exchange, tuple(early or ()))
        held_up = exchange._early_bytes >= EARLY_BYTES and not connection.write_paused
        if held_up and not exchange.sent and exchange.on_drain is not None:
            exchange.on_drain()

    def _not_connected(self, exchange: ClientExchange, message: str) -> None:
        if not exchange.done:
            exchange.finish().on_error(UpstreamError("connect", message, retryable=True))

    # -- the pool ---------------------------------------------------------------------------------

    def keep(self, connection: _UpstreamConnection) -> bool:
        """A connection is free again; False when it is not wanted."""
        if self._closed or len(self._idle) >= self._max_idle or connection.transport.is_closing():
            return False
        connection.idle_since = self._time()
        self._idle.append(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(self._max_idle_s / 2, self.sweep)
        return True

    def discard(self, connection: _UpstreamConnection) -> None:
        """An idle connection is not to be used again. No-op when it is not idle."""
        try:
            self._idle.remove(connection)
        except ValueError:
            pass

    def made(self, connection: _UpstreamConnection) -> None:
        self._connections.add(connection)

    def lost(self, connection: _UpstreamConnection) -> None:
        self._connections.discard(connection)
        if self._idle:
            self.discard(connection)

    def sweep(self) -> None:
        """Close connections that were idle for longer than the other side may be expected to wait."""
        self._timer = None
        oldest = self._time() - self._max_idle_s
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().drop()
        if self._idle and not self._closed:
            self._timer = self._loop.call_later(self._max_idle_s / 2, self.sweep)

    def close(self) -> None:
        """Close idle connections; requests under way finish. Requests from now on fail. May be repeated."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._idle.pop().drop()

    def abort(self) -> None:
        """Close everything; requests under way fail."""
        self.close()
        for connection in tuple(self._connections):
            connection.transport.abort()


async def _open(
    loop: asyncio.AbstractEventLoop, address: Address, factory: Callable[[], _UpstreamConnection]
) -> _UpstreamConnection:
    if address.path is not None:
        _, protocol = await loop.create_unix_connection(factory, address.path)
    else:
        _, protocol = await loop.create_connection(factory, str(address.host), address.port)
    return protocol


async def connects(address: Address, timeout_s: float = 5.0) -> bool:
    """Whether somebody accepts connections there now."""
    loop = asyncio.get_running_loop()
    transport: asyncio.BaseTransport
    try:
        async with asyncio.timeout(timeout_s):
            if address.path is not None:
                transport, _ = await loop.create_unix_connection(asyncio.Protocol, address.path)
            else:
                transport, _ = await loop.create_connection(
                    asyncio.Protocol, str(address.host), address.port
                )
    except (OSError, TimeoutError):
        return False
    transport.close()
    return True


class _Whole:
    """A sink that collects a response for `fetch`."""

    def __init__(self, answer: asyncio.Future[tuple[ResponseHead, bytes]], max_body: int) -> None:
        self._answer = answer
        self._max_body = max_body
        self._head: Any = None
        self._body = bytearray()

    def on_response(self, head: ResponseHead, body: bytes | None) -> None:
        if body is not None:
            self._done(head, body)
        self._head = head

    def on_data(self, data: Buffer) -> None:
        self._body += data
        if len(self._body) > self._max_body and not self._answer.done():
            self._answer.set_exception(UpstreamError("response", "the answer is too large"))

    def on_end(self) -> None:
        self._done(self._head, bytes(self._body))

    def on_error(self, exc: UpstreamError) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)

    def _done(self, head: ResponseHead, body: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result((head, body))


async def fetch(
    address: Address,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    timeout_s: float = 5.0,
    *,
    max_body: int = 64 * 1024 * 1024,
) -> tuple[int, tuple[tuple[bytes, bytes], ...], bytes]:
    """One request on a connection of its own: status, header fields (names in lower case), body.

    Raises `UpstreamError`, and TimeoutError after `timeout_s`. For calls between processes, and tests.
    """
    fields = list(headers)
    if not any(name.lower() == "host" for name, _ in fields):
        fields.insert(0, ("host", "localhost" if address.path is not None else str(address.host)))
    if body or method in ("POST", "PUT", "PATCH"):
        fields.append(("content-length", str(len(body))))
    fields.append(("connection", "close"))
    head = f"{method} {target} HTTP/1.1\r\n".encode("ascii") + render_headers(fields) + b"\r\n"
    loop = asyncio.get_running_loop()
    upstream = Upstream(address, loop=loop, connect_timeout_s=timeout_s)
    answer: asyncio.Future[tuple[ResponseHead, bytes]] = loop.create_future()
    exchange = upstream.request(head, body, _Whole(answer, max_body), method=method)
    try:
        async with asyncio.timeout(timeout_s):
            response, content = await answer
    finally:
        exchange.cancel()
        upstream.close()
    return response.status, response.headers, content
