"""gRPC's framing, statuses and deadlines, over either HTTP.

A message is five bytes (a flag for compression, the length) and its bytes. A status goes into trailers
over HTTP/2, and between gateway and model process, which speak HTTP/1.1, into header fields.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from penstock.errors import (
    Conflict,
    Damaged,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    PenstockError,
    ReplicaLost,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from penstock.http.exchange import Exchange
from penstock.http.head import BadRequest, RequestHead
from penstock.http.incoming import Buffer

CONTENT_TYPE: Final = (
    b"content-type: application/grpc\r\ngrpc-accept-encoding: identity,gzip,deflate\r\n"
)
OK: Final = b"grpc-status: 0\r\n"

#: An error's status, by its class; the nearest class counts. Everything else is INTERNAL.
_STATUS: Final[tuple[tuple[type[PenstockError], int], ...]] = (
    (TooLarge, 8),
    (InvalidInput, 3),
    (Unauthorized, 16),
    (Forbidden, 7),
    (NotFound, 5),
    (Conflict, 10),
    (Unsupported, 12),
    (Unavailable, 14),
    (ReplicaLost, 14),
    (DeadlineExceeded, 4),
    (Damaged, 15),
)
UNKNOWN: Final = 2
INTERNAL: Final = 13
UNIMPLEMENTED: Final = 12
#: What a status of HTTP means where a server answered no gRPC (gRPC's own table).
_FROM_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
#: The engine's own refusals.
_FROM_REFUSAL: Final = {408: 4, 413: 8, 431: 8, 503: 14, 501: 12, 500: 13}
#: Of a compressed message: how many gzip members it may have, and what is given to zlib at a time.
_MAX_MEMBERS: Final = 1024
_PIECE: Final = 65536
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def status_of(error: PenstockError) -> int:
    """The gRPC status of an error."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return INTERNAL


