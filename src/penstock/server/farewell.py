"""The last answers of a process whose event loop stands still, written from outside of it.

A call that never returns from the loop takes the loop with it: nothing else can be sent the usual way. The
watchdog's thread still can, straight to the sockets, since the process ends right after and nobody else
will write to them again.
"""

from __future__ import annotations

import logging
import os
import socket

from penstock.errors import PenstockError
from penstock.http.connection import Connection
from penstock.http.exchange import OPEN
from penstock.http.head import JSON_TYPE, status_line
from penstock.http.server import HttpServer
from penstock.protocols.errors import error_body

log = logging.getLogger(__name__)


def answer_all(server: HttpServer, error: PenstockError) -> int:
    """Answer each request that has no answer yet with `error`; returns how many. Never waits."""
    body = error_body(error)
    response = b"%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
        status_line(error.status),
        JSON_TYPE,
        len(body),
        body,
    )
    if server.scheme == "https":
        return 0  # the keys are the loop's
    answered = 0
    for connection in tuple(server.connections):
        if not isinstance(connection, Connection):
            continue  # HTTP/2 frames are the loop's too
        exchange = connection.exchange
        if exchange is None or exchange.state != OPEN or exchange.body is None:
            continue
        transport = connection.transport
        if transport.get_write_buffer_size():
            continue  # half of another response is still to be sent
        wrapped = transport.get_extra_info("socket")
        if wrapped is None:
            continue
        try:
            with socket.socket(fileno=os.dup(wrapped.fileno())) as sock:
                sock.send(response, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            continue
        answered += 1
    return answered
