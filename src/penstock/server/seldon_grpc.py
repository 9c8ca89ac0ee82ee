"""Seldon V1's gRPC calls of a model process: the same targets as over REST, with protobuf messages.

`seldon.protos.Seldon/Predict` and `SendFeedback` are answered by every model; the calls of Seldon's unit
services (`Model`, `Router`, `Combiner`, ...) by a unit that has the verb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.errors import InvalidInput, PenstockError, Unsupported
from penstock.http.server import RequestHead
from penstock.protocols.grpc.seldon import (
    GRAPH_METADATA,
    METADATA,
    about_model,
    asked_about,
    parse,
    to_proto,
    verb_of,
)
from penstock.protocols.grpc.wire import frame, reply, reply_error, reply_message, unframe
from penstock.protocols.seldon import decode_message, encode_message, new_puid
from penstock.protocols.seldon_message import Feedback, SeldonMessage, message_of
from penstock.runtimes.base import CallContext, PayloadRuntime, RawReply
from penstock.server.execution import Outputs
from penstock.server.inference import Shape
from penstock.server.seldon import SeldonVerb, decode_answer

if TYPE_CHECKING:
    from penstock.http.incoming import Buffer
    from penstock.runtimes.base import Array
    from penstock.server.application import Application


def seldon_call(app: Application, head: RequestHead) -> Callable[[Any], None] | None:
    """What answers calls with this head; None when they are none of Seldon's."""
    verb = verb_of(head.path)
    if verb in (METADATA, GRAPH_METADATA):
        return partial(_about, app, head, verb)
    return SeldonGrpc(app, head, verb, None) if verb else None


def _about(app: Application, head: RequestHead, verb: str, exchange: Any) -> None:
    """Seldon/ModelMetadata and Model/Metadata; there is no graph here."""
    if exchange.body is None:
        exchange.gather(partial(_about, app, head, verb))
        return
    try:
        if verb == GRAPH_METADATA:
            raise Unsupported(f"{app.spec.service} is a model, and no graph.")
        coding = head.get(b"grpc-encoding")
        message = unframe(exchange.body or b"", coding, app.spec.max_body_bytes)
        known = app.seldon.metadata(asked_about(message) or None)
        reply_message(exchange, about_model(known))
    except PenstockError as error:
        reply_error(exchange, error)


class SeldonGrpc(SeldonVerb):
    """One of Seldon's methods."""

    def __call__(self, exchange: Any) -> None:
        if exchange.body is None:
            exchange.gather(self)
        else:
            super().__call__(_Framed(exchange))  # type: ignore[arg-type]

    def _body(self, body: Any) -> Buffer:
        return unframe(body or b"", self.head.get(b"grpc-encoding"), self.app.spec.max_body_bytes)

    def read(self, body: Any) -> tuple[Mapping[str, Array], Mapping[str, Any], Shape]:
        (given,) = self._one(body)
        document = given.document()
        document["meta"].setdefault("puid", new_puid())
        message = decode_message(document, self.specs)

        def encode(outputs: Outputs) -> tuple[bytes, Any]:
            answer = message_of(decode_answer(encode_message(outputs, message, self.node)))
            return b"", to_proto(answer).SerializeToString()

        return message.inputs, {}, encode

    def _one(self, body: Any) -> list[SeldonMessage]:
        found = parse(self.asked, self._body(body))
        if isinstance(found, Feedback) or len(found) != 1:
            raise InvalidInput("One message is expected.")
        return found

    def payload(self, exchange: Any) -> list[SeldonMessage] | Feedback:
        found = parse(self.asked, self._body(exchange.body))
        if not isinstance(found, Feedback) and not found:
            raise InvalidInput("'seldonMessages' is a list of one SeldonMessage or more")
        return found

    async def ask(self, model: PayloadRuntime, payload: Any, context: CallContext) -> RawReply:
        message = await self.unit_answer(model, payload, context)
        return RawReply(to_proto(message).SerializeToString())

    def accept(self, exchange: Any) -> None:
        exchange.send(200, b"", b"")

    def send_error(self, exchange: Any, error: PenstockError) -> None:
        reply_error(exchange.inner if isinstance(exchange, _Framed) else exchange, error)


class _Framed:
    """An exchange whose answer is a message's bytes. It has what of an `Exchange` a target uses."""

    __slots__ = ("body", "inner")

    def __init__(self, exchange: Any) -> None:
        self.inner = exchange
        self.body = exchange.body

    @property
    def head(self) -> Any:
        return self.inner.head

    @property
    def state(self) -> int:
        return self.inner.state  # type: ignore[no-any-return]

    @property
    def on_abort(self) -> Callable[[], None] | None:
        return self.inner.on_abort  # type: ignore[no-any-return]

    @on_abort.setter
    def on_abort(self, callback: Callable[[], None] | None) -> None:
        self.inner.on_abort = callback

    def send(self, status: int, headers: bytes, body: Buffer | Sequence[Buffer] = b"") -> None:
        data = body if isinstance(body, bytes | bytearray | memoryview) else b"".join(body)
        reply(self.inner, frame(bytes(data)))

    def abort(self) -> None:
        self.inner.abort()

    def fault(self) -> None:
        self.inner.fault()
