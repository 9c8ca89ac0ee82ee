"""The last answers of a process whose event loop stands still, written from outside of it.

A call that never returns from the loop takes the loop with it: nothing else can be sent the usual way. The
watchdog's thread still can, straight to the sockets, since the process ends right after and nobody else
will write to them again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from penstock.errors import PenstockError
from penstock.http.connection import Connection
from penstock.http.exchange import OPEN
from penstock.http.head import JSON_TYPE, status_line
from penstock.http.mux.connection import MuxConnection
from penstock.http.server import HttpServer
from penstock.protocols.errors import error_body

log = logging.getLogger(__name__)


def answer_all(server: HttpServer, error: PenstockError) -> int:
    """Answer each request that has no answer yet with `error`; returns how many. Never waits."""
    body = error_body(error)
    lines = b"%b%bcontent-length: %d\r\n" % (status_line(error.status), JSON_TYPE, len(body))
    if server.scheme == "https":
        return 0  # the keys are the loop's
    answered = 0
    for connection in tuple(server.connections):
        if isinstance(connection, Connection):
            exchange = connection.exchange
            if exchange is None or exchange.state != OPEN or exchange.body is None:
                continue
            last = lines + b"connection: close\r\n\r\n" + body
            answered += _write(connection.transport, last)
        elif isinstance(connection, MuxConnection):
            last, count = connection.last_words(lines + b"\r\n" + body)
            answered += count if _write(connection.transport, last) else 0
        # else: what is to be said in HTTP/2 depends on what its loop knows
    return answered


def _write(transport: asyncio.Transport, last: bytes) -> bool:
    """Whether those bytes are on their way, as the next ones of that connection."""
    if transport.get_write_buffer_size():
        return False  # half of another response is still to be sent
    wrapped = transport.get_extra_info("socket")
    if wrapped is None:
        return False
    try:
        with socket.socket(fileno=os.dup(wrapped.fileno())) as sock:
            return sock.send(last, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(last)
    except OSError:
        return False
