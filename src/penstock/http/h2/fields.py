"""Header lists in and out: a request's fields become a `RequestHead`, a response's lines a header block.

What comes in is judged as strictly as HTTP/1.1 is (RFC 9113, 8.2 and 8.3): names and values travel on to
model processes as HTTP/1.1 lines, so a line end in one would be a request of its own there. What goes out
uses the static table and plain literals only: such a block means the same on every connection, so each is
made once for the whole process.
"""

from __future__ import annotations

import re
from typing import Final

from hpack.table import HeaderTable

from penstock.http.h2.frames import Code, StreamFault
from penstock.http.head import AUTHORITY, CHUNKED, CONTENT_LENGTH, BadRequest, RequestHead
from penstock.http.limits import Limits

Fields = list[tuple[bytes, bytes]]

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"(?![ \t])[\t -~\x80-\xff]*(?<![ \t])")
_PATH = re.compile(rb"/[!-\"$-~]*")
#: Fields about a connection of HTTP/1.1; malformed here (8.2.2).
_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})


def _malformed(message: str) -> StreamFault:
    return StreamFault(Code.PROTOCOL_ERROR, message)


def request_head(fields: Fields, limits: Limits, ended: bool) -> RequestHead:
    """The head of a request; `ended`: no body follows.

    StreamFault where it is malformed, BadRequest where it is well-formed and not served.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: Fields = []
    index: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] == b":":
            if headers or name in pseudo or name not in _PSEUDO:
                raise _malformed("a pseudo-header is unknown, repeated or out of place")
            pseudo[name] = value
            continue
        if _NAME.fullmatch(name) is None or name in _CONNECTION:
            raise _malformed("a field has a name that HTTP/2 does not allow")
        if _VALUE.fullmatch(value) is None:
            raise _malformed("a field has a value that HTTP/2 does not allow")
        if name == b"te" and value != b"trailers":
            raise _malformed("te may only say trailers")
        headers.append((name, value))
        if name in index:
            index[name] += (b"; " if name == b"cookie" else b", ") + value
        else:
            index[name] = value
    if b"cookie" in index:
        # Split for compression (8.2.3); whoever reads it next wants one field.
        headers = [h for h in headers if h[0] != b"cookie"] + [(b"cookie", index[b"cookie"])]
    head = RequestHead()
    method = pseudo.get(b":method", b"")
    if _METHOD.fullmatch(method) is None:
        raise _malformed("there is no method")
    if method == b"CONNECT":
        raise BadRequest(501, "CONNECT is for proxies; this is none.")
    path = pseudo.get(b":path", b"")
    if not pseudo.get(b":scheme"):
        raise _malformed("there is no scheme")
    if _PATH.fullmatch(path) is None and not (path == b"*" and method == b"OPTIONS"):
        raise _malformed("there is no path, or one that is none")
    host = index.get(b"host")
    authority = pseudo.get(b":authority", host or b"")
    if AUTHORITY.fullmatch(authority) is None:
        raise _malformed("the authority is malformed")
    if host is not None and host.lower() != authority.lower():
        raise _malformed("host and :authority name different hosts")
    if host is None and authority:
        headers.append((b"host", authority))
        index[b"host"] = authority
    if len(headers) > limits.max_headers:
        raise BadRequest(431, f"There are more than {limits.max_headers} header fields.")
    if len(path) > limits.max_line:
        raise BadRequest(414, f"The path is over {limits.max_line} bytes.")
    head.raw = b""
    head.method = method.decode("ascii")
    head.target = path.decode("ascii")
    head.path, _, head.query = head.target.partition("?")
    head.host = authority.decode("ascii")
    # As HTTP/1.0: whoever has a rendered HTTP/1.1 response at hand cannot use it here.
    head.minor = 0
    head.headers = tuple(headers)
    head._fields = index
    head.content_length = _length(index.get(b"content-length"), ended)
    if head.content_length > limits.max_body:
        raise BadRequest(413, f"The body is over {limits.max_body} bytes.")
    head.keep_alive = True
    head.expect_continue = False
    head.memo = {}
    return head


def _length(value: bytes | None, ended: bool) -> int:
    if value is None:
        return 0 if ended else CHUNKED
    if CONTENT_LENGTH.fullmatch(value) is None:
        raise _malformed("content-length is no number")
    length = int(value)
    if ended and length:
        raise _malformed("content-length announces a body that does not follow")
    return length


def check_trailers(fields: Fields) -> None:
    """StreamFault for trailers that are malformed. What they say is of no use to anybody here."""
    for name, value in fields:
        if _NAME.fullmatch(name) is None or name in _CONNECTION or _VALUE.fullmatch(value) is None:
            raise _malformed("the trailers are malformed")


# ------------------------------------------------------------------------------------------ responses

_STATIC: Final[dict[tuple[bytes, bytes], int]] = {}
_STATIC_NAMES: Final[dict[bytes, int]] = {}
for _i, (_n, _v) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _STATIC.setdefault((_n, _v), _i)
    _STATIC_NAMES.setdefault(_n, _i)

#: Blocks remembered, and the longest lines that are.
_MAX_BLOCKS: Final = 1024
_MAX_LINES: Final = 4096
_blocks: dict[tuple[int, bytes], bytes] = {}


def _integer(value: int, prefix: int, first: int) -> bytes:
    """RFC 7541, 5.1."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((first | value,))
    out = bytearray((first | most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that stays out of the dynamic table."""
    known = _STATIC.get((name, value))
    if known is not None:
        return _integer(known, 7, 0x80)
    at = _STATIC_NAMES.get(name)
    start = _integer(at, 4, 0) if at is not None else b"\0%b%b" % (_integer(len(name), 7, 0), name)
    return start + _integer(len(value), 7, 0) + value


def block(status: int, lines: bytes) -> bytes:
    """The header block of a response (or, with status 0, of trailers) from HTTP/1.1 header lines."""
    found = _blocks.get((status, lines))
    if found is not None:
        return found
    pieces = [_literal(b":status", b"%d" % status)] if status else []
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower()
        if colon and name not in _CONNECTION:
            pieces.append(_literal(name, value.strip(b" \t")))
    made = b"".join(pieces)
    if len(lines) <= _MAX_LINES:
        if len(_blocks) >= _MAX_BLOCKS:
            _blocks.clear()
        _blocks[status, lines] = made
    return made


def content_length(size: int) -> bytes:
    """The field, as a part of a block."""
    digits = b"%d" % size
    return b"\x0f\x0d%c%b" % (len(digits), digits)
