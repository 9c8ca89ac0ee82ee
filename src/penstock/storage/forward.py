"""A tar, compressed or not, as a stream that `tarfile` reads forward.

It inflates as far as it is asked and no further: a header that claims gigabytes is caught before they are
in memory.
"""

from __future__ import annotations

import bz2
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any, Final, Protocol, cast

from penstock.storage.packing import Packing

BLOCK_BYTES: Final = 1024 * 1024
#: A tar header with longer extensions (names, attributes) than this is an attack.
_MAX_HEADER_BYTES: Final = 4 * 1024 * 1024


class _Inflater(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class Forward(io.RawIOBase):
    """A (compressed) file that is read forward only, as far as asked; what `tarfile` needs of a file."""

    def __init__(self, f: IO[bytes], packing: Packing, count: Callable[[int], None]) -> None:
        """`count` is told of every byte outside of members, and may raise."""
        self._f = f
        self._packing = packing
        self._count = count
        self._inflater = self._new()
        self._pending = b""
        self._at = 0
        self._member_depth = 0
        self._last = b""

    @property
    def ended(self) -> bool:
        """The last header read was a block of zeros: a tar's own end."""
        return len(self._last) == 512 and not any(self._last)

    def in_member(self) -> Forward:
        """A context in which long reads are the member's own bytes, which are bounded elsewhere."""
        return self

    def __enter__(self) -> Forward:
        self._member_depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._member_depth -= 1

    def drain(self) -> None:
        """Read what is behind the end: the checksum of a compressed file comes last."""
        while self._read(BLOCK_BYTES):
            pass

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence != 0 or offset < self._at:
            raise tarfile.ReadError("the archive's headers lead backwards")
        while self._at < offset:
            before = self._at
            self._read(min(BLOCK_BYTES, offset - self._at))
            if self._at == before:
                break
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        if size < 0 or (not self._member_depth and size > _MAX_HEADER_BYTES):
            raise tarfile.ReadError("a header is longer than any header is")
        data = self._read(size)
        if size == 512 and not self._member_depth:
            self._last = data
        return data

    def _read(self, size: int) -> bytes:
        pieces = []
        wanted = size
        while wanted > 0:
            piece = self._some(wanted)
            if not piece:
                break
            pieces.append(piece)
            wanted -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._at += len(data)
        # Headers and padding count, too: they are inflated like the rest.
        if not self._member_depth:
            self._count(len(data))
        return data

    def _some(self, wanted: int) -> bytes:
        if self._inflater is None:
            return self._f.read(wanted)
        while True:
            if self._inflater.eof:
                # Another member of the same file, as `cat a.gz b.gz` and pigz make them.
                rest = self._leftover() or self._f.read(BLOCK_BYTES)
                if not rest.strip(b"\0"):
                    return b""
                self._inflater = self._new()
                self._pending = rest
            if not self._pending and self._wants_input():
                self._pending = self._f.read(BLOCK_BYTES)
                if not self._pending:
                    raise EOFError("it is cut short")
            data = cast(_Inflater, self._inflater).decompress(self._pending, wanted)
            self._pending = getattr(self._inflater, "unconsumed_tail", b"")
            if data:
                return data

    def _leftover(self) -> bytes:
        return bytes(cast(_Inflater, self._inflater).unused_data)

    def _wants_input(self) -> bool:
        return bool(getattr(self._inflater, "needs_input", True))

    def _new(self) -> Any:
        if self._packing is Packing.TAR_GZ:
            return zlib.decompressobj(wbits=31)
        if self._packing is Packing.TAR_BZ2:
            return bz2.BZ2Decompressor()
        if self._packing is Packing.TAR_XZ:
            return lzma.LZMADecompressor(memlimit=256 * 1024 * 1024)
        return None
