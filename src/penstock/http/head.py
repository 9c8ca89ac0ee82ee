"""Message heads: strict parsing (RFC 9112), and a cache of the parsed ones by their exact bytes.

A keep-alive client sends the same head again and again, so a head is parsed once and then found by a
dictionary look-up of its bytes; that is what makes a parser in Python affordable. Whatever can be read in
two ways (two lengths, folded lines, stray line ends) is refused here, for requests and for responses: a
gateway that guesses differently from the server behind it can be made to smuggle requests.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar

from penstock.http.limits import Limits

#: `content_length` of a message whose body is chunked, and of a response that ends with its connection.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
#: The rendered header line of the commonest answers.
JSON_TYPE: Final = b"content-type: application/json\r\n"

Headers = tuple[tuple[bytes, bytes], ...]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_NAME = re.compile(_TOKEN)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
#: A line end that is not CRLF. A CR at the very end may have its LF still on the way.
_STRAY = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_ABSOLUTE = re.compile(r"https?://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE)
#: Escapes of what needs none: letters, digits, `-`, `_`, `~` (RFC 3986, 6.2.2.2), and the colon that
#: JavaScript's encodeURIComponent escapes in `:predict`. A dot stays as it is, lest two be a step up.
_NEEDLESS = re.compile(r"%(?:2[Dd]|3[0-9Aa]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])")
AUTHORITY = re.compile(rb"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")
#: Codings that exist; any other name is unknown. Of these only `chunked` is understood here.
_CODINGS = frozenset(
    {b"chunked", b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"}
)


class BadRequest(Exception):
    """What the engine answers by itself, after which it closes the connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class BadResponse(Exception):
    """A response that cannot be read without guessing."""


def _index(headers: Headers) -> dict[bytes, bytes]:
    index: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in index:
            index[name] += (b"; " if name == b"cookie" else b", ") + value
        else:
            index[name] = value
    return index


class RequestHead:
    """A request's first line and header fields. Immutable but for `memo`; equal heads are one object."""

    __slots__ = (
        "_fields", "content_length", "expect_continue", "headers", "host", "keep_alive", "memo",
        "method", "minor", "path", "query", "raw", "target",
    )  # fmt: skip

    raw: bytes
    method: str
    #: As received.
    target: str
    #: The part of the target before `?`, needless percent-escapes undone; `*` for `OPTIONS *`.
    path: str
    #: After `?`, or an empty string.
    query: str
    #: The authority asked for: the Host field's, or that of an absolute target; empty with neither.
    host: str
    #: 1 for HTTP/1.1, 0 for HTTP/1.0.
    minor: int
    #: Names in lower case, in the order received.
    headers: Headers
    #: Bytes of the body, or `CHUNKED`.
    content_length: int
    #: Whether the client lets the connection stay open.
    keep_alive: bool
    expect_continue: bool
    #: Scratch for users: what they derive from a head is derived once. Dropped with the head.
    memo: dict[Any, Any]

    def get(self, name: bytes) -> bytes | None:
        """A field's value by lower-case name; the values of a repeated field joined by `, `."""
        return self._fields.get(name)

    _fields: dict[bytes, bytes]

    def __repr__(self) -> str:
        return f"<{self.method} {self.target}>"


class ResponseHead:
    """A response's first line and header fields. Immutable but for `memo`; equal heads are one object."""

    __slots__ = (
        "_fields", "content_length", "headers", "keep_alive", "memo", "minor", "raw", "status",
    )  # fmt: skip

    raw: bytes
    status: int
    minor: int
    headers: Headers
    #: Bytes of the body, `CHUNKED` or `UNTIL_CLOSE`. To a HEAD request there is no body whatever it says.
    content_length: int
    keep_alive: bool
    memo: dict[Any, Any]

    def get(self, name: bytes) -> bytes | None:
        """A field's value by lower-case name; the values of a repeated field joined by `, `."""
        return self._fields.get(name)

    _fields: dict[bytes, bytes]

    def __repr__(self) -> str:
        return f"<response {self.status}>"