def status_lines(status: int, message: str) -> bytes:
    """`grpc-status` and `grpc-message`, as header lines."""
    # The message is percent-encoded UTF-8; long ones would not fit into a header block.
    text = quote(message[:2000], safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return b"grpc-status: %d\r\ngrpc-message: %b\r\n" % (status, text.encode("ascii"))


def error_lines(error: PenstockError) -> bytes:
    return status_lines(status_of(error), str(error))


def from_http(status: int) -> bytes:
    """The status of an answer that is no gRPC."""
    return status_lines(
        _FROM_HTTP.get(status, UNKNOWN), f"The model process answered HTTP {status}."
    )


def refusal(bad: BadRequest) -> tuple[int, bytes, bytes, bytes]:
    """What the HTTP/2 engine answers by itself, as gRPC."""
    return 200, CONTENT_TYPE, b"", status_lines(_FROM_REFUSAL.get(bad.status, 3), bad.message)


def read_status(lines: bytes) -> tuple[int, str]:
    """Status and message out of such lines."""
    status, message = UNKNOWN, ""
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name == b"grpc-status" and value.isdigit():
            status = int(value)
        elif name == b"grpc-message":
            message = unquote_to_bytes(value).decode("utf-8", "replace")
    return status, message


def reply(
    exchange: Any, body: Buffer | Sequence[Buffer], fields: bytes = b"", trailers: bytes = OK
) -> None:
    """Answer a call; `body` is framed. `fields` are further header lines."""
    if isinstance(exchange, Exchange):
        exchange.send(200, CONTENT_TYPE + fields + trailers, body)
    else:
        exchange.send(200, CONTENT_TYPE + fields, body, trailers)


def reply_error(exchange: Any, error: PenstockError) -> None:
    reply(exchange, b"", b"", error_lines(error))


def reply_message(exchange: Any, message: Any) -> None:
    """Answer a call with a protobuf message."""
    reply(exchange, frame(message.SerializeToString()))


def frame(message: bytes) -> bytes:
    return b"\0%b%b" % (len(message).to_bytes(4, "big"), message)


def unframe(body: Buffer, encoding: bytes | None, most: int) -> Buffer:
    """The one message of a unary call. Raises InvalidInput, TooLarge, Unsupported."""
    size = len(body)
    if size < 5:
        raise InvalidInput("The call has no message.")
    length = int.from_bytes(body[1:5], "big")
    if length + 5 != size:
        raise InvalidInput("The call has not exactly one whole message.")
    flag = body[0]
    if flag == 0:
        return memoryview(body)[5:] if size > 4096 else bytes(body[5:])
    if flag != 1:
        raise InvalidInput("The message has an unknown flag.")
    return decompress(memoryview(body)[5:], encoding, most)


def decompress(data: Buffer, encoding: bytes | None, most: int) -> bytes:
    """A compressed message, of no more than `most` bytes."""
    if encoding not in (b"gzip", b"deflate"):
        raise Unsupported(
            "The message's compression is not served.", hint="Use gzip, deflate or identity."
        )
    window = 31 if encoding == b"gzip" else 15
    inflater = zlib.decompressobj(window)
    try:
        message = inflater.decompress(data, most + 1)
        if inflater.eof and inflater.unused_data and encoding == b"gzip":
            return message + _members(inflater.unused_data, most, most - len(message))
    except zlib.error:
        raise InvalidInput("The message is no valid compressed data.") from None
    if len(message) > most:
        raise TooLarge(f"The message is over {most} bytes.")
    if not inflater.eof:
        raise InvalidInput("The compressed message is cut off.")
    if inflater.unused_data:
        raise InvalidInput("The compressed message has more bytes after its end.")
    return message


def _members(data: bytes, most: int, left: int) -> bytes:
    """What follows gzip's first member: others (RFC 1952, section 2.2), as `cat a.gz b.gz` makes them.

    Read in pieces, for zlib copies what is behind a member's end.
    """
    pieces: list[bytes] = []
    at, members = 0, 0
    while at < len(data):
        members += 1
        if members > _MAX_MEMBERS:
            raise InvalidInput(f"The compressed message has over {_MAX_MEMBERS} members.")
        inflater = zlib.decompressobj(31)
        while not inflater.eof:
            piece = data[at : at + _PIECE]
            if not piece:
                raise InvalidInput("The compressed message is cut off.")
            pieces.append(inflater.decompress(piece, left + 1))
            left -= len(pieces[-1])
            if left < 0:
                raise TooLarge(f"The message is over {most} bytes.")
            at += len(piece) - len(inflater.unused_data)
    return b"".join(pieces)


def is_grpc(head: RequestHead) -> bool:
    """A call, by its content type."""
    kind = head.get(b"content-type")
    return kind is not None and (
        kind == b"application/grpc" or kind.startswith((b"application/grpc+", b"application/grpc;"))
    )


def check_head(head: RequestHead) -> None:
    """InvalidInput or Unsupported for a call that cannot be read."""
    if head.method != "POST":
        raise InvalidInput("A gRPC call is a POST.")
    kind = head.get(b"content-type") or b""
    if kind.startswith(b"application/grpc+") and kind != b"application/grpc+proto":
        raise Unsupported("Messages are protobuf here.")


def timeout_s(value: bytes | None) -> float | None:
    """`grpc-timeout` in seconds; None when there is none. InvalidInput when it is malformed."""
    if value is None:
        return None
    digits, unit = value[:-1], value[-1:]
    if not digits.isdigit() or len(digits) > 8 or unit not in _UNITS:
        raise InvalidInput("grpc-timeout is malformed: up to eight digits and a unit are expected.")
    return int(digits) * _UNITS[unit]


def peek_strings(message: Buffer, wanted: tuple[int, ...]) -> dict[int, str]:
    """Top-level string fields of a protobuf message, by number, without reading the rest.

    Stops at the first field with a number above all wanted: what writes protobuf writes fields in order.
    Where that finds nothing the whole message is looked through. InvalidInput when it is no protobuf.
    """
    found, whole = _peek(message, wanted, True)
    if not found and not whole:
        found, _ = _peek(message, wanted, False)
    try:
        return {number: bytes(value).decode() for number, value in found.items()}
    except UnicodeDecodeError:
        raise InvalidInput("A name in the message is no UTF-8.") from None


def _peek(message: Buffer, wanted: tuple[int, ...], early: bool) -> tuple[dict[int, Buffer], bool]:
    found: dict[int, Buffer] = {}
    at, size, last = 0, len(message), max(wanted)
    while at < size:
        tag, at = _varint(message, at, size)
        number, kind = tag >> 3, tag & 7
        if early and number > last:
            return found, False
        if kind == 2:
            length, at = _varint(message, at, size)
            if number in wanted:
                found[number] = message[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(message, at, size)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise InvalidInput("The message is no protobuf.")
    if at != size:
        raise InvalidInput("The message is cut off.")
    return found, True


def _varint(message: Buffer, at: int, size: int) -> tuple[int, int]:
    value = shift = 0
    while at < size and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise InvalidInput("The message is no protobuf.")


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
