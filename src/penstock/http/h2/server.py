"""Listeners whose clients may speak HTTP/2: by ALPN over TLS, by prior knowledge without.

Everything but the protocol of a connection is `HttpServer`'s: addresses, the sweep, the drain.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Callable
from typing import Any, cast

import msgspec

from penstock.http.connection import Connection
from penstock.http.exchange import Exchange
from penstock.http.h2.connection import H2Connection
from penstock.http.h2.fields import Fields, request_head
from penstock.http.h2.frames import PREFACE
from penstock.http.head import BadRequest, RequestHead
from penstock.http.held import Held
from penstock.http.limits import Limits
from penstock.http.server import HttpServer

#: What `Http2Server` calls for an answer of the engine's own: status, header lines, body, trailers.
Refusal = tuple[int, bytes, bytes, bytes]

#: Heads remembered over all connections, and the most that one of them may weigh.
_MAX_HEADS = 1024
_MAX_HEAD_BYTES = 4096


def json_refusal(bad: BadRequest) -> Refusal:
    """`{"error": ...}`"""
    body = msgspec.json.encode({"error": bad.message})
    return bad.status, b"content-type: application/json\r\n", body, b""


class Http2Server(HttpServer):
    """`HttpServer` that also speaks HTTP/2; `http1=False`: nothing else.

    Handlers get `H2Exchange` objects for HTTP/2 and `Exchange` objects for HTTP/1.1.
    """

    def __init__(
        self,
        handler: Callable[[Exchange], None],
        *,
        limits: Limits | None = None,
        streaming: bool = False,
        ssl: ssl_module.SSLContext | None = None,
        http1: bool = True,
        refusal: Callable[[BadRequest], Refusal] = json_refusal,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(handler, limits=limits, streaming=streaming, ssl=ssl, clock=clock)
        self.http1 = http1
        self.refusal = refusal
        self._h2_heads: dict[tuple[bool, tuple[tuple[bytes, bytes], ...]], RequestHead] = {}

    def time(self) -> float:
        return self._clock() if self._clock is not None else self.loop.time()

    def _accept(self) -> asyncio.Protocol:
        return _Negotiation(self)

    def find_head(self, fields: Fields, ended: bool) -> tuple[RequestHead, bytes | None]:
        """The one head for these fields, and what they say in `grpc-timeout`. StreamFault, BadRequest."""
        timeout = None
        for i, (name, value) in enumerate(fields):
            if name == b"grpc-timeout":
                timeout = value
                fields = [*fields[:i], *fields[i + 1 :]]
                break
        key = (ended, tuple(fields))
        head = self._h2_heads.get(key)
        if head is None:
            head = request_head(fields, self.limits, ended)
            if sum(len(n) + len(v) for n, v in fields) <= _MAX_HEAD_BYTES:
                if len(self._h2_heads) >= _MAX_HEADS:
                    del self._h2_heads[next(iter(self._h2_heads))]
                self._h2_heads[key] = head
        return head, timeout


class _Negotiation(Held):
    """Stands in for a new connection until it is known what is spoken on it."""

    __slots__ = ("_buffer", "_opened", "_server", "_transport")

    def __init__(self, server: Http2Server) -> None:
        self._server = server
        self._buffer = b""
        self._opened = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        tls: Any = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._hand_over(tls.selected_alpn_protocol() == "h2" or not self._server.http1)
        elif not self._server.http1:
            self._hand_over(True)
        else:
            self._opened = self._server.time()
            self._server.admit(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if PREFACE.startswith(self._buffer[: len(PREFACE)]):
            if len(self._buffer) >= len(PREFACE):
                self._hand_over(True)
        else:
            self._hand_over(False)

    def _hand_over(self, h2: bool) -> None:
        server = self._server
        server.connections.discard(self)
        protocol = H2Connection(server) if h2 else Connection(server)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._buffer and not self._transport.is_closing():
            protocol.data_received(self._buffer)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)

    # -- what the server's sweep and drain ask of a connection

    def check(self, now: float) -> None:
        if now - self._opened >= self._server.limits.idle_timeout_s:
            self._transport.close()

    def close_if_idle(self) -> None:
        self._transport.close()

    def break_off_from_outside(self, exc: Exception | None = None) -> None:
        self._transport.abort()
