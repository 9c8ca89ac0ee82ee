"""Predictions that come as CloudEvents: the envelope is taken off before the model's protocol sees the body,
and the answer goes back in one. Errors go out bare, in the protocol's own shape.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from penstock.server.wrapped import Wrapped

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


class Enveloped(Wrapped):
    """An exchange whose body is an event's data, and whose good answers become events."""

    __slots__ = ("_answers", "_content_type", "_event", "_model")

    def __init__(self, exchange: Exchange, event: Event, model: str, answers: Answers) -> None:
        super().__init__(exchange, event.data)
        self._event = event
        self._content_type = event.content_type
        self._model = model
        self._answers = answers

    @property
    def content_type(self) -> str:
        return self._content_type

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
