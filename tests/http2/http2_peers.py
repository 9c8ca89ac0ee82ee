"""Clients for HTTP/2 tests: the `h2` package, which keeps the rules, and frames by hand, which need not."""

from __future__ import annotations

import asyncio
import ssl
import struct
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from hpack import Encoder

from penstock.domain.routes import Address
from penstock.http.h2.server import Http2Server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/x"),
    (":authority", "a"),
]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


SETTINGS = frame(4, 0, 0)


def block(fields: Any = REQUEST) -> bytes:
    """A header block that leaves the dynamic table alone is made by hand; this one does not."""
    return Encoder().encode(fields)


def headers(stream: int, fields: Any = REQUEST, *, end: bool = True) -> bytes:
    return frame(1, 4 | end, stream, block(fields))


@dataclass
class Reply:
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None


class Client:
    """A connection of the h2 package."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.replies: dict[int, Reply] = {}
        self.goaway: int | None = None
        #: Whether received data is acknowledged, which opens the windows again.
        self.acknowledge = True
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def request(self, body: bytes | None = b"", fields: Any = (), **pseudo: str) -> int:
        """Send a request; `body` None leaves it open."""
        stream = self.h2.get_next_available_stream_id()
        wanted = dict(REQUEST) | {f":{k}": v for k, v in pseudo.items()}
        self.replies[stream] = Reply()
        self.h2.send_headers(stream, [*wanted.items(), *fields], end_stream=body == b"")
        if body:
            self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    async def read(self) -> bool:
        """Take in what comes next; False at the end of the connection."""
        data = await asyncio.wait_for(self.reader.read(65536), 20)
        if not data:
            return False
        for event in self.h2.receive_data(data):
            reply = self.replies.get(getattr(event, "stream_id", None) or 0, Reply())
            if isinstance(event, h2.events.ResponseReceived):
                found = dict(event.headers)
                reply.status = int(found.pop(b":status"))
                reply.headers = found
            elif isinstance(event, h2.events.DataReceived):
                reply.body += event.data
                if self.acknowledge:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                reply.trailers = dict(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                reply.ended = True
            elif isinstance(event, h2.events.StreamReset):
                reply.reset = event.error_code
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goaway = event.error_code
        self.flush()
        return True

    async def answer(self, stream: int) -> Reply:
        """The whole response, or the reset, of a stream."""
        reply = self.replies[stream]
        while not reply.ended and reply.reset is None:
            if not await self.read():
                raise ConnectionError(f"closed with {reply}")
        return reply


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[-4:] if self.kind == 3 else self.payload[4:8], "big")


class Raw:
    """Frames by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def frame(self) -> Frame | None:
        """The next frame; None at the end."""
        try:
            head = await asyncio.wait_for(self.reader.readexactly(9), 20)
            length = int.from_bytes(head[:3], "big")
            payload = await asyncio.wait_for(self.reader.readexactly(length), 20)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Frame(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)

    async def until(self, kind: int, stream: int | None = None) -> Frame:
        """The next frame of a kind."""
        while True:
            found = await self.frame()
            assert found is not None, f"closed before a frame of kind {kind}"
            if found.kind == kind and stream in (None, found.stream):
                return found

    async def verdict(self) -> tuple[str, int]:
        """What the server says next about a fault: ("goaway" or "rst", code), or ("answer", status)."""
        while True:
            found = await self.frame()
            assert found is not None, "closed without a word"
            if found.kind == 7:
                return "goaway", found.code
            if found.kind == 3:
                return "rst", found.code
            if found.kind == 1:
                return "answer", found.stream

    async def ping(self) -> None:
        """Wait until the server has read everything so far; it must be alive."""
        self.send(frame(6, 0, 0, b"are you?"))
        found = await self.until(6)
        assert (found.flags, found.payload) == (1, b"are you?")

    async def closed(self) -> None:
        while await self.frame() is not None:
            pass


class Serving:
    """A running server and its clients."""

    def __init__(self, server: Http2Server, address: Address) -> None:
        self.server = server
        self.address = address
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(
        self, tls: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = "localhost" if tls is not None else None
        pair = await asyncio.open_connection(
            "127.0.0.1", self.address.port, ssl=tls, server_hostname=name
        )
        self._writers.append(pair[1])
        return pair

    async def client(self, tls: ssl.SSLContext | None = None) -> Client:
        return Client(*await self.connect(tls))

    async def raw(self, *first: bytes) -> Raw:
        """A connection on which preface and SETTINGS are sent, and then `first`."""
        raw = Raw(*await self.connect())
        raw.send(PREFACE, SETTINGS, *first)
        return raw

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self.server.close()
        await asyncio.sleep(0)
