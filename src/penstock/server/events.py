"""Predictions that come as CloudEvents: the envelope is taken off before the model's protocol sees the body,
and the answer goes back in one. Errors go out bare, in the protocol's own shape.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from penstock.errors import PenstockError, Unsupported
from penstock.http.incoming import Buffer, flat
from penstock.protocols.cloudevents import (
    Answers,
    Event,
    answer_attributes,
    decode_event,
    encode_headers,
    encode_structured,
)

if TYPE_CHECKING:
    from penstock.http.server import Exchange
    from penstock.server.inference import Target

_STRUCTURED_HEADERS = b"content-type: application/cloudevents+json\r\n"


class EventTarget:
    """A target for requests with the header fields of an event."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._answers = Answers.of(os.environ)

    def __call__(self, exchange: Exchange) -> None:
        try:
            event = decode_event(exchange.head.headers, exchange.body or b"")
        except PenstockError as error:
            self._target.send_error(exchange, error)
            return
        enveloped: Any = Enveloped(exchange, event, self._target.name, self._answers)
        self._target(enveloped)


class Enveloped:
    """An exchange whose body is an event's data, and whose good answers become events.

    It has the methods and attributes of `Exchange` that a target uses.
    """

    __slots__ = ("_answers", "_event", "_exchange", "_model", "body")

    def __init__(self, exchange: Exchange, event: Event, model: str, answers: Answers) -> None:
        self._exchange = exchange
        self._event = event
        self._model = model
        self._answers = answers
        self.body: Buffer = event.data

    @property
    def head(self) -> Any:
        return self._exchange.head

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
        if status != 200:
            self._exchange.send(status, headers, body)
            return
        attributes = answer_attributes(self._event, self._model, self._answers)
        if not self._event.structured:
            self._exchange.send(status, headers + encode_headers(attributes), body)
            return
        content_type, others = _split(headers)
        data = flat(body) if isinstance(body, bytes | bytearray | memoryview) else b"".join(body)
        document = encode_structured(attributes, content_type, bytes(data))
        self._exchange.send(status, _STRUCTURED_HEADERS + others, document)

    def start(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        if self._event.structured:
            raise Unsupported(
                "A streamed answer cannot be one structured CloudEvent.",
                hint="Send the event in binary mode.",
            )
        attributes = answer_attributes(self._event, self._model, self._answers)
        self._exchange.start(status, headers + encode_headers(attributes), length=length)

    def write(self, data: Buffer) -> bool:
        return self._exchange.write(data)

    def end(self) -> None:
        self._exchange.end()

    def abort(self) -> None:
        self._exchange.abort()

    def fault(self) -> None:
        self._exchange.fault()


def _split(headers: bytes) -> tuple[str, bytes]:
    """The content type in rendered header lines, and the other lines."""
    content_type, others = "application/json", b""
    for line in headers.splitlines(keepends=True):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-type":
            content_type = value.strip().decode("latin-1")
        else:
            others += line
    return content_type, others