def parse_request_head(raw: bytes, limits: Limits) -> RequestHead:
    """Read a head that ends with its empty line. `BadRequest` for anything that is not plain HTTP/1."""
    if raw.startswith(b"\r\n"):
        raw = raw[2:]  # RFC 9112, 2.2: one empty line before a request is forgiven
    if len(raw) > limits.max_head:
        raise BadRequest(431, f"The request head is over {limits.max_head} bytes.")
    lines = raw[:-4].split(b"\r\n")
    first = lines[0]
    if len(first) > limits.max_line:
        raise BadRequest(414, f"The request line is over {limits.max_line} bytes.")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise BadRequest(400, "The request line is malformed.")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise BadRequest(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    headers = _parse_fields(lines, limits)
    head = RequestHead()
    head.raw = raw
    head.method = method.decode("ascii")
    head.target = target.decode("ascii")
    head.minor = int(minor)
    head.headers = headers
    head.memo = {}
    fields = head._fields = _index(headers)
    _read_target(head)
    _read_host(head)
    head.content_length = _request_length(head)
    if head.content_length > limits.max_body:
        # Here, not where the body is read: a small one may have come in the same piece as its head.
        raise BadRequest(413, f"The body is over {limits.max_body} bytes.")
    head.keep_alive = _keep_alive(head.minor, fields)
    expect = fields.get(b"expect")
    head.expect_continue = False
    if expect is not None and head.minor:
        if expect.lower() != b"100-continue":
            raise BadRequest(417, "The only expectation understood is 100-continue.")
        head.expect_continue = head.content_length != 0
    return head


def _parse_fields(lines: list[bytes], limits: Limits) -> Headers:
    if len(lines) - 1 > limits.max_headers:
        raise BadRequest(431, f"There are more than {limits.max_headers} header fields.")
    fields = []
    for i in range(1, len(lines)):
        line = lines[i]
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None:
            if line[:1] in (b" ", b"\t"):
                raise BadRequest(400, "Folded header lines are obsolete and refused.")
            raise BadRequest(400, "A header line is malformed.")
        if _CONTROL.search(value) is not None:
            raise BadRequest(400, "A header value has a control character in it.")
        fields.append((name.lower(), value.strip(b" \t")))
    return tuple(fields)


def _read_target(head: RequestHead) -> None:
    target = head.target
    if "#" in target:
        raise BadRequest(400, "A fragment has no place in a request target.")
    if target.startswith("/"):
        path, _, head.query = target.partition("?")
        head.path = path
        head.host = ""
    elif target == "*" and head.method == "OPTIONS":
        head.path, head.query, head.host = "*", "", ""
    elif head.method == "CONNECT":
        raise BadRequest(501, "CONNECT is for proxies; this is none.")
    else:
        match = _ABSOLUTE.fullmatch(target)
        if match is None or not match[1] or AUTHORITY.fullmatch(match[1].encode()) is None:
            raise BadRequest(400, "The request target is malformed.")
        head.host = match[1]
        head.path = match[2] or "/"
        head.query = match[3] or ""
    if "%" in head.path:
        head.path = _NEEDLESS.sub(lambda escape: chr(int(escape[0][1:], 16)), head.path)


def _read_host(head: RequestHead) -> None:
    hosts = [value for name, value in head.headers if name == b"host"]
    if len(hosts) > 1:
        raise BadRequest(400, "There is more than one Host field.")
    if not hosts:
        if head.minor:
            raise BadRequest(400, "An HTTP/1.1 request needs a Host field.")
        return
    host = hosts[0]
    if AUTHORITY.fullmatch(host) is None:
        raise BadRequest(400, "The Host field is malformed.")
    text = host.decode("ascii")
    if head.host and head.host.lower() != text.lower():
        # RFC 9112, 3.2.2 has the client send both alike; two names are an attempt to be routed twice.
        raise BadRequest(400, "The Host field and the request target name different hosts.")
    head.host = text


def _request_length(head: RequestHead) -> int:
    fields = head._fields
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    if coding is None:
        if length is None:
            return 0
        # A repeated field was joined with a comma, so it does not match either.
        if CONTENT_LENGTH.fullmatch(length) is None:
            raise BadRequest(400, "The Content-Length is not one plain number.")
        return int(length)
    if length is not None:
        raise BadRequest(400, "Content-Length and Transfer-Encoding exclude each other.")
    if not head.minor:
        raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding.")
    codings = [c.strip(b" \t").lower() for c in coding.split(b",")]
    for c in codings:
        if c not in _CODINGS:
            if not c:
                raise BadRequest(400, "The Transfer-Encoding is malformed.")
            raise BadRequest(501, "The transfer coding is unknown; only chunked is spoken here.")
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise BadRequest(400, "The Transfer-Encoding does not end in one chunked.")
    if len(codings) > 1:
        raise BadRequest(501, "The only transfer coding spoken here is chunked.")
    return CHUNKED


def _keep_alive(minor: int, fields: dict[bytes, bytes]) -> bool:
    connection = fields.get(b"connection")
    if connection is None:
        return minor == 1
    tokens = [t.strip(b" \t") for t in connection.lower().split(b",")]
    if b"close" in tokens:
        return False
    return minor == 1 or b"keep-alive" in tokens


def parse_response_head(raw: bytes, limits: Limits) -> ResponseHead:
    """Read a response's head that ends with its empty line. `BadResponse` where a reader would guess."""
    if len(raw) > limits.max_head:
        raise BadResponse(f"the response head is over {limits.max_head} bytes")
    lines = raw[:-4].split(b"\r\n")
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise BadResponse("the status line is malformed")
    head = ResponseHead()
    head.raw = raw
    head.minor = int(match[1])
    head.status = status = int(match[2])
    try:
        head.headers = _parse_fields(lines, limits)
    except BadRequest as exc:
        raise BadResponse(exc.message) from None
    head.memo = {}
    fields = head._fields = _index(head.headers)
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if length is not None and coding is not None:
        raise BadResponse("Content-Length and Transfer-Encoding exclude each other")
    if length is not None and CONTENT_LENGTH.fullmatch(length) is None:
        raise BadResponse("the Content-Length is not one plain number")
    if coding is not None and (coding.lower() != b"chunked" or not head.minor):
        raise BadResponse("the only transfer coding understood is chunked, in HTTP/1.1")
    head.keep_alive = _keep_alive(head.minor, fields)
    if status < 200 or status in (204, 304):
        head.content_length = 0
    elif coding is not None:
        head.content_length = CHUNKED
    elif length is not None:
        head.content_length = int(length)
    else:
        head.content_length = UNTIL_CLOSE
        head.keep_alive = False
    return head


def check_partial_head(part: bytes | bytearray, start: int, limits: Limits) -> None:
    """Refuse a head early whose end has not come: too long already, or never going to be one.

    `part` is all of it so far; `part[:start]` was looked at before.
    """
    if len(part) > limits.max_head:
        raise BadRequest(431, f"The request head is over {limits.max_head} bytes.")
    if _STRAY.search(part, max(0, start - 1)) is not None:
        raise BadRequest(400, "A line ends in something else than CRLF.")
    if len(part) > limits.max_line + 2 and part.find(b"\r\n", 2, limits.max_line + 2) < 0:
        raise BadRequest(414, f"The request line is over {limits.max_line} bytes.")
    if start == 0 and part[0] != 13 and _NAME.match(part[:1]) is None:
        # A TLS handshake, most often.
        raise BadRequest(400, "This is no HTTP request.")


H = TypeVar("H")


class HeadCache(Generic[H]):
    """Parsed heads by their bytes. Bounded in entries and, by the size of a head it keeps, in bytes.

    The oldest goes when one more comes (one for one, so no request pays for many); a head in use is
    back with its next request, which costs one parse.
    """

    __slots__ = ("_limits", "_max_bytes", "_max_entries", "_order", "_parse", "find", "heads")

    def __init__(
        self,
        parse: Callable[[bytes, Limits], H],
        limits: Limits,
        *,
        max_entries: int = 1024,
        max_bytes: int = 4096,
    ) -> None:
        self._parse: Callable[[bytes, Limits], H] = parse
        self._limits = limits
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.heads: dict[bytes, H] = {}
        self._order: deque[bytes] = deque()
        #: The fast look-up: `find(raw)`, None on a miss.
        self.find: Callable[[bytes], H | None] = self.heads.get

    def add(self, raw: bytes) -> H:
        """Parse a head that was not found, and keep it unless it is large."""
        head = self._parse(raw, self._limits)
        if len(raw) <= self._max_bytes:
            if len(self._order) >= self._max_entries:
                self.heads.pop(self._order.popleft(), None)
            self.heads[raw] = head
            self._order.append(raw)
        return head


def render_headers(fields: Iterable[tuple[str, str]]) -> bytes:
    """Header lines as bytes. ValueError for a name or value that would not stay on its line."""
    lines = []
    for name, value in fields:
        n, v = name.encode("latin-1"), value.encode("latin-1")
        if _NAME.fullmatch(n) is None or _CONTROL.search(v) is not None:
            raise ValueError(f"{name!r} cannot be a header field with that value")
        lines.append(b"%b: %b\r\n" % (n, v))
    return b"".join(lines)


_STATUS_LINES: Final = {
    s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode("ascii")) for s in HTTPStatus
}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` and CRLF."""
    line = _STATUS_LINES.get(status)
    return line if line is not None else b"HTTP/1.1 %d \r\n" % status
