"""The chunked transfer coding, as a decoder that takes bytes in any pieces.

Chunk extensions and trailers are read strictly, bounded, and dropped: nothing here uses them, and passing
them on is how one message becomes two.
"""

from __future__ import annotations

import re
from typing import Final

from penstock.http.head import BadRequest
from penstock.http.limits import Limits

#: Bytes of one chunk-size line, and of all extensions of one body together.
MAX_SIZE_LINE: Final = 256
MAX_EXTENSIONS: Final = 16 * 1024

#: Sixteen digits are 64 bits. The white space that RFC 9112, 7.1.1 lets a reader forgive before an
#: extension is refused: no client sends it, and other strict readers do not take it either.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t -~\x80-\xff]*")
#: Fields that would frame or route the message if somebody merged trailers into its head.
_FORBIDDEN: Final = frozenset({b"content-length", b"transfer-encoding", b"host"})

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedDecoder:
    """Turns the bytes of one chunked body into its data."""

    __slots__ = (
        "_extensions", "_left", "_limits", "_line", "_state", "_trailer_bytes", "_trailer_count",
        "total",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = _SIZE
        self._left = 0
        self._line = b""
        self._extensions = 0
        self._trailer_bytes = 0
        self._trailer_count = 0
        #: Bytes of data announced so far.
        self.total = 0

    def feed(self, data: bytes) -> tuple[list[bytes | memoryview], int]:
        """The data found in these bytes, and where the body ended in them: -1 when it has not.

        Pieces are views of `data`, not copies. Raises `BadRequest`.
        """
        pieces: list[bytes | memoryview] = []
        pos = 0
        size = len(data)
        view: memoryview | None = None
        while pos < size:
            state = self._state
            if state == _DATA:
                take = min(self._left, size - pos)
                if take == size:
                    pieces.append(data)
                else:
                    if view is None:
                        view = memoryview(data)
                    pieces.append(view[pos : pos + take])
                pos += take
                self._left -= take
                if not self._left:
                    self._state = _DATA_END
                continue
            end = data.find(b"\n", pos)
            bound = 2 if state == _DATA_END else MAX_SIZE_LINE
            if state == _TRAILERS:
                bound = self._limits.max_line
            if end < 0:
                line = self._line = self._line + data[pos:]
                if len(line) > bound or (state == _DATA_END and line != b"\r"):
                    raise BadRequest(400, "A line of the chunked coding is too long.")
                # A CR that is not the last byte can have no LF right after it.
                if b"\r" in line[:-1]:
                    raise BadRequest(400, "A line of the chunked coding has a stray CR.")
                return pieces, -1
            line = data[pos : end + 1]
            if self._line:
                line = self._line + line
                self._line = b""
            pos = end + 1
            if len(line) > bound + 2:
                raise BadRequest(400, "A line of the chunked coding is too long.")
            if not line.endswith(b"\r\n"):
                raise BadRequest(
                    400, "A line of the chunked coding ends in something else than CRLF."
                )
            if self._take_line(line[:-2]):
                return pieces, pos
        return pieces, -1

    def _take_line(self, line: bytes) -> bool:
        """One line without its end; True when it was the body's last."""
        if self._state == _SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise BadRequest(400, "A chunk size is malformed.")
            if match[2] is not None:
                self._extensions += len(match[2])
                if self._extensions > MAX_EXTENSIONS:
                    raise BadRequest(400, "There are too many chunk extensions.")
            length = int(match[1], 16)
            if not length:
                self._state = _TRAILERS
                return False
            self.total += length
            if self.total > self._limits.max_body:
                raise BadRequest(413, f"The body is over {self._limits.max_body} bytes.")
            self._left = length
            self._state = _DATA
            return False
        if self._state == _DATA_END:
            if line:
                raise BadRequest(400, "A chunk is longer than its size.")
            self._state = _SIZE
            return False
        if not line:
            self._state = _DONE
            return True
        self._trailer_count += 1
        self._trailer_bytes += len(line)
        if (
            self._trailer_count > self._limits.max_headers
            or self._trailer_bytes > self._limits.max_head
        ):
            raise BadRequest(431, "The trailer section is too large.")
        match = _TRAILER.fullmatch(line)
        if match is None or match[1].lower() in _FORBIDDEN:
            raise BadRequest(400, "A trailer line is malformed.")
        return False
