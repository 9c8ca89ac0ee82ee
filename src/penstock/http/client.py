"""The client side of the hop between processes: pooled keep-alive connections to one address.

Made for a gateway: requests come with a rendered head, answers go to a sink by plain calls, and an error
says whether the request can be sent again without any chance that it is acted on twice. Deadlines belong
to the caller (`ClientExchange.cancel`); only connecting has one here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from penstock.domain.routes import Address
from penstock.http.client_connection import UpstreamConnection
from penstock.http.client_exchange import (
    EARLY_BYTES,
    JOIN_BYTES,
    ClientExchange,
    ResponseSink,
    UpstreamError,
)
from penstock.http.head import HeadCache, ResponseHead, parse_response_head, render_headers
from penstock.http.incoming import Buffer, size_of
from penstock.http.limits import Limits
from penstock.http.mux.frames import REQUEST_BYTES
from penstock.http.mux.upstream import MuxUpstream

__all__ = [
    "ClientExchange",
    "ResponseSink",
    "Upstream",
    "UpstreamError",
    "closes",
    "connects",
    "fetch",
]


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
        tls: ssl.SSLContext | None = None,
        shared: bool = False,
    ) -> None:
        """`shared`: ask for a connection that requests share, once two of them are under way."""
        self.address = address
        self._tls = tls
        self._mux: MuxUpstream | None = None
        #: Called when a connection is lost with a request under way, or the shared one though neither side
        #: has said that it ends: the process has ended, and who listens there next may not be ready yet.
        self.on_lost: Callable[[], None] | None = None
        #: Whether one is being made, and whether to ask for one at all.
        self._mux_asked = False
        self._mux_wanted = shared
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
        self._idle: deque[UpstreamConnection] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._connections: set[UpstreamConnection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    @property
    def shared(self) -> MuxUpstream | None:
        """The connection that requests share, while there is one."""
        return self._mux

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
        mux = self._mux
        if (
            mux is not None
            and not more
            and len(head) + (len(body) if body else 0) <= REQUEST_BYTES
            and mux.usable
        ):
            return mux.request(head, body, sink, method)
        if self._mux_wanted and mux is None:
            self._ask_for_mux()
        exchange = ClientExchange(sink, method)
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
                connection = await _open(
                    self._loop, address, lambda: UpstreamConnection(self), self._tls
                )
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

    # -- the connection that requests share -------------------------------------------------------

    def _ask_for_mux(self) -> None:
        """If another request is under way, and nobody has asked yet."""
        alone = len(self._connections) == len(self._idle) and not self._connecting
        if alone or self._mux_asked or self._closed:
            return
        self._mux_asked = True
        task = self._loop.create_task(self._connect_mux())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_mux(self) -> None:
        mux: MuxUpstream | None = None
        agreed = False
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                mux = await _open(
                    self._loop, self.address, lambda: MuxUpstream(self, self._loop), self._tls
                )
                agreed = await mux.ready
                self._mux_wanted = agreed
        except (OSError, TimeoutError):
            pass  # the next request that finds no connection free asks again
        finally:
            self._mux_asked = False
            if mux is not None and not (agreed and self._closed is False):
                mux.transport.abort()
        if agreed and mux is not None and not mux.transport.is_closing():
            self._mux = mux
            self._look_later()

    def mux_lost(self, mux: MuxUpstream) -> None:
        """That connection takes no more requests."""
        if self._mux is mux:
            self._mux = None

    def _not_connected(self, exchange: ClientExchange, message: str) -> None:
        if not exchange.done:
            exchange.finish().on_error(UpstreamError("connect", message, retryable=True))

    # -- the pool ---------------------------------------------------------------------------------

    def keep(self, connection: UpstreamConnection) -> bool:
        """A connection is free again; False when it is not wanted."""
        if self._closed or len(self._idle) >= self._max_idle or connection.transport.is_closing():
            return False
        connection.idle_since = self._time()
        self._idle.append(connection)
        if self._timer is None:
            self._look_later()
        return True

    def _look_later(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(self._max_idle_s / 2, self.sweep)

    def discard(self, connection: UpstreamConnection) -> None:
        """An idle connection is not to be used again. No-op when it is not idle."""
        try:
            self._idle.remove(connection)
        except ValueError:
            pass

    def made(self, connection: UpstreamConnection) -> None:
        self._connections.add(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        self._connections.discard(connection)
        if self._idle:
            self.discard(connection)

    def sweep(self) -> None:
        """Close connections that were idle for longer than the other side may be expected to wait."""
        self._timer = None
        oldest = self._time() - self._max_idle_s
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().drop()
        mux = self._mux
        if mux is not None and mux.unused():
            mux.retire()
        if self._idle or self._mux is not None:
            self._look_later()

    def close(self) -> None:
        """Close idle connections; requests under way finish. Requests from now on fail. May be repeated."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._idle.pop().drop()
        if self._mux is not None:
            self._mux.retire()

    def abort(self) -> None:
        """Close everything; requests under way fail."""
        mux = self._mux
        self.close()
        if mux is not None:
            mux.transport.abort()
        for connection in tuple(self._connections):
            connection.transport.abort()


_P = TypeVar("_P", bound=asyncio.Protocol)


async def _open(
    loop: asyncio.AbstractEventLoop,
    address: Address,
    factory: Callable[[], _P],
    tls: ssl.SSLContext | None = None,
) -> _P:
    if address.path is not None:
        _, protocol = await loop.create_unix_connection(factory, address.path)
    else:
        _, protocol = await loop.create_connection(
            factory, str(address.host), address.port, ssl=tls
        )
    return protocol


async def connects(address: Address, timeout_s: float = 5.0) -> bool:
    """Whether somebody accepts connections there now."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            transport = await _plain(loop, address, asyncio.Protocol)
    except (OSError, TimeoutError):
        return False
    transport.close()
    return True


class _Lost(asyncio.Protocol):
    """Notices that a connection was closed."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def closes(address: Address, within_s: float) -> bool:
    """Whether a connection there, on which nothing is said, is refused or closed within that time."""
    protocol = _Lost()
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(within_s):
            transport = await _plain(asyncio.get_running_loop(), address, lambda: protocol)
            await protocol.lost.wait()
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        if transport is not None:
            transport.close()
    return True


async def _plain(
    loop: asyncio.AbstractEventLoop, address: Address, factory: Callable[[], asyncio.Protocol]
) -> asyncio.BaseTransport:
    if address.path is not None:
        return (await loop.create_unix_connection(factory, address.path))[0]
    return (await loop.create_connection(factory, str(address.host), address.port))[0]


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
