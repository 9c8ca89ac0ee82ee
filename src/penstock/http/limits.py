"""What a peer may cost: bytes, counts and seconds, with the defaults that the platform runs with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server or client. What goes over a bound is answered, then closed."""

    #: Bytes of the request line (or status line) without its CRLF. Over it: 414.
    max_line: int = 8192
    #: Bytes of a whole head, first line and empty line included. Over it: 431.
    max_head: int = 65536
    #: Header fields of a head, and of a trailer section. Over it: 431.
    max_headers: int = 100
    #: Bytes of a request body after chunked decoding. Over it: 413, without reading the rest.
    max_body: int = 256 * 1024 * 1024
    #: Bytes of all request bodies of a server that are being gathered at once. Over it: 503.
    max_gathered: int = 1024 * 1024 * 1024
    #: Seconds from a head's first byte to its last. Over it: 408.
    head_timeout_s: float = 10.0
    #: Seconds without a byte of a body that is wanted. Over it: 408.
    body_timeout_s: float = 30.0
    #: Seconds a connection may stay open between requests. Closed silently.
    idle_timeout_s: float = 75.0
    #: Seconds without progress while the peer does not take what is sent. The connection is broken.
    write_timeout_s: float = 60.0
    #: Seconds a connection that is being closed goes on discarding what the peer still sends, so that
    #: the peer gets to read the last answer instead of a reset.
    linger_s: float = 2.0
    #: Bytes of pipelined requests that may wait for the one before them; then reading pauses.
    max_pipeline_bytes: int = 65536
    #: Connections of one server. One more is answered 503 and closed.
    max_connections: int = 16384
    #: Requests under way on one HTTP/2 connection. One more is refused, to be sent again.
    max_streams: int = 128
    #: Bytes that may wait in a connection's write buffer before `write` says to wait for `on_drain`.
    write_high_water: int = 256 * 1024
