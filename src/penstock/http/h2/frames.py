"""HTTP/2's numbers (RFC 9113, sections 4, 6 and 7) and how frames are put together."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: A frame's header: its length in two parts, type, flags, stream (the top bit is reserved).
HEADER: Final = struct.Struct(">BHBBI")
HEADER_BYTES: Final = 9
U32: Final = struct.Struct(">I")
SETTING: Final = struct.Struct(">HI")

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

STREAM_BITS: Final = 0x7FFFFFFF
#: A flow-control window may not become larger.
MAX_WINDOW: Final = 0x7FFFFFFF
#: What both sides assume before SETTINGS say otherwise.
DEFAULT_WINDOW: Final = 65535
DEFAULT_FRAME_BYTES: Final = 16384


class Code(IntEnum):
    """Error codes of RST_STREAM and GOAWAY."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(Exception):
    """The peer broke a rule that the whole connection depends on: GOAWAY, and the end."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamFault(Exception):
    """One stream is malformed: RST_STREAM; the connection goes on."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """A frame's nine bytes."""
    return HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(SETTING.pack(k, v) for k, v in values.items())
    return header(len(payload), SETTINGS, 0, 0) + payload


def rst_stream(stream: int, code: int) -> bytes:
    return header(4, RST_STREAM, 0, stream) + U32.pack(code)


def window_update(stream: int, increment: int) -> bytes:
    return header(4, WINDOW_UPDATE, 0, stream) + U32.pack(increment)


def goaway(last_stream: int, code: int, message: str = "") -> bytes:
    payload = U32.pack(last_stream) + U32.pack(code) + message.encode("ascii", "replace")[:256]
    return header(len(payload), GOAWAY, 0, 0) + payload


def headers(stream: int, block: bytes, *, end: bool, most: int) -> bytes:
    """A header block as HEADERS and, where it is longer than a frame may be, CONTINUATION."""
    flags = END_STREAM if end else 0
    if len(block) <= most:
        return header(len(block), HEADERS, flags | END_HEADERS, stream) + block
    pieces = [header(most, HEADERS, flags, stream), block[:most]]
    for start in range(most, len(block), most):
        part = block[start : start + most]
        last = END_HEADERS if start + most >= len(block) else 0
        pieces += (header(len(part), CONTINUATION, last, stream), part)
    return b"".join(pieces)
