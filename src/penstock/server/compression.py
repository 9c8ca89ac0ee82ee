"""Answers compressed for who asks for it: Triton's and MLServer's clients, by `Accept-Encoding`.

HTTP libraries say that they take gzip and deflate whether their users care or not, and compressing a large
tensor takes longer than sending it. So an answer is compressed where the request names one coding alone, as
`response_compression_algorithm` does; who names several is answered as it is. Streams go as they are.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.http.incoming import Buffer, size_of
from penstock.server.wrapped import Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.http.server import Exchange, RequestHead

log = logging.getLogger(__name__)

#: Smaller answers gain nothing.
LEAST_BYTES: Final = 256
#: Larger ones are compressed in a thread: the loop would stand still for a millisecond and more.
INLINE_BYTES: Final = 32 * 1024
#: The fastest: tensors hardly shrink further.
_LEVEL: Final = 1
_WINDOWS: Final = {b"gzip": 31, b"deflate": 15}


def wanted(head: RequestHead) -> bytes | None:
    """gzip or deflate, where the request accepts that one and no other coding."""
    value = head.get(b"accept-encoding")
    if value is None:
        return None
    names: list[bytes] = []
    for item in value.lower().split(b","):
        name, _, weight = item.partition(b";")
        refused = weight.replace(b" ", b"") in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
        if not refused and name.strip() != b"identity":
            names.append(name.strip())
    return names[0] if len(names) == 1 and names[0] in _WINDOWS else None


class CompressingTarget:
    """A target whose good answers are compressed."""

    def __init__(self, target: Callable[[Any], None], coding: bytes) -> None:
        self._target = target
        self._coding = coding
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange) -> None:
        self._target(_Compressed(exchange, self._coding, self._tasks))


class _Compressed(Wrapped):
    __slots__ = ("_coding", "_tasks")

    def __init__(self, exchange: Exchange, coding: bytes, tasks: set[asyncio.Task[None]]) -> None:
        super().__init__(exchange, exchange.body)
        self._coding = coding
        self._tasks = tasks

    def send(self, status: int, headers: bytes, body: Buffer | Sequence[Buffer] = b"") -> None:
        pieces = [body] if isinstance(body, bytes | bytearray | memoryview) else list(body)
        size = sum(map(size_of, pieces))
        if status != 200 or size < LEAST_BYTES:
            self._exchange.send(status, headers, body)
            return
        if size <= INLINE_BYTES:
            self._send(headers, _compress(pieces, self._coding))
            return

        async def later() -> None:
            packed = await asyncio.to_thread(_compress, pieces, self._coding)
            self._send(headers, packed)

        task = asyncio.get_running_loop().create_task(later())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _send(self, headers: bytes, packed: bytes) -> None:
        lines = b"%bcontent-encoding: %b\r\nvary: accept-encoding\r\n" % (headers, self._coding)
        self._exchange.send(200, lines, packed)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("an answer could not be compressed", exc_info=task.exception())
            self._exchange.fault()


def _compress(pieces: Sequence[Buffer], coding: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[coding])
    return b"".join([*map(packer.compress, pieces), packer.flush()])
