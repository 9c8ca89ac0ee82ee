"""Valid HTTP/1 messages, generated, and their bytes as h11 writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h11
from hypothesis import strategies as st

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

_RESERVED = {
    "host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "trailer",
}  # fmt: skip


@dataclass(frozen=True)
class Message:
    """A message's head and body, with the sizes of its chunks (None: a declared length)."""

    method: str
    target: str
    headers: tuple[tuple[str, bytes], ...]
    body: bytes
    chunks: tuple[int, ...] | None
    status: int = 200

    def split_body(self) -> list[bytes]:
        if self.chunks is None:
            return [self.body] if self.body else []
        out, position = [], 0
        for size in self.chunks:
            if position < len(self.body):
                out.append(self.body[position : position + size])
                position += size
        if position < len(self.body):
            out.append(self.body[position:])
        return out

    def framing(self) -> list[tuple[str, str]]:
        if self.chunks is not None:
            return [("transfer-encoding", "chunked")]
        return [("content-length", str(len(self.body)))]


_values = st.builds(
    lambda words: b" ".join(words),
    st.lists(
        st.binary(min_size=1, max_size=12).map(
            lambda b: bytes(0x21 + c % 0x5E if c < 0x80 else c for c in b)
        ),
        max_size=3,
    ),
)
_names = st.text(TOKEN, min_size=1, max_size=12).filter(lambda n: n.lower() not in _RESERVED)
_headers = st.lists(st.tuples(_names, _values), max_size=6).map(tuple)
_targets = st.text("abcXYZ0189-._~%!$&'()*+,;=:@/?|\\\"<>{}[]^`", max_size=30).map(
    lambda t: "/" + t
)
_bodies = st.one_of(
    st.just(b""), st.binary(max_size=200), st.sampled_from([b"x" * 40_000, b"yz" * 45_000])
)
_chunks = st.one_of(st.none(), st.lists(st.integers(1, 70_000), max_size=5).map(tuple))

requests = st.builds(
    Message,
    method=st.one_of(
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        st.text(TOKEN, min_size=1, max_size=8).filter(lambda m: m not in ("HEAD", "CONNECT")),
    ),
    target=_targets,
    headers=_headers,
    body=_bodies,
    chunks=_chunks,
)
responses = st.builds(
    Message,
    method=st.just("POST"),
    target=st.just("/"),
    headers=_headers,
    body=_bodies,
    chunks=_chunks,
    status=st.sampled_from([200, 201, 400, 404, 500, 503, 599]),
)
cuts = st.lists(st.integers(0, 1 << 20), max_size=12)


def render_request(message: Message) -> bytes:
    connection = h11.Connection(h11.CLIENT)
    fields: list[Any] = [("Host", "a.example:80"), *message.headers, *message.framing()]
    out = [
        connection.send(h11.Request(method=message.method, target=message.target, headers=fields))
    ]
    out += [connection.send(h11.Data(piece)) for piece in message.split_body()]
    out.append(connection.send(h11.EndOfMessage()))
    return b"".join(part or b"" for part in out)


def render_response(message: Message) -> bytes:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
    while not isinstance(connection.next_event(), h11.EndOfMessage):
        pass
    fields: list[Any] = [*message.headers, *message.framing()]
    out = [connection.send(h11.Response(status_code=message.status, headers=fields))]
    out += [connection.send(h11.Data(piece)) for piece in message.split_body()]
    out.append(connection.send(h11.EndOfMessage()))
    return b"".join(part or b"" for part in out)
