"""The frames of a multiplexed connection: eight bytes that say kind, length and stream, and the payload.

A request is one `LAST` frame: head and body of an HTTP/1.1 message with a content-length. Its response is
any number of `PART` frames and one `LAST`, which together are an HTTP/1.1 response. Streams are numbered
from 1 by the client, each number higher than the one before.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

#: The first word is the payload's length times 16 plus the kind; the second is the stream's number.
HEADER: Final = Struct("<II")
HEADER_BYTES: Final = HEADER.size
KIND_BITS: Final = 4
KIND: Final = (1 << KIND_BITS) - 1

#: A piece of a response; more follows.
PART: Final = 0
#: A whole request, or the end of a response (all of it, most often).
LAST: Final = 1
#: From the client: it wants no answer any more. From the server: there will be no more of the answer.
BREAK: Final = 2
#: The client takes no more of a response for now, and takes it again.
PAUSE: Final = 3
RESUME: Final = 4
#: From the server: no new requests on this connection; the client closes it when it has its answers.
GOAWAY: Final = 5

#: Longest payload. Requests over `REQUEST_BYTES` go on a connection of their own; longer responses are cut.
PAYLOAD_BYTES: Final = 128 * 1024
REQUEST_BYTES: Final = 64 * 1024
#: Buffers that wait to be written together; with so many the other side is let begin, while this one goes on.
#: About eight messages: fewer cost calls, more leave one of the two processes without work (a tenth slower).
TOGETHER: Final = 24
#: Streams open at a time on one connection.
STREAMS: Final = 1024
#: The highest number; a client that has used it opens another connection.
LAST_NUMBER: Final = 0xFFFF_FFFF

#: Where it is asked for, and the name of the protocol in the Upgrade field.
PATH: Final = "/.penstock/mux"
PROTOCOL: Final = b"penstock-mux-1"
#: Names the page in which the server keeps the number of the last request it has read.
PAGE_FIELD: Final = b"penstock-page"
#: That page: one number, in memory that both processes map.
PAGE_BYTES: Final = 4096
NUMBER: Final = Struct("<I")

pack: Final = HEADER.pack
unpack_from: Final = HEADER.unpack_from


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    """A frame. The hot path packs its own."""
    return pack(len(payload) << KIND_BITS | kind, number) + payload
