"""An HTTP/1.1 server: listeners, the connections they accept, one sweep for all timeouts, and the drain."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl as ssl_module
import stat
from collections.abc import Callable
from contextlib import suppress

from penstock.domain.routes import Address
from penstock.http.connection import Connection
from penstock.http.exchange import Exchange
from penstock.http.head import BadRequest, HeadCache, RequestHead, parse_request_head
from penstock.http.held import Held
from penstock.http.incoming import BodySink, Buffer
from penstock.http.limits import Limits

__all__ = ["BadRequest", "BodySink", "Buffer", "Exchange", "HttpServer", "Limits", "RequestHead"]

logger = logging.getLogger(__name__)

#: How often connections are looked at, seconds; more often when a limit is shorter than a few of these.
SWEEP_S = 1.0
#: The same while all of them are at rest: a thousand idle model processes should not wake for their timeouts.
#: Heads, bodies and ends that begin meanwhile hurry it; only a response that is not read is found later.
REST_SWEEP_S = 10.0
#: Seconds at the start of a drain in which requests that are already on the wire still get in.
LAST_CALL_S = 0.05


class HttpServer:
    """Calls `handler` with an `Exchange` per request.

    `streaming=False`: the handler runs when the whole body is in `exchange.body`. `streaming=True`: it runs
    at the head, and the body is set only if it came with it.

    `half_close=False` takes a client that stops sending for one that has hung up: its request is aborted,
    which is what frees a model from work nobody waits for. True answers such clients.
    """

    def __init__(
        self,
        handler: Callable[[Exchange], None],
        *,
        limits: Limits | None = None,
        streaming: bool = False,
        ssl: ssl_module.SSLContext | None = None,
        half_close: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits if limits is not None else Limits()
        self.streaming = streaming
        self.half_close = half_close
        self.scheme = "https" if ssl is not None else "http"
        self.heads: HeadCache[RequestHead] = HeadCache(parse_request_head, self.limits)
        self.connections: set[Held] = set()
        self.draining = False
        #: Bytes set aside for bodies that are on their way in.
        self.gathered = 0
        #: Whether the loop's transports write several buffers with one call.
        self.vectored = False
        self.loop: asyncio.AbstractEventLoop
        self._ssl = ssl
        self._clock = clock
        self._servers: list[asyncio.AbstractServer] = []
        self._paths: list[tuple[str, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        #: No connection has anything under way, as of the last sweep.
        self._at_rest = False
        self._empty: asyncio.Event | None = None

    # -- listening --------------------------------------------------------------------------------

    async def listen(
        self,
        address: Address | socket.socket,
        *,
        reuse_port: bool = False,
        backlog: int = 1024,
        mode: int | None = None,
    ) -> Address:
        """Accept connections at an address, or at a bound socket; returns the address with its real port.

        A Unix socket takes the place of one that a dead process left. `mode`: its permissions.
        """
        self.loop = asyncio.get_running_loop()
        self.vectored = type(self.loop).__module__.startswith("uvloop")
        sock = address if isinstance(address, socket.socket) else None
        if isinstance(address, Address) and address.path is not None:
            sock = self._bind_unix(address.path, mode)
        tls_timeout = self.limits.head_timeout_s if self._ssl is not None else None
        server: asyncio.AbstractServer
        if sock is not None and sock.family == socket.AF_UNIX:
            server = await self.loop.create_unix_server(
                self._accept,
                sock=sock,
                backlog=backlog,
                ssl=self._ssl,
                ssl_handshake_timeout=tls_timeout,
            )
            bound = Address(path=sock.getsockname())
            if isinstance(address, Address):
                bound = address
        elif sock is not None:
            server = await self.loop.create_server(
                self._accept,
                sock=sock,
                backlog=backlog,
                ssl=self._ssl,
                ssl_handshake_timeout=tls_timeout,
            )
            bound = Address(host=sock.getsockname()[0], port=sock.getsockname()[1])
        else:
            assert isinstance(address, Address)  # noqa: S101 - all other kinds are above
            server = await self.loop.create_server(
                self._accept,
                address.host,
                address.port,
                reuse_port=reuse_port or None,
                backlog=backlog,
                ssl=self._ssl,
                ssl_handshake_timeout=tls_timeout,
            )
            name = server.sockets[0].getsockname()
            bound = Address(host=name[0], port=name[1])
        self._servers.append(server)
        return bound

    def _bind_unix(self, path: str, mode: int | None) -> socket.socket:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise OSError(f"{path} exists and is no socket")
        # Bound beside and moved into place, so that there is no moment without a socket to connect to.
        beside = f"{path}.{os.getpid()}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                os.unlink(beside)
            sock.bind(beside)
            if mode is not None:
                os.chmod(beside, mode)
            sock.listen(1024)
            os.rename(beside, path)
        except BaseException:
            sock.close()
            with suppress(FileNotFoundError):
                os.unlink(beside)
            raise
        self._paths.append((path, os.stat(path).st_ino))
        return sock

    def _accept(self) -> asyncio.Protocol:
        return Connection(self)

    # -- connections ------------------------------------------------------------------------------

    def admit(self, connection: Held) -> bool:
        """A connection was accepted; False when it is one too many."""
        if len(self.connections) >= self.limits.max_connections:
            return False
        self.connections.add(connection)
        self.hurry()
        return True

    def forget(self, connection: Held) -> None:
        self.connections.discard(connection)
        if not self.connections:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._empty is not None:
                self._empty.set()

    def hurry(self) -> None:
        """Something that has a deadline began: have it looked at in time."""
        if self._at_rest and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at_rest = False
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None:
            limits = self.limits
            shortest = min(
                limits.head_timeout_s, limits.body_timeout_s, limits.idle_timeout_s,
                limits.write_timeout_s, limits.linger_s,
            )  # fmt: skip
            soon = min(SWEEP_S, max(0.005, shortest / 4))
            later = max(soon, min(REST_SWEEP_S, limits.idle_timeout_s / 4))
            self._timer = self.loop.call_later(later if self._at_rest else soon, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.sweep()
        if self.connections:
            self._schedule()

    def sweep(self) -> None:
        """Close connections that have waited too long."""
        now = self._clock() if self._clock is not None else self.loop.time()
        at_rest = True
        for connection in tuple(self.connections):
            at_rest = connection.check(now) is True and at_rest
        self._at_rest = at_rest

    # -- the end ----------------------------------------------------------------------------------

    async def drain(self, grace_s: float) -> bool:
        """Accept nothing more, answer what is under way, close; break off what is left after `grace_s`.

        True when nothing had to be broken off.
        """
        self._stop_listening()
        self.draining = True
        if self.connections:
            await asyncio.sleep(min(LAST_CALL_S, grace_s))
        for connection in tuple(self.connections):
            connection.close_if_idle()
        self._empty = asyncio.Event()
        if self.connections:
            try:
                async with asyncio.timeout(grace_s):
                    await self._empty.wait()
            except TimeoutError:
                pass
        clean = not self.connections
        if not clean:
            logger.warning("%d connections were open after the grace time", len(self.connections))
        self.close()
        return clean

    def close(self) -> None:
        """Stop at once: whatever is under way is broken off. May be called twice."""
        self._stop_listening()
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in tuple(self.connections):
            connection.break_off_from_outside()

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path, inode in self._paths:
            with suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._paths.clear()
