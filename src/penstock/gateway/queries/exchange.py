"""A request of the gateway's own: it takes a client's way through the gateway, and is answered here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import TooLarge
from penstock.gateway.proxy import error_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.http.head import RequestHead

_encode = msgspec.json.encode


class ModelExchange:
    """A request as the gateway's handler sees one, without a connection.

    Its answer goes to `done`, whole; `room` is asked for the bytes of one that comes in pieces, and raises
    TooLarge.
    """

    __slots__ = (
        "_done", "_headers", "_pieces", "_room", "_status", "body", "head", "held", "on_abort", "on_drain",
    )  # fmt: skip

    scheme = "http"
    peer = ""

    def __init__(
        self,
        head: RequestHead,
        body: bytes,
        done: Callable[[ModelExchange, int, bytes, bytes], None],
        room: Callable[[int], None],
    ) -> None:
        self.head = head
        self.body = body
        self.on_abort: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None
        #: Bytes of the answer that `room` was asked for.
        self.held = 0
        self._done: Callable[[ModelExchange, int, bytes, bytes], None] | None = done
        self._room = room
        self._status = 0
        self._headers = b""
        self._pieces: list[Any] = []

    def gather(self, callback: Callable[[ModelExchange], None]) -> None:
        """The body is here."""
        callback(self)

    def receive(self, sink: Any) -> None:
        """The body is here."""
        sink.on_data(self.body)
        sink.on_end()

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def send(self, status: int, headers: bytes, body: Any = b"") -> None:
        """The whole answer."""
        pieces = body if isinstance(body, list | tuple) else (body,)
        self._end(status, headers, b"".join(map(bytes, pieces)))

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        """The head of an answer that comes in pieces."""
        self._status, self._headers = status, headers

    def write(self, data: Any) -> bool:
        """A piece. More than all answers may have ends it."""
        if self._done is None:
            return True
        try:
            self._room(len(data))
        except TooLarge as exc:
            self.hang_up()
            self._end(*error_answer(exc))
        else:
            self.held += len(data)
            self._pieces.append(bytes(data))
        return True

    def end(self) -> None:
        """The last piece was written."""
        self._end(self._status, self._headers, b"".join(self._pieces))

    def abort(self) -> None:
        """An answer broke off."""
        self._end(502, b"", _encode({"error": "The answer broke off."}))

    def hang_up(self) -> None:
        """Nobody waits any more."""
        gone, self.on_abort = self.on_abort, None
        if gone is not None:
            gone()

    def _end(self, status: int, headers: bytes, body: bytes) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self, status, headers, body)
