"""An exchange behind which something is done to what is sent: an envelope put around it, or compression.

It has the methods and attributes of `Exchange` that a target uses. Requests that need none never meet it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from penstock.http.incoming import Buffer

if TYPE_CHECKING:
    from penstock.http.server import Exchange


class Wrapped:
    """An exchange that hands everything on as it is."""

    __slots__ = ("_exchange", "body")

    def __init__(self, exchange: Exchange, body: Buffer | None) -> None:
        self._exchange = exchange
        self.body = body

    @property
    def head(self) -> Any:
        return self._exchange.head

    @property
    def content_type(self) -> str | None:
        """The body's own content type, where it is not the request's."""
        return getattr(self._exchange, "content_type", None)

    @property
    def state(self) -> int:
        return self._exchange.state

    @property
    def on_abort(self) -> Callable[[], None] | None:
        return self._exchange.on_abort

    @on_abort.setter
    def on_abort(self, callback: Callable[[], None] | None) -> None:
        self._exchange.on_abort = callback

    @property
    def on_drain(self) -> Callable[[], None] | None:
        return self._exchange.on_drain

    @on_drain.setter
    def on_drain(self, callback: Callable[[], None] | None) -> None:
        self._exchange.on_drain = callback

    def send(self, status: int, headers: bytes, body: Buffer | Sequence[Buffer] = b"") -> None:
        self._exchange.send(status, headers, body)

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        self._exchange.start(status, headers, length=length)

    def write(self, data: Buffer) -> bool:
        return self._exchange.write(data)

    def end(self) -> None:
        self._exchange.end()

    def abort(self) -> None:
        self._exchange.abort()

    def fault(self) -> None:
        self._exchange.fault()
